package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"orama.network/orama/bench/rig"
)

// reading is what one round of one cell found of one server, by key.
type reading map[string]float64

const (
	keyCPU       = "cpu_us"
	keyRate      = "rate"
	keyP50       = "p50_us"
	keyP99       = "p99_us"
	keyLoss      = "loss_percent"
	keyBusy      = "busy_percent"
	keyTaken     = "taken_percent"
	keyHeld      = "held_percent"
	keyEqualP99  = "equal_load_p99_us"
	keyEqualLoss = "equal_load_loss_percent"
	keyEqualCPU  = "equal_load_cpu_us"
	keyMemory    = "kb_per_allocation"
	keyBase      = "base_mb"
)

func (s sample) reading() reading {
	return reading{keyCPU: s.CPU, keyRate: s.Rate, keyP50: s.P50, keyP99: s.P99, keyLoss: s.Loss, keyBusy: s.Busy, keyTaken: s.Taken, keyHeld: s.Held}
}

// cell is one line of a table.
type cell struct {
	Kind    string `json:"kind"`
	Clients int    `json:"clients"`
	Bytes   int    `json:"bytes,omitempty"`
	Way     string `json:"way,omitempty"` // the direction, or the transport with it
}

// bar is what a ratio, ours to coturn's, is held against.
type bar struct {
	limit float64
	least bool // the ratio is to be at least that; otherwise at most
	above bool // no ratio: ours is not to be above coturn's
}

var (
	none     = bar{}
	notAbove = bar{above: true}
)

func most(limit float64) bar  { return bar{limit: limit} }
func least(limit float64) bar { return bar{limit: limit, least: true} }

// A loss counts as not above coturn's to within a tenth of it and this, in percent of the packets: what one
// hiccup of the scheduler costs.
const lossMargin = 0.05

func (b bar) String() string {
	switch {
	case b == none:
		return ""
	case b.above:
		return "not above"
	case b.least:
		return fmt.Sprintf("≥%.2f", b.limit)
	}
	return fmt.Sprintf("≤%.2f", b.limit)
}

// verdict is ok or short, or nothing where there is no bar.
func (b bar) verdict(coturn, ours, ratio float64) string {
	var ok bool
	switch {
	case b == none:
		return ""
	case b.above:
		ok = ours <= coturn*1.1+lossMargin
	case b.least:
		ok = ratio >= b.limit
	default:
		ok = ratio <= b.limit
	}
	if ok {
		return "ok"
	}
	return "short"
}

// column is one figure of a kind's table.
type column struct {
	key, title string
	scale      float64 // of what is printed
	bar        bar
}

// columns are each kind's figures and the project's bars.
var columns = map[string][]column{
	kindLight: {
		{keyCPU, "CPU µs", 1, most(0.95)}, {keyP50, "p50 µs", 1, none}, {keyP99, "p99 µs", 1, most(1)}, {keyLoss, "loss %", 1, notAbove},
	},
	kindSaturation: atSaturation(0.65, 1.5),
	kindBursts:     atSaturation(0.45, 2.5),
	kindAllocations: {
		{keyRate, "a second", 1, least(2)}, {keyCPU, "CPU µs", 1, none},
	},
	kindMemory:  {{keyMemory, "kB each", 1, most(0.4)}, {keyBase, "MB without", 1, none}},
	kindStreams: {{keyCPU, "CPU µs", 1, most(1.1)}, {keyLoss, "loss %", 1, none}},
}

func atSaturation(cpu, rate float64) []column {
	return []column{
		{keyCPU, "CPU µs", 1, most(cpu)}, {keyRate, "1000/s", 1e-3, least(rate)}, {keyEqualP99, "p99 µs, equal load", 1, most(0.5)},
		{keyP99, "p99 µs, full", 1, most(1)}, {keyLoss, "loss %", 1, notAbove}, {keyEqualLoss, "loss %, equal", 1, notAbove},
	}
}

// row is a cell with what its rounds found.
type row struct {
	cell
	Rounds [2][]reading `json:"rounds"` // coturn's, ours
}

