package sfu

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v5/packetio"

	"orama.network/orama/internal/sfu/bwe"
)

// RTCP packet types (RFC 3550 section 12.1, RFC 4585 section 6.1) and feedback formats.
const (
	rtcpSenderReport   = 200
	rtcpReceiverReport = 201
	rtcpTransport      = 205
	rtcpPayload        = 206

	formatNACK        = 1  // of rtcpTransport, RFC 4585 section 6.2.1
	formatTransportCC = 15 // of rtcpTransport, draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1
	formatPLI         = 1  // of rtcpPayload, RFC 4585 section 6.3.1
	formatFIR         = 4  // of rtcpPayload, RFC 5104 section 4.3.1
)

const (
	// maxSources bounds how many sources a peer may speak of at a time: pion keeps a stream for each that it has not asked for, for ever.
	maxSources = 2048
	// maxStreams bounds how many a peer may ever have sent media from: the counter of their rollovers is kept.
	maxStreams = 1 << 14
	// maxReportsKept bounds what waits of a publisher's reports until pion's reader takes it, in bytes.
	maxReportsKept = 8 << 10
	// maxStatuses bounds the packets that one feedback message speaks of: several seconds of any call.
	maxStatuses = 8192
)

// taps are where a peer's RTCP is read: pion hands it out by source, to a reader for each, and drops what a client says of a source that
// nobody reads. Feedback on the whole transport carries whichever source came last, which may be one of retransmissions. So it is read here, where pion
// stores it, by pion's one reader of the peer's SRTCP. Media is noted here for the feedback on it. It is a SettingEngine's BufferFactory.
type taps struct {
	out      *egress
	count    atomic.Int32
	flood    func() // called when there are too many; once or more often
	arrivals arrivals

	mu      sync.Mutex
	streams map[uint32]*upStream // guarded by mu; of media, by SSRC
}

func (t *taps) buffer(kind packetio.BufferPacketType, ssrc uint32) io.ReadWriteCloser {
	if t.count.Add(1) > maxSources {
		t.flood()
	}
	b := packetio.NewBuffer()
	if kind == packetio.RTPBufferPacket {
		b.SetLimitSize(feedSize)
		if t.meet(ssrc) > maxStreams {
			t.flood()
		}
		return &inflow{&stored{Buffer: b, of: t}}
	}
	b.SetLimitSize(maxReportsKept)
	return &tap{stored: &stored{Buffer: b, of: t}, ssrc: ssrc, out: t.out}
}

// stored is pion's own buffer, as a plain reader and writer.
type stored struct {
	*packetio.Buffer
	of   *taps
	gone atomic.Bool
}

// Close ends it. Each section of ours that is used again has another source, so that a peer has had many in a long call.
func (b *stored) Close() error {
	if !b.gone.Swap(true) {
		b.of.count.Add(-1)
	}
	return b.Buffer.Close()
}

// Read takes the next packet out.
func (b *stored) Read(p []byte) (int, error) {
	n, _, err := b.Buffer.Read(p, nil)
	return n, err
}

// Write puts a packet in.
func (b *stored) Write(p []byte) (int, error) { return b.Buffer.Write(p, nil) }

// tap is one source's RTCP. What concerns a section of ours is dealt with at once; a publisher's sender reports are stored for pion.
type tap struct {
	*stored
	ssrc uint32
	out  *egress
}

// Write takes one RTCP packet that is addressed to the source.
func (t *tap) Write(b []byte) (int, error) {
	if len(b) < 8 {
		return len(b), nil
	}
	now := time.Now()
	format, kind := b[0]&0x1f, b[1]
	if kind == rtcpTransport && format == formatTransportCC {
		t.out.feedback(b, now)
		return len(b), nil
	}
	if d := t.out.section(t.ssrc); d != nil {
		d.told(b, now)
	} else if kind == rtcpSenderReport && binary.BigEndian.Uint32(b[4:]) == t.ssrc {
		t.stored.Write(b) //nolint:errcheck // full: nobody reads them
	}
	return len(b), nil
}

// hear deals with a whole compound packet (RFC 3550 section 6.1), so that pion need not. It reports false, and has done nothing, when a publisher reports in it:
// pion answers that.
func (e *egress) hear(b []byte, now time.Time) bool {
	for rest := b; len(rest) > 0; {
		n := rtcpLen(rest)
		if n == 0 || rest[1] == rtcpSenderReport {
			return false
		}
		rest = rest[n:]
	}
	for len(b) > 0 {
		n := rtcpLen(b)
		e.hearOne(b[:n], now)
		b = b[n:]
	}
	return true
}

// rtcpLen is the length of the first packet of a compound; 0: it is none.
func rtcpLen(b []byte) int {
	if len(b) < 4 || b[0]>>6 != 2 {
		return 0
	}
	n := 4 + 4*int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b) {
		return 0
	}
	return n
}

func (e *egress) hearOne(b []byte, now time.Time) {
	format, kind := b[0]&0x1f, b[1]
	switch {
	case kind == rtcpReceiverReport && len(b) >= 8:
		for blocks, n := b[8:], int(format); n > 0 && len(blocks) >= reportBlock; n, blocks = n-1, blocks[reportBlock:] {
			if d := e.section(binary.BigEndian.Uint32(blocks)); d != nil {
				d.report(blocks, 1, now)
			}
		}
	case kind == rtcpTransport && format == formatTransportCC && len(b) >= 8:
		e.feedback(b, now)
	case kind == rtcpPayload && format == formatFIR: // the media is in the entry: RFC 5104 section 4.3.1.1
		if len(b) >= 20 {
			if d := e.section(binary.BigEndian.Uint32(b[12:])); d != nil {
				d.told(b, now)
			}
		}
	case (kind == rtcpTransport || kind == rtcpPayload) && len(b) >= 12:
		if d := e.section(binary.BigEndian.Uint32(b[8:])); d != nil {
			d.told(b, now)
		}
	}
}

