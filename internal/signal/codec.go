package signal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"orama.network/orama"
)

// Limits of the protocol.
const (
	MaxFirstFrame    = 4 << 10   // bytes
	MaxFrame         = 256 << 10 // bytes
	MaxName          = 128       // bytes
	MaxMetadata      = 4 << 10   // bytes
	MaxID            = 128       // bytes
	MaxSource        = 64        // bytes
	MaxReason        = 100       // bytes; it fits the reason of a close frame
	MaxParticipants  = 10_000    // that a room may be limited to
	MaxLastN         = 128       // videos
	MaxTrackRefs     = 64
	MaxSlots         = 16 // sections one negotiate may ask for, of each kind
	MaxDataMessage   = 64 << 10
	FirstFrameWithin = 10 * time.Second
	ImpliedJoinAfter = 500 * time.Millisecond
	OfferAfter       = 300 * time.Millisecond
	ResumeWithin     = 30 * time.Second
	FrameBurst       = 40
	FramesPerSecond  = 10
)

// Close codes of the WebSocket. They are on the wire, so the list only grows.
const (
	CloseLeft         = 1000
	CloseTooLarge     = 1009
	CloseMalformed    = 4400
	CloseUnauthorized = 4401
	CloseForbidden    = 4403
	CloseNoRoom       = 4404
	CloseNoFirstFrame = 4408
	CloseResumed      = 4409
	CloseKicked       = 4410
	CloseFull         = 4413
	CloseTooFast      = 4429
	CloseInternal     = 4500
	CloseGone         = 4503
)

// Codes of Error.
const (
	CodeInvalid     = "invalid"
	CodeUnknownType = "unknown_type"
	CodeForbidden   = "forbidden"
	CodeNotFound    = "not_found"
	CodeBadSDP      = "bad_sdp"
	CodeGlare       = "glare"
	CodeNotJoined   = "not_joined"
	CodeLimited     = "limited"
	CodeInternal    = "internal"
	CodeLocked      = "locked"
	CodeFull        = "full"
)

// ByAPI stands for who acted over REST, where a peer id names who did.
const ByAPI = "api"

// makers has one entry per message of the protocol.
var makers = map[Type]func() Message{
	TypeJoin:               func() Message { return &Join{} },
	TypeJoined:             func() Message { return &Joined{} },
	TypeOffer:              func() Message { return &Offer{} },
	TypeAnswer:             func() Message { return &Answer{} },
	TypeNegotiate:          func() Message { return &Negotiate{} },
	TypeICECandidate:       func() Message { return &ICECandidate{} },
	TypeLeave:              func() Message { return &Leave{} },
	TypePeerJoined:         func() Message { return &PeerJoined{} },
	TypePeerLeft:           func() Message { return &PeerLeft{} },
	TypeTURNCredentials:    func() Message { return &TURNCredentials{} },
	TypeRefreshCredentials: func() Message { return &RefreshCredentials{} },
	TypeServerDraining:     func() Message { return &ServerDraining{} },
	TypeTrackPublished:     func() Message { return &TrackPublished{} },
	TypeTrackUnpublished:   func() Message { return &TrackUnpublished{} },
	TypeTrackMuted:         func() Message { return &TrackMuted{} },
	TypeSubscribe:          func() Message { return &Subscribe{} },
	TypeUnsubscribe:        func() Message { return &Unsubscribe{} },
	TypePrefer:             func() Message { return &Prefer{} },
	TypeMute:               func() Message { return &Mute{} },
	TypeLastN:              func() Message { return &LastN{} },
	TypeHeld:               func() Message { return &Held{} },
	TypeWanted:             func() Message { return &Wanted{} },
	TypeKick:               func() Message { return &Kick{} },
	TypePermit:             func() Message { return &Permit{} },
	TypePermissionsChanged: func() Message { return &PermissionsChanged{} },
	TypeSetPeer:            func() Message { return &SetPeer{} },
	TypePeerChanged:        func() Message { return &PeerChanged{} },
	TypeSetRoom:            func() Message { return &SetRoom{} },
	TypeRoomChanged:        func() Message { return &RoomChanged{} },
	TypeSpeakers:           func() Message { return &Speakers{} },
	TypeQuality:            func() Message { return &Quality{} },
	TypeBandwidth:          func() Message { return &Bandwidth{} },
	TypeKicked:             func() Message { return &Kicked{} },
	TypeRoomClosed:         func() Message { return &RoomClosed{} },
	TypeError:              func() Message { return &Error{} },
	TypePing:               func() Message { return &Ping{} },
	TypePong:               func() Message { return &Pong{} },
}

// Types lists every message type of the protocol.
func Types() []Type {
	out := make([]Type, 0, len(makers))
	for t := range makers {
		out = append(out, t)
	}
	return out
}

// Encode renders m as one flat JSON object, type first.
func Encode(m Message) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("signal: encode %s: %w", m.Type(), err)
	}
	out := make([]byte, 0, len(body)+len(m.Type())+12)
	out = append(out, `{"type":"`...)
	out = append(out, m.Type()...)
	out = append(out, '"')
	if !bytes.Equal(body, []byte("{}")) {
		out = append(out, ',')
		return append(out, body[1:]...), nil
	}
	return append(out, '}'), nil
}

// ErrMalformed means that the frame is no message at all: the socket closes with CloseMalformed.
var ErrMalformed = orama.Errorf(orama.KindInvalid, "malformed", "the frame is not a JSON object with a type")

