package sfu

import (
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// MoveRoom asks everybody in a room to reconnect, because the room's record names another SFU: two that serve one
// room are two rooms. Who is still here after within is closed with signal.CloseGone. Whoever joins meanwhile came with a
// newer record, and stays unless MoveRoom is called again; for those that were asked already that changes nothing.
// The other rooms go on. It reports whether there is such a room.
func (s *Server) MoveRoom(id orama.RoomID, reason string, within time.Duration) bool {
	r := s.find(id)
	return r != nil && r.inbox.post(func() { r.move(reason, within) })
}

// move asks those to go that were not asked yet.
func (r *room) move(reason string, within time.Duration) {
	m := &signal.ServerDraining{Reason: reason, DeadlineMS: int(within.Milliseconds())}
	asked := 0
	for _, p := range r.peers {
		if _, was := r.going[p]; !was {
			r.going[p] = time.Now().Add(within)
			p.post(func() { p.send(m) })
			asked++
		}
	}
	if asked > 0 {
		r.log.Info("room moved away", "reason", reason, "peers", asked)
	}
}

// sendOff ends those that were asked to go and have not gone in time.
func (r *room) sendOff(now time.Time) {
	for p, deadline := range r.going {
		switch {
		case r.peers[p.id] != p:
			delete(r.going, p)
		case !now.Before(deadline):
			delete(r.going, p)
			p.post(func() { p.hangUp(signal.CloseGone, "the room has moved") })
			r.leave(p, "lost")
		}
	}
}
