// Package load joins real rooms with people that it plays, has them send and watch, and measures what those who watch
// get: loss, latency, freezes, how long a join takes, and what all of it costs this machine. It drives package client as
// any application does and knows nothing of servers, beside how much CPU those on this machine use.
package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
)

// Video is what publishers send of it.
type Video string

// The kinds of video.
const (
	NoVideo Video = "none"
	Single  Video = "single"
	// Simulcast is a video in three encodings, of which each subscriber is sent one.
	Simulcast Video = "simulcast"
)

// Most that one run may ask for.
const (
	MaxPeople   = 2000
	MaxDuration = 12 * time.Hour
	maxBitrate  = 20_000_000
	maxRamp     = 200
)

const (
	joinWithin   = 20 * time.Second
	mediaWithin  = 10 * time.Second // from a join to the first packet
	settleFor    = time.Second      // after the last join
	quietFor     = 500 * time.Millisecond
	leaveWithin  = 5 * time.Second
	leaveAtOnce  = 64
	baselineFor  = time.Second
	progressTick = 500 * time.Millisecond
)

// Options say what to play. Everything is needed where nothing else is said.
type Options struct {
	URLs []string // of gateways; people are spread over them
	// Credential gives a person, counted from 0, a token, or an API key.
	Credential func(ctx context.Context, person int) (Credential, error)
	Rooms      int
	Publishers int // of each room; they watch nothing
	// Subscribers of each room watch every publisher of it and send nothing.
	Subscribers int
	Video       Video
	Audio       bool
	Bitrate     int           // of video, of its largest encoding, bits a second
	Transports  []string      // which relays to use; nil: what the cluster offers
	Duration    time.Duration // of the measurement, which begins when everybody has joined
	Ramp        float64       // joins a second
	TLS         *tls.Config   // nil: the system's roots
}

// Credential lets one person in.
type Credential struct {
	Token, APIKey string // one of them
}

// Check finds what cannot be asked for.
func (o *Options) Check() error {
	bad := func(format string, args ...any) error {
		return orama.Errorf(orama.KindInvalid, "invalid_load", format, args...)
	}
	people := o.Rooms * (o.Publishers + o.Subscribers)
	switch {
	case o.Rooms < 1 || o.Publishers < 1 || o.Subscribers < 0 || max(o.Rooms, o.Publishers, o.Subscribers) > MaxPeople:
		return bad("rooms and publishers are 1 or more, subscribers 0 or more, and each at most %d", MaxPeople)
	case people > MaxPeople:
		return bad("%d rooms of %d are %d people; one run plays at most %d. Start it on several machines for more",
			o.Rooms, o.Publishers+o.Subscribers, people, MaxPeople)
	case !slices.Contains([]Video{NoVideo, Single, Simulcast}, o.Video):
		return bad("video is %s, %s or %s", NoVideo, Single, Simulcast)
	case o.Video == NoVideo && !o.Audio:
		return bad("without video and audio there is nothing to send")
	case o.Video != NoVideo && (o.Bitrate < LowestBitrate() || o.Bitrate > maxBitrate):
		return bad("the bitrate is %d to %d bits a second", LowestBitrate(), maxBitrate)
	case o.Duration < time.Second || o.Duration > MaxDuration:
		return bad("the duration is 1s to %s", MaxDuration)
	case !(o.Ramp > 0 && o.Ramp <= maxRamp):
		return bad("the ramp is up to %d joins a second", maxRamp)
	case len(o.URLs) == 0:
		return bad("the URL of a gateway is needed")
	}
	return nil
}

// Progress is how a run does at one moment.
type Progress struct {
	Phase    string        // "joining", "measuring" or "leaving"
	Joined   int           // who has media
	People   int           // in all
	Failed   int           //
	Left     time.Duration // of the measurement
	Loss     float64       // share of the packets of the measurement so far
	Latency  time.Duration // p99 so far
	Freezes  int
	Received float64 // bits a second, on average
	Estimate Rates   // of the ways to those who watch
}

// run is one run.
type run struct {
	Options
	id     uint32
	name   string
	http   *http.Client
	people []*person
	late   lateness
	began  time.Duration // of the measurement

	mu       sync.Mutex
	joins    histogram      // guarded by mu; from before the socket to the first packet
	failures map[string]int // guarded by mu; by reason
	failed   int            // guarded by mu
	dropped  int            // guarded by mu; joined and lost for good
}

