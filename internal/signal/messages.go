package signal

import (
	"encoding/json"

	"orama.network/orama"
)

// Type names a message on the wire.
type Type string

// Message is any message of the protocol.
type Message interface {
	// Type is the value of the frame's first field.
	Type() Type
}

// Peer is one participant as the others see it.
type Peer struct {
	PeerID   orama.PeerID    `json:"peer_id"`
	UserID   orama.UserID    `json:"user_id"`
	Name     string          `json:"name"`
	Metadata json.RawMessage `json:"metadata,omitempty"` // any JSON value, at most MaxMetadata bytes
	Tracks   []Track         `json:"tracks"`

	MovingFrom orama.PeerID `json:"moving_from,omitempty"` // as its join said; to be believed only of the same user
}

// Track is one published track.
type Track struct {
	TrackID orama.TrackID `json:"track_id"`
	Kind    string        `json:"kind"`   // "audio" or "video"
	Source  string        `json:"source"` // "microphone", "camera", "screen", or the publisher's word
	Name    string        `json:"name"`
	Muted   bool          `json:"muted"`
	Locked  bool          `json:"locked,omitempty"` // muted by an admin, and only an admin may unmute it
	Layers  []Layer       `json:"layers"`           // empty: one layer
	Mid     string        `json:"mid,omitempty"`    // only towards the publisher itself
}

// Layer is one simulcast or SVC layer of a video track.
type Layer struct {
	RID    string `json:"rid"`
	Width  int    `json:"width,omitempty"`  // pixels
	Height int    `json:"height,omitempty"` // pixels
}

// Permissions are what the token allows in this room.
type Permissions struct {
	Publish   bool `json:"publish"`
	Subscribe bool `json:"subscribe"`
	Data      bool `json:"data"`
	Admin     bool `json:"admin"`
}

// RoomSettings are what an admin may change of a room. They stay while the room has a record.
type RoomSettings struct {
	Locked          bool            `json:"locked"`             // nobody joins but admins; who is here stays, and may resume
	MaxParticipants int             `json:"max_participants"`   // 0: as many as the namespace allows
	Metadata        json.RawMessage `json:"metadata,omitempty"` // any JSON value, at most MaxMetadata bytes
}

// TrackRef ties an SDP media section to a track. A client fills Mid, Source, Name and Muted
// for what it sends; the SFU fills Mid, TrackID and PeerID for what it sends.
type TrackRef struct {
	Mid     string        `json:"mid"`
	Source  string        `json:"source,omitempty"`
	Name    string        `json:"name,omitempty"`
	Muted   bool          `json:"muted,omitempty"`
	TrackID orama.TrackID `json:"track_id,omitempty"`
	PeerID  orama.PeerID  `json:"peer_id,omitempty"`
}

// Join asks to enter the room. It is the first frame, or implied.
type Join struct {
	Room          orama.RoomID    `json:"room,omitempty"`
	Name          string          `json:"name,omitempty"`
	Metadata      json.RawMessage `json:"metadata,omitempty"`
	Resume        string          `json:"resume,omitempty"`         // the token of an earlier joined
	AutoSubscribe *bool           `json:"auto_subscribe,omitempty"` // nil means true
	AwaitOffer    bool            `json:"await_offer,omitempty"`    // the SFU is to offer at once
	MovingFrom    orama.PeerID    `json:"moving_from,omitempty"`    // who the peer is at the SFU that it is about to leave; shown to the others
}

// Joined confirms a join.
type Joined struct {
	Room        orama.RoomID `json:"room"`
	PeerID      orama.PeerID `json:"peer_id"`
	UserID      orama.UserID `json:"user_id"`
	Peers       []Peer       `json:"peers"` // the others
	Resume      string       `json:"resume"`
	Resumed     bool         `json:"resumed"`
	Permissions Permissions  `json:"permissions"`
	Settings    RoomSettings `json:"settings"`
	Gateways    []string     `json:"gateways,omitempty"` // base URLs of the cluster's gateways, for when this one is lost
}

// Offer carries an SDP offer, either way.
type Offer struct {
	SDP    string     `json:"sdp"`
	Tracks []TrackRef `json:"tracks,omitempty"`
}