// reportBlock is the length of one (RFC 3550 section 6.4.1), in bytes.
const reportBlock = 24

// told reads what a subscriber says of a section: reports, losses, keyframes it needs.
func (d *down) told(b []byte, now time.Time) {
	switch format, kind := b[0]&0x1f, b[1]; {
	case kind == rtcpReceiverReport:
		d.report(b[8:], int(format), now)
	case kind == rtcpSenderReport && len(b) >= 28:
		d.report(b[28:], int(format), now) // whoever sends as well reports here
	case kind == rtcpTransport && format == formatNACK && len(b) >= 12:
		d.resend(b[12:], now)
	case kind == rtcpPayload && (format == formatPLI || format == formatFIR):
		d.askKeyframe()
	}
}

// report reads the report blocks (RFC 3550 section 6.4.1) that are about d.
func (d *down) report(blocks []byte, count int, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bound == nil {
		return
	}
	for ; count > 0 && len(blocks) >= reportBlock; count, blocks = count-1, blocks[reportBlock:] {
		if binary.BigEndian.Uint32(blocks) != d.bound.ssrc {
			continue
		}
		d.heard.lost.Store(max(d.heard.lost.Load(), 1+uint32(blocks[4])))
		if rtt := d.reported.roundTrip(binary.BigEndian.Uint32(blocks[16:]), binary.BigEndian.Uint32(blocks[20:]), now); rtt > 0 {
			d.heard.delay.Store(int64(rtt))
		}
	}
}

// resend answers a request for lost packets: pairs of a number and a mask of the sixteen after it.
func (d *down) resend(pairs []byte, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.up == nil || d.bound == nil {
		return
	}
	for ; len(pairs) >= 4; pairs = pairs[4:] {
		first, mask := binary.BigEndian.Uint16(pairs), uint32(binary.BigEndian.Uint16(pairs[2:]))<<1|1
		for i := uint16(0); mask != 0; i, mask = i+1, mask>>1 {
			if mask&1 == 0 {
				continue
			}
			if c, ok := d.sent.again(first+i, d.bound, now, d.to.pause()); ok && !d.to.again(c, now) {
				return // there is no room for more
			}
		}
	}
}

// acks reads feedback on the transport (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1).
type acks struct {
	list  []bwe.Ack
	epoch int64 // of the receiver's clock, unwrapped: units of 64 ms
	begun bool
}

const (
	twccHeader = 20 // bytes, up to the chunks
	twccUnit   = 64 * time.Millisecond
	twccTick   = 250 * time.Microsecond
	twccWrap   = 1 << 24 // of the reference time
)

// read gives what one message says, in memory that the next call uses again. It is nil for what is malformed.
func (a *acks) read(b []byte) []bwe.Ack {
	if len(b) < twccHeader {
		return nil
	}
	if b[0]&0x20 != 0 { // padding
		if n := int(b[len(b)-1]); n == 0 || n > len(b)-twccHeader {
			return nil
		} else {
			b = b[:len(b)-n]
		}
	}
	base, count := binary.BigEndian.Uint16(b[12:]), int(binary.BigEndian.Uint16(b[14:]))
	if count == 0 || count > maxStatuses {
		return nil
	}
	rest, ok := a.statuses(b[twccHeader:], base, count)
	if !ok {
		return nil
	}
	arrival := a.reference(int64(b[16])<<16 | int64(b[17])<<8 | int64(b[18]))
	for i := range a.list {
		size := int(a.list[i].Arrival) // statuses left it here
		switch {
		case size > len(rest):
			return nil
		case size == 1:
			arrival += time.Duration(rest[0]) * twccTick
		case size == 2:
			arrival += time.Duration(int16(binary.BigEndian.Uint16(rest))) * twccTick
		}
		rest = rest[size:]
		a.list[i].Arrival = arrival
	}
	return a.list
}

// reference gives the time of a message, where the clock of the one before is near.
func (a *acks) reference(t int64) time.Duration {
	if !a.begun {
		a.begun, a.epoch = true, t+twccWrap // room below, as messages may be overtaken
	}
	d := (t - a.epoch) & (twccWrap - 1)
	if d >= twccWrap/2 {
		d -= twccWrap
	}
	a.epoch += d
	return time.Duration(a.epoch) * twccUnit
}

// statuses reads the chunks: whether each packet came, and the size of its delta, 0 to 2, in the place of its arrival.
func (a *acks) statuses(b []byte, base uint16, count int) (rest []byte, ok bool) {
	a.list, ok = a.list[:0], true
	add := func(symbol uint16) {
		if len(a.list) < count {
			ok = ok && symbol <= 2
			a.list = append(a.list, bwe.Ack{Seq: base + uint16(len(a.list)), Received: symbol != 0, Arrival: time.Duration(symbol)})
		}
	}
	for ok && len(a.list) < count {
		if len(b) < 2 {
			return nil, false
		}
		before, chunk := len(a.list), binary.BigEndian.Uint16(b)
		b = b[2:]
		switch {
		case chunk&0x8000 == 0: // a run
			for range int(chunk & 0x1fff) {
				add(chunk >> 13 & 3)
			}
		case chunk&0x4000 == 0: // fourteen symbols of one bit
			for i := 13; i >= 0; i-- {
				add(chunk >> i & 1)
			}
		default: // seven of two bits
			for i := 12; i >= 0; i -= 2 {
				add(chunk >> i & 3)
			}
		}
		if len(a.list) == before {
			return nil, false // an empty run
		}
	}
	return b, ok
}
