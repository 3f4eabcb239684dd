package client

import (
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// The protocol's nouns, as they come from the SFU.
type (
	Peer        = signal.Peer
	Track       = signal.Track
	Permissions = signal.Permissions
	Level       = signal.Level
	PeerQuality = signal.PeerQuality
	Credentials = signal.Credentials
)

// Event is something that happened in the room: one of the types below.
type Event interface{ event() }

type (
	// StateChanged tells of the Room's own state. Err is why it closed, nil when it was asked to.
	StateChanged struct {
		State State
		Err   error
	}
	// PeerJoined tells of a new peer; PeerLeft of its end, by reason "left", "lost", "kicked" or "room_closed",
	// or "moved": the Room is at another place, where whoever came along has been told of by PeerJoined.
	PeerJoined struct{ Peer Peer }
	PeerLeft   struct {
		PeerID orama.PeerID
		Reason string
	}
	// TrackPublished, TrackUnpublished and TrackMuted tell of tracks, the Room's own included.
	TrackPublished struct {
		PeerID orama.PeerID
		Track  Track
	}
	TrackUnpublished struct {
		PeerID orama.PeerID
		Track  Track
	}
	TrackMuted struct {
		PeerID orama.PeerID
		Track  Track
	}
	// Speakers gives the loudness of those who speak, 0 to 1.
	Speakers struct{ Levels []Level }
	// Quality gives the state of the peers' connections.
	Quality struct{ Peers []PeerQuality }
	// Bandwidth tells what is known of the way down, in bits a second: Estimate is what it carries where that is less than Wanted, and
	// else what it carries at least, as nobody looks for more. Wanted is what would be sent if there were room for all.
	Bandwidth struct{ Estimate, Wanted int }
	// Draining tells that the SFU asked to move; the Room does so by itself.
	Draining struct {
		Reason   string
		Deadline time.Duration
	}
	// Moved tells that the Room is at another SFU, as another peer, and has media there. PeerJoined and OnTrack told before it of who
	// and what is there (Peer.MovingFrom names who it was), and the tracks of the old place end with it: of nothing there is a pause.
	Moved struct{ From, To orama.PeerID }
	// Refused tells that the SFU could not honour a frame. Code is stable (docs/protocol.md).
	Refused struct {
		Code      string
		Message   string
		Retryable bool
	}
)

func (StateChanged) event()     {}
func (PeerJoined) event()       {}
func (PeerLeft) event()         {}
func (TrackPublished) event()   {}
func (TrackUnpublished) event() {}
func (TrackMuted) event()       {}
func (Speakers) event()         {}
func (Quality) event()          {}
func (Bandwidth) event()        {}
func (Draining) event()         {}
func (Moved) event()            {}
func (Refused) event()          {}

// State is how a Room is doing.
type State string

// The states of a Room. Connected means that ICE and DTLS are up and, after a recovery, that
// packets were seen again. Closed is final.
const (
	StateConnecting State = "connecting"
	StateConnected  State = "connected"
	StateRecovering State = "recovering"
	StateClosed     State = "closed"
)
