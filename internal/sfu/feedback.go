package sfu

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/rtcp"
)

const (
	// feedbackEvery is how long after a packet came its publisher is told when. libwebrtc's own receiver takes 50 to 250 ms.
	feedbackEvery = 50 * time.Millisecond
	// ownSSRC is whom our feedback and reports to publishers come from. It sends no media; browsers that only receive use the same.
	ownSSRC = 1
	// blocksPerReport is how many report blocks fit one packet: five bits count them (RFC 3550 section 6.4.2).
	blocksPerReport = 31
	// heldMost is how many packets one message tells of: with all their times apart it is a datagram.
	heldMost = 400
)

// arrivals tells a peer when its packets came, all streams together (draft-holmer-rmcat-transport-wide-cc-extensions-01): by that a browser estimates its way up. A timer
// runs while there is something to tell.
type arrivals struct {
	send func([]rtcp.Packet)
	id   atomic.Uint32 // of the header extension; 0: not negotiated

	mu       sync.Mutex
	recorder *twcc.Recorder // guarded by mu, as all below
	epoch    time.Time      // of the recorder's clock
	timer    *time.Timer
	running  bool
	closed   bool
}

// note takes a packet, opened, and when it came: the kernel's time, where it is known. Of two times for one packet the first counts.
func (a *arrivals) note(packet []byte, at time.Time) {
	id := uint8(a.id.Load()) //nolint:gosec // it was one
	if id == 0 {
		return
	}
	number, ok := transportNumber(packet, id)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if a.recorder == nil {
		a.recorder, a.epoch = twcc.NewRecorder(ownSSRC), at.Add(-time.Second)
	}
	a.recorder.Record(sourceOf(packet), number, max(at.Sub(a.epoch), 0).Microseconds())
	if a.running && a.recorder.PacketsHeld() >= heldMost {
		a.timer.Reset(0)
	}
	if a.running || a.recorder.PacketsHeld() == 0 {
		return
	}
	a.running = true
	if a.timer == nil {
		a.timer = time.AfterFunc(feedbackEvery, a.tell)
	} else {
		a.timer.Reset(feedbackEvery)
	}
}

func (a *arrivals) tell() {
	a.mu.Lock()
	a.running = false
	var packets []rtcp.Packet
	if !a.closed {
		packets = a.recorder.BuildFeedbackPacket()
	}
	a.mu.Unlock()
	for _, m := range packets { // each may fill a datagram
		a.send([]rtcp.Packet{m})
	}
}

// close ends it.
func (a *arrivals) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

// hears notes a packet for what is told of the stream. resent: it came in the stream of retransmissions. l.taking is held.
func (l *layer) hears(p *packet, resent bool) {
	seq := p.hdr.SequenceNumber
	if !resent {
		l.gaps.note(seq)
		l.reception.Note(seq, p.hdr.Timestamp, p.at)
	}
	if l.resends && l.losses.Note(seq, p.at) && !l.asking {
		l.askAfter(l.losses.Due(l.lost[:0], p.at, 0))
	}
}

// askAfter asks for lost packets, and looks again after a while; 0: there is nothing to look for. l.taking is held.
func (l *layer) askAfter(lost []uint16, after time.Duration) {
	if l.lost = lost; len(lost) > 0 {
		nack := &rtcp.TransportLayerNack{SenderSSRC: ownSSRC, MediaSSRC: l.ssrc, Nacks: rtcp.NackPairsFromSequenceNumbers(lost)}
		l.up.sendRTCP([]rtcp.Packet{nack})
	}
	if l.asking = after > 0; !l.asking {
		return
	}
	if l.askTimer == nil {
		l.askTimer = time.AfterFunc(after, l.askAgain)
	} else {
		l.askTimer.Reset(after)
	}
}

// askAgain asks for what is still missing.
func (l *layer) askAgain() {
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if ended {
		return
	}
	l.taking.Lock()
	defer l.taking.Unlock()
	l.askAfter(l.losses.Due(l.lost[:0], time.Now(), l.up.rtt()))
}

// received is the encoding's block of a receiver report; ok is false while nothing has come.
func (l *layer) received(now time.Time) (rtcp.ReceptionReport, bool) {
	sr := l.reports.get()
	l.taking.Lock()
	defer l.taking.Unlock()
	return l.reception.Report(l.ssrc, uint32(sr.ntp>>16), sr.at, now) //nolint:gosec // the middle of it
}

// tellReceived tells the publisher what came of all that it sends (RFC 3550 section 6.4.2).
func (p *peer) tellReceived(now time.Time) {
	if p.pc == nil || !p.life.connected {
		return
	}
	var blocks []rtcp.ReceptionReport
	for _, u := range p.ups {
		for _, l := range *u.layers.Load() {
			if b, ok := l.received(now); ok {
				blocks = append(blocks, b)
			}
		}
	}
	for len(blocks) > 0 {
		n := min(len(blocks), blocksPerReport)
		p.writeReports([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: ownSSRC, Reports: blocks[:n]}})
		blocks = blocks[n:]
	}
}