// Answer carries an SDP answer, either way.
type Answer struct {
	SDP    string     `json:"sdp"`
	Tracks []TrackRef `json:"tracks,omitempty"`
}

// Negotiate asks the SFU to offer, with so many more sections for the client to send on.
type Negotiate struct {
	Audio      int  `json:"audio,omitempty"` // 0 to 16
	Video      int  `json:"video,omitempty"` // 0 to 16
	ICERestart bool `json:"ice_restart,omitempty"`
}

// ICECandidate trickles one candidate, either way; nil ends them.
type ICECandidate struct {
	Candidate *CandidateInit `json:"candidate"`
}

// CandidateInit is an RTCIceCandidateInit (W3C webrtc-pc).
type CandidateInit struct {
	Candidate        string  `json:"candidate"`
	SDPMid           *string `json:"sdpMid,omitempty"`
	SDPMLineIndex    *uint16 `json:"sdpMLineIndex,omitempty"`
	UsernameFragment *string `json:"usernameFragment,omitempty"`
}

// Leave ends the peer.
type Leave struct{}

// PeerJoined tells of a new peer.
type PeerJoined struct {
	Peer Peer `json:"peer"`
}

// PeerLeft tells of a peer's end.
type PeerLeft struct {
	PeerID orama.PeerID `json:"peer_id"`
	Reason string       `json:"reason"` // "left", "lost", "kicked" or "room_closed"
}

// Credentials are what a client needs to reach a relay. They are the body of the REST answer as well.
type Credentials struct {
	URLs       []string `json:"urls"` // fastest first
	Username   string   `json:"username"`
	Credential string   `json:"credential"`
	TTL        int      `json:"ttl"`      // seconds
	URIs       []string `json:"uris"`     // = URLs, for clients of the TURN REST draft
	Password   string   `json:"password"` // = Credential, likewise
}

// TURNCredentials follows Joined.
type TURNCredentials struct{ Credentials }

// RefreshCredentials comes at 80 % of the TTL.
type RefreshCredentials struct{ Credentials }

// ServerDraining asks the client to reconnect elsewhere.
type ServerDraining struct {
	Reason     string  `json:"reason"`
	DeadlineMS int     `json:"deadline_ms"`
	Reconnect  *string `json:"reconnect"` // URL, or null for the one in use
}

// TrackPublished tells of a new track; its publisher is told too, with the mid.
type TrackPublished struct {
	PeerID orama.PeerID `json:"peer_id"`
	Track  Track        `json:"track"`
}

// TrackUnpublished tells of a track's end.
type TrackUnpublished struct {
	PeerID orama.PeerID `json:"peer_id"`
	Track  Track        `json:"track"`
}

// TrackMuted tells that a track was muted or unmuted.
type TrackMuted struct {
	PeerID orama.PeerID `json:"peer_id"`
	Track  Track        `json:"track"`
	By     string       `json:"by,omitempty"` // the admin's peer id, or ByAPI; "": the publisher itself
}

// Subscribe asks for a track.
type Subscribe struct {
	TrackID orama.TrackID `json:"track_id"`
}

// Unsubscribe gives a track up.
type Unsubscribe struct {
	TrackID orama.TrackID `json:"track_id"`
}

// Prefer says how a subscribed track is wanted.
type Prefer struct {
	TrackID  orama.TrackID `json:"track_id"`
	MaxWidth int           `json:"max_width,omitempty"` // pixels
	MaxFPS   int           `json:"max_fps,omitempty"`   // frames a second
	Priority int           `json:"priority,omitempty"`  // higher is served first
	Paused   bool          `json:"paused,omitempty"`
}

// LastN says how many videos the client wants at once: the SFU sends those that matter most and holds the others back.
type LastN struct {
	Videos *int `json:"videos"` // 0 to MaxLastN; null: all
}

// Held lists what LastN holds back at present, among what the client is subscribed to and has not paused itself.
type Held struct {
	TrackIDs []orama.TrackID `json:"track_ids"`
}