// figure is one column of one row.
type figure struct {
	coturn, ours float64 // medians
	ratio        float64 // the median of the rounds' ratios, which drift of the machine disturbs less
	low, high    float64 // the rounds' extreme ratios
}

func (r *row) figure(key string) figure {
	var v [2][]float64
	var ratios []float64
	for i := range r.Rounds[sideCoturn] {
		c, o := r.Rounds[sideCoturn][i][key], r.Rounds[sideOurs][i][key]
		v[sideCoturn], v[sideOurs] = append(v[sideCoturn], c), append(v[sideOurs], o)
		if c > 0 {
			ratios = append(ratios, o/c)
		}
	}
	f := figure{coturn: rig.Median(v[sideCoturn]), ours: rig.Median(v[sideOurs]), ratio: rig.Median(ratios)}
	if len(ratios) > 0 {
		f.low, f.high = slices.Min(ratios), slices.Max(ratios)
	}
	return f
}

// disturbed is more, in percent of the time, than what a core may have been taken away for latencies and rates to be
// trusted; CPU per packet stands more. The kernel counts idle time in steps of 10 ms, so less is seen in short windows.
func (r *report) disturbed() float64 { return 3 + 1000/float64(r.WindowMS) }

func (s sample) noise() float64 { return max(s.Taken, s.Held) }

// remark says what is to be known of a row's figures.
func (r *row) remark(disturbed float64) string {
	var out []string
	taken, held, busy := r.figure(keyTaken), r.figure(keyHeld), r.figure(keyBusy)
	if most := max(taken.coturn, taken.ours, held.coturn, held.ours); most > disturbed {
		out = append(out, fmt.Sprintf("noisy: core taken %.0f/%.0f %%, load held up %.0f/%.0f %%", taken.coturn, taken.ours, held.coturn, held.ours))
	}
	if r.Kind == kindSaturation || r.Kind == kindBursts {
		for side, idle := range []float64{100 - busy.coturn - taken.coturn, 100 - busy.ours - taken.ours} {
			if idle > 10 {
				out = append(out, fmt.Sprintf("%s was idle %.0f %%", []string{"coturn", "ours"}[side], idle))
			}
		}
	}
	if f := r.figure(keyCPU); f.ratio > 0 && (f.high-f.low)/f.ratio > 0.25 {
		out = append(out, fmt.Sprintf("CPU ratios of %.2f to %.2f", f.low, f.high))
	}
	return strings.Join(out, "; ")
}

// report is all that a run found.
type report struct {
	Machine  string   `json:"machine"`
	Rounds   int      `json:"rounds"`
	WindowMS int64    `json:"window_ms"`
	Threads  int      `json:"coturn_relay_threads"`
	Null     bool     `json:"null,omitempty"` // coturn beside coturn
	Seconds  float64  `json:"seconds"`
	Notes    []string `json:"notes,omitempty"`
	Rows     []*row   `json:"rows"`
}

func newReport(s settings) *report {
	return &report{Machine: rig.Machine(), Rounds: s.rounds, WindowMS: s.window.Milliseconds(), Threads: s.threads, Null: s.null}
}

func (r *report) add(c cell, coturn, ours reading) {
	at := slices.IndexFunc(r.Rows, func(x *row) bool { return x.cell == c })
	if at < 0 {
		at = len(r.Rows)
		r.Rows = append(r.Rows, &row{cell: c})
	}
	r.Rows[at].Rounds[sideCoturn] = append(r.Rows[at].Rounds[sideCoturn], coturn)
	r.Rows[at].Rounds[sideOurs] = append(r.Rows[at].Rounds[sideOurs], ours)
}

func (r *report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r.asJSON())
	}
	fmt.Fprintf(out, "%s; %d rounds, windows of %d ms, %.0f s; coturn with --relay-threads=%d\n", r.Machine, r.Rounds, r.WindowMS, r.Seconds, r.Threads)
	if r.Null {
		fmt.Fprintln(out, "coturn beside coturn: every ratio should be 1")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(out, note)
	}
	for _, kind := range kinds {
		if err := r.table(out, kind); err != nil {
			return err
		}
	}
	return r.summary(out)
}

