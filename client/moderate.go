package client

import (
	"context"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// Settings are what an admin may change of a room.
type Settings = signal.RoomSettings

// The frames of admins (docs/protocol.md, "Moderating a room"). What is not permitted comes back as Refused.
type (
	// Kick removes a user; one of PeerID and UserID names it.
	Kick = signal.Kick
	// Mute mutes or unmutes anybody's track.
	Mute = signal.Mute
	// Permit replaces what a peer's user may do.
	Permit = signal.Permit
	// SetRoom changes the room's settings; nil fields stay.
	SetRoom = signal.SetRoom
	// SetPeer changes a name and metadata: without PeerID one's own, which needs no admin.
	SetPeer = signal.SetPeer
)

// Moderation is one of *Kick, *Mute, *Permit, *SetRoom and *SetPeer.
type Moderation interface{ signal.Message }

// Moderate sends what an admin wants done. It does not wait for it to be done.
func (r *Room) Moderate(ctx context.Context, m Moderation) error {
	switch m.(type) {
	case *Kick, *Mute, *Permit, *SetRoom, *SetPeer:
		return r.do(ctx, func() { r.here.send(m) })
	}
	return orama.Errorf(orama.KindInvalid, "invalid", "%s is no moderation", m.Type())
}

// LastN says how many videos to receive at most, those that matter most; below 0: all. Recoveries and moves
// repeat it.
func (r *Room) LastN(ctx context.Context, videos int) error {
	m := &signal.LastN{}
	if videos >= 0 {
		m.Videos = &videos
	}
	return r.do(ctx, func() {
		r.lastN = m
		for _, p := range r.places() {
			p.send(m)
		}
	})
}

type (
	// PeerChanged tells of another name or other metadata.
	PeerChanged struct {
		PeerID   orama.PeerID
		Name     string
		Metadata []byte // JSON; nil: none
	}
	// PermissionsChanged tells what a peer may do from now on: oneself, or, to an admin, anybody.
	PermissionsChanged struct {
		PeerID      orama.PeerID
		Permissions Permissions
		By          string
	}
	// RoomChanged tells of the room's settings.
	RoomChanged struct {
		Settings Settings
		By       string
	}
	// Held lists what LastN holds back at present.
	Held struct{ TrackIDs []orama.TrackID }
)

func (PeerChanged) event()        {}
func (PermissionsChanged) event() {}
func (RoomChanged) event()        {}
func (Held) event()               {}

// handleModerated keeps what admins and others have changed.
func (r *Room) handleModerated(p *place, m signal.Message) {
	switch m := m.(type) {
	case *signal.PeerChanged:
		r.mu.Lock()
		if o := p.peers[m.PeerID]; o != nil {
			o.Name, o.Metadata = m.Name, m.Metadata
		}
		r.mu.Unlock()
		p.tell(PeerChanged{m.PeerID, m.Name, m.Metadata})
	case *signal.PermissionsChanged:
		r.mu.Lock()
		if m.PeerID == p.peerID {
			p.perms = m.Permissions
		}
		r.mu.Unlock()
		p.tell(PermissionsChanged{m.PeerID, m.Permissions, m.By})
	case *signal.RoomChanged:
		p.tell(RoomChanged{m.Settings, m.By})
	case *signal.Held:
		p.tell(Held{m.TrackIDs})
	}
}
