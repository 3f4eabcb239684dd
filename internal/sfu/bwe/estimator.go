package bwe

import (
	"math"
	"time"
)

// Rates in bits a second.
const (
	Start = 600_000    // before anything is known
	Min   = 60_000     // what audio needs, whatever the path says
	Max   = 50_000_000 // nobody's call is larger
)

const (
	sentLeast    = 1 << 8                 // packets remembered until feedback, at first
	sentMost     = 1 << 13                // and at most
	sentFor      = 2 * time.Second        // for how long they are, up to that
	rateWindow   = 400 * time.Millisecond // of arrivals, for what the path delivers
	baseWindow   = 20 * time.Second       // a longer way after a change of relay is taken as new after this
	queueFloor   = 25 * time.Millisecond  // a queue shorter than this is jitter, or one large picture
	queueStands  = 80 * time.Millisecond  // a queue longer than this must shrink even if it does not grow
	standsFor    = 800 * time.Millisecond
	outage       = 800 * time.Millisecond // after so long a silence of feedback the path was dead, and not full: that delivers, however slowly
	narrowFor    = 15 * time.Second       // after a sign that the path is full; probes that fail renew it
	silentAfter  = time.Second            // without feedback the estimate decays
	growFast     = 0.10                   // a second, far from what the path was seen to carry
	growNear     = 0.03                   // a second, near it
	nearCapacity = 0.15
	fellFar      = 0.85 // of the estimate: a fall below that is more than a path's wavering
)

// Ack is one packet's part of a transport-wide feedback message.
type Ack struct {
	Seq      uint16        // transport-wide
	Received bool          //
	Arrival  time.Duration // by the receiver's clock, from any origin that stays; only if Received
}

type sent struct {
	seq   int64
	at    time.Duration // since the estimator's origin
	probe int32
	size  uint16
	used  bool // nothing more is to be learnt of it once false
	lost  bool // it was told missing, which may be taken back
}

// Estimator is one path's. Its methods want one caller at a time, and times that do not run back.
type Estimator struct {
	target  float64
	desired float64
	rtt     time.Duration

	origin   time.Time
	history  []sent // its length is a power of two
	last     int64  // highest sequence number sent, unwrapped
	begun    bool
	reported int64 // highest sequence number that feedback spoke of

	arrivals rate
	full     busy
	groups   grouping
	trend    trendline
	base     minimum
	queue    time.Duration // of the last group
	queued   time.Time     // since when the queue stands; zero: it does not
	stood    int           // decreases in a row for a standing queue

	loss     lossControl
	capacity float64 // what a full path was last seen to deliver; 0: unknown
	probes   prober
	deaf     time.Time // until then a growing queue is our own probe's

	heard   time.Time // last feedback, or the last decay for want of it
	spoken  time.Time // last feedback
	grown   time.Time // last time the estimate grew or was held
	dropped time.Time // last decrease
	lastOut time.Time // last packet sent
	narrow  time.Time // when the path was last seen to carry no more
	before  float64   // the estimate before it decayed for want of feedback; 0: it has not
}

// New makes an estimator that knows nothing.
func New(now time.Time) *Estimator {
	e := &Estimator{
		target: Start, rtt: 100 * time.Millisecond, grown: now, heard: now, origin: now.Add(-time.Hour), history: make([]sent, sentLeast),
	}
	e.trend.reset()
	e.probes.next = now
	return e
}

// Target is what may be sent now, in bits a second, all packets with their headers counted.
func (e *Estimator) Target() int { return int(e.target) }

// Limited reports whether the path was seen to carry no more than Target, and not only that nothing more was tried.
func (e *Estimator) Limited(now time.Time) bool {
	return !e.narrow.IsZero() && now.Sub(e.narrow) < narrowFor
}

// Queue is how long packets wait on the path at the moment.
func (e *Estimator) Queue() time.Duration { return e.queue }

// RTT is the way there and back as feedback shows it, without the receiver's pause and any queue.
func (e *Estimator) RTT() time.Duration { return e.rtt }

// Loss is the part of the packets that did not arrive lately, 0 to 1.
func (e *Estimator) Loss() float64 { return e.loss.recent }

// Want says how much would be sent if the path carried it, bits a second: above Target, probes look for more.
func (e *Estimator) Want(bps int) { e.desired = float64(bps) }

// Sent notes a packet that leaves. size is in bytes, with headers; probe is the cluster it belongs to, or 0.
func (e *Estimator) Sent(seq uint16, size int, at time.Time, probe int) {
	n := e.unwrap(seq)
	if !e.begun {
		e.begun, e.reported = true, n-1
	}
	if n > e.last {
		e.last = n
	}
	if e.lastOut.IsZero() || at.Sub(e.lastOut) > silentAfter {
		e.heard, e.spoken = at, at // nothing could be heard of before
	}
	e.lastOut = at
	since := at.Sub(e.origin)
	e.remember(n, since)
	e.history[n&e.mask()] = sent{seq: n, at: since, size: uint16(min(size, math.MaxUint16)), probe: int32(probe), used: true}
	if probe != 0 {
		e.probes.sent(probe, size, at)
	}
}

