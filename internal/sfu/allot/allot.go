// Package allot shares what the path to one subscriber carries among the tracks it is sent. It is
// arithmetic: no goroutine, no clock of its own.
package allot

import (
	"cmp"
	"slices"
	"time"
)

// Kind is what a track is to its subscriber. The smaller, the more it matters.
type Kind int

// The kinds, in the order in which they are served.
const (
	Audio  Kind = iota // always sent: it is never paused for want of bandwidth
	Screen             //
	Camera             //
)

// Layer is one that can be sent of a track: Bitrate is of all that is sent with it, the layers below it
// in the same encoding included, in bits a second.
type Layer struct {
	Spatial, Temporal int
	Bitrate           int
}

// Track is one that a subscriber wants.
type Track struct {
	ID       string
	Kind     Kind
	Priority int     // of `prefer`: among tracks of one kind the higher comes first
	Focus    bool    // the subscriber looks at it: before others of its kind and priority
	Layers   []Layer // what may be sent, within what `prefer` allows; the best last; bitrates need not be sorted
}

// None is the choice of no layer at all: the track is paused.
const None = -1

// Choice is what is to be sent of a track: an index into its Layers, or None.
type Choice struct {
	ID    string
	Layer int
}

const (
	// headroom is how much more than a layer costs must be free before it is begun, in percent: measured bitrates and the
	// estimate both waver.
	headroom = 12
	// quiet is for how long a track that was taken down stays there, at first and at most.
	quiet     = time.Second
	quietMost = 16 * time.Second
	// calm is after what time without a step down a track is trusted again.
	calm = 30 * time.Second
	// A step up that is taken back within failsWithin did not fit, whatever the estimate said, unless the path has become another, the others need more, or the layer is not sent any more. It is not
	// tried again for failedFor, unless the estimate is failedRoom of what all needed then, in percent: for who watches, each try is a picture that stands still until a
	// keyframe has come.
	failsWithin = 5 * time.Second
	failedFor   = time.Minute
	failedRoom  = 115
)

// memory is what is kept of a track from one decision to the next.
type memory struct {
	held   Layer // Spatial None: paused
	until  time.Time
	wait   time.Duration
	down   time.Time // the last step down
	up     time.Time // the last step up; zero: it was taken back
	need   int       // what all needed with it, bits a second
	failed Layer     // what a step up that failed was to
	bar    int       // and what the estimate has to be for another try, until barred
	barred time.Time
}

// Allocator decides for one subscriber. Its methods want one caller at a time.
type Allocator struct {
	tracks map[string]*memory
	bps    int  // of the decision that is made
	more   bool // and whether there is a track that was not there before
}

// New makes an allocator.
func New() *Allocator { return &Allocator{tracks: map[string]*memory{}} }

// Decide gives a choice for each track, in their order, whose bitrates together are at most bps, audio aside. Every track gets its
// least layer before any gets more, the most important first; what does not fit is paused, the least important first. A
// layer above the one that is sent needs headroom, some quiet since the last step down, and a better estimate than one by which it failed; a step down is made at once.
func (a *Allocator) Decide(now time.Time, bps int, tracks []Track) []Choice {
	a.bps, a.more = bps, false
	order := make([]int, len(tracks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, k int) int { return before(&tracks[i], &tracks[k]) })
	choices := make([]Choice, len(tracks))
	for i := range tracks {
		choices[i] = Choice{ID: tracks[i].ID, Layer: None}
		if a.tracks[tracks[i].ID] == nil {
			a.more = true
			a.tracks[tracks[i].ID] = &memory{held: Layer{Spatial: None}, wait: quiet}
		}
	}
	left := bps
	for _, i := range order {
		left = a.least(now, &tracks[i], &choices[i], left)
	}
	for first := 0; first < len(order); {
		last := first + 1
		for last < len(order) && rank(&tracks[order[first]], &tracks[order[last]]) == 0 {
			last++
		}
		left = a.raise(now, tracks, choices, order[first:last], left)
		first = last
	}
	a.remember(now, bps-left, tracks, choices)
	return choices
}