// Wanted tells a publisher which encodings of its video are of use to anybody now. Video that it does not name is wanted whole.
type Wanted struct {
	Tracks []WantedTrack `json:"tracks"`
}

// WantedTrack is a section on which the client sends video that is not wanted whole.
type WantedTrack struct {
	Mid  string   `json:"mid"`
	RIDs []string `json:"rids"` // those that are wanted, small before large; "" is the only encoding of a track without simulcast
}

// Mute mutes or unmutes the sender's own track, or, from an admin, anybody's.
type Mute struct {
	TrackID orama.TrackID `json:"track_id"`
	Muted   bool          `json:"muted"`
	Locked  bool          `json:"locked,omitempty"` // from an admin: the publisher may not unmute it
}

// Kick removes a user from the room, with all its peers, and ends its tokens for the room. One of the two ids is needed.
type Kick struct {
	PeerID orama.PeerID `json:"peer_id,omitempty"` // one of the user's peers
	UserID orama.UserID `json:"user_id,omitempty"`
	Reason string       `json:"reason,omitempty"` // at most MaxReason bytes; the user is told
}

// Permit changes what a user may do in the room, from now on.
type Permit struct {
	PeerID      orama.PeerID `json:"peer_id"`
	Permissions Permissions  `json:"permissions"`
}

// PermissionsChanged tells a peer, and the admins, what it may do from now on.
type PermissionsChanged struct {
	PeerID      orama.PeerID `json:"peer_id"`
	Permissions Permissions  `json:"permissions"`
	By          string       `json:"by"` // the admin's peer id, or ByAPI
}

// SetPeer changes how a peer is shown: the sender itself, or, from an admin, anybody. What is left out stays.
type SetPeer struct {
	PeerID   orama.PeerID    `json:"peer_id,omitempty"` // "": the sender
	Name     *string         `json:"name,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"` // null: none
}

