package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v5/stdnet"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/bench/rig"
)

const (
	readyWithin = 30 * time.Second
	readyLook   = 20 * time.Millisecond
	joinAtOnce  = 8
	joinScale   = 0.25 // of the rate, while people join
	probeEvery  = 25   // people
	probeLeast  = 3    // in a room
)

// load is everybody, whichever server they are at.
type load struct {
	lab          *lab
	hub          *hub
	net          *stdnet.Net
	certificates []webrtc.Certificate // everybody's, which saves making them
	latency      meter
	joined       int // people so far
	stop         context.CancelFunc
	wg           sync.WaitGroup

	mu    sync.Mutex
	rooms []*room // guarded by mu; all that live
}

func newLoad(l *lab) (*load, error) {
	h, err := newHub(peoplePort)
	if err != nil {
		return nil, err
	}
	out := &load{lab: l, hub: h}
	if out.net, err = stdnet.NewNet(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	out.certificates = []webrtc.Certificate{*cert}
	ctx, stop := context.WithCancel(context.Background())
	out.stop = stop
	out.wg.Go(func() { out.feedBack(ctx) })
	return out, nil
}

// feedBack sends everybody's transport-wide feedback.
func (l *load) feedBack(ctx context.Context) {
	for rig.Pause(ctx, feedbackEvery) == nil {
		l.mu.Lock()
		rooms := l.rooms
		l.mu.Unlock()
		for _, r := range rooms {
			r.mu.Lock()
			all := r.all
			r.mu.Unlock()
			for _, p := range all {
				p.feedBack()
			}
		}
	}
}

// close sends everybody home.
func (l *load) close() error {
	l.empty()
	l.stop()
	l.wg.Wait()
	return l.hub.close()
}

// empty has everybody leave.
func (l *load) empty() {
	l.mu.Lock()
	rooms := l.rooms
	l.rooms = nil
	l.mu.Unlock()
	for _, r := range rooms {
		r.level(0)
	}
	for _, r := range rooms {
		r.close()
	}
	l.joined = 0
}

// room is one room of a cell at a contender.
type room struct {
	load   *load
	of     *contender
	cell   cell
	name   string
	people int
	rate   atomic.Uint64 // scale's bits
	due    atomic.Int64  // packets that were to be forwarded
	got    atomic.Int64  // packets that were

	mu  sync.Mutex
	all []*person // guarded by mu, replaced whole
}

func (r *room) scale() float64       { return math.Float64frombits(r.rate.Load()) }
func (r *room) level(of float64)     { r.rate.Store(math.Float64bits(of)) }
func (r *room) everybody() []*person { r.mu.Lock(); defer r.mu.Unlock(); return r.all }

// open fills another room at a contender and waits until everybody has everything.
func (l *load) open(ctx context.Context, of *contender, c cell) (*room, error) {
	r := &room{load: l, of: of, cell: c, people: c.people(), name: fmt.Sprintf("%s.%d", of.name, len(of.rooms))}
	l.mu.Lock()
	l.rooms = append(l.rooms[:len(l.rooms):len(l.rooms)], r)
	l.mu.Unlock()
	r.level(joinScale)
	defer r.level(0)
	first := l.joined
	l.joined += r.people
	if l.joined > mostPeople {
		return nil, fmt.Errorf("more than %d people", mostPeople)
	}
	if err := r.fill(ctx, first); err != nil {
		return nil, err
	}
	of.rooms = append(of.rooms, r)
	return r, r.ready(ctx)
}

// fill has people join, those who speak before the others, several at once.
func (r *room) fill(ctx context.Context, first int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	places := make(chan struct{}, joinAtOnce)
	var wg sync.WaitGroup
	probes := max(probeLeast, r.people/probeEvery)
	for i := range r.people {
		is := partListens
		switch {
		case i < r.cell.speaking:
			is = partSpeaks
		case i < r.cell.speaking+r.cell.silent:
			is = partSilent
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return context.Cause(ctx)
		}
		if i == r.cell.speaking {
			wg.Wait() // who speaks is there first
		}
		wg.Go(func() {
			defer func() { <-places }()
			probe := i*probes/r.people != (i-1)*probes/r.people && i > 0
			p, err := r.join(ctx, fmt.Sprintf("%s-%d", r.name, i), first+i, is, probe)
			if err != nil {
				cancel(err)
				return
			}
			p.want = 2*r.cell.speaking + r.cell.silent
			switch is {
			case partSpeaks:
				p.want -= 2
			case partSilent:
				p.want--
			}
			r.mu.Lock()
			r.all = append(r.all[:len(r.all):len(r.all)], p)
			r.mu.Unlock()
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// ready waits until everybody has everything.
func (r *room) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		missing := 0
		var one *person
		for _, p := range r.everybody() {
			if err := p.failure(); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if p.has() < p.want {
				missing++
				one = p
			}
		}
		if missing == 0 {
			return nil
		}
		if rig.Pause(ctx, readyLook) != nil {
			return fmt.Errorf("%s: %d of %d people lack media after %s; one %s%s", r.name, missing, r.people, readyWithin, one.state(), r.apart())
		}
	}
}

// apart names those who are not connected: nobody hears them.
func (r *room) apart() (text string) {
	for _, p := range r.everybody() {
		if p.pc.ConnectionState() != webrtc.PeerConnectionStateConnected {
			text += "; another " + p.state()
		}
	}
	return text
}

func (r *room) close() {
	var wg sync.WaitGroup
	for _, p := range r.everybody() {
		wg.Go(p.close)
	}
	wg.Wait()
}