func (e *Estimator) mask() int64 { return int64(len(e.history) - 1) }

// remember makes room for packet n, where the one in its place may still be spoken of.
func (e *Estimator) remember(n int64, now time.Duration) {
	for old := &e.history[n&e.mask()]; old.used && now-old.at < sentFor && len(e.history) < sentMost; old = &e.history[n&e.mask()] {
		grown := make([]sent, 2*len(e.history))
		for _, p := range e.history {
			if p.seq == 0 {
				continue // never used: numbers begin above 2^16
			}
			grown[p.seq&int64(len(grown)-1)] = p
		}
		e.history = grown
	}
}

// unwrap gives seq the length that lies nearest to the last.
func (e *Estimator) unwrap(seq uint16) int64 {
	if !e.begun {
		e.last = int64(seq) + 1<<16
		return e.last
	}
	return e.last + int64(int16(seq-uint16(e.last)))
}

// Feedback takes one message, acks in the order of their numbers, and moves the estimate.
func (e *Estimator) Feedback(now time.Time, acks []Ack) {
	if !e.begun {
		e.heard = now
		return
	}
	if now.Sub(e.spoken) > outage {
		e.Moved(now)
	}
	e.heard, e.spoken, e.before = now, now, 0
	var newest time.Duration
	overuse := false
	for _, a := range acks {
		n := e.unwrap(a.Seq)
		p := &e.history[n&e.mask()]
		if !p.used || p.seq != n {
			continue
		}
		if n > e.reported {
			if a.Received {
				e.credit(n, a.Arrival)
			}
			e.reported = n
		}
		e.outcome(p, a)
		if !a.Received {
			continue
		}
		e.arrivals.add(a.Arrival, int(p.size))
		newest = max(newest, p.at)
		overuse = e.delay(now, p, a.Arrival, overuse)
	}
	if newest != 0 {
		e.smoothRTT(now.Sub(e.origin) - newest)
	}
	e.adjust(now, overuse)
}

// outcome counts what became of a packet. One that was told missing and comes after all was overtaken, not lost.
func (e *Estimator) outcome(p *sent, a Ack) {
	again := p.lost
	p.used, p.lost = !a.Received, !a.Received
	switch {
	case again && !a.Received:
	case p.probe != 0:
		if again {
			e.probes.lost--
		}
		e.probes.acked(int(p.probe), int(p.size), a)
	case again:
		e.loss.found()
	case p.at > e.dropped.Sub(e.origin): // what was lost before is answered already
		e.loss.count(a.Received)
	}
}

// credit counts packets as arrived of which no feedback spoke: a message was lost, not they.
func (e *Estimator) credit(n int64, arrival time.Duration) {
	for m := max(e.reported+1, n-int64(len(e.history))+1); m < n; m++ {
		if p := &e.history[m&e.mask()]; p.used && p.seq == m {
			e.full.last = arrival // what waited is not known
			e.arrivals.add(arrival, int(p.size))
			p.used = false
			if p.probe != 0 {
				e.probes.unknown(int(p.probe))
			}
		}
	}
}

func (e *Estimator) smoothRTT(sample time.Duration) {
	sample = max(sample-e.queue, time.Millisecond)
	e.rtt += (sample - e.rtt) / 8
}

// delay feeds one arrival to the delay detector, and reports whether the queue is growing; was is what it said before: a large
// picture's queue has gone again by the end of the message.
func (e *Estimator) delay(now time.Time, p *sent, arrival time.Duration, was bool) bool {
	oneWay := arrival - p.at
	if e.base.begun {
		e.full.add(p.at, arrival, int(p.size), e.base.value)
	}
	if e.base.add(now, oneWay) {
		e.queued = time.Time{}
	}
	g, ok := e.groups.add(e.origin.Add(p.at), arrival)
	if !ok {
		return was
	}
	e.queue = max(oneWay-e.base.value, 0)
	grows := e.trend.add(g)
	return grows && e.queue > queueFloor
}

