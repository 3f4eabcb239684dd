package load

import (
	"sync"
	"time"

	"github.com/pion/rtp"
)

const (
	seenWindow = 2048 // packets; one that comes later than that counts as lost
	seqRestart = 8192 // a jump of more is a new beginning, not a gap
	openFrames = 64   // frames that may be incomplete at the same time
	averageOf  = 30   // frames
	freezeBy   = 150 * time.Millisecond
)

// meter measures one received track. What is read of it is what came since the latest reset.
type meter struct {
	run     uint32
	video   bool
	nominal time.Duration // between two frames

	mu       sync.Mutex // guards all of the following
	started  bool
	base     int64 // extended sequence number from which is counted
	highest  int64
	seen     [seenWindow / 64]uint64
	expected uint64 // before the latest restart of the numbers
	received uint64
	bytes    uint64
	latency  histogram
	frames   [openFrames]frame
	next     int // of frames
	freezes  freezes
}

// frame is one of video whose packets are arriving.
type frame struct {
	timestamp   uint32
	used, whole bool
	packets     int64
	first, last int64 // extended sequence numbers; -1: not known yet
	sent        time.Duration
	sentIsKnown bool
}

// packet takes one that arrived at a time of the run.
func (m *meter) packet(p *rtp.Packet, at time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq, fresh := m.sequence(p.SequenceNumber)
	if !fresh {
		return
	}
	m.received++
	m.bytes += uint64(len(p.Payload))
	if m.video {
		m.piece(p, seq, at)
	} else if sent, ok := readStamp(p.Payload, m.run); ok {
		m.latency.add(at - sent)
	}
}

// sequence extends a number and tells whether it is new.
func (m *meter) sequence(n uint16) (int64, bool) {
	delta := int64(int16(n - uint16(m.highest))) //nolint:gosec // wraps by intent
	if !m.started || delta > seqRestart || delta < -seqRestart {
		if m.started {
			m.expected += uint64(max(m.highest-m.base+1, 0)) //nolint:gosec // not negative
		}
		m.started, m.seen, m.frames = true, [seenWindow / 64]uint64{}, [openFrames]frame{}
		m.base = int64(n) + 1<<16 // never negative, however late something is
		m.highest = m.base - 1
		delta = 1
	}
	seq := m.highest + delta
	if delta <= -seenWindow || seq < m.base {
		return seq, false
	}
	for m.highest < seq {
		m.highest++
		m.seen[m.highest/64%int64(len(m.seen))] &^= 1 << (m.highest % 64)
	}
	word, bit := &m.seen[seq/64%int64(len(m.seen))], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		return seq, false
	}
	*word |= bit
	return seq, true
}

// piece puts a packet to its frame (RFC 7741, section 4.2).
func (m *meter) piece(p *rtp.Packet, seq int64, at time.Duration) {
	f := m.frame(p.Timestamp)
	f.packets++
	if len(p.Payload) > 0 && p.Payload[0]&0x17 == 0x10 { // S, partition 0
		f.first = seq
	}
	if p.Marker {
		f.last = seq
		f.sent, f.sentIsKnown = readStamp(p.Payload, m.run)
	}
	if f.whole || f.first < 0 || f.last < 0 || f.packets < f.last-f.first+1 {
		return
	}
	f.whole = true
	if f.sentIsKnown {
		m.latency.add(at - f.sent)
	}
	m.freezes.frame(at, m.nominal)
}

func (m *meter) frame(timestamp uint32) *frame {
	for i := range openFrames { // the newest first
		f := &m.frames[(m.next-1-i+2*openFrames)%openFrames]
		if f.used && f.timestamp == timestamp {
			return f
		}
	}
	f := &m.frames[m.next]
	m.next = (m.next + 1) % openFrames
	*f = frame{timestamp: timestamp, used: true, first: -1, last: -1}
	return f
}

// reset begins to count anew, without a gap.
func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected, m.received, m.bytes, m.latency = 0, 0, 0, histogram{}
	m.freezes.count, m.freezes.lasted = 0, 0
	m.base = m.highest + 1
}

// end tells that the track is over: what never comes any more freezes nothing.
func (m *meter) end(at time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freezes.count, m.freezes.lasted = m.freezes.asOf(at, m.nominal)
	m.freezes.ended = true
}

// seenOf is what a meter has counted.
type seenOf struct {
	expected, received, bytes uint64
	freezes                   int
	frozen                    time.Duration
}

// read gives the counts as of a time of the run, and adds the latencies to into, which may be nil.
func (m *meter) read(at time.Duration, into *histogram) seenOf {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := seenOf{expected: m.expected, received: m.received, bytes: m.bytes}
	if m.started {
		s.expected += uint64(max(m.highest-m.base+1, 0)) //nolint:gosec // not negative
	}
	s.freezes, s.frozen = m.freezes.asOf(at, m.nominal)
	if into != nil {
		into.merge(&m.latency)
	}
	return s
}

// freezes counts them as W3C's webrtc-stats defines freezeCount and totalFreezesDuration: a frame that comes max(3 d, d +
// 150 ms) or more after the one before, d being the average distance of the latest 30. Decoding is not done, so a frame
// counts when all of it is there.
type freezes struct {
	shown  bool
	ended  bool
	last   time.Duration // when the latest frame was whole
	recent [averageOf]time.Duration
	n      int // how many recent ones there are
	next   int
	sum    time.Duration
	count  int
	lasted time.Duration
}

func (f *freezes) limit(nominal time.Duration) time.Duration {
	d := nominal
	if f.n > 0 {
		d = f.sum / time.Duration(f.n)
	}
	return max(3*d, d+freezeBy)
}

func (f *freezes) frame(at, nominal time.Duration) {
	gap := at - f.last
	if f.shown && gap >= f.limit(nominal) {
		f.count++
		f.lasted += gap
	} else if f.shown {
		f.sum += gap - f.recent[f.next]
		f.recent[f.next] = gap
		f.next = (f.next + 1) % averageOf
		f.n = min(f.n+1, averageOf)
	}
	f.shown, f.last = true, at
}

// asOf counts a freeze that goes on, too.
func (f *freezes) asOf(at, nominal time.Duration) (int, time.Duration) {
	if f.ended {
		return f.count, f.lasted
	}
	if gap := at - f.last; f.shown && gap >= f.limit(nominal) {
		return f.count + 1, f.lasted + gap
	}
	return f.count, f.lasted
}
