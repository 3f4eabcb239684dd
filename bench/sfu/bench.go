package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"orama.network/orama/bench/rig"
)

const (
	mostLoss                  = 1.0                               // percent, at saturation
	equalLoad                 = 0.8                               // of the others' least saturation
	recovery                  = 2 * time.Second                   // after a load that was too much
	settleAfter               = 10 * time.Second                  // of equal load before it is measured: who was overloaded thinks its people's paths to be narrow
	profileFor, profileWithin = 10 * time.Second, 3 * time.Second // that long, and to write it
	triesMost                 = 3                                 // of a load that is too much
	disturbed                 = 8.0                               // percent of the servers' core that others have while a load that is too much is measured
	memoryRest                = 2 * time.Second                   // of light load before memory is read
)

// bench is one run.
type bench struct {
	settings settings
	lab      *lab
	load     *load
	results  *results
}

// inner runs in the namespace.
func inner(given []string) (err error) {
	s, err := parse(given)
	if err != nil {
		return err
	}
	runtime.LockOSThread()  // the servers are killed with the thread that started them
	debug.SetGCPercent(400) // there is memory enough, and the load is to be cheap
	ctx, stop := stopped()
	defer stop()
	pressure := rig.Pressure()
	if err := rig.Loopback(); err != nil {
		return err
	}
	core, err := strconv.Atoi(os.Getenv(envCore))
	if err != nil {
		return err
	}
	l, err := newLab(os.Getenv(envDir), core, s.liveKit)
	if err != nil {
		return err
	}
	people, err := newLoad(l)
	if err != nil {
		return err
	}
	b := &bench{settings: s, lab: l, load: people, results: newResults(s, pressure)}
	err = b.run(ctx)
	return errors.Join(err, people.close(), l.stop(), b.results.print(os.Stdout, s.json))
}

// run measures every cell; what one of them fails with keeps no other from its turn.
func (b *bench) run(ctx context.Context) (failed error) {
	began := time.Now()
	for _, c := range cells {
		for _, way := range ways {
			if !b.settings.wants(c.name, way) {
				continue
			}
			err := b.cell(ctx, c, way)
			b.load.empty()
			if err = errors.Join(err, b.lab.stop()); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s/%s: %w", c.name, way, err))
				b.results.last().remark("the cell ended early")
				b.say("%s/%s: %v", c.name, way, err)
			}
			if ctx.Err() != nil {
				return failed
			}
		}
	}
	b.results.Seconds = time.Since(began).Seconds()
	return failed
}

func (b *bench) say(format string, args ...any) {
	if b.settings.verbose {
		fmt.Fprintf(os.Stderr, "bench-sfu: "+format+"\n", args...)
	}
}

