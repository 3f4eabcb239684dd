package signal

import (
	"encoding/base64"
	"encoding/json"

	"orama.network/orama"
)

// Bounds of a room's state.
const (
	MaxRoomState = 8 << 10 // bytes of an encoded one
	MaxRoomUsers = 1024    // users whose rights an admin has changed, that one room remembers
)

// RoomState is what admins have made of a room. It is kept with the room's record, so that the room has it again when
// another SFU takes it over. Whoever has two of them keeps the one of the higher Revision.
type RoomState struct {
	Revision int64        `json:"revision"` // rises by one with every change; 0: nothing was ever changed
	Settings RoomSettings `json:"settings"`
	Users    []UserState  `json:"users,omitempty"` // the one changed last comes last
}

// UserState is what admins have made of a user's rights in a room.
type UserState struct {
	UserID      orama.UserID `json:"user_id"`
	Permissions *Permissions `json:"permissions,omitempty"` // nil: the token's
	Muted       []string     `json:"muted,omitempty"`       // the kinds of track, "audio" and "video", that are muted and locked
}

// Encode renders s in at most MaxRoomState bytes: users that do not fit are left out, those changed longest ago first.
func (s RoomState) Encode() ([]byte, error) {
	for {
		b, err := json.Marshal(s)
		if err != nil || len(b) <= MaxRoomState || len(s.Users) == 0 {
			return b, err
		}
		s.Users = s.Users[max(1, len(s.Users)-len(s.Users)*MaxRoomState/len(b)):]
	}
}

// DecodeRoomState reads what Encode wrote. Nothing is the state of a room that nobody has changed.
func DecodeRoomState(b []byte) (RoomState, error) {
	var s RoomState
	if len(b) == 0 {
		return s, nil
	}
	if len(b) > MaxRoomState || json.Unmarshal(b, &s) != nil || s.Revision < 0 || len(s.Settings.Metadata) > MaxMetadata ||
		s.Settings.MaxParticipants < 0 || s.Settings.MaxParticipants > MaxParticipants || len(s.Users) > MaxRoomUsers {
		return RoomState{}, orama.Errorf(orama.KindInvalid, "invalid_room_state", "the room's state cannot be read")
	}
	return s, nil
}

// Set changes what m names and reports whether anything is different now.
func (s *RoomSettings) Set(m *SetRoom) bool {
	was := *s
	if m.Locked != nil {
		s.Locked = *m.Locked
	}
	if m.MaxParticipants != nil {
		s.MaxParticipants = *m.MaxParticipants
	}
	s.Metadata = Replaced(s.Metadata, m.Metadata)
	return was.Locked != s.Locked || was.MaxParticipants != s.MaxParticipants || string(was.Metadata) != string(s.Metadata)
}

// Replaced gives metadata after a change: nil leaves it, the JSON null ends it.
func Replaced(old, change json.RawMessage) json.RawMessage {
	switch {
	case change == nil:
		return old
	case string(change) == "null":
		return nil
	}
	return change
}

// HeaderRoom carries a RoomRecord from a gateway to an SFU with every join.
const HeaderRoom = "Orama-Room"

// maxRoomRecord bounds that header: a state in base64, and a number.
const maxRoomRecord = MaxRoomState/3*4 + 256

// RoomRecord is what a gateway knows of a room, for an SFU that may not have it yet.
type RoomRecord struct {
	MaxParticipants int       `json:"max_participants"` // what the namespace allows; the room may allow fewer. 0: any number
	State           RoomState `json:"state"`
}

// Encode renders r for HeaderRoom.
func (r RoomRecord) Encode() (string, error) {
	state, err := r.State.Encode()
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(struct {
		MaxParticipants int             `json:"max_participants"`
		State           json.RawMessage `json:"state"`
	}{r.MaxParticipants, state})
	return base64.RawURLEncoding.EncodeToString(b), err
}

// DecodeRoomRecord reads what Encode wrote; "" is the record of a room that nobody has changed.
func DecodeRoomRecord(text string) (RoomRecord, error) {
	var raw struct {
		MaxParticipants int             `json:"max_participants"`
		State           json.RawMessage `json:"state"`
	}
	if text == "" {
		return RoomRecord{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxRoomRecord || json.Unmarshal(b, &raw) != nil || raw.MaxParticipants < 0 {
		return RoomRecord{}, orama.Errorf(orama.KindInvalid, "invalid_room_record", "the room's record cannot be read")
	}
	s, err := DecodeRoomState(raw.State)
	return RoomRecord{raw.MaxParticipants, s}, err
}

// RoomView is a room as an owner sees it.
type RoomView struct {
	State RoomState  `json:"state"`
	Peers []PeerView `json:"peers"` // as they joined
}

// PeerView is one of its peers.
type PeerView struct {
	Peer
	Permissions Permissions `json:"permissions"`
	Quality     string      `json:"quality,omitempty"` // "": not known
	Cause       string      `json:"cause,omitempty"`
}
