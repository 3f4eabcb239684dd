package sfu

import (
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v5/packetio"

	"orama.network/orama/internal/sfu/srtp"
)

// Media that a peer sends takes one of two ways to the reader of its encoding. The short one is ours: the socket's reader opens a packet and puts it into the encoding's feed.
// The long one is pion's, over four goroutines and as many copies; it finds out what a stream is, and it has what is rare: the first packets, those of a payload type that
// is new, retransmissions, and everything where the protection is not AES-GCM.

const (
	// feedSize is what pion itself allows for the packets of one source, in bytes.
	feedSize = 1000 * 1000
	// lull is how long nothing of a stream has to come before its packets take the short way: those on the long one have arrived then, and nothing is overtaken. A stream
	// that is never quiet changes over after changeAfter.
	lull        = 10 * time.Millisecond
	changeAfter = time.Second
	// mirrorEvery is how often a packet takes both ways: pion counts the rollovers of a stream's numbers by what it sees, for the day that it has the stream again, and ICE
	// judges by it whether a peer is gone.
	mirrorEvery = time.Second
)

// feed is the end of the short way.
type feed struct {
	*packetio.Buffer
	born  time.Time
	known [2]atomic.Uint64 // the payload types that its reader knows, by bit
}

func newFeed(now time.Time) *feed {
	f := &feed{Buffer: packetio.NewBuffer(), born: now}
	f.SetLimitSize(feedSize)
	return f
}

// knows reports whether a payload type may come.
func (f *feed) knows(pt uint8) bool { return f.known[pt>>6&1].Load()>>(pt&63)&1 != 0 }

// learn has it come from now on. There is one caller.
func (f *feed) learn(pt uint8) {
	f.known[pt>>6&1].Store(f.known[pt>>6&1].Load() | 1<<(pt&63))
}

// upStream is one SSRC of media of a peer, for as long as the peer is there. The socket's reader alone touches the fields without a note.
type upStream struct {
	opened   srtp.Source
	passed   time.Time // when one last took the long way alone
	direct   bool      // they take the short one
	since    time.Time // when the first came since they do not, of those that might; zero: none did
	mirrored time.Time // when one last took both

	feed    atomic.Pointer[feed]    // nil: they all take the long way
	repairs atomic.Pointer[repairs] // not nil: they are retransmissions, for another stream's feed
	again   []byte                  // memory for one packet
	mirror  atomic.Uint32           // 1<<16 | number of the last that took both; 0: none did
}

// repairs says what the packets of a stream of retransmissions are of (RFC 4588).
type repairs struct {
	feed *feed
	of   map[uint8]uint8 // by their payload type that of what is repeated
}

// take puts a packet, opened, into the feed, and reports whether that was all: otherwise it takes the long way.
func (s *upStream) take(b []byte, at time.Time) bool {
	if r := s.repairs.Load(); r != nil {
		return s.repair(r, b, at)
	}
	f := s.feed.Load()
	if f == nil || !f.knows(b[1]&0x7f) {
		s.direct, s.passed, s.since = false, at, time.Time{}
		return false
	}
	if !s.direct {
		if s.since.IsZero() {
			s.since = at
		}
		if at.Sub(s.passed) < lull && at.Sub(s.since) < changeAfter {
			s.passed = at
			return false
		}
		s.direct = true
	}
	f.Write(b, nil) //nolint:errcheck // full: it is lost; closed: nobody wants it
	return !s.both(b, at)
}

// both reports whether a packet takes the long way as well.
func (s *upStream) both(b []byte, at time.Time) bool {
	if at.Sub(s.mirrored) < mirrorEvery {
		return false
	}
	s.mirrored = at
	s.mirror.Store(1<<16 | uint32(binary.BigEndian.Uint16(b[2:])))
	return true
}

// repair puts what is sent again into the feed, under its own number (RFC 4588 section 4); its SSRC stays that of the retransmissions, so that it is known for one. Padding, by which
// browsers try their way up, is nothing to repeat.
func (s *upStream) repair(r *repairs, b []byte, at time.Time) bool {
	end := len(b)
	if b[0]&0x20 != 0 {
		end -= int(b[end-1])
	}
	pt, ok := r.of[b[1]&0x7f]
	head, whole := srtp.HeaderLen(b)
	if !ok || !whole || !r.feed.knows(pt) {
		return false
	}
	s.direct = true
	both := s.both(b, at)
	if end-head >= rtxHeader {
		again := s.again[:0]
		again = append(append(again, b[:head]...), b[head+rtxHeader:end]...)
		again[0] &^= 0x20
		again[1] = again[1]&0x80 | pt
		copy(again[2:4], b[head:])
		s.again = again
		r.feed.Write(again, nil) //nolint:errcheck // as in take
	}
	return !both
}

// had reports whether a packet that took the long way is one that took the short one as well.
func (s *upStream) had(seq uint16) bool { return s.mirror.Load() == 1<<16|uint32(seq) }

// attach has packets go to f.
func (s *upStream) attach(f *feed) { s.feed.Store(f) }

// detach ends that, and that retransmissions do.
func (s *upStream) detach(f *feed) {
	s.feed.CompareAndSwap(f, nil)
	if r := s.repairs.Load(); r != nil && r.feed == f {
		s.repairs.CompareAndSwap(r, nil)
	}
}

// media takes an RTP packet that came to the socket from a peer, and reports whether pion need not see it. Of a stream that pion has not met yet only the arrival is noted:
// by its first packets a browser finds out what its way up carries, and pion may have them late.
func (t *taps) media(open *srtp.Opener, plain, b []byte, at time.Time) bool {
	s, met := t.stream(sourceOf(b)), true
	if s == nil {
		s, met = &upStream{}, false
	}
	out, err := open.Open(plain, b, &s.opened)
	switch {
	case errors.Is(err, srtp.ErrReplayed) && s.direct: // pion has not seen all that came, and would take it
		return true
	case err != nil: // pion refuses it as well, or knows better
		s.direct, s.passed, s.since = false, at, time.Time{}
		return false
	}
	t.arrivals.note(out, at)
	return met && s.take(out, at)
}

// stream gives what is known of an SSRC; nil: pion has not met it.
func (t *taps) stream(ssrc uint32) *upStream {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams[ssrc]
}

// meet makes one, unless there was one before pion's stream ended and began anew, and gives how many there are. They are kept as long as the peer is there, as the counter
// of their rollovers is.
func (t *taps) meet(ssrc uint32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams == nil {
		t.streams = map[uint32]*upStream{}
	}
	if t.streams[ssrc] == nil {
		t.streams[ssrc] = &upStream{}
	}
	return len(t.streams)
}

// inflow is the long way's last part but one: what pion has opened.
type inflow struct{ *stored }

// Write puts a packet in.
func (f *inflow) Write(b []byte) (int, error) {
	if len(b) >= rtpHeader {
		f.of.arrivals.note(b, time.Now())
	}
	return f.stored.Write(b)
}

var _ io.ReadWriteCloser = (*inflow)(nil)

// sourceOf is the SSRC of an RTP packet.
func sourceOf(b []byte) uint32 { return binary.BigEndian.Uint32(b[8:]) }