// adjust is called after each feedback.
func (e *Estimator) adjust(now time.Time, overuse bool) {
	delivered := e.arrivals.bps()
	if result, ok := e.probes.result(now, e.rtt, max(e.loss.inherent, e.loss.recent)); ok {
		e.probed(now, result)
	}
	if now.Before(e.deaf) {
		overuse, e.queued = false, time.Time{}
	}
	switch {
	case e.queue < queueStands:
		e.queued, e.stood = time.Time{}, 0
	case e.queued.IsZero():
		e.queued = now
	case now.Sub(e.queued) > standsFor && !overuse && e.queueShrinks():
		e.queued = now
	case now.Sub(e.queued) > standsFor:
		overuse, e.queued = true, now
		if e.stood++; e.stood > 2 { // it is the way that has become longer
			e.base.reset()
			e.stood, overuse = 0, false
		}
	}
	lossy, limit := e.loss.check(now, delivered, e.target, e.full.bps(), e.queue < queueFloor)
	switch {
	case overuse:
		// A path that is full delivers all it can at every moment, even if little was sent before.
		full := e.full.bps()
		if full == 0 { // not for long, if it is so
			full = max(delivered, e.target)
		}
		e.decrease(now, full*backoff(e.queue), full)
	case lossy:
		if e.full.idle() && e.loss.recent > 1.5*lossMuch { // no packet waits, and many are dropped
			e.probes.contradicted(now)
		}
		e.decrease(now, limit, delivered)
	default:
		e.increase(now, delivered)
	}
	e.target = min(max(e.target, Min), Max)
}

func (e *Estimator) queueShrinks() bool { return e.trend.slope < -0.02 }

// backoff is how far below what arrived the estimate goes: the longer the queue, the more to drain.
func backoff(queue time.Duration) float64 {
	return 0.93 - 0.08*min(1, float64(queue)/float64(200*time.Millisecond))
}

func (e *Estimator) decrease(now time.Time, to, delivered float64) {
	e.grown = now
	if to <= 0 || to >= e.target {
		return
	}
	if to < fellFar*e.target {
		e.probes.fell(now)
	}
	e.target, e.dropped, e.capacity, e.narrow = to, now, delivered, now
	e.probes.failed(now)
}

func (e *Estimator) increase(now time.Time, delivered float64) {
	dt := min(now.Sub(e.grown), time.Second).Seconds()
	e.grown = now
	if now.Sub(e.dropped) < 2*e.rtt || e.queue > queueStands || e.loss.rests() {
		return
	}
	g := growFast
	if e.capacity > 0 && e.target > e.capacity*(1-nearCapacity) && e.target < e.capacity*(1+nearCapacity) {
		g = growNear
	}
	if e.target < 1.15*delivered { // beyond that nothing was tried
		e.target *= 1 + g*dt
	}
}

// probed acts on what a cluster showed.
func (e *Estimator) probed(now time.Time, r result) {
	if !r.passed {
		// Its own queue drains meanwhile, and must not be taken for congestion.
		e.deaf = now.Add(e.rtt + 150*time.Millisecond)
		e.trend.reset()
		if e.Limited(now) {
			e.narrow = now
		}
	}
	if full := e.full.bps(); full > 0 && full < fellFar*r.rate && e.full.waited >= e.probes.arrFirst && !now.Before(e.probes.wary) {
		e.probes.doubt(now) // its last packets waited, and came out more slowly than all of it
		return
	}
	if to := r.rate * 0.95; to > e.target && now.Sub(e.dropped) > e.rtt {
		e.target, e.capacity = to, 0
		e.probes.raised = now
		if !r.passed {
			e.capacity = r.rate
		}
	}
}

// Moved says that packets take another path from now on, or the same after it was dead. What became of those before says nothing of it, and nor does
// the silence in between. Feedback after a silence is taken for it as well.
func (e *Estimator) Moved(now time.Time) {
	for i := range e.history {
		e.history[i].used = false
	}
	if e.begun {
		e.reported = e.last
	}
	e.target = max(e.target, e.before)
	e.before, e.heard, e.grown = 0, now, now
	e.loss.forget(now)
	e.base.reset()
	e.trend.reset()
	e.full, e.groups, e.queue, e.queued, e.stood = busy{}, grouping{}, 0, time.Time{}, 0
	e.probes.open = false
}

// Probe asks for a cluster of packets, padding if there is nothing else, when more is wanted than the
// path is known to carry. It is asked about every 20 ms, and hands each cluster out once.
func (e *Estimator) Probe(now time.Time) (Cluster, bool) {
	if now.Sub(e.heard) > silentAfter/2 || e.queue > queueFloor || e.desired <= e.target || e.loss.holds() {
		return Cluster{}, false
	}
	return e.probes.start(now, e.target, e.desired)
}

// Tick lets the estimate decay while packets are sent and no feedback comes. It is called some times a second.
func (e *Estimator) Tick(now time.Time) {
	if now.Sub(e.lastOut) > silentAfter || now.Sub(e.heard) < silentAfter+e.rtt {
		return
	}
	e.heard = e.heard.Add(silentAfter / 2)
	e.grown = now
	if e.before == 0 {
		e.before = e.target
	}
	if e.target > 150_000 {
		e.target = max(e.target*0.8, 150_000)
	}
	e.probes.next = now
}
