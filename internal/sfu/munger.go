package sfu

import "time"

// munger rewrites one source after another into one continuous RTP stream (RFC 3550 section
// 5.1): a subscriber that sees a section reused, or a pause end, sees neither loss nor a jump of
// the clock. It is pure; its owner guards it.
type munger struct {
	started bool
	fresh   bool // the next packet begins a new source, or resumes the old one
	resume  bool // fresh, and the source is the one of before: its clock went on

	seqOff  uint16
	tsOff   uint32
	lastSeq uint16    // highest sent
	lastTS  uint32    // of the packet lastSeq
	lastAt  time.Time // when it was sent
	floor   uint16    // lastSeq when the present source began
	since   int       // packets since then, at most floorFor
}

// floorFor is for how many packets after a switch stragglers from before it are looked for.
// Later the comparison with floor would wrap round.
const floorFor = 1 << 12

// switchTo says that the next packet comes from another source.
func (m *munger) switchTo() { m.fresh, m.resume = true, false }

// skip says that packets of this source were left out on purpose.
func (m *munger) skip() {
	if !m.fresh {
		m.fresh, m.resume = true, true
	}
}

// next gives the sequence number and timestamp to send a packet with, or false for a straggler
// from before the switch. clock is the codec's rate in Hz.
func (m *munger) next(seq uint16, ts uint32, clock uint32, now time.Time) (uint16, uint32, bool) {
	if !m.started {
		m.started, m.fresh = true, false
		m.lastSeq, m.lastTS, m.lastAt = seq, ts, now
		m.floor, m.since = seq-1, 0
		return seq, ts, true
	}
	if m.fresh {
		m.begin(seq, ts, clock, now)
	}
	outSeq, outTS := seq+m.seqOff, ts+m.tsOff
	if m.since < floorFor {
		if m.since++; int16(outSeq-m.floor) <= 0 {
			return 0, 0, false
		}
	}
	if int16(outSeq-m.lastSeq) > 0 {
		m.lastSeq, m.lastTS, m.lastAt = outSeq, outTS, now
	}
	return outSeq, outTS, true
}

func (m *munger) begin(seq uint16, ts uint32, clock uint32, now time.Time) {
	m.seqOff = m.lastSeq + 1 - seq
	if !m.resume {
		passed := max(now.Sub(m.lastAt), time.Millisecond)
		m.tsOff = m.lastTS + uint32(uint64(passed.Milliseconds())*uint64(clock)/1000) + 1 - ts
	}
	m.floor, m.since, m.fresh = m.lastSeq, 0, false
}