// UnknownTypeError means that the frame is well formed but of no known type.
type UnknownTypeError struct{ Name string }

func (e *UnknownTypeError) Error() string { return fmt.Sprintf("signal: unknown type %.40q", e.Name) }

// Decode reads one frame. It gives ErrMalformed, an *UnknownTypeError, an orama.Error of
// KindInvalid for a field out of bounds, or the message.
func Decode(frame []byte) (Message, error) {
	if len(frame) > MaxFrame {
		return nil, ErrMalformed
	}
	var head struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(frame, &head); err != nil || head.Type == nil {
		return nil, ErrMalformed
	}
	mk, ok := makers[Type(*head.Type)]
	if !ok {
		return nil, &UnknownTypeError{Name: *head.Type}
	}
	m := mk()
	if err := json.Unmarshal(frame, m); err != nil {
		return nil, orama.Errorf(orama.KindInvalid, CodeInvalid, "%s: a field has the wrong type", *head.Type)
	}
	if err := check(m); err != nil {
		return nil, err
	}
	return m, nil
}

// check bounds every field that a client may fill.
func check(m Message) error {
	bad := func(what string) error {
		return orama.Errorf(orama.KindInvalid, CodeInvalid, "%s: %s", m.Type(), what)
	}
	switch m := m.(type) {
	case *Join:
		switch {
		case len(m.Room) > MaxID:
			return bad("room is longer than 128 bytes")
		case len(m.Name) > MaxName:
			return bad("name is longer than 128 bytes")
		case len(m.Metadata) > MaxMetadata:
			return bad("metadata is longer than 4 KiB")
		case len(m.Resume) > MaxID:
			return bad("resume is longer than 128 bytes")
		case len(m.MovingFrom) > MaxID:
			return bad("moving_from is longer than 128 bytes")
		}
	case *Offer:
		return checkSDP(m.SDP, m.Tracks, bad)
	case *Answer:
		return checkSDP(m.SDP, m.Tracks, bad)
	case *Negotiate:
		if m.Audio < 0 || m.Audio > MaxSlots || m.Video < 0 || m.Video > MaxSlots {
			return bad("audio and video are 0 to 16")
		}
	case *ICECandidate:
		if c := m.Candidate; c != nil && (len(c.Candidate) > 1024 ||
			c.SDPMid != nil && len(*c.SDPMid) > MaxID || c.UsernameFragment != nil && len(*c.UsernameFragment) > 256) {
			return bad("the candidate is too long")
		}
	case *Subscribe:
		return checkID(m.TrackID, bad)
	case *Unsubscribe:
		return checkID(m.TrackID, bad)
	case *Mute:
		if m.Locked && !m.Muted {
			return bad("locked goes with muted")
		}
		return checkID(m.TrackID, bad)
	case *LastN:
		if m.Videos != nil && (*m.Videos < 0 || *m.Videos > MaxLastN) {
			return bad("videos is 0 to 128, or null")
		}
	case *Kick, *Permit, *SetPeer, *SetRoom:
		return checkAdmin(m, bad)
	case *Prefer:
		if m.MaxWidth < 0 || m.MaxFPS < 0 {
			return bad("max_width and max_fps are not negative")
		}
		return checkID(m.TrackID, bad)
	}
	return nil
}

// checkAdmin bounds what admins send.
func checkAdmin(m Message, bad func(string) error) error {
	switch m := m.(type) {
	case *Kick:
		switch {
		case (m.PeerID == "") == (m.UserID == ""):
			return bad("one of peer_id and user_id is needed")
		case len(m.PeerID) > MaxID || len(m.UserID) > MaxID:
			return bad("an id is longer than 128 bytes")
		case len(m.Reason) > MaxReason:
			return bad("reason is longer than 100 bytes")
		}
	case *Permit:
		if m.PeerID == "" || len(m.PeerID) > MaxID {
			return bad("peer_id is missing or longer than 128 bytes")
		}
	case *SetPeer:
		switch {
		case len(m.PeerID) > MaxID:
			return bad("peer_id is longer than 128 bytes")
		case m.Name != nil && len(*m.Name) > MaxName:
			return bad("name is longer than 128 bytes")
		case len(m.Metadata) > MaxMetadata:
			return bad("metadata is longer than 4 KiB")
		}
	case *SetRoom:
		switch {
		case m.MaxParticipants != nil && (*m.MaxParticipants < 0 || *m.MaxParticipants > MaxParticipants):
			return bad("max_participants is 0 to 10000")
		case len(m.Metadata) > MaxMetadata:
			return bad("metadata is longer than 4 KiB")
		}
	}
	return nil
}

func checkSDP(sdp string, refs []TrackRef, bad func(string) error) error {
	if sdp == "" {
		return bad("sdp is missing")
	}
	if len(refs) > MaxTrackRefs {
		return bad("more than 64 tracks")
	}
	for _, r := range refs {
		if r.Mid == "" || len(r.Mid) > 32 || len(r.Source) > MaxSource || len(r.Name) > MaxName {
			return bad("a track needs a mid of at most 32 bytes, a source of at most 64 and a name of at most 128")
		}
	}
	return nil
}

func checkID(id orama.TrackID, bad func(string) error) error {
	if id == "" || len(id) > MaxID {
		return bad("track_id is missing or longer than 128 bytes")
	}
	return nil
}