// PeerChanged tells how a peer is shown now.
type PeerChanged struct {
	PeerID   orama.PeerID    `json:"peer_id"`
	Name     string          `json:"name"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// SetRoom changes the room's settings. What is left out stays.
type SetRoom struct {
	Locked          *bool           `json:"locked,omitempty"`
	MaxParticipants *int            `json:"max_participants,omitempty"` // 0 to MaxParticipants; 0: as many as the namespace allows
	Metadata        json.RawMessage `json:"metadata,omitempty"`         // null: none
}

// RoomChanged tells of the room's settings.
type RoomChanged struct {
	Settings RoomSettings `json:"settings"`
	By       string       `json:"by"` // the admin's peer id, or ByAPI
}

// Speakers gives the loudness of those who speak.
type Speakers struct {
	Levels []Level `json:"levels"`
}

// Level is one peer's loudness.
type Level struct {
	PeerID orama.PeerID `json:"peer_id"`
	Level  float64      `json:"level"` // 0 (silent) to 1
}

// Quality gives the state of the peers' connections.
type Quality struct {
	Peers []PeerQuality `json:"peers"`
}

// PeerQuality is one peer's connection.
type PeerQuality struct {
	PeerID  orama.PeerID `json:"peer_id"`
	Quality string       `json:"quality"`         // "excellent", "good", "poor" or "lost"
	Cause   string       `json:"cause,omitempty"` // of what is not excellent: "up_loss", "down_loss", "rtt", "limit" or "no_packets"
}

// Bandwidth tells a client what is known of its way down, in bits a second.
type Bandwidth struct {
	Estimate int `json:"estimate"` // what the way carries at least, or, when that is less than Wanted, what it carries
	Wanted   int `json:"wanted"`   // what the SFU would send it now if there were room for all
}

// Kicked ends the peer by an owner's will.
type Kicked struct {
	Reason string `json:"reason"`
}

// RoomClosed ends the room.
type RoomClosed struct {
	Reason string `json:"reason"`
}

// Error answers a frame that could not be honoured.
type Error struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
}

// Ping asks for a Pong with the same T.
type Ping struct {
	T float64 `json:"t"`
}

// Pong answers a Ping.
type Pong struct {
	T float64 `json:"t"`
}

// Wire names.
const (
	TypeJoin               Type = "join"
	TypeJoined             Type = "joined"
	TypeOffer              Type = "offer"
	TypeAnswer             Type = "answer"
	TypeNegotiate          Type = "negotiate"
	TypeICECandidate       Type = "ice-candidate"
	TypeLeave              Type = "leave"
	TypePeerJoined         Type = "peer-joined"
	TypePeerLeft           Type = "peer-left"
	TypeTURNCredentials    Type = "turn-credentials"
	TypeRefreshCredentials Type = "refresh-credentials"
	TypeServerDraining     Type = "server-draining"
	TypeTrackPublished     Type = "track-published"
	TypeTrackUnpublished   Type = "track-unpublished"
	TypeTrackMuted         Type = "track-muted"
	TypeSubscribe          Type = "subscribe"
	TypeUnsubscribe        Type = "unsubscribe"
	TypePrefer             Type = "prefer"
	TypeMute               Type = "mute"
	TypeLastN              Type = "last-n"
	TypeHeld               Type = "held"
	TypeWanted             Type = "wanted"
	TypeKick               Type = "kick"
	TypePermit             Type = "permit"
	TypePermissionsChanged Type = "permissions-changed"
	TypeSetPeer            Type = "set-peer"
	TypePeerChanged        Type = "peer-changed"
	TypeSetRoom            Type = "set-room"
	TypeRoomChanged        Type = "room-changed"
	TypeSpeakers           Type = "speakers"
	TypeQuality            Type = "quality"
	TypeBandwidth          Type = "bandwidth"
	TypeKicked             Type = "kicked"
	TypeRoomClosed         Type = "room-closed"
	TypeError              Type = "error"
	TypePing               Type = "ping"
	TypePong               Type = "pong"
)

func (*Join) Type() Type               { return TypeJoin }
func (*Joined) Type() Type             { return TypeJoined }
func (*Offer) Type() Type              { return TypeOffer }
func (*Answer) Type() Type             { return TypeAnswer }
func (*Negotiate) Type() Type          { return TypeNegotiate }
func (*ICECandidate) Type() Type       { return TypeICECandidate }
func (*Leave) Type() Type              { return TypeLeave }
func (*PeerJoined) Type() Type         { return TypePeerJoined }
func (*PeerLeft) Type() Type           { return TypePeerLeft }
func (*TURNCredentials) Type() Type    { return TypeTURNCredentials }
func (*RefreshCredentials) Type() Type { return TypeRefreshCredentials }
func (*ServerDraining) Type() Type     { return TypeServerDraining }
func (*TrackPublished) Type() Type     { return TypeTrackPublished }
func (*TrackUnpublished) Type() Type   { return TypeTrackUnpublished }
func (*TrackMuted) Type() Type         { return TypeTrackMuted }
func (*Subscribe) Type() Type          { return TypeSubscribe }
func (*Unsubscribe) Type() Type        { return TypeUnsubscribe }
func (*Prefer) Type() Type             { return TypePrefer }
func (*Mute) Type() Type               { return TypeMute }
func (*LastN) Type() Type              { return TypeLastN }
func (*Held) Type() Type               { return TypeHeld }
func (*Wanted) Type() Type             { return TypeWanted }
func (*Kick) Type() Type               { return TypeKick }
func (*Permit) Type() Type             { return TypePermit }
func (*PermissionsChanged) Type() Type { return TypePermissionsChanged }
func (*SetPeer) Type() Type            { return TypeSetPeer }
func (*PeerChanged) Type() Type        { return TypePeerChanged }
func (*SetRoom) Type() Type            { return TypeSetRoom }
func (*RoomChanged) Type() Type        { return TypeRoomChanged }
func (*Speakers) Type() Type           { return TypeSpeakers }
func (*Quality) Type() Type            { return TypeQuality }
func (*Bandwidth) Type() Type          { return TypeBandwidth }
func (*Kicked) Type() Type             { return TypeKicked }
func (*RoomClosed) Type() Type         { return TypeRoomClosed }
func (*Error) Type() Type              { return TypeError }
func (*Ping) Type() Type               { return TypePing }
func (*Pong) Type() Type               { return TypePong }
