package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// lightRate is packets a second in all, where no queue builds up.
const lightRate = 20000

// equalLoad is the part of coturn's own capacity, as measured a moment before, that both servers are offered for the
// latency at saturation. With all of it coturn's queue would wander up to its limit, and its p99 tell nothing but
// the length of its socket's buffer.
const equalLoad = 0.9

// perRelay is how many packets are under way to one relay's socket at saturation. More do not fit into a socket's
// buffer of Linux's default size, where a packet of 1,100 bytes takes 2,304 of 212,992.
const perRelay = 80

// bench is one run.
type bench struct {
	settings
	place    place
	identity identity
	gen      *generator
	report   *report
	servers  [2]*server
	again    time.Duration // left for measurements to be repeated
}

func newBench(s settings, p place) (*bench, error) {
	id, err := newIdentity(p.dir)
	if err != nil {
		return nil, err
	}
	g, err := newGenerator(s, peerAddr)
	if err != nil {
		return nil, err
	}
	again := 50 * time.Second
	if s.quick {
		again = 3 * time.Second
	}
	return &bench{settings: s, place: p, identity: id, gen: g, report: newReport(s), again: again}, nil
}

func (b *bench) close() error { return errors.Join(b.stop(), b.gen.close()) }

func (b *bench) run(ctx context.Context) (*report, error) {
	began := time.Now()
	if slices.ContainsFunc([]string{kindLight, kindSaturation, kindBursts}, b.wants) {
		for _, n := range b.clients {
			if err := b.packets(ctx, n); err != nil {
				return nil, fmt.Errorf("%d clients: %w", n, err)
			}
		}
	}
	for _, other := range []struct {
		kind    string
		measure func(context.Context) error
	}{{kindAllocations, b.allocations}, {kindMemory, b.memory}, {kindStreams, b.streams}} {
		if !b.wants(other.kind) {
			continue
		}
		if err := other.measure(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", other.kind, err)
		}
	}
	b.report.Seconds = time.Since(began).Seconds()
	return b.report, nil
}

func (b *bench) wants(kind string) bool { return slices.Contains(b.only, kind) }

func (b *bench) say(format string, args ...any) {
	if b.verbose {
		fmt.Fprintf(os.Stderr, "bench-turn: "+format+"\n", args...)
	}
}

// startBoth replaces the servers by new ones.
func (b *bench) startBoth(ctx context.Context) error {
	if err := b.stop(); err != nil {
		return err
	}
	for side := range b.servers {
		s, err := b.start(ctx, side)
		if err != nil {
			return err
		}
		b.servers[side] = s
	}
	return nil
}

func (b *bench) stop() error {
	var errs []error
	for side, s := range b.servers {
		if s != nil {
			errs = append(errs, s.Stop())
			b.servers[side] = nil
		}
	}
	return errors.Join(errs...)
}

// sides are in another order every round, for what comes second finds a warmer machine, or a busier one.
func sides(round int) []int {
	if round%2 == 0 {
		return []int{sideCoturn, sideOurs}
	}
	return []int{sideOurs, sideCoturn}
}

// undisturbed runs do without this process's garbage collector.
func undisturbed(do func() error) error {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	return do()
}

// packets measures the cells of one number of clients.
func (b *bench) packets(ctx context.Context, n int) error {
	if err := b.startBoth(ctx); err != nil {
		return err
	}
	var flows [2][]flow
	for side, s := range b.servers {
		var err error
		if flows[side], err = b.allocate(ctx, s, n); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	for round := range b.rounds {
		for _, size := range b.sizes {
			for _, dir := range []direction{up, down} {
				b.say("round %d: %d clients, %d bytes %s", round+1, n, size, dir)
				err := undisturbed(func() error { return b.cells(ctx, round, flows, size, dir) })
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bench) cells(ctx context.Context, round int, flows [2][]flow, size int, dir direction) error {
	c := cell{Clients: len(flows[0]), Bytes: size, Way: string(dir)}
	if b.wants(kindLight) {
		got, err := b.each(ctx, round, flows, load{dir: dir, size: size, burst: 1, rate: lightRate})
		if err != nil {
			return err
		}
		c.Kind = kindLight
		b.report.add(c, got[sideCoturn].reading(), got[sideOurs].reading())
	}
	for _, kind := range []string{kindSaturation, kindBursts} {
		if !b.wants(kind) {
			continue
		}
		c.Kind = kind
		l := load{dir: dir, size: size, burst: 1, flight: b.inFlight}
		if dir == down {
			l.flight = min(l.flight, perRelay*len(flows[0]))
		}
		if kind == kindBursts {
			l.burst = burstSize
		}
		if err := b.saturate(ctx, round, c, flows, l); err != nil {
			return err
		}
	}
	return nil
}

// saturate measures a server as fast as it can go, and then both at one load.
//
// As fast as it can go: a fixed number of packets is under way, and another is sent for each that arrives, or that
// has not arrived for 25 ms and is lost. So each server is offered exactly what it can take: it always has work, the
// busy figure shows that, and neither is measured while it drops what no server could keep. The window is the same
// for both and fits into the buffers of their sockets. CPU, packets a second and loss are from here.
//
// The latency within such a window is the window divided by the rate, whoever serves it, so the latency at saturation
// is measured once more, with both offered one and the same load: 0.9 of what coturn could take a moment before.
func (b *bench) saturate(ctx context.Context, round int, c cell, flows [2][]flow, l load) error {
	full, err := b.each(ctx, round, flows, l)
	if err != nil {
		return err
	}
	l.rate = equalLoad * full[sideCoturn].Rate
	equal, err := b.each(ctx, round, flows, l)
	if err != nil {
		return err
	}
	var r [2]reading
	for side := range r {
		r[side] = full[side].reading()
		r[side][keyEqualP99], r[side][keyEqualLoss] = equal[side].P99, equal[side].Loss
		r[side][keyEqualCPU] = equal[side].CPU
	}
	b.report.add(c, r[sideCoturn], r[sideOurs])
	return nil
}

// each measures one load through both servers.
func (b *bench) each(ctx context.Context, round int, flows [2][]flow, l load) (got [2]sample, err error) {
	for _, side := range sides(round) {
		s := b.servers[side]
		if got[side], err = b.calm(ctx, s, flows[side], l); err != nil {
			return got, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return got, nil
}

// calm measures again what was disturbed, as long as the budget lasts, and takes the calmest.
func (b *bench) calm(ctx context.Context, s *server, flows []flow, l load) (best sample, err error) {
	for try := 0; ; try++ {
		got, err := b.gen.measure(ctx, s, flows, l)
		if err != nil {
			return best, err
		}
		if try == 0 || got.noise() < best.noise() {
			best = got
		}
		if best.noise() <= b.report.disturbed() || b.again <= 0 || try == triesMost {
			return best, nil
		}
		b.again -= b.settle + b.window
	}
}

// triesMost bounds how often one measurement is made again.
const triesMost = 2

// allocate gives n clients a relay and a channel each.
func (b *bench) allocate(ctx context.Context, s *server, n int) ([]flow, error) {
	all := make([]*dialogue, 0, n)
	t := talk{gen: b.gen, to: s.udp()}
	err := t.run(ctx, 16, func() *dialogue {
		if len(all) == n {
			return nil
		}
		d := newDialogue(b.identity.secret, len(all), peerAddr)
		all = append(all, d)
		return d
	})
	if err != nil {
		return nil, err
	}
	flows := make([]flow, n)
	for i, d := range all {
		flows[i] = flow{client: d.from, relay: d.relay, channel: d.channel}
	}
	return flows, nil
}
