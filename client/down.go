package client

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
)

// downQueue bounds what waits for a reader that is slow: 0.5 to 1 s of video.
const downQueue = 512 // packets

// RemoteTrack is a track of another peer as it arrives. Read it until io.EOF.
type RemoteTrack struct {
	peer  orama.PeerID
	track Track
	codec webrtc.RTPCodecParameters
	pli   func() error

	queue   chan *rtp.Packet
	done    chan struct{}
	endOnce sync.Once

	packets atomic.Uint64
	dropped atomic.Uint64
	last    atomic.Int64 // Unix nanoseconds of the latest packet
}

// ID is the track's id; PeerID says whose it is; Info is how its publisher described it.
func (t *RemoteTrack) ID() orama.TrackID    { return t.track.TrackID }
func (t *RemoteTrack) PeerID() orama.PeerID { return t.peer }
func (t *RemoteTrack) Info() Track          { return t.track }

// Kind is "audio" or "video".
func (t *RemoteTrack) Kind() string { return t.track.Kind }

// Codec is what the packets hold.
func (t *RemoteTrack) Codec() webrtc.RTPCodecParameters { return t.codec }

// ReadRTP gives the next packet, in the order of arrival. It is io.EOF when the track has ended:
// unpublished, unsubscribed, or to be followed by another RemoteTrack after a recovery. A reader
// that is too slow loses the oldest packets.
func (t *RemoteTrack) ReadRTP() (*rtp.Packet, error) {
	select {
	case p := <-t.queue:
		return p, nil
	default:
	}
	select {
	case p := <-t.queue:
		return p, nil
	case <-t.done:
		return nil, io.EOF
	}
}

// Done is closed when the track has ended.
func (t *RemoteTrack) Done() <-chan struct{} { return t.done }

// RequestKeyframe asks the publisher for a keyframe (PLI, RFC 4585). The SFU coalesces requests.
func (t *RemoteTrack) RequestKeyframe() error { return t.pli() }

// Packets counts what arrived, Dropped what a slow reader lost of it.
func (t *RemoteTrack) Packets() uint64 { return t.packets.Load() }
func (t *RemoteTrack) Dropped() uint64 { return t.dropped.Load() }

func (t *RemoteTrack) push(p *rtp.Packet) {
	t.packets.Add(1)
	t.last.Store(time.Now().UnixNano())
	for {
		select {
		case t.queue <- p:
			return
		default:
		}
		select {
		case <-t.queue:
			t.dropped.Add(1)
		default:
		}
	}
}

func (t *RemoteTrack) end() { t.endOnce.Do(func() { close(t.done) }) }

// downlink is a receiver and the track that comes through it now: the SFU may recycle a section.
type downlink struct {
	mid    string
	remote *webrtc.TrackRemote

	mu   sync.Mutex
	cur  *RemoteTrack // guarded by mu; nil: what arrives is dropped
	dead bool         // guarded by mu; the pump has ended
}

// pump reads until the receiver stops, however slow the track's reader is.
func (d *downlink) pump(seen *atomic.Int64) {
	for {
		p, _, err := d.remote.ReadRTP()
		if err != nil {
			break
		}
		seen.Store(time.Now().UnixNano())
		if t := d.track(); t != nil {
			t.push(p)
		}
	}
	d.replace(nil)
	d.mu.Lock()
	d.dead = true
	d.mu.Unlock()
}

func (d *downlink) track() *RemoteTrack {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cur
}

// replace ends the track that came through and begins another, nil for none. It reports whether
// the receiver still runs.
func (d *downlink) replace(t *RemoteTrack) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cur != nil {
		d.cur.end()
	}
	d.cur = t
	if d.dead {
		d.cur = nil
	}
	return !d.dead
}

// drainRTCP keeps pion's interceptors fed with sender reports.
func drainRTCP(r *webrtc.RTPReceiver) {
	buf := make([]byte, 1500)
	for {
		if _, _, err := r.Read(buf); err != nil {
			return
		}
	}
}

func newRemoteTrack(peer orama.PeerID, info Track, codec webrtc.RTPCodecParameters, pli func() error) *RemoteTrack {
	return &RemoteTrack{peer: peer, track: info, codec: codec, pli: pli,
		queue: make(chan *rtp.Packet, downQueue), done: make(chan struct{})}
}

func requestKeyframe(pc *webrtc.PeerConnection, ssrc webrtc.SSRC) error {
	return pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(ssrc)}})
}