// Run joins everybody, measures, leaves, and reports. ctx ends it early, with a report of what there was until then.
// progress may be nil; it is called from one goroutine. That nobody could join is an error of the first reason's kind.
func Run(ctx context.Context, o Options, progress func(Progress)) (Report, error) {
	if err := o.Check(); err != nil {
		return Report{}, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.TLS.Clone(), MaxIdleConnsPerHost: leaveAtOnce}
	defer transport.CloseIdleConnections()
	r := &run{Options: o, id: rand.Uint32(), http: &http.Client{Transport: transport}, failures: map[string]int{}} //nolint:gosec // no secret
	r.name = fmt.Sprintf("load-%08x", r.id)
	r.cast()
	idle := readSpent()
	if !pause(ctx, baselineFor) {
		return Report{}, orama.Errorf(orama.KindUnavailable, "interrupted", "stopped before anybody had joined")
	}
	before := idle.until(readSpent())
	defer r.leave(progress)
	first := r.join(ctx, progress)
	if joined := r.joined(); joined == 0 {
		if first == nil {
			first = orama.Errorf(orama.KindUnavailable, "interrupted", "stopped before anybody had joined")
		}
		return Report{}, fmt.Errorf("nobody could join: %w", first)
	}
	return r.measure(ctx, progress, before), nil
}

// cast makes the people: all publishers come before those who watch them.
func (r *run) cast() {
	for _, part := range []struct {
		publishes bool
		n         int
	}{{true, r.Publishers}, {false, r.Subscribers}} {
		for room := range r.Rooms {
			for range part.n {
				i := len(r.people)
				r.people = append(r.people, &person{run: r, i: i, publishes: part.publishes,
					room: fmt.Sprintf("%s-%d", r.name, room+1), url: r.URLs[i%len(r.URLs)]})
			}
		}
	}
}

// join has everybody join and waits until all have media or have failed. It gives the first failure.
func (r *run) join(ctx context.Context, progress func(Progress)) (first error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var once sync.Once
		publishers := r.Rooms * r.Publishers
		for _, some := range [][]*person{r.people[:publishers], r.people[publishers:]} {
			r.ramp(ctx, some, func(err error) { once.Do(func() { first = err }) })
		}
		pause(ctx, settleFor)
	}()
	look := time.NewTicker(progressTick)
	defer look.Stop()
	for {
		select {
		case <-done:
			return first
		case <-look.C:
			progress(r.progress("joining"))
		}
	}
}

// ramp begins joins at their pace, however long each takes, and waits for all.
func (r *run) ramp(ctx context.Context, people []*person, failed func(error)) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, p := range people {
		all.Go(func() {
			if err := p.join(ctx); err != nil && ctx.Err() == nil {
				failed(err)
				r.fail(err, false)
				p.leave()
			}
		})
		if !pause(ctx, time.Duration(float64(time.Second)/r.Ramp)) {
			return
		}
	}
}

// measure counts anew for the duration, then has everybody stop sending and what is under way arrive.
func (r *run) measure(ctx context.Context, progress func(Progress), before usage) Report {
	for _, p := range r.people {
		p.reset()
	}
	r.late.reset()
	r.began = now()
	from := readSpent()
	end := time.NewTimer(r.Duration)
	defer end.Stop()
	look := time.NewTicker(progressTick)
	defer look.Stop()
	interrupted := false
	for going := true; going; {
		select {
		case <-end.C:
			going = false
		case <-ctx.Done():
			going, interrupted = false, true
		case <-look.C:
			p := r.progress("measuring")
			p.Left = max(r.Duration-(now()-r.began), 0)
			progress(p)
		}
	}
	during := from.until(readSpent())
	ended := now()
	for _, p := range r.people {
		p.quiet()
	}
	pause(context.Background(), quietFor)
	out := r.report(ended, before, during)
	out.Interrupted = interrupted
	return out
}

// leave says good-bye for everybody, and waits for all of their goroutines.
func (r *run) leave(progress func(Progress)) {
	progress(r.progress("leaving"))
	var all sync.WaitGroup
	turns := make(chan struct{}, leaveAtOnce)
	for _, p := range r.people {
		turns <- struct{}{}
		all.Go(func() {
			p.leave()
			<-turns
		})
	}
	all.Wait()
}

// fail counts who could not join, or was lost for good.
func (r *run) fail(err error, had bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if had {
		r.dropped++
	} else {
		r.failed++
	}
	reason := strings.ToValidUTF8(err.Error(), "")
	if len(r.failures) >= maxReasons {
		if _, known := r.failures[reason]; !known {
			reason = "other reasons"
		}
	}
	r.failures[reason]++
}

// maxReasons bounds how many different reasons are told.
const maxReasons = 20

func (r *run) joined() (n int) {
	for _, p := range r.people {
		if p.has.Load() {
			n++
		}
	}
	return n
}

// pause waits, and reports whether ctx lived that long.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
