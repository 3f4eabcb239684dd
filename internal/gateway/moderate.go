package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// This file is the moderation of rooms over REST: what an admin may also do by signalling (docs/protocol.md, "Moderating a room"). The SFU
// does it; what is to outlive the SFU is recorded here before the answer.

// RoomPath names a room in the path.
type RoomPath struct {
	Room orama.RoomID `path:"room_id" minLength:"1" maxLength:"128"`
}

// RoomDetails is one room with what admins have made of it and who is in it.
type RoomDetails struct {
	RoomInfo
	Settings signal.RoomSettings `json:"settings"`
	Peers    []signal.PeerView   `json:"peers" nullable:"true" doc:"null when the room's SFU did not answer in time"`
}

type roomOutput struct{ Body RoomDetails }

// settingsOutput answers with what is so now.
type settingsOutput struct{ Body signal.RoomSettings }

// moderated finds a room that the caller may moderate.
func (g *Gateway) moderated(ctx context.Context, room orama.RoomID) (*caller, orama.Room, error) {
	c := callerOf(ctx)
	if err := errors.Join(auth.ValidRoom(string(room)), c.mayUse(room)); err != nil {
		return nil, orama.Room{}, err
	}
	if wait := g.rates.Take("moderate:"+string(c.ns.ID)+"/"+string(c.user), moderateBurst, moderationsPerSec); wait > 0 {
		return nil, orama.Room{}, limited(wait)
	}
	row, err := g.store.Room(ctx, c.ns.ID, room)
	if orama.KindOf(err) == orama.KindNotFound {
		return nil, row, orama.Errorf(orama.KindNotFound, "room_not_found", "there is no such room")
	}
	if err != nil {
		return nil, row, storeError(err)
	}
	return c, row, nil
}

// readRoom describes one room.
func (g *Gateway) readRoom(ctx context.Context, in *RoomPath) (*roomOutput, error) {
	_, row, err := g.moderated(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	out := &roomOutput{Body: RoomDetails{RoomInfo: infoOf(row)}}
	view, err := g.viewOf(ctx, row)
	switch {
	case err == nil:
		n := len(view.Peers)
		out.Body.Participants, out.Body.Settings, out.Body.Peers = &n, view.State.Settings, view.Peers
		return out, nil
	case errors.Is(err, errNotThere):
		out.Body.Participants, out.Body.Peers = new(int), []signal.PeerView{}
	}
	state, err := signal.DecodeRoomState([]byte(row.State))
	out.Body.Settings = state.Settings
	return out, err
}

func (g *Gateway) viewOf(ctx context.Context, row orama.Room) (signal.RoomView, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timing.askWithin)
	defer cancel()
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return signal.RoomView{}, err
	}
	p := process{row.Namespace, row.Node, row.Boot}
	at, ok := addressOf(cl, p)
	if !ok {
		return signal.RoomView{}, errNotThere
	}
	return g.sfus.view(ctx, at, p, row.ID)
}

// act has the room's SFU do it, and records the state that it then has.
func (g *Gateway) act(ctx context.Context, row orama.Room, m signal.Message) (signal.RoomState, error) {
	asking, cancel := context.WithTimeout(ctx, g.timing.askWithin)
	defer cancel()
	cl, err := g.view.cluster(asking)
	if err != nil {
		return signal.RoomState{}, err
	}
	p := process{row.Namespace, row.Node, row.Boot}
	at, ok := addressOf(cl, p)
	if !ok {
		return signal.RoomState{}, errNotThere
	}
	state, err := g.sfus.act(asking, at, p, row.ID, m)
	if err != nil {
		return state, err
	}
	if state.Revision > row.StateRevision {
		if err := g.keepState(ctx, row, state); err != nil && orama.KindOf(err) != orama.KindConflict {
			return state, storeError(err) // the SFU's agent tries again
		}
	}
	return state, nil
}

func (g *Gateway) keepState(ctx context.Context, row orama.Room, state signal.RoomState) error {
	b, err := state.Encode()
	if err != nil {
		return err
	}
	return g.store.PutRoomState(ctx, row.Namespace, row.ID, state.Revision, string(b))
}

// acted words what an SFU did not do.
func acted(err error) error {
	var known *orama.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, errNotThere):
		return orama.Errorf(orama.KindNotFound, signal.CodeNotFound, "nobody is in the room")
	}
	e := unavailable("sfu_unreachable", "the room's media server did not answer; try again", time.Second)
	e.Err = err
	return e
}

type settingsInput struct {
	RoomPath
	Body struct {
		_               struct{}        `additionalProperties:"true"`
		Locked          *bool           `json:"locked,omitempty" doc:"Nobody joins but admins"`
		MaxParticipants *int            `json:"max_participants,omitempty" minimum:"0" maximum:"10000" doc:"0: as many as the namespace allows, which is also the most"`
		Metadata        json.RawMessage `json:"metadata,omitempty" doc:"Any JSON value of at most 4 KiB; null: none"`
	}
}

