package bwe

import "time"

// Class orders what waits to leave.
type Class int

// The classes, first the first to leave.
const (
	Audio Class = iota // leaves at once, whatever the budget
	Retransmission
	Video
	classes
)

// Tick is how often a pacer is to be asked what may leave: a tick's packets are one burst.
const Tick = 5 * time.Millisecond

const (
	paceFactor = 1.25                   // above the estimate, so that a queue drains
	maxBurst   = 2 * Tick               // of budget that is saved up
	maxWait    = 400 * time.Millisecond // of video; what would wait longer is not taken
	drainIn    = 250 * time.Millisecond // the pace rises so that what waits leaves within this
)

// Pacer spreads packets over time. T is what the caller knows a packet by. Its methods want one caller at a time.
type Pacer[T any] struct {
	rate    float64 // bytes a second
	budget  float64 // bytes
	at      time.Time
	queues  [classes]queue[T]
	waiting int // bytes, all classes

	cluster Cluster
	left    int // bytes of the cluster still to send
}

type item[T any] struct {
	v    T
	size int
}

// queue is a ring that grows to what it once held.
type queue[T any] struct {
	items []item[T]
	head  int
	n     int
	bytes int
}

func (q *queue[T]) push(i item[T]) {
	if q.n == len(q.items) {
		grown := make([]item[T], max(16, 2*len(q.items)))
		for k := range q.n {
			grown[k] = q.items[(q.head+k)%len(q.items)]
		}
		q.items, q.head = grown, 0
	}
	q.items[(q.head+q.n)%len(q.items)] = i
	q.n++
	q.bytes += i.size
}

func (q *queue[T]) pop() item[T] {
	i := q.items[q.head]
	q.items[q.head] = item[T]{} // the caller may recycle v
	q.head = (q.head + 1) % len(q.items)
	q.n--
	q.bytes -= i.size
	return i
}

// NewPacer makes a pacer at bps bits a second.
func NewPacer[T any](now time.Time, bps int) *Pacer[T] {
	return &Pacer[T]{at: now, rate: float64(bps) / 8}
}

// Rate sets the estimate, bits a second.
func (p *Pacer[T]) Rate(bps int) { p.rate = float64(max(bps, Min)) / 8 }

// Probe makes the pacer send c: media first, and padding for the rest of it.
func (p *Pacer[T]) Probe(c Cluster) { p.cluster, p.left = c, c.Bytes }

// Wait is how long a packet that is pushed now would wait.
func (p *Pacer[T]) Wait() time.Duration {
	return time.Duration(float64(p.waiting) / p.rate * float64(time.Second))
}

// Busy reports whether anything waits, or a probe is under way: Pop and Padding are then to be asked every Tick.
func (p *Pacer[T]) Busy() bool { return p.waiting > 0 || p.left > 0 }

// Takes reports whether Push would take a packet of class c.
func (p *Pacer[T]) Takes(c Class) bool { return c == Audio || p.Wait() <= maxWait }

// Pass lets a packet of size bytes leave at once, where nothing waits and there is budget for it, or anyhow, when nothing is to be held
// back. It gives the probe the packet is part of, or 0; false: it is to be pushed.
func (p *Pacer[T]) Pass(c Class, size int, anyhow bool) (probe int, ok bool) {
	if c != Audio && (p.waiting > 0 || p.budget <= 0 && !anyhow) {
		return 0, false
	}
	return p.spend(size), true
}

// Push takes a packet of size bytes. It reports false, and takes nothing, when video would wait too long:
// the caller then leaves packets of that track out until a keyframe, before they are numbered.
func (p *Pacer[T]) Push(c Class, v T, size int) bool {
	if !p.Takes(c) {
		return false
	}
	p.queues[c].push(item[T]{v: v, size: size})
	p.waiting += size
	return true
}

// Advance brings the budget to now. It is called once a tick, before Pop and Padding.
func (p *Pacer[T]) Advance(now time.Time) {
	dt := now.Sub(p.at)
	if dt < 0 {
		return // readers look at the clock one after the other, and come here in any order
	}
	p.at = now
	r := p.pace()
	p.budget = min(p.budget+r*dt.Seconds(), r*maxBurst.Seconds())
}

func (p *Pacer[T]) pace() float64 {
	r := max(p.rate*paceFactor, float64(p.waiting)/drainIn.Seconds())
	r = min(r, 2*p.rate)
	if p.left > 0 {
		r = max(r, float64(p.cluster.Rate)/8)
	}
	return r
}

// Pop gives the next packet that may leave now, and the probe it is part of, or 0.
func (p *Pacer[T]) Pop() (v T, probe int, ok bool) {
	for c := range classes {
		q := &p.queues[c]
		if q.n == 0 {
			continue
		}
		if c != Audio && p.budget <= 0 {
			break
		}
		i := q.pop()
		p.waiting -= i.size
		return i.v, p.spend(i.size), true
	}
	return v, 0, false
}

// Padding says how many bytes of padding are to leave now, at most one packet's, and the probe they are part
// of. It is asked after Pop has nothing more, until it says 0.
func (p *Pacer[T]) Padding() (bytes, probe int) {
	if p.left <= 0 || p.budget <= 0 {
		return 0, 0
	}
	return probeSize, p.spend(probeSize)
}

// spend takes size from the budget and says which probe it was for.
func (p *Pacer[T]) spend(size int) int {
	// Audio may overdraw it, by no more than video then waits for a tenth of a second.
	p.budget = max(p.budget-float64(size), -p.rate/10)
	if p.left <= 0 {
		return 0
	}
	p.left -= size
	return p.cluster.ID
}
