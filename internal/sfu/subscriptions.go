package sfu

import (
	"slices"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// track notes a track of somebody else's, and subscribes to it if the peer asked for all.
func (p *peer) track(t *published) {
	p.tracks[t.up.id] = t
	if p.auto && p.rights.Subscribe && len(p.wants) < maxWants && !p.wantsTrack(t.up.id) {
		p.wants = append(p.wants, &want{up: t.up})
	}
}

func (p *peer) wantsTrack(id orama.TrackID) bool {
	return slices.ContainsFunc(p.wants, func(w *want) bool { return w.up.id == id })
}

func (p *peer) trackAdded(t *published) {
	p.track(t)
	p.choose()
	p.negotiate()
}

func (p *peer) trackRemoved(id orama.TrackID) {
	delete(p.tracks, id)
	p.drop(id)
}

// drop ends a subscription; its section is offered as not sending and then free.
func (p *peer) drop(id orama.TrackID) {
	i := slices.IndexFunc(p.wants, func(w *want) bool { return w.up.id == id })
	if i < 0 {
		return
	}
	w := p.wants[i]
	p.wants = slices.Delete(p.wants, i, i+1)
	w.forget()
	p.choose()
	if w.down != nil {
		w.up.detach(w.down)
		w.down.release()
		p.negotiate()
	}
}

func (p *peer) subscribe(id orama.TrackID) {
	t := p.tracks[id]
	switch {
	case !p.rights.Subscribe:
		p.refuse(signal.CodeForbidden, "the token does not allow subscribing")
	case t == nil:
		p.refuse(signal.CodeNotFound, "there is no such track")
	case p.wantsTrack(id):
	case len(p.wants) >= maxWants:
		p.refuse(signal.CodeLimited, "too many subscriptions")
	default:
		p.wants = append(p.wants, &want{up: t.up})
		p.choose()
		p.negotiate()
	}
}

func (p *peer) unsubscribe(id orama.TrackID) {
	if p.tracks[id] == nil {
		p.refuse(signal.CodeNotFound, "there is no such track")
		return
	}
	p.drop(id)
}

// prefer stops and resumes a track, and chooses among its layers.
func (p *peer) prefer(m *signal.Prefer) {
	i := slices.IndexFunc(p.wants, func(w *want) bool { return w.up.id == m.TrackID })
	if i < 0 {
		p.refuse(signal.CodeNotFound, "not subscribed to such a track")
		return
	}
	w := p.wants[i]
	resumed := w.paused && !m.Paused && !w.held
	w.paused, w.priority, w.width, w.fps = m.Paused, m.Priority, m.MaxWidth, m.MaxFPS
	p.choose()
	w.ask()
	if w.down == nil {
		return
	}
	w.down.pause(w.paused || w.held)
	w.down.prefer(w.width, w.fps)
	if resumed && !w.held {
		w.down.askKeyframe()
	}
}
