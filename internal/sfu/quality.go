package sfu

import (
	"slices"
	"sync/atomic"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// Words of the quality message.
const (
	qualityExcellent = "excellent"
	qualityGood      = "good"
	qualityPoor      = "poor"
	qualityLost      = "lost"

	causeUpLoss    = "up_loss"
	causeDownLoss  = "down_loss"
	causeRTT       = "rtt"
	causeLimit     = "limit"
	causeNoPackets = "no_packets"
)

const (
	// measureEvery is how often a connection is measured, and a room told at most: a receiver reports at least every 5 s on
	// audio alone (RFC 3550 section 6.2), video every second.
	measureEvery = 2 * time.Second
	// silentFor is the silence that counts as lost: longer than the longest time between two reports.
	silentFor = 8 * time.Second
	// An opinion becomes worse after worseAfter measurements in a row, and better after betterAfter.
	worseAfter  = 2
	betterAfter = 3
	// fewPackets is how many must be expected for a share of them to say anything.
	fewPackets = 20
)

// measurement is one look at a peer's connection, on both its legs.
type measurement struct {
	upLoss   float64       // 0 to 1, between the client and here; below 0: not known
	downLoss float64       // 0 to 1, between here and the client; below 0: not known
	rtt      time.Duration // to the client and back; 0: not known
	limited  bool          // less is sent than is wanted, because the path takes no more
	silent   time.Duration // since anything came from the client, where something has to; 0: nothing is amiss
}

// opinion is what a measurement comes to.
type opinion struct{ quality, cause string }

// judge gives the worst of what a measurement says, and the cause of it (docs/protocol.md, "Quality"). Of two equally bad
// causes the one that explains the other comes first. ok is false when nothing is known.
func judge(m measurement) (o opinion, ok bool) {
	if m.silent >= silentFor {
		return opinion{qualityLost, causeNoPackets}, true
	}
	if m.upLoss < 0 && m.downLoss < 0 && m.rtt == 0 && !m.limited {
		return opinion{}, false
	}
	o = opinion{quality: qualityExcellent}
	for _, c := range []struct {
		cause      string
		good, poor bool
	}{
		{causeUpLoss, m.upLoss >= 0.01, m.upLoss >= 0.05},
		{causeDownLoss, m.downLoss >= 0.01, m.downLoss >= 0.05},
		{causeLimit, m.limited, m.limited},
		{causeRTT, m.rtt >= 150*time.Millisecond, m.rtt >= 400*time.Millisecond},
	} {
		switch {
		case c.poor && o.quality != qualityPoor:
			o = opinion{qualityPoor, c.cause}
		case c.good && o.quality == qualityExcellent:
			o = opinion{qualityGood, c.cause}
		}
	}
	return o, true
}

var badness = map[string]int{qualityExcellent: 0, qualityGood: 1, qualityPoor: 2, qualityLost: 3}

// meter smooths opinions. It is pure; the zero value has none.
type meter struct {
	told opinion
	next opinion // what the last measurements in a row said that differ from told
	runs int     // how many they are
}

// update takes the next opinion and reports whether there is another one to tell. The first is told at once, and so is a loss.
func (q *meter) update(o opinion) bool {
	if o == q.told {
		q.runs = 0
		return false
	}
	if o.quality != q.next.quality {
		q.runs = 0
	}
	q.next = o
	q.runs++
	need := worseAfter
	if badness[o.quality] < badness[q.told.quality] {
		need = betterAfter
	}
	if q.told.quality != "" && o.quality != qualityLost && q.runs < need {
		return false
	}
	q.told, q.runs = o, 0
	return true
}

// gaps counts the packets of an up track's encoding, without its stream of retransmissions: what comes long after its place was sent again, and was lost.
// The reader calls note; anybody may call take.
type gaps struct {
	begun   bool   // the reader's, like highest
	highest uint16 // sequence number

	expected, received atomic.Uint32
}

const (
	// reordered is how many packets late one may be without having been lost.
	reordered = 16
	// jumps is a distance between two sequence numbers that is no loss but another beginning.
	jumps = 3000
)

func (g *gaps) note(seq uint16) {
	ahead := seq - g.highest
	switch {
	case !g.begun || ahead >= jumps && ahead < 1<<16-jumps:
		g.begun, g.highest = true, seq
		g.expected.Add(1)
		g.received.Add(1)
	case ahead > 0 && ahead < 1<<15:
		g.highest = seq
		g.expected.Add(uint32(ahead))
		g.received.Add(1)
	case ahead != 0 && -ahead <= reordered:
		g.received.Add(1)
	}
}

// take gives what was counted since the last call.
func (g *gaps) take() (expected, received uint32) { return g.expected.Swap(0), g.received.Swap(0) }

// heard is what a subscriber's receiver reports say of one down track. The reader of its RTCP writes, anybody reads.
type heard struct {
	lost  atomic.Uint32 // 1 + the fraction lost of the newest report, 0 to 255 (RFC 3550 section 6.4.1); 0: none since the last look
	delay atomic.Int64  // the newest round trip, in ns; 0: not known
}

// leg is one way of a connection, as it was measured since the last look.
type leg struct {
	loss float64 // 0 to 1; below 0: not known
	rtt  time.Duration
}

// upLeg adds up all that a peer publishes.
func (p *peer) upLeg() leg {
	var expected, received uint32
	for _, u := range p.ups {
		for _, l := range *u.layers.Load() {
			e, r := l.gaps.take()
			expected, received = expected+e, received+r
		}
	}
	if expected < fewPackets {
		return leg{loss: -1}
	}
	return leg{loss: 1 - min(float64(received)/float64(expected), 1)}
}

// downLeg takes the worst of what a peer is sent.
func (p *peer) downLeg() leg {
	l := leg{loss: -1}
	for _, d := range p.downs {
		if lost := d.heard.lost.Swap(0); lost > 0 {
			l.loss = max(l.loss, float64(lost-1)/256)
		}
		l.rtt = max(l.rtt, time.Duration(d.heard.delay.Load()))
	}
	if l.rtt == 0 {
		l.rtt = time.Duration(p.out.rtt.Load())
	}
	return l
}

// silence is how long nothing has come from a client that sends, or receives and reports.
func (p *peer) silence(now time.Time) time.Duration {
	if !p.life.connected {
		return 0
	}
	if !p.life.mediaLost.IsZero() {
		return now.Sub(p.life.mediaLost)
	}
	if len(p.ups) == 0 && !slices.ContainsFunc(p.downs, func(d *down) bool { return d.state == slotActive }) {
		return 0
	}
	pair, ok := p.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePairStats()
	if !ok || pair.LastPacketReceivedTimestamp == 0 {
		return 0
	}
	last := pair.LastPacketReceivedTimestamp.Time()
	if to := p.out.secure.to; to != nil { // pion sees nothing of what a viewer reports
		if spared := time.Unix(0, to.heard.Load()); spared.After(last) {
			last = spared
		}
	}
	return max(now.Sub(last), 0)
}

// measure looks at the connection, and tells the room when there is something new to say of it.
func (p *peer) measure(now time.Time) {
	if now.Sub(p.measured) < measureEvery || p.pc == nil {
		return
	}
	p.measured = now
	p.tellBandwidth()
	up, down := p.upLeg(), p.downLeg()
	o, ok := judge(measurement{upLoss: up.loss, downLoss: down.loss, rtt: down.rtt, limited: p.limited, silent: p.silence(now)})
	if ok && p.meter.update(o) {
		p.room.inbox.post(func() { p.room.rate(p, o) })
	}
}

// rate notes a peer's quality for the next message.
func (r *room) rate(p *peer, o opinion) {
	if r.peers[p.id] == p {
		r.rated[p.id], r.fresh = o, append(r.fresh, p.id)
	}
}

// tellQuality tells what is new since the last time.
func (r *room) tellQuality(now time.Time) {
	if len(r.fresh) == 0 || now.Sub(r.rateTold) < measureEvery {
		return
	}
	slices.Sort(r.fresh)
	m := &signal.Quality{}
	for _, id := range slices.Compact(r.fresh) {
		if o, here := r.rated[id]; here {
			m.Peers = append(m.Peers, o.of(id))
		}
	}
	r.fresh, r.rateTold = nil, now
	if len(m.Peers) > 0 {
		r.broadcast(m, nil)
	}
}

func (o opinion) of(id orama.PeerID) signal.PeerQuality {
	return signal.PeerQuality{PeerID: id, Quality: o.quality, Cause: o.cause}
}

// impaired lists who is not excellent, for somebody who was not told yet; nil: all are.
func (r *room) impaired() *signal.Quality {
	m := &signal.Quality{}
	for _, id := range r.order {
		if o, known := r.rated[id]; known && o.quality != qualityExcellent {
			m.Peers = append(m.Peers, o.of(id))
		}
	}
	if len(m.Peers) == 0 {
		return nil
	}
	return m
}
