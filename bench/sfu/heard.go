package main

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/bench/rig"
)

type rtcpPacket = rtcp.Packet

// feedbackEvery is pion's interval of transport-wide feedback.
const feedbackEvery = 100 * time.Millisecond

// heard has a packet of media, encrypted, and says whether pion is to have it too.
func (p *person) heard(b []byte, at int64) bool {
	ssrc := binary.BigEndian.Uint32(b[8:])
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.streams[ssrc]
	if s == nil {
		return p.probe
	}
	if s.transport != 0 {
		p.record(s, b, at)
	}
	if !s.media || b[0]&0x20 != 0 { // what the server pads with is not forwarded
		return p.probe
	}
	p.room.got.Add(1)
	s.seen = true
	s.reader.Read(b, interceptor.Attributes{}) //nolint:errcheck // its own header
	if s.arrivals != nil {
		s.arrivals.put(binary.BigEndian.Uint16(b[2:]), at)
	}
	return p.probe
}

// has counts the streams that have brought anything.
func (p *person) has() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		if s.seen {
			n++
		}
	}
	return n
}

// record notes a packet for the transport-wide feedback.
func (p *person) record(s *stream, b []byte, at int64) {
	var h rtp.Header
	if _, err := h.Unmarshal(b); err != nil {
		return
	}
	if x := h.GetExtension(s.transport); len(x) == 2 {
		p.recorder.Record(s.ssrc, binary.BigEndian.Uint16(x), at/1000)
		p.recorded++
	}
}

// feedBack sends what was recorded.
func (p *person) feedBack() {
	p.mu.Lock()
	var packets []rtcp.Packet
	if p.recorded > 0 {
		packets, p.recorded = p.recorder.BuildFeedbackPacket(), 0
	}
	p.mu.Unlock()
	if len(packets) > 0 {
		p.report(packets, nil) //nolint:errcheck // what does not arrive is no feedback
	}
}

// arrivals remembers when a stream's latest packets came.
type arrivals struct {
	slots [4096]struct{ is, at atomic.Int64 } // the sequence number and one, and Unix nanoseconds
}

func (a *arrivals) put(seq uint16, at int64) {
	s := &a.slots[int(seq)%len(a.slots)]
	s.at.Store(at)
	s.is.Store(int64(seq) + 1)
}

func (a *arrivals) of(seq uint16) (at int64, ok bool) {
	s := &a.slots[int(seq)%len(a.slots)]
	return s.at.Load(), s.is.Load() == int64(seq)+1
}

// readLatency has pion's packets of a probe: each ends with the time when it was sent.
func (p *person) readLatency(t *webrtc.TrackRemote) {
	p.mu.Lock()
	s := p.streams[uint32(t.SSRC())]
	p.mu.Unlock()
	for {
		packet, _, err := t.ReadRTP()
		if err != nil {
			return
		}
		if s == nil || s.arrivals == nil || len(packet.Payload) < stampSize {
			continue
		}
		sent := int64(binary.BigEndian.Uint64(packet.Payload[len(packet.Payload)-stampSize:])) //nolint:gosec // our own
		if at, ok := s.arrivals.of(packet.SequenceNumber); ok {
			p.room.load.latency.add(sent, at)
		}
	}
}

// meter counts latencies of one measurement.
type meter struct {
	mu       sync.Mutex
	from, to int64 // guarded by mu; of sending, in Unix nanoseconds
	counted  rig.Histogram
}

func (m *meter) add(sent, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sent >= m.from && sent < m.to {
		m.counted.Add(at - sent)
	}
}

// begin counts what is sent within a window from now on.
func (m *meter) begin(window time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.from = time.Now().UnixNano()
	m.to = m.from + int64(window)
	m.counted.Reset()
}

// percentiles are in milliseconds.
func (m *meter) percentiles() (p50, p99 float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return float64(m.counted.Percentile(0.5)) / 1e6, float64(m.counted.Percentile(0.99)) / 1e6
}
