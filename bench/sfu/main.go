// Command sfu measures our SFU beside a stock pion fan-out, and LiveKit where its binary is given, and holds the ratios against the project's bars: CPU per
// forwarded packet, packets a second at saturation, latency, loss, memory of a subscriber, and the time a join takes.
// `make bench-sfu` runs it.
//
// All servers are processes of their own, pinned to one core, in a network namespace that ends with the run; the
// load comes from this process on another core. They take turns within every round, and a ratio is the median of the
// rounds' ratios. It compares servers on one machine and says nothing of how many users any of them carries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"orama.network/orama/bench/rig"
)

// bound ends a run that went wrong.
const bound = 60 * time.Minute

// stageInner is run in the network namespace and makes the load; stageServe is a server under test.
const (
	stageInner = "inner"
	stageServe = "serve"
)

// What outer tells inner beside the flags.
const (
	envDir  = "BENCH_SFU_DIR"
	envCore = "BENCH_SFU_CORE" // the servers'
)

type settings struct {
	only    []string // cells
	ways    []string
	rounds  int
	window  time.Duration // of one measurement
	settle  time.Duration // of load before one
	step    float64       // by which the load is raised
	joins   int           // timed in a round
	quick   bool
	json    bool
	verbose bool   // say on stderr what is being measured
	liveKit string // its server's binary; "": it is not beside us
	profile string // where profiles of our SFU go; "": none are made
}

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == rig.StagePinned:
		err = rig.Pinned(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == stageServe:
		err = serve(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == stageInner:
		err = inner(os.Args[2:])
	default:
		err = outer(os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-sfu:", err)
		os.Exit(1)
	}
}

func parse(given []string) (settings, error) {
	s := settings{only: cellNames(), ways: ways}
	f := flag.NewFlagSet("bench-sfu", flag.ContinueOnError)
	f.Func("only", "`cells` to measure: "+strings.Join(cellNames(), ",")+"; with a way behind a slash, that one alone (50/relay)", s.choose)
	f.IntVar(&s.rounds, "rounds", 3, "rounds of every cell; figures are medians over them")
	f.DurationVar(&s.window, "window", time.Second, "length of one measurement")
	f.IntVar(&s.joins, "joins", 7, "joins timed in a round")
	f.StringVar(&s.profile, "profile", "", "`directory` for CPU and allocation profiles of our SFU, of each cell at 80 % of stock's saturation")
	f.StringVar(&s.liveKit, "livekit", "", "`binary` of LiveKit's server, to be measured too")
	f.BoolVar(&s.json, "json", false, "print one JSON object")
	f.BoolVar(&s.verbose, "v", false, "say on stderr what is being measured")
	f.BoolVar(&s.quick, "quick", false, "one round, windows of 0.7 s, larger steps to saturation")
	if err := f.Parse(given); err != nil {
		return s, err
	}
	s.settle, s.step = 700*time.Millisecond, 1.15
	set := map[string]bool{}
	f.Visit(func(x *flag.Flag) { set[x.Name] = true })
	if s.quick {
		s.settle, s.step = 500*time.Millisecond, 1.3
		if !set["rounds"] {
			s.rounds = 1
		}
		if !set["window"] {
			s.window = 700 * time.Millisecond
		}
		if !set["joins"] {
			s.joins = 3
		}
	}
	if s.rounds < 1 || s.window < 100*time.Millisecond || s.joins < 1 {
		return s, errors.New("at least one round, windows of 100 ms, and one join")
	}
	if s.liveKit != "" {
		if _, err := exec.LookPath(s.liveKit); err != nil {
			return s, fmt.Errorf("--livekit: %w", err)
		}
	}
	return s, nil
}

// choose reads the value of --only.
func (s *settings) choose(list string) error {
	s.only = nil
	for _, word := range strings.Split(list, ",") {
		name, way, _ := strings.Cut(word, "/")
		if !slices.Contains(cellNames(), name) || way != "" && !slices.Contains(ways, way) {
			return fmt.Errorf("%q is none of %s, each with nothing, /direct or /relay behind it", word, strings.Join(cellNames(), ", "))
		}
		s.only = append(s.only, word)
	}
	return nil
}

func (s *settings) wants(cell, way string) bool {
	return slices.Contains(s.only, cell) || slices.Contains(s.only, cell+"/"+way)
}

// stopped is ended by Ctrl-C, SIGTERM and the bound.
func stopped() (context.Context, func()) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, bound)
	return ctx, func() { cancel(); stop() }
}

// outer is what the user starts.
func outer(given []string) (err error) {
	if _, err := parse(given); err != nil {
		return err
	}
	ctx, stop := stopped()
	defer stop()
	generator, servers, err := rig.Cores()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-sfu-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	env := []string{envDir + "=" + dir, envCore + "=" + strconv.Itoa(servers)}
	return rig.Again(ctx, generator, env, append([]string{stageInner}, given...)...)
}