// cell measures one cell one way.
func (b *bench) cell(ctx context.Context, c cell, way string) error {
	all := contenders(way, b.settings.liveKit != "")
	profiles := ""
	if b.settings.profile != "" {
		if err := os.MkdirAll(b.settings.profile, 0o755); err != nil {
			return err
		}
		profiles = fmt.Sprintf("%s/%s-%s", b.settings.profile, c.name, way)
	}
	if err := b.lab.start(ctx, all, profiles); err != nil {
		return err
	}
	x := b.results.row(c, way, all)
	for _, one := range all {
		if err := b.memory(ctx, one, c, x); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	from := map[string]float64{}
	for round := range b.settings.rounds {
		if err := b.round(ctx, round, c, way, all, x, from); err != nil {
			return err
		}
	}
	return nil
}

// A large room's own people outweigh what is there once, and a second would keep the load busy for the rest of the run.
const largeRoom = 100

// memory is what a server's resident set grows by for each of a room's people, with media: of the first room, with which all that is there once comes, and of another.
func (b *bench) memory(ctx context.Context, of *contender, c cell, x *row) error {
	last, err := rig.ResidentOf(of.server.PID())
	if err != nil {
		return err
	}
	keys := [][]string{{keyFirstMemory}, {keyMemory}}
	if c.people() > largeRoom {
		keys = [][]string{{keyFirstMemory, keyMemory}}
	}
	for _, each := range keys {
		began := time.Now()
		r, err := b.load.open(ctx, of, c)
		if err != nil {
			return err
		}
		b.say("%s: %d people of %s joined in %.1f s", c.name, r.people, of.name, time.Since(began).Seconds())
		r.level(c.light)
		defer r.level(0)
		if err := rig.Pause(ctx, memoryRest); err != nil {
			return err
		}
		now, err := rig.ResidentOf(of.server.PID())
		if err != nil {
			return err
		}
		for _, key := range each {
			x.add(of.name, key, float64(now-last)/1024/float64(r.people))
		}
		last = now
	}
	return nil
}

// round takes every figure of every contender once, but for memory.
func (b *bench) round(ctx context.Context, round int, c cell, way string, all []*contender, x *row, from map[string]float64) error {
	order := turns(all, round)
	for _, one := range order {
		idle, err := b.idle(ctx, one)
		if err != nil {
			return err
		}
		x.add(one.name, keyIdle, idle)
		s, err := b.try(ctx, one, c, c.lightOf(way), b.settings.window)
		if err != nil {
			return err
		}
		b.say("%s/%s round %d: %s light: %s", c.name, way, round+1, one.name, s)
		x.add(one.name, keyLightCPU, s.cpu)
		x.add(one.name, keyLightPath, s.path)
		if way != wayRelay || one.sfu == kindLiveKit { // a join is our client's
			continue
		}
		times, err := b.joins(ctx, one, round)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		x.add(one.name, keyJoin, rig.Median(times))
	}
	levels, err := b.saturate(ctx, c, way, order, x, from)
	if err != nil {
		return err
	}
	equal := 0.0
	for _, one := range all {
		if l := equalLoad * levels[one.name]; one.sfu != kindSFU && (equal == 0 || l < equal) {
			equal = l
		}
	}
	for _, one := range order {
		if err := b.equal(ctx, one, c, equal, x); err != nil {
			return err
		}
		if b.settings.profile != "" && one.sfu == kindSFU && round == 0 {
			if err := b.profile(ctx, one, c, equal); err != nil {
				return err
			}
		}
	}
	return nil
}

// profile has our SFU write its profiles under a load. What they cost is in no figure.
func (b *bench) profile(ctx context.Context, of *contender, c cell, level float64) error {
	signal := func() error { return syscall.Kill(of.server.PID(), syscall.SIGUSR1) }
	if err := signal(); err != nil {
		return err
	}
	if _, err := b.measure(ctx, of, c, level, profileFor); err != nil {
		return err
	}
	if err := signal(); err != nil {
		return err
	}
	return rig.Pause(ctx, profileWithin)
}

// idle is what the SFU takes of its core for people between whom nothing is sent, in percent.
func (b *bench) idle(ctx context.Context, of *contender) (float64, error) {
	before, err := rig.CPUOf(of.server.PID())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := rig.Pause(ctx, b.settings.window); err != nil {
		return 0, err
	}
	after, err := rig.CPUOf(of.server.PID())
	return 100 * float64(after-before) / float64(time.Since(began)), err
}

// turns are in another order every round, for what comes second finds a warmer machine, or a busier one.
func turns(all []*contender, round int) (out []*contender) {
	for i := range all {
		out = append(out, all[(i+round)%len(all)])
	}
	return out
}

// equal has a contender carry the load that everybody can.
func (b *bench) equal(ctx context.Context, of *contender, c cell, level float64, x *row) error {
	if _, err := b.measure(ctx, of, c, level, settleAfter); err != nil {
		return err
	}
	s, err := b.try(ctx, of, c, level, 2*b.settings.window)
	if err != nil {
		return err
	}
	b.say("%s: %s at level %.2f: %s", c.name, of.name, level, s)
	x.add(of.name, keyCPU, s.cpu)
	x.add(of.name, keyPath, s.path)
	x.add(of.name, keyP50, s.p50)
	x.add(of.name, keyP99, s.p99)
	x.add(of.name, keyLoss, s.loss)
	x.add(of.name, keyEqualRate, s.rate)
	x.note(of.name, s)
	return nil
}

// saturate raises everybody's load in turns until more than mostLoss does not arrive, and gives the levels
// before that. From is where each begins, and is changed for the next round.
func (b *bench) saturate(ctx context.Context, c cell, way string, order []*contender, x *row, from map[string]float64) (map[string]float64, error) {
	levels, best := map[string]float64{}, map[string]sample{}
	at := map[string]float64{}
	for _, one := range order {
		if at[one.name] = from[one.name]; at[one.name] == 0 {
			at[one.name] = c.start
			if way == wayRelay {
				at[one.name] /= 2
			}
		}
	}
	for open := true; open; {
		open = false
		for _, one := range order {
			level := at[one.name]
			if level == 0 {
				continue
			}
			s, err := b.try(ctx, one, c, level, b.settings.window)
			if err != nil {
				return nil, err
			}
			b.say("%s/%s: %s at level %.2f: %s", c.name, way, one.name, level, s)
			fits := s.loss <= mostLoss
			if fits {
				levels[one.name], best[one.name] = level, s
			}
			at[one.name] = b.next(c, level, fits, levels[one.name] > 0, x, one.name)
			open = open || at[one.name] > 0
		}
	}
	for _, one := range order {
		if levels[one.name] == 0 {
			return nil, fmt.Errorf("%s loses packets under any load", one.name)
		}
		from[one.name] = levels[one.name] / b.settings.step / b.settings.step
		x.add(one.name, keyRate, best[one.name].rate)
		x.note(one.name, best[one.name])
	}
	return levels, nil
}

// next is the level to try after one, 0 when there is none.
func (b *bench) next(c cell, level float64, fits, once bool, x *row, name string) float64 {
	switch rooms, _ := spread(level * b.settings.step); {
	case fits && rooms > c.most:
		x.remark(fmt.Sprintf("%s carries more than %d rooms", name, c.most))
		return 0
	case fits:
		return level * b.settings.step
	case once, level < c.start/10:
		return 0
	}
	return level / b.settings.step / b.settings.step
}

// try measures again what was too much, at least once: something else may have had the core.
func (b *bench) try(ctx context.Context, of *contender, c cell, level float64, window time.Duration) (s sample, err error) {
	for k := range triesMost {
		if s, err = b.measure(ctx, of, c, level, window); err != nil || s.loss <= mostLoss {
			return s, err
		}
		if k > 0 && s.taken < disturbed {
			return s, nil
		}
		if err := rig.Pause(ctx, recovery); err != nil {
			return s, err
		}
	}
	return s, nil
}
