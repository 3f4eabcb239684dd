package sfu

import (
	"time"

	"github.com/pion/rtcp"
)

// reportsEvery is how often a section is reported on: a receiver takes its clocks from the first report, and corrects them by later ones.
const reportsEvery = 3 * time.Second

// reportsPerPacket is how many sender reports fit one datagram: 28 bytes each.
const reportsPerPacket = 32

// reported remembers the last sender reports of a section: a subscriber's receiver report names one by its time, which is the publisher's.
type reported struct {
	last [4]struct {
		lsr uint32 // the middle of its NTP time, as a receiver names it
		at  time.Time
	}
	next int
}

func (r *reported) note(ntp uint64, now time.Time) {
	r.last[r.next].lsr, r.last[r.next].at = uint32(ntp>>16), now
	r.next = (r.next + 1) % len(r.last)
}

// roundTrip is the time since a sender report, less the receiver's delay (RFC 3550 section 6.4.1); 0 when it cannot be told. delay is
// in units of 1/65536 s.
func (r *reported) roundTrip(lsr, delay uint32, now time.Time) time.Duration {
	if lsr == 0 {
		return 0
	}
	for _, sr := range r.last {
		if sr.lsr != lsr || sr.at.IsZero() {
			continue
		}
		if d := now.Sub(sr.at) - time.Duration(delay)*time.Second>>16; d < 10*time.Second {
			return max(d, time.Microsecond)
		}
	}
	return 0
}

func (d *down) reportedRecently(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.reported.last[(d.reported.next+len(d.reported.last)-1)%len(d.reported.last)]
	return now.Sub(last.at) < reportsEvery-lookEvery/2
}

// senderReport is what a section tells of itself, nil while the publisher has told nothing.
func (d *down) senderReport(now time.Time) *rtcp.SenderReport {
	if d.reportedRecently(now) {
		return nil
	}
	ntp, ts, ok := d.reportTime(now)
	if !ok {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bound == nil || d.paused || d.starved {
		return nil
	}
	d.reported.note(ntp, now)
	return &rtcp.SenderReport{SSRC: d.bound.ssrc, NTPTime: ntp, RTPTime: ts, PacketCount: d.packets, OctetCount: d.octets}
}

// sendReports tells the subscriber how the clocks of what it is sent belong together: in the publishers' own time, so that
// sound and picture of each stay together.
func (p *peer) sendReports(now time.Time) {
	if p.pc == nil || !p.life.connected {
		return
	}
	var batch []rtcp.Packet
	for _, d := range p.downs {
		if d.state != slotActive {
			continue
		}
		if sr := d.senderReport(now); sr != nil {
			batch = append(batch, sr)
		}
		if len(batch) == reportsPerPacket {
			p.writeReports(batch)
			batch = batch[:0]
		}
	}
	if len(batch) > 0 {
		p.writeReports(batch)
	}
}

// writeReports sends RTCP with the media, or as pion does where that protects it. A connection that is going needs none. Safe for any goroutine.
func (p *peer) writeReports(batch []rtcp.Packet) {
	b, err := rtcp.Marshal(batch)
	if err != nil || p.out.writeReports(b) {
		return
	}
	p.pc.WriteRTCP(batch) //nolint:errcheck // as above
}
