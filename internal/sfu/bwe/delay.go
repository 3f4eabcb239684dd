package bwe

import (
	"math"
	"time"
)

// rate counts bytes by their arrival over rateWindow, in ring slots of a sixteenth of it.
type rate struct {
	slots [16]int
	slot  int64 // of the newest arrival
	first int64
	begun bool
	sum   int
}

const slotLength = rateWindow / 16

func (r *rate) add(at time.Duration, size int) {
	n := int64(at / slotLength)
	if !r.begun {
		r.begun, r.slot, r.first = true, n, n
	}
	if n > r.slot+int64(len(r.slots)) {
		r.slots, r.sum, r.slot = [16]int{}, 0, n
	}
	for r.slot < n {
		r.slot++
		i := r.slot & 15
		r.sum -= r.slots[i]
		r.slots[i] = 0
	}
	if r.slot-n < int64(len(r.slots)) {
		r.slots[n&15] += size
		r.sum += size
	}
}

// bps is the rate over the window, or over what there is of it.
func (r *rate) bps() float64 {
	slots := min(max(r.slot-r.first+1, 4), int64(len(r.slots)))
	return float64(r.sum) * 8 / (float64(slots) * slotLength.Seconds())
}

// busy measures how fast a path takes packets away that wait for one another: its capacity, however little is sent.
type busy struct {
	bytes, span float64 // of packets that waited, and the time they took; seconds
	last        time.Duration
	waited      time.Duration // when one was last seen to have waited
	way, jitter time.Duration // one way of the packet before; how much it varies without a queue (RFC 3550 section 6.4.1)
}

const (
	busyKept  = 0.15 // seconds of waiting that are averaged over
	busyLeast = 0.04 // seconds that say something
	busyStale = 500 * time.Millisecond
	busyKnown = 10 * time.Second // a capacity seen longer ago says nothing
)

// add takes an arrival. A packet waited if it left before the one before it had got through; base is the way without a queue.
func (b *busy) add(sent, at time.Duration, size int, base time.Duration) {
	gap, waited := at-b.last, b.last-base > sent+time.Millisecond+3*b.jitter
	if way := at - sent; !waited {
		d := way - b.way
		b.way, b.jitter = way, b.jitter+(max(min(d, 20*time.Millisecond), -d, 0)-b.jitter)/16
	}
	if gap < 0 {
		return // overtaken
	}
	if gap > busyStale || at-b.waited > busyKnown {
		b.bytes, b.span = 0, 0
	}
	if waited && gap <= busyStale {
		b.waited = at
		b.bytes += float64(size)
		b.span += gap.Seconds()
		if b.span > busyKept {
			b.bytes, b.span = b.bytes/2, b.span/2
		}
	}
	b.last = at
}

// idle reports whether no packet has waited for a second.
func (b *busy) idle() bool { return b.last-b.waited > time.Second }

// bps is what was seen, or 0.
func (b *busy) bps() float64 {
	if b.span < busyLeast {
		return 0
	}
	return b.bytes * 8 / b.span
}

// minimum is the smallest of the values of the last baseWindow, to half of it.
type minimum struct {
	value, old, new time.Duration
	turned          time.Time
	begun           bool
}

// add reports whether v is the new minimum.
func (m *minimum) add(now time.Time, v time.Duration) bool {
	switch {
	case !m.begun:
		*m = minimum{value: v, old: v, new: v, turned: now, begun: true}
	case now.Sub(m.turned) > baseWindow/2:
		m.old, m.new, m.turned = m.new, v, now
	default:
		m.new = min(m.new, v)
	}
	was := m.value
	m.value = min(m.old, m.new)
	return m.value < was
}

func (m *minimum) reset() { m.begun = false }

// grouping gathers packets that left within 5 ms: what a pacer sends in one go arrives in one go.
type grouping struct {
	begun               bool
	firstSent, lastSent time.Time
	lastArrival         time.Duration
	prevSent            time.Time
	prevArrival         time.Duration
	ready               bool
}

const groupLength = 5 * time.Millisecond

// sample is how much later than the one before a group arrived, beyond how much later it was sent.
type sample struct {
	at    time.Duration // arrival
	delta time.Duration
}

func (g *grouping) add(at time.Time, arrival time.Duration) (s sample, ok bool) {
	if !g.begun {
		*g = grouping{begun: true, firstSent: at, lastSent: at, lastArrival: arrival}
		return sample{}, false
	}
	if at.Before(g.firstSent) {
		return sample{}, false // overtaken
	}
	if at.Sub(g.firstSent) <= groupLength {
		g.lastSent, g.lastArrival = later(g.lastSent, at), max(g.lastArrival, arrival)
		return sample{}, false
	}
	if g.ready {
		s = sample{at: g.lastArrival, delta: g.lastArrival - g.prevArrival - g.lastSent.Sub(g.prevSent)}
	}
	ok = g.ready
	g.prevSent, g.prevArrival, g.ready = g.lastSent, g.lastArrival, true
	g.firstSent, g.lastSent, g.lastArrival = at, at, arrival
	return s, ok
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// trendline is the slope of the queueing delay over the last groups, and a threshold that gives
// way to jitter (Google congestion control, draft-ietf-rmcat-gcc).
type trendline struct {
	points     [20]point
	n          int
	sum        float64 // ms
	smoothed   float64 // ms
	slope      float64
	threshold  float64
	last       time.Duration
	overFor    time.Duration
	previously float64
}

type point struct{ x, y float64 }

func (t *trendline) reset() { *t = trendline{threshold: 12.5} }

// add reports whether the delay grows.
func (t *trendline) add(s sample) bool {
	d := float64(s.delta) / float64(time.Millisecond)
	step := s.at - t.last
	if t.n == 0 || step < 0 || step > time.Second {
		threshold := t.threshold
		t.reset()
		t.threshold, t.last, step = threshold, s.at, 0
	}
	t.last = s.at
	t.sum += d
	t.smoothed = 0.8*t.smoothed + 0.2*t.sum
	t.points[t.n%len(t.points)] = point{x: float64(s.at) / float64(time.Millisecond), y: t.smoothed}
	t.n++
	if t.n < 8 {
		return false
	}
	t.slope = t.fit()
	m := t.slope * float64(min(t.n, 60)) * 4
	over := m > t.threshold
	if over {
		t.overFor += step
	} else {
		t.overFor = 0
	}
	grows := over && t.overFor > 10*time.Millisecond && m >= t.previously
	t.previously = m
	t.adapt(math.Abs(m), step)
	return grows
}

func (t *trendline) adapt(m float64, step time.Duration) {
	if m > t.threshold+15 {
		return // a jump of the path, not its jitter
	}
	k := 0.0087
	if m < t.threshold {
		k = 0.039
	}
	ms := min(float64(step)/float64(time.Millisecond), 100)
	t.threshold = min(max(t.threshold+k*(m-t.threshold)*ms, 6), 100)
}

func (t *trendline) fit() float64 {
	n := min(t.n, len(t.points))
	var mx, my float64
	for _, p := range t.points[:n] {
		mx += p.x
		my += p.y
	}
	mx /= float64(n)
	my /= float64(n)
	var num, den float64
	for _, p := range t.points[:n] {
		num += (p.x - mx) * (p.y - my)
		den += (p.x - mx) * (p.x - mx)
	}
	if den == 0 {
		return 0
	}
	return num / den
}
