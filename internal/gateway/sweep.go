package gateway

import (
	"context"
	"log/slog"
	"time"

	"orama.network/orama"
)

// maxAbsent is how many sweeps in a row must miss a room's record before its pipes are cut: more than the time in which the
// agent of an SFU that still has people in the room claims it again, which it looks for every 2 s.
const maxAbsent = 3

// sweepLoop compares every pipe with its room's record now and then. A room can be moved away from an SFU
// that lives: one gateway could not reach it, another can. Its clients here would go on talking in
// a room that nobody else finds; cut off with signal.CloseGone they come back to the one that
// counts. It takes a record that names another process, or that is missing again and again: a
// store that cannot be read cuts nobody off.
func (g *Gateway) sweepLoop() {
	tick := time.NewTicker(g.timing.sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-g.stopped.Done():
			return
		case <-tick.C:
			g.sweep(g.stopped)
		}
	}
}

func (g *Gateway) sweep(ctx context.Context) {
	byNamespace := map[orama.NamespaceID][]*pipe{}
	g.mu.Lock()
	for p := range g.pipes {
		byNamespace[p.process.ns] = append(byNamespace[p.process.ns], p)
	}
	g.mu.Unlock()
	for ns, pipes := range byNamespace {
		ctx, cancel := context.WithTimeout(ctx, g.timing.storeWithin)
		rooms, err := g.store.Rooms(ctx, ns)
		cancel()
		if err != nil {
			g.log.LogAttrs(ctx, slog.LevelWarn, "rooms not compared", slog.String("namespace", string(ns)), slog.Any("error", err))
			continue
		}
		owner := make(map[orama.RoomID]process, len(rooms))
		for _, r := range rooms {
			owner[r.ID] = process{ns, r.Node, r.Boot}
		}
		for _, p := range pipes {
			p.compare(owner, g.now())
		}
	}
}

// compare cuts the pipe off if its room is elsewhere. Called by the sweep only.
func (p *pipe) compare(owner map[orama.RoomID]process, at time.Time) {
	now, ok := owner[p.room]
	switch {
	case ok && now == p.process:
		p.absent = 0
		return
	case at.UnixNano() < p.spared.Load():
		return
	case !ok:
		if p.absent++; p.absent < maxAbsent {
			return
		}
	}
	select {
	case <-p.moved:
	default:
		close(p.moved)
	}
}
