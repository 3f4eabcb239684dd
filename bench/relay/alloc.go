package main

import (
	"context"
	"fmt"
	"time"

	"orama.network/orama/bench/rig"
)

const (
	askedAtOnce = 64 // dialogues under way while allocations are counted
	warmed      = 50 // allocations before the memory is first read: threads, pools and code are there then
)

// steady is for how long allocations come and go before they are counted: more than the second after which coturn
// takes apart what was given back, so that each server pays for what it leaves behind.
const steady = 1300 * time.Millisecond

// rest is for how long a server may tidy up before its memory is read.
const rest = 500 * time.Millisecond

// allocations counts whole ones: Allocate without a credential, its 401, Allocate with it, and the Refresh that gives
// the relay back, so that the server is in a steady state. Each comes from another client.
func (b *bench) allocations(ctx context.Context) error {
	if err := b.startBoth(ctx); err != nil {
		return err
	}
	client := 0
	for round := range (b.rounds + 1) / 2 { // each takes long
		var got [2]reading
		for _, side := range sides(round) {
			s := b.servers[side]
			if err := b.quiet(ctx); err != nil {
				return err
			}
			b.say("round %d: allocations of %s", round+1, s.Name)
			r, err := b.allocating(ctx, s, &client)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			got[side] = r
		}
		b.report.add(cell{Kind: kindAllocations, Clients: askedAtOnce}, got[sideCoturn], got[sideOurs])
	}
	return nil
}

const (
	quietFor    = 100 * time.Millisecond
	quietWithin = 5 * time.Second
)

// quiet waits until neither server has anything left to do: coturn takes relays apart some time after they were given
// back, and would do so on the core, and at the cost, of whom is measured next.
func (b *bench) quiet(ctx context.Context) error {
	began := time.Now()
	for time.Since(began) < quietWithin {
		var used time.Duration
		for _, s := range b.servers {
			before, err := rig.CPUOf(s.PID())
			if err != nil {
				return err
			}
			if err := rig.Pause(ctx, quietFor); err != nil {
				return err
			}
			after, err := rig.CPUOf(s.PID())
			if err != nil {
				return err
			}
			used = max(used, after-before)
		}
		if used < quietFor/50 {
			break
		}
	}
	b.say("quiet after %d ms", time.Since(began).Milliseconds())
	return nil
}

func (b *bench) allocating(ctx context.Context, s *server, client *int) (reading, error) {
	begin, end := clock()+int64(steady), clock()+int64(steady+4*b.window)
	t := talk{gen: b.gen, to: s.udp()}
	var before, after rig.Usage
	var first, last int
	var from, to int64
	var failed error
	err := t.run(ctx, askedAtOnce, func() *dialogue {
		now := clock()
		if from == 0 && now >= begin {
			before, failed = rig.UsageOf(s.PID(), s.Core)
			from, first = now, t.done
		}
		if now >= end || failed != nil {
			if to == 0 {
				to, last = now, t.done
				after, failed = rig.UsageOf(s.PID(), s.Core)
			}
			return nil
		}
		*client++
		d := newDialogue(b.identity.secret, *client, peerAddr)
		d.brief = true
		return d
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	used, span, n := after.Since(before), float64(to-from), float64(last-first)
	return reading{
		keyRate: n / span * 1e9, keyCPU: float64(used.CPU.Nanoseconds()) / 1e3 / n,
		keyBusy: 100 * float64(used.CPU) / span, keyTaken: used.Taken(span),
	}, nil
}

// memory is what the resident set grows by for each allocation held; the kernel's part, a socket each, is not in it.
// The base is what the process takes before, with all its threads.
func (b *bench) memory(ctx context.Context) error {
	for round := range (b.rounds + 2) / 3 { // which hardly differ
		if err := b.startBoth(ctx); err != nil {
			return err
		}
		var got [2]reading
		for _, side := range sides(round) {
			s := b.servers[side]
			b.say("round %d: memory of %s", round+1, s.Name)
			r, err := b.holding(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			got[side] = r
		}
		b.report.add(cell{Kind: kindMemory, Clients: b.held}, got[sideCoturn], got[sideOurs])
	}
	return nil
}

func (b *bench) holding(ctx context.Context, s *server) (reading, error) {
	next := 0
	hold := func(n int) (int64, error) {
		t := talk{gen: b.gen, to: s.udp()}
		until := next + n
		err := t.run(ctx, askedAtOnce, func() *dialogue {
			if next == until {
				return nil
			}
			next++
			return newDialogue(b.identity.secret, next-1, peerAddr)
		})
		if err != nil {
			return 0, err
		}
		if err := rig.Pause(ctx, rest); err != nil {
			return 0, err
		}
		return rig.ResidentOf(s.PID())
	}
	before, err := hold(warmed)
	if err != nil {
		return nil, err
	}
	after, err := hold(b.held)
	if err != nil {
		return nil, err
	}
	return reading{keyMemory: float64(after-before) / 1024 / float64(b.held), keyBase: float64(before) / (1 << 20)}, nil
}
