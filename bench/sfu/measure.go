package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"orama.network/orama/bench/rig"
)

// sample is what one measurement found.
type sample struct {
	rate     float64 // packets a second that arrived
	loss     float64 // percent of those that were due
	cpu      float64 // µs of the SFU for each that arrived
	path     float64 // µs of SFU and relay
	p50, p99 float64 // ms
	busy     float64 // percent of its core that the load took
	taken    float64 // percent of the servers' core that neither this contender had nor nobody
	dropped  uint32  // datagrams that the load did not read in time
	pressure float64
}

func (s sample) String() string {
	return fmt.Sprintf("%.0f/s, %.2f %% lost, %.1f µs (path %.1f), p50 %.2f p99 %.2f ms; load busy %.0f %%, core taken %.0f %%, dropped %d",
		s.rate, s.loss, s.cpu, s.path, s.p50, s.p99, s.busy, s.taken, s.dropped)
}

// A moment of missing: longer than what frames of 30 a second have between them.
const (
	looks     = 25
	lookEvery = 2 * time.Millisecond
)

// state is what a measurement takes the difference of.
type state struct {
	at       time.Time
	due, got int64
	out      int64 // due and not there: lost, or on their way
	server   rig.Usage
	relay    time.Duration
	own      time.Duration
	dropped  uint32
}

// counts are those of all rooms.
func (c *contender) counts() (due, got int64) {
	for _, r := range c.rooms {
		got += r.got.Load() // before due, so that nothing is there that was not due
		due += r.due.Load()
	}
	return due, got
}

// missing is the least that is due and not there within a moment: a frame on its way is no loss.
func (c *contender) missing(ctx context.Context) (int64, error) {
	least := int64(math.MaxInt64)
	for range looks {
		due, got := c.counts()
		least = min(least, due-got)
		if err := rig.Pause(ctx, lookEvery); err != nil {
			return 0, err
		}
	}
	return least, nil
}

func (b *bench) state(of *contender) (s state, err error) {
	s.at = time.Now()
	s.due, s.got = of.counts()
	if s.server, err = rig.UsageOf(of.server.PID(), of.server.Core); err != nil {
		return s, err
	}
	if of.relay != nil {
		if s.relay, err = rig.CPUOf(of.relay.PID()); err != nil {
			return s, err
		}
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return s, err
	}
	s.own = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	s.dropped = b.load.hub.dropped()
	return s, nil
}

// measure has a contender carry a level of a cell for a window.
func (b *bench) measure(ctx context.Context, of *contender, c cell, level float64, window time.Duration) (s sample, err error) {
	rooms, scale := spread(level)
	for len(of.rooms) < rooms {
		if _, err := b.load.open(ctx, of, c); err != nil {
			return s, err
		}
	}
	for _, r := range of.rooms[:rooms] {
		r.level(scale)
	}
	defer func() {
		for _, r := range of.rooms {
			r.level(0)
		}
	}()
	if err := rig.Pause(ctx, b.settings.settle); err != nil {
		return s, err
	}
	out, err := of.missing(ctx)
	if err != nil {
		return s, err
	}
	before, err := b.state(of)
	if err != nil {
		return s, err
	}
	before.out = out
	b.load.latency.begin(window)
	if err := rig.Pause(ctx, window); err != nil {
		return s, err
	}
	after, err := b.state(of)
	if err != nil {
		return s, err
	}
	if after.out, err = of.missing(ctx); err != nil {
		return s, err
	}
	for _, r := range of.rooms {
		for _, p := range r.everybody() {
			if err := p.failure(); err != nil {
				return s, err
			}
		}
	}
	s, err = b.difference(before, after)
	b.results.Pressure[1] = max(b.results.Pressure[1], s.pressure)
	return s, err
}

func (b *bench) difference(before, after state) (s sample, err error) {
	span, got := after.at.Sub(before.at), float64(after.got-before.got)
	if got == 0 {
		return s, errors.New("nothing arrived")
	}
	used := after.server.Since(before.server)
	relay := after.relay - before.relay
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / got }
	s = sample{
		rate: got / span.Seconds(), loss: max(0, 100*float64(after.out-before.out)/float64(after.due-before.due)),
		cpu: micros(used.CPU), path: micros(used.CPU + relay), busy: 100 * float64(after.own-before.own) / float64(span),
		dropped: after.dropped - before.dropped, pressure: rig.Pressure(),
	}
	both := used
	both.CPU += relay
	s.taken = both.Taken(float64(span))
	s.p50, s.p99 = b.load.latency.percentiles()
	return s, nil
}
