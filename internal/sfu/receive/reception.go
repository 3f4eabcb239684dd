package receive

import (
	"time"

	"github.com/pion/rtcp"
)

// Reception counts the packets of one stream for receiver reports (RFC 3550 sections 6.4.1, A.3 and A.8). Retransmissions in a stream of their own are not of it. The zero
// value has seen none.
type Reception struct {
	Clock uint32 // of the RTP timestamps, in Hz

	begun    bool
	first    uint32 // extended sequence number
	newest   uint32 // as first: cycles << 16 | sequence number
	received uint32
	told     struct{ expected, received uint32 } // up to the last report
	jitter   float64                             // in ticks of Clock
	lastTS   uint32
	lastAt   time.Time
}

// Note takes a packet.
func (r *Reception) Note(seq uint16, ts uint32, at time.Time) {
	ahead := seq - uint16(r.newest) //nolint:gosec // the low half
	switch {
	case !r.begun, ahead >= jump && ahead < 1<<16-jump:
		*r = Reception{Clock: r.Clock, begun: true, first: uint32(seq), newest: uint32(seq), received: 1, lastTS: ts, lastAt: at}
		return
	case ahead > 0 && ahead < jump:
		r.newest += uint32(ahead)
	}
	r.received++
	d := at.Sub(r.lastAt).Seconds()*float64(r.Clock) - float64(int32(ts-r.lastTS)) //nolint:gosec // wraps
	r.jitter += (max(d, -d) - r.jitter) / 16
	r.lastTS, r.lastAt = ts, at
}

// Report gives the block of a stream for the next report, and begins another interval. lsr is the middle of the NTP time of the last sender report, which came at srAt; 0:
// there was none. ok is false while no packet has come.
func (r *Reception) Report(ssrc, lsr uint32, srAt, now time.Time) (b rtcp.ReceptionReport, ok bool) {
	if !r.begun {
		return b, false
	}
	expected := r.newest - r.first + 1
	more, came := expected-r.told.expected, r.received-r.told.received
	r.told.expected, r.told.received = expected, r.received
	b = rtcp.ReceptionReport{SSRC: ssrc, LastSequenceNumber: r.newest, Jitter: uint32(r.jitter), LastSenderReport: lsr}
	if more > came {
		b.FractionLost = uint8(min((more-came)<<8/more, 255)) //nolint:gosec // at most 255
	}
	if expected > r.received {
		b.TotalLost = min(expected-r.received, 1<<23-1)
	}
	if lsr != 0 {
		b.Delay = uint32(now.Sub(srAt).Seconds() * 65536)
	}
	return b, true
}
