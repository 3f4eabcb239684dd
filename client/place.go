package client

import (
	"slices"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// place is an SFU at which the Room is a peer: its socket and connection there, and who else is. A Room has one, and a second one while it moves.
type place struct {
	room *Room

	// The following belong to the Room's loop.
	sock       *link // nil while there is none
	sess       *session
	resume     string
	fresh      bool         // the next credentials begin a new session
	movingFrom orama.PeerID // which peer we are at the place that we move from

	// The following are guarded by the Room's mu.
	peerID orama.PeerID           // its own
	userID orama.UserID           //
	perms  Permissions            //
	peers  map[orama.PeerID]*Peer // the others
	creds  Credentials            //
}

func newPlace(r *Room) *place { return &place{room: r, fresh: true, peers: map[orama.PeerID]*Peer{}} }

// places are where the Room is at present.
func (r *Room) places() []*place {
	if r.move != nil && r.move.to != nil {
		return []*place{r.here, r.move.to}
	}
	return []*place{r.here}
}

// at tells whether p is one of them, and has not been left.
func (r *Room) at(p *place) bool { return slices.Contains(r.places(), p) }

// in tells whether the SFU has let us in and media can begin.
func (p *place) in() bool { return p.sock != nil && p.sock.joined && p.sess != nil }

// send tells the SFU something, if it can hear. What was not heard is told anew by a new join.
func (p *place) send(m signal.Message) {
	if p.sock == nil || !p.sock.joined {
		return
	}
	if err := p.sock.send(m); err != nil {
		p.room.opts.Logger.Debug("frame not sent", "type", string(m.Type()), "err", err)
	}
}

// tell has the application hear of where the Room is, and not of where it is going.
func (p *place) tell(e Event) {
	if p == p.room.here {
		p.room.emit(e)
	}
}

func (p *place) subscribe(id orama.TrackID, want bool) {
	if want {
		p.send(&signal.Subscribe{TrackID: id})
	} else {
		p.send(&signal.Unsubscribe{TrackID: id})
	}
}

func (p *place) prefer(id orama.TrackID, as Preference) {
	p.send(&signal.Prefer{TrackID: id, MaxWidth: as.MaxWidth, MaxFPS: as.MaxFPS, Priority: as.Priority, Paused: as.Paused})
}

// others lists who else is there, ordered by peer id.
func (p *place) others() []Peer {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	return p.othersLocked()
}

func (p *place) othersLocked() []Peer {
	out := make([]Peer, 0, len(p.peers))
	for _, o := range p.peers {
		c := *o
		c.Tracks = slices.Clone(o.Tracks)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Peer) int { return compare(a.PeerID, b.PeerID) })
	return out
}

func (p *place) putPeer(o Peer) {
	p.room.mu.Lock()
	p.peers[o.PeerID] = &o
	p.room.mu.Unlock()
	p.tell(PeerJoined{Peer: o})
}

func (p *place) dropPeer(id orama.PeerID, reason string) {
	p.room.mu.Lock()
	_, known := p.peers[id]
	delete(p.peers, id)
	p.room.mu.Unlock()
	if known {
		p.tell(PeerLeft{PeerID: id, Reason: reason})
	}
}

// putTrack notes a track; one of our own learns its id by the section it is sent on.
func (p *place) putTrack(peer orama.PeerID, t Track) {
	p.room.mu.Lock()
	own := peer == p.peerID
	p.room.mu.Unlock()
	if own {
		p.putOwn(t)
		return
	}
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	o := p.peers[peer]
	if o == nil {
		return
	}
	if i := slices.IndexFunc(o.Tracks, func(other Track) bool { return other.TrackID == t.TrackID }); i >= 0 {
		o.Tracks[i] = t
	} else {
		o.Tracks = append(o.Tracks, t)
	}
}

func (p *place) putOwn(t Track) {
	if p.sess == nil {
		return
	}
	for l, at := range p.sess.sending {
		if at.mid != t.Mid || at.id == t.TrackID {
			continue
		}
		at.id = t.TrackID
		if p == p.room.here {
			l.setID(t.TrackID)
		}
		if l.Muted() != t.Muted && !t.Locked {
			p.send(&signal.Mute{TrackID: t.TrackID, Muted: l.Muted()})
		}
	}
}

func (p *place) dropTrack(peer orama.PeerID, id orama.TrackID) {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if o := p.peers[peer]; o != nil {
		o.Tracks = slices.DeleteFunc(o.Tracks, func(t Track) bool { return t.TrackID == id })
	}
}

// describe finds what is known of a track.
func (p *place) describe(peer orama.PeerID, id orama.TrackID, kind string) Track {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if o := p.peers[peer]; o != nil {
		for _, t := range o.Tracks {
			if t.TrackID == id {
				return t
			}
		}
	}
	return Track{TrackID: id, Kind: kind}
}