func rank(a, b *Track) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.Priority, a.Priority), focus(b)-focus(a))
}

func before(a, b *Track) int { return cmp.Or(rank(a, b), cmp.Compare(a.ID, b.ID)) }

func focus(t *Track) int {
	if t.Focus {
		return 1
	}
	return 0
}

// least gives a track its cheapest first layer, and what is left of the bandwidth then.
func (a *Allocator) least(now time.Time, t *Track, c *Choice, left int) int {
	if len(t.Layers) == 0 {
		return left
	}
	if t.Kind == Audio {
		c.Layer = len(t.Layers) - 1
		return left - t.Layers[c.Layer].Bitrate
	}
	if !a.affords(now, t, 0, t.Layers[0].Bitrate, left) {
		return left
	}
	c.Layer = 0
	return left - t.Layers[0].Bitrate
}

// raise gives tracks of one rank more, a layer each in turn.
func (a *Allocator) raise(now time.Time, tracks []Track, choices []Choice, peers []int, left int) int {
	for raised := true; raised; {
		raised = false
		for _, i := range peers {
			t, c := &tracks[i], &choices[i]
			if c.Layer == None || t.Kind == Audio || c.Layer == len(t.Layers)-1 {
				continue
			}
			more := t.Layers[c.Layer+1].Bitrate - t.Layers[c.Layer].Bitrate
			if a.affords(now, t, c.Layer+1, more, left) {
				c.Layer++
				left -= more
				raised = true
			}
		}
	}
	return left
}

// affords reports whether layer n of t, which costs more bits a second than what t has, is within what is left.
func (a *Allocator) affords(now time.Time, t *Track, n, more, left int) bool {
	m := a.tracks[t.ID]
	if above(t.Layers[n], m.held) {
		if now.Before(m.until) || now.Before(m.barred) && a.bps < m.bar && !above(m.failed, t.Layers[n]) {
			return false
		}
		more += max(t.Layers[n].Bitrate, 0) * headroom / 100
	}
	return more <= left
}

// above reports whether a is more than b.
func above(a, b Layer) bool {
	return a.Spatial > b.Spatial || a.Spatial == b.Spatial && a.Temporal > b.Temporal
}

// remember keeps what was chosen, which needs so many bits a second in all, and forgets tracks that are no more.
func (a *Allocator) remember(now time.Time, need int, tracks []Track, choices []Choice) {
	for i, c := range choices {
		t, m := &tracks[i], a.tracks[c.ID]
		chosen := Layer{Spatial: None}
		if c.Layer != None {
			chosen = t.Layers[c.Layer]
		}
		if m.held.Spatial != None && above(chosen, m.held) {
			m.up, m.need = now, need
		}
		if above(m.held, chosen) {
			switch best := len(t.Layers) - 1; {
			case now.Sub(m.up) < failsWithin && a.bps < m.need && a.bps > m.need/2 && best >= 0 && !above(m.held, t.Layers[best]):
				m.failed, m.bar, m.barred = m.held, m.need*failedRoom/100, now.Add(failedFor)
			case !above(m.failed, m.held):
				m.barred = time.Time{} // it had fitted for long
			}
			m.up = time.Time{}
			if now.Sub(m.down) > calm {
				m.wait = quiet
			}
			m.until, m.down = now.Add(m.wait), now
			m.wait = min(m.wait*2, quietMost)
		}
		m.held = chosen
	}
	if len(a.tracks) > len(tracks) {
		for _, m := range a.tracks {
			if m.up = (time.Time{}); !a.more {
				m.barred = time.Time{} // the others need less now
			}
		}
		for id := range a.tracks {
			if !slices.ContainsFunc(tracks, func(t Track) bool { return t.ID == id }) {
				delete(a.tracks, id)
			}
		}
	}
}

// Wanted is what must be free for all tracks to be sent at their best, bits a second.
func Wanted(tracks []Track) int {
	sum := 0
	for _, t := range tracks {
		if n := len(t.Layers); n > 0 {
			sum += t.Layers[n-1].Bitrate * (100 + headroom) / 100
		}
	}
	return sum
}
