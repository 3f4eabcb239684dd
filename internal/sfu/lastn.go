package sfu

import (
	"cmp"
	"slices"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// candidate is a video that a peer would like to be sent.
type candidate struct {
	id       orama.TrackID
	owner    orama.PeerID
	priority int
	screen   bool
}

// heldBack chooses which videos are not among the n that matter most: by priority, then screens, then those whose owner comes
// first in recent, then as they come. Pure; the result is in the order of all.
func heldBack(all []candidate, n int, recent []orama.PeerID) []orama.TrackID {
	rank := make(map[orama.PeerID]int, len(recent))
	for i, id := range recent {
		rank[id] = len(recent) - i
	}
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), compareBool(b.screen, a.screen), cmp.Compare(rank[b.owner], rank[a.owner]))
	})
	sent := map[orama.TrackID]bool{}
	for _, c := range order[:min(n, len(order))] {
		sent[c.id] = true
	}
	var held []orama.TrackID
	for _, c := range all {
		if !sent[c.id] {
			held = append(held, c.id)
		}
	}
	return held
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// choose holds back what the client's last-n leaves no place for, and tells it when that has changed. Whatever changes
// the choice calls it: subscriptions, preferences, who speaks.
func (p *peer) choose() {
	if p.lastN == nil && len(p.held) == 0 {
		return
	}
	var held []orama.TrackID
	if p.lastN != nil {
		var all []candidate
		for _, w := range p.wants {
			if t := p.tracks[w.up.id]; t != nil && w.up.kind == webrtc.RTPCodecTypeVideo && !w.paused {
				all = append(all, candidate{id: w.up.id, owner: w.up.owner, priority: w.priority, screen: t.info.Source == "screen"})
			}
		}
		held = heldBack(all, *p.lastN, p.room.recent())
	}
	if slices.Equal(held, p.held) {
		return
	}
	p.held = held
	for _, w := range p.wants {
		p.holdBack(w, slices.Contains(held, w.up.id))
	}
	if held == nil {
		held = []orama.TrackID{}
	}
	p.send(&signal.Held{TrackIDs: held})
}

// holdBack starts and stops one video. It begins anew with a keyframe.
func (p *peer) holdBack(w *want, held bool) {
	resumed := w.held && !held && !w.paused
	w.held = held
	w.ask()
	if w.down == nil {
		return
	}
	w.down.pause(w.paused || w.held)
	if resumed {
		w.down.askKeyframe()
	}
}
