// Command relay measures our TURN server beside coturn and holds the ratios against the project's bars: CPU per
// relayed packet, packets a second, latency, loss, allocations a second and memory. `make bench-turn` runs it.
//
// Both servers are processes of their own, pinned to one core, in a network namespace that ends with the run; the
// load comes from this process on another core. They take turns within every round, and a ratio is the median of the
// rounds' ratios. It compares two servers on one machine and says nothing of how many users either carries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"orama.network/orama/bench/rig"
)

// What can be measured, as --only names it.
const (
	kindLight       = "light"
	kindSaturation  = "saturation"
	kindBursts      = "bursts"
	kindAllocations = "allocations"
	kindMemory      = "memory"
	kindStreams     = "streams"
)

var kinds = []string{kindLight, kindSaturation, kindBursts, kindAllocations, kindMemory, kindStreams}

// bound ends a run that went wrong.
const bound = 10 * time.Minute

type settings struct {
	orama    string        // path of our binary; "" builds it
	null     bool          // a second coturn in our place
	threads  int           // coturn's --relay-threads
	only     []string      // of kinds
	clients  []int         // numbers of clients
	sizes    []int         // payload bytes
	rounds   int           // of every cell
	window   time.Duration // of one measurement
	settle   time.Duration // of load before one
	inFlight int           // packets under way at saturation
	held     int           // allocations whose memory is measured
	quick    bool
	json     bool
	verbose  bool // say on stderr what is being measured
}

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == rig.StagePinned:
		err = rig.Pinned(os.Args[2:]) // does not return unless it fails
	case len(os.Args) > 1 && os.Args[1] == stageInner:
		err = inner(os.Args[2:])
	default:
		err = outer(os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-turn:", err)
		os.Exit(1)
	}
}

// stopped is ended by Ctrl-C, SIGTERM and the bound.
func stopped() (context.Context, func()) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, bound)
	return ctx, func() { cancel(); stop() }
}

func parse(given []string) (settings, error) {
	s := settings{only: kinds, clients: []int{1, 100, 500}, sizes: []int{160, 1100}, settle: 100 * time.Millisecond}
	f := flag.NewFlagSet("bench-turn", flag.ContinueOnError)
	f.StringVar(&s.orama, "orama", "", "our `binary`, run as `turn run --control`; built from this tree without it")
	f.BoolVar(&s.null, "null", false, "coturn beside a second coturn: what this harness takes for equal")
	f.IntVar(&s.threads, "coturn-threads", 1, "coturn's --relay-threads: 1 is what it would choose on one core; 0 has no thread but the main one")
	f.Func("only", "`kinds` to measure: "+strings.Join(kinds, ","), func(v string) (err error) {
		s.only, err = oneOf(strings.Split(v, ","), kinds)
		return err
	})
	f.Func("clients", "`numbers` of clients (default 1,100,500; with --quick 100)", func(v string) (err error) {
		s.clients, err = numbers(v)
		return err
	})
	f.Func("sizes", "payload `bytes` (default 160,1100)", func(v string) (err error) {
		s.sizes, err = numbers(v)
		return err
	})
	f.IntVar(&s.rounds, "rounds", 5, "rounds of most cells, less of the slow ones; figures are medians over them")
	f.DurationVar(&s.window, "window", 250*time.Millisecond, "length of one measurement")
	f.IntVar(&s.inFlight, "in-flight", 256, "packets under way at saturation")
	f.IntVar(&s.held, "held", 2000, "allocations held for the memory of one")
	f.BoolVar(&s.json, "json", false, "print one JSON object")
	f.BoolVar(&s.verbose, "v", false, "say on stderr what is being measured")
	f.BoolVar(&s.quick, "quick", false, "less than a minute: 100 clients, three rounds, windows of 150 ms, 700 allocations")
	if err := f.Parse(given); err != nil {
		return s, err
	}
	set := map[string]bool{}
	f.Visit(func(x *flag.Flag) { set[x.Name] = true })
	if s.quick {
		s.clients = pick(set["clients"], s.clients, []int{100})
		s.rounds = pick(set["rounds"], s.rounds, 3)
		s.window = pick(set["window"], s.window, 150*time.Millisecond)
		s.settle /= 2
		s.held = pick(set["held"], s.held, 700)
	}
	if slices.Min(s.sizes) < smallest || slices.Max(s.sizes) > largest {
		return s, fmt.Errorf("payloads of %d to %d bytes", smallest, largest)
	}
	if s.rounds < 1 || s.window < 50*time.Millisecond || s.inFlight < burstSize || s.held < 1 || slices.Max(s.clients) > maxClients {
		return s, fmt.Errorf("at least one round, windows of 50 ms, %d packets under way, and at most %d clients", burstSize, maxClients)
	}
	return s, nil
}

// pick is the value that was asked for, or the other.
func pick[T any](asked bool, value, otherwise T) T {
	if asked {
		return value
	}
	return otherwise
}

func oneOf(given, known []string) ([]string, error) {
	for _, g := range given {
		if !slices.Contains(known, g) {
			return nil, fmt.Errorf("%q is none of %s", g, strings.Join(known, ", "))
		}
	}
	return given, nil
}

func numbers(list string) ([]int, error) {
	var out []int
	for _, word := range strings.Split(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no positive number", word)
		}
		out = append(out, n)
	}
	return out, nil
}