// changeRoom changes the settings: of a room that nobody is in, or whose SFU is lost, in its record alone, which the next SFU is given.
func (g *Gateway) changeRoom(ctx context.Context, in *settingsInput) (*settingsOutput, error) {
	m := &signal.SetRoom{Locked: in.Body.Locked, MaxParticipants: in.Body.MaxParticipants, Metadata: in.Body.Metadata}
	if len(m.Metadata) > signal.MaxMetadata {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_metadata", "metadata is at most 4 KiB of JSON")
	}
	c, row, err := g.moderated(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	if most := c.ns.MaxParticipants; most > 0 && m.MaxParticipants != nil && *m.MaxParticipants > most {
		return nil, orama.Errorf(orama.KindInvalid, "too_many_participants", "the namespace allows at most %d participants in a room", most)
	}
	state, err := g.act(ctx, row, m)
	if known := (*orama.Error)(nil); err == nil || errors.As(err, &known) {
		return &settingsOutput{state.Settings}, err
	}
	for range maxClaims {
		if state, err = signal.DecodeRoomState([]byte(row.State)); err != nil {
			return nil, err
		}
		if !state.Settings.Set(m) {
			return &settingsOutput{state.Settings}, nil
		}
		state.Revision++
		err = g.keepState(ctx, row, state)
		if orama.KindOf(err) != orama.KindConflict {
			break
		}
		if row, err = g.store.Room(ctx, row.Namespace, row.ID); err != nil {
			break
		}
	}
	if err != nil {
		return nil, storeError(err)
	}
	return &settingsOutput{state.Settings}, nil
}

type kickInput struct {
	RoomPath
	Body struct {
		_      struct{}     `additionalProperties:"true"`
		User   orama.UserID `json:"user_id,omitempty" maxLength:"128" doc:"Who is to go, with all its peers; one of user_id and peer_id"`
		Peer   orama.PeerID `json:"peer_id,omitempty" maxLength:"128" doc:"One of the user's peers"`
		Reason string       `json:"reason,omitempty" maxLength:"100" doc:"The user is told"`
	}
}

// kick records first that the user's tokens are no good for the room any more, and then sends it away.
func (g *Gateway) kick(ctx context.Context, in *kickInput) (*struct{}, error) {
	b := &in.Body
	if (b.User == "") == (b.Peer == "") || len(b.Reason) > signal.MaxReason {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_kick", "one of user_id and peer_id is needed, and a reason has at most 100 bytes")
	}
	c, row, err := g.moderated(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	user := b.User
	if user == "" {
		if user, err = g.userOf(ctx, row, b.Peer); err != nil {
			return nil, err
		}
	}
	if err := g.store.PutKick(ctx, orama.Kick{Namespace: c.ns.ID, Room: row.ID, User: user, At: g.now().UTC().Truncate(time.Microsecond)}); err != nil {
		return nil, storeError(err)
	}
	if _, err = g.act(ctx, row, &signal.Kick{UserID: user, Reason: b.Reason}); errors.Is(err, errNotThere) {
		return nil, nil
	}
	return nil, acted(err)
}

// userOf finds whose peer it is.
func (g *Gateway) userOf(ctx context.Context, row orama.Room, id orama.PeerID) (orama.UserID, error) {
	v, err := g.viewOf(ctx, row)
	if err != nil {
		return "", acted(err)
	}
	for _, p := range v.Peers {
		if p.PeerID == id {
			return p.UserID, nil
		}
	}
	return "", orama.Errorf(orama.KindNotFound, signal.CodeNotFound, "there is no such peer")
}

type muteInput struct {
	RoomPath
	Body struct {
		_      struct{}      `additionalProperties:"true"`
		Track  orama.TrackID `json:"track_id" minLength:"1" maxLength:"128"`
		Muted  bool          `json:"muted"`
		Locked bool          `json:"locked,omitempty" doc:"With muted: its publisher may not unmute it"`
	}
}

func (g *Gateway) muteTrack(ctx context.Context, in *muteInput) (*struct{}, error) {
	_, row, err := g.moderated(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	_, err = g.act(ctx, row, &signal.Mute{TrackID: in.Body.Track, Muted: in.Body.Muted, Locked: in.Body.Locked})
	return nil, acted(err)
}

type peerInput struct {
	RoomPath
	Peer orama.PeerID `path:"peer_id" minLength:"1" maxLength:"128"`
	Body struct {
		_           struct{}            `additionalProperties:"true"`
		Permissions *signal.Permissions `json:"permissions,omitempty" doc:"All four, from now on"`
		Name        *string             `json:"name,omitempty" maxLength:"128"`
		Metadata    json.RawMessage     `json:"metadata,omitempty" doc:"Any JSON value of at most 4 KiB; null: none"`
	}
}

// changePeer changes what a peer may do and how it is shown.
func (g *Gateway) changePeer(ctx context.Context, in *peerInput) (*struct{}, error) {
	b := &in.Body
	_, row, err := g.moderated(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	if b.Permissions != nil {
		if _, err := g.act(ctx, row, &signal.Permit{PeerID: in.Peer, Permissions: *b.Permissions}); err != nil {
			return nil, acted(err)
		}
	}
	if b.Name == nil && b.Metadata == nil {
		return nil, nil
	}
	_, err = g.act(ctx, row, &signal.SetPeer{PeerID: in.Peer, Name: b.Name, Metadata: b.Metadata})
	return nil, acted(err)
}
