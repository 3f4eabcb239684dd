// Command bench prints what the two servers of the media path cost, beside what anybody could build
// from the same library in an afternoon: CPU per forwarded packet of the SFU beside a stock pion
// fan-out, CPU per relayed packet of TURN beside stock pion/turn (and coturn where it is
// installed), and the time a join takes.
//
// It measures on loopback, below saturation, in rounds that alternate between the servers under
// test, each in a process of its own. It is not a load test and says nothing of how many users a
// machine carries.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"text/tabwriter"
	"time"
)

// bound ends a run that went wrong.
const bound = 3 * time.Minute

type settings struct {
	rounds int
	window time.Duration // of one measurement
	joins  int
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		exit(serve(os.Args[2], os.Stdin, os.Stdout))
	}
	asJSON := flag.Bool("json", false, "print one JSON object")
	smoke := flag.Bool("smoke", false, "one short round: does it run at all?")
	s := settings{rounds: 3, window: 3 * time.Second, joins: 15}
	flag.IntVar(&s.rounds, "rounds", s.rounds, "rounds of each measurement")
	flag.DurationVar(&s.window, "window", s.window, "length of one measurement")
	flag.IntVar(&s.joins, "joins", s.joins, "joins to time")
	flag.Parse()
	if *smoke {
		s = settings{rounds: 1, window: 500 * time.Millisecond, joins: 2}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	r, err := run(ctx, s)
	if err == nil {
		err = r.print(*asJSON)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Cost is what one server spent.
type Cost struct {
	Server  string  `json:"server"`
	Micros  float64 `json:"cpu_us_per_packet"` // median over the rounds, user and system
	Spread  float64 `json:"spread"`            // (largest - smallest) / median over the rounds
	Ratio   float64 `json:"ratio"`             // to the stock one; below 1 is cheaper
	Packets uint64  `json:"packets"`           // that arrived, all rounds together
	Arrived float64 `json:"arrived"`           // the share of what was sent; well below 1 means saturation
}

// Join is how long a join takes, from before the socket is dialled. Milliseconds, medians.
type Join struct {
	Joins    int     `json:"joins"`
	Joined   float64 `json:"joined_ms"`       // the SFU has confirmed
	Packet   float64 `json:"first_packet_ms"` // of video
	Keyframe float64 `json:"first_frame_ms"`  // a whole keyframe: a decoder would show it
}

// Report is all of it.
type Report struct {
	TURN []Cost `json:"turn"`
	SFU  []Cost `json:"sfu"`
	Join Join   `json:"join"`
}

func run(ctx context.Context, s settings) (Report, error) {
	l, err := newLab()
	if err != nil {
		return Report{}, err
	}
	r, err := l.measure(ctx, s)
	return r, errors.Join(err, l.close())
}

func (l *lab) measure(ctx context.Context, s settings) (r Report, err error) {
	if r.TURN, err = l.measureTURN(ctx, s); err != nil {
		return r, fmt.Errorf("turn: %w", err)
	}
	if r.SFU, err = l.measureSFU(ctx, s); err != nil {
		return r, fmt.Errorf("sfu: %w", err)
	}
	if r.Join, err = l.measureJoins(ctx, s); err != nil {
		return r, fmt.Errorf("join: %w", err)
	}
	return r, nil
}

// sample is one server's measurement of one round.
type sample struct {
	cpu           time.Duration
	sent, arrived uint64
}

// costs makes the table from the samples by server. The stock server is the one to compare with.
func costs(servers []string, stock string, samples map[string][]sample) []Cost {
	var out []Cost
	for _, name := range servers {
		c := Cost{Server: name}
		var each []float64
		var sent uint64
		for _, s := range samples[name] {
			c.Packets += s.arrived
			sent += s.sent
			each = append(each, float64(s.cpu.Microseconds())/float64(max(s.arrived, 1)))
		}
		c.Micros = median(each)
		c.Spread = (slices.Max(each) - slices.Min(each)) / c.Micros
		c.Arrived = float64(c.Packets) / float64(max(sent, 1))
		out = append(out, c)
	}
	base := out[slices.IndexFunc(out, func(c Cost) bool { return c.Server == stock })].Micros
	for i := range out {
		out[i].Ratio = out[i].Micros / base
	}
	return out
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (r Report) print(asJSON bool) error {
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	table := func(title string, costs []Cost) {
		fmt.Fprintf(w, "%s\tCPU a packet\tratio\tspread\tarrived\tpackets\n", title)
		for _, c := range costs {
			fmt.Fprintf(w, "  %s\t%.2f µs\t%.2f\t%.0f %%\t%.1f %%\t%d\n", c.Server, c.Micros, c.Ratio, 100*c.Spread, 100*c.Arrived, c.Packets)
		}
	}
	table("TURN, relayed", r.TURN)
	table("SFU, forwarded", r.SFU)
	fmt.Fprintf(w, "join, median of %d\tjoined\tfirst video packet\tfirst whole frame\n", r.Join.Joins)
	fmt.Fprintf(w, "  orama\t%.0f ms\t%.0f ms\t%.0f ms\n", r.Join.Joined, r.Join.Packet, r.Join.Keyframe)
	return w.Flush()
}