var titles = map[string]string{
	kindLight:       "20,000 single packets a second",
	kindSaturation:  "Saturated by single packets",
	kindBursts:      "Saturated by bursts of eight",
	kindAllocations: "Allocations: 401, Allocate, and the relay given back",
	kindMemory:      "Memory of an idle allocation with one channel",
	kindStreams:     "20,000 packets a second over TCP and TLS",
}

// table prints one kind: of each figure coturn's, ours and the ratio with its verdict.
func (r *report) table(out io.Writer, kind string) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.AlignRight)
	head := false
	for _, x := range r.Rows {
		if x.Kind != kind {
			continue
		}
		if !head {
			head = true
			fmt.Fprintf(out, "\n%s: coturn, ours, ratio\n", titles[kind])
			fmt.Fprint(w, "clients\tbytes\tway\t")
			for _, c := range columns[kind] {
				fmt.Fprintf(w, "|\t%s\t\t%s\t\t", c.title, c.bar)
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t", x.Clients, unlessZero(x.Bytes), x.Way)
		for _, c := range columns[kind] {
			f := x.figure(c.key)
			ratio := fmt.Sprintf("%.2f", f.ratio)
			if f.coturn == 0 || c.bar.above {
				ratio = ""
			}
			fmt.Fprintf(w, "|\t%s\t%s\t%s\t%s\t", short(f.coturn*c.scale), short(f.ours*c.scale), ratio, c.bar.verdict(f.coturn, f.ours, f.ratio))
		}
		fmt.Fprintln(w, "  "+x.remark(r.disturbed()))
	}
	return w.Flush()
}

func unlessZero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// short prints three digits or so.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// standing is how one bar did over all its cells.
type standing struct {
	Kind    string  `json:"kind"`
	Figure  string  `json:"figure"`
	Bar     string  `json:"bar"`
	Mean    float64 `json:"geometric_mean"` // of the ratios; 0 where the bar is about none
	Worst   float64 `json:"worst"`
	OK      int     `json:"ok"`
	Cells   int     `json:"cells"`
	Verdict string  `json:"verdict"`
}

func (r *report) standings() []standing {
	var out []standing
	for _, kind := range kinds {
		for _, c := range columns[kind] {
			if c.bar == none {
				continue
			}
			s := standing{Kind: kind, Figure: c.title, Bar: c.bar.String(), Verdict: "ok"}
			logs, ratios := 0.0, 0
			for _, x := range r.Rows {
				if x.Kind != kind {
					continue
				}
				f := x.figure(c.key)
				s.Cells++
				if c.bar.verdict(f.coturn, f.ours, f.ratio) == "ok" {
					s.OK++
				}
				if c.bar.above || f.ratio <= 0 {
					continue
				}
				logs, ratios = logs+math.Log(f.ratio), ratios+1
				if s.Worst == 0 || c.bar.least == (f.ratio < s.Worst) {
					s.Worst = f.ratio
				}
			}
			if s.Cells == 0 {
				continue
			}
			if ratios > 0 {
				s.Mean = math.Exp(logs / float64(ratios))
			}
			if s.OK < s.Cells {
				s.Verdict = "short"
			}
			out = append(out, s)
		}
	}
	return out
}

func (r *report) summary(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nbar\t\t\tgeometric mean\tworst\tcells\t\n")
	for _, s := range r.standings() {
		mean, worst := "", ""
		if s.Mean > 0 {
			mean, worst = fmt.Sprintf("%.2f", s.Mean), fmt.Sprintf("%.2f", s.Worst)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d of %d\t%s\n", s.Kind, s.Figure, s.Bar, mean, worst, s.OK, s.Cells, s.Verdict)
	}
	return w.Flush()
}

// asJSON adds to the readings what is concluded from them.
func (r *report) asJSON() any {
	return struct {
		*report
		Bars []standing `json:"bars"`
	}{r, r.standings()}
}
