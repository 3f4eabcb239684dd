package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"orama.network/orama/bench/rig"
)

// Figures of a row, by key.
const (
	keyIdle        = "idle_percent"
	keyLightCPU    = "light_cpu_us"
	keyLightPath   = "light_path_cpu_us"
	keyCPU         = "cpu_us"
	keyPath        = "path_cpu_us"
	keyRate        = "saturation_per_second"
	keyEqualRate   = "equal_per_second"
	keyP50         = "p50_ms"
	keyP99         = "p99_ms"
	keyLoss        = "loss_percent"
	keyMemory      = "kb_per_person"
	keyFirstMemory = "kb_per_person_first_room"
	keyJoin        = "join_ms"
)

// bar is what a figure of ours is held against: itself, or its ratio to another's.
type bar struct {
	limit float64
	least bool   // it is to be at least that; otherwise at most
	to    string // whose figure the ratio is to; "" holds the figure itself
}

func (b bar) String() string {
	sign, unit := "≤", ""
	if b.least {
		sign = "≥"
	}
	if b.to != "" {
		unit = " of " + b.to
	}
	return fmt.Sprintf("%s%g%s", sign, b.limit, unit)
}

func (b bar) verdict(value float64) string {
	if value <= b.limit != b.least || value == b.limit {
		return "ok"
	}
	return "short"
}

// figure is one line of a cell's table.
type figure struct {
	key, title string
	bars       []bar
}

// figures of a cell.
func figures(name, way string) []figure {
	liveKit := nameLiveKit
	if way == wayRelay {
		liveKit = nameLiveKitCoturn
	}
	cpu := []bar{{limit: 0.65, to: nameStock}, {limit: 0.45, to: liveKit}}
	memory := figure{keyMemory, "SFU's memory, kB a person more", nil}
	if name == "50" || name == "300" { // a person has one publisher's tracks
		memory.bars = []bar{{limit: 400}}
	}
	out := []figure{
		{keyIdle, "SFU's CPU when nothing is sent, % of a core", nil},
		{keyLightCPU, "SFU's CPU, light load, µs a packet", cpu},
		{keyCPU, "SFU's CPU, equal load, µs a packet", cpu},
	}
	if way == wayRelay {
		out = append(out, figure{keyLightPath, "SFU and relay, light load, µs a packet", nil},
			figure{keyPath, "SFU and relay, equal load, µs a packet", []bar{{limit: 0.6, to: nameLiveKitCoturn}}})
	}
	out = append(out,
		figure{keyRate, "packets a second at saturation", []bar{{limit: 1.6, least: true, to: nameStock}, {limit: 2, least: true, to: liveKit}}},
		figure{keyEqualRate, "packets a second at equal load", nil},
		figure{keyP50, "p50 at equal load, ms", nil},
		figure{keyP99, "p99 at equal load, ms", []bar{{limit: 0.5, to: liveKit}}},
		figure{keyLoss, "lost at equal load, %", nil},
		figure{keyFirstMemory, "SFU's memory, kB a person of the first", nil},
		memory)
	if way == wayRelay {
		out = append(out, figure{keyJoin, "join to first media, ms", []bar{{limit: 150}}})
	}
	return out
}

// row is a cell one way, with what its rounds found.
type row struct {
	Cell    string                          `json:"cell"`
	Title   string                          `json:"title"`
	Way     string                          `json:"way"`
	Names   []string                        `json:"contenders"`
	Rounds  map[string]map[string][]float64 `json:"rounds"` // by contender and key
	Remarks []string                        `json:"remarks,omitempty"`
	busy    map[string][3]float64           // by contender: the most that the load took, that was taken, that it dropped
}

func (x *row) add(name, key string, v float64) {
	if x.Rounds[name] == nil {
		x.Rounds[name] = map[string][]float64{}
	}
	x.Rounds[name][key] = append(x.Rounds[name][key], v)
}

// note keeps what says whether a sample can be trusted.
func (x *row) note(name string, s sample) {
	b := x.busy[name]
	x.busy[name] = [3]float64{max(b[0], s.busy), max(b[1], s.taken), max(b[2], float64(s.dropped))}
}

func (x *row) remark(text string) {
	if !slices.Contains(x.Remarks, text) {
		x.Remarks = append(x.Remarks, text)
	}
}

// median of a figure, and of its rounds' ratios to another's, which drift of the machine disturbs less.
func (x *row) median(name, key string) float64 { return rig.Median(x.Rounds[name][key]) }

func (x *row) ratio(key, to string) (middle, low, high float64, ok bool) {
	ours, theirs := x.Rounds[nameOurs][key], x.Rounds[to][key]
	var all []float64
	for i := range min(len(ours), len(theirs)) {
		if theirs[i] > 0 {
			all = append(all, ours[i]/theirs[i])
		}
	}
	if len(all) == 0 {
		return 0, 0, 0, false
	}
	return rig.Median(all), slices.Min(all), slices.Max(all), true
}

// results is all that a run found.
type results struct {
	Machine  string     `json:"machine"`
	Rounds   int        `json:"rounds"`
	WindowMS int64      `json:"window_ms"`
	Step     float64    `json:"step"`
	Pressure [2]float64 `json:"cpu_pressure_percent"` // before the run, and the most in it
	Seconds  float64    `json:"seconds"`
	Rows     []*row     `json:"rows"`
}

func newResults(s settings, pressure float64) *results {
	return &results{Machine: rig.Machine(), Rounds: s.rounds, WindowMS: s.window.Milliseconds(), Step: s.step, Pressure: [2]float64{pressure, pressure}}
}

func (r *results) row(c cell, way string, all []*contender) *row {
	x := &row{Cell: c.name, Title: c.title, Way: way, Rounds: map[string]map[string][]float64{}, busy: map[string][3]float64{}}
	for _, one := range all {
		x.Names = append(x.Names, one.name)
	}
	r.Rows = append(r.Rows, x)
	return x
}

// last is the row of the newest cell, which is thrown away when there is none.
func (r *results) last() *row {
	if len(r.Rows) == 0 {
		return &row{}
	}
	return r.Rows[len(r.Rows)-1]
}

func (r *results) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	fmt.Fprintf(out, "%s; %d rounds, windows of %d ms, saturation in steps of %.0f %%, %.0f s; one core for servers, one for the load\n",
		r.Machine, r.Rounds, r.WindowMS, 100*(r.Step-1), r.Seconds)
	fmt.Fprintf(out, "CPU pressure of the machine (/proc/pressure/cpu, avg10): %.0f %% before, at most %.0f %% in the run, which makes some itself\n", r.Pressure[0], r.Pressure[1])
	for _, x := range r.Rows {
		if err := x.print(out); err != nil {
			return err
		}
	}
	return r.summary(out)
}

func (x *row) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s/%s: %s\n", x.Cell, x.Way, x.Title)
	if len(x.Rounds) == 0 {
		fmt.Fprintln(out, "  nothing was measured")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, name := range x.Names {
		fmt.Fprint(w, name+"\t")
	}
	for _, name := range x.peers() {
		fmt.Fprint(w, "to "+name+"\t")
	}
	fmt.Fprintln(w, "  bars")
	for _, f := range figures(x.Cell, x.Way) {
		fmt.Fprint(w, f.title+"\t")
		for _, name := range x.Names {
			fmt.Fprint(w, short(x.median(name, f.key))+"\t")
		}
		for _, name := range x.peers() {
			if ratio, low, high, ok := x.ratio(f.key, name); ok {
				fmt.Fprintf(w, "%.2f (%.2f to %.2f)", ratio, low, high)
			}
			fmt.Fprint(w, "\t")
		}
		var verdicts []string
		for _, b := range f.bars {
			if x.took(b.to) {
				verdicts = append(verdicts, x.held(f, b))
			}
		}
		fmt.Fprintln(w, "  "+strings.Join(verdicts, "; "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range x.Names {
		b := x.busy[name]
		fmt.Fprintf(out, "  %s: the load took at most %.0f %% of its core and left %.0f datagrams unread; others had %.0f %% of the servers' core\n", name, b[0], b[2], b[1])
	}
	for _, remark := range x.Remarks {
		fmt.Fprintln(out, "  "+remark)
	}
	return nil
}

// peers are those beside us.
func (x *row) peers() (out []string) {
	for _, name := range x.Names {
		if name != nameOurs {
			out = append(out, name)
		}
	}
	return out
}

// took says whether a bar's peer took part; a bar of the figure itself needs none.
func (x *row) took(peer string) bool { return peer == "" || slices.Contains(x.Names, peer) }

// held is one bar of a figure with its verdict.
func (x *row) held(f figure, b bar) string {
	value, ok := x.median(nameOurs, f.key), true
	if b.to != "" {
		value, _, _, ok = x.ratio(f.key, b.to)
	}
	if !ok || value == 0 {
		return b.String() + ": not measured"
	}
	return b.String() + ": " + b.verdict(value)
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

// summary names what is short.
func (r *results) summary(out io.Writer) error {
	var missed []string
	bars, without := 0, 0
	for _, x := range r.Rows {
		for _, f := range figures(x.Cell, x.Way) {
			for _, b := range f.bars {
				if !x.took(b.to) {
					without++
					continue
				}
				bars++
				if held := x.held(f, b); held != b.String()+": ok" {
					missed = append(missed, fmt.Sprintf("%s/%s: %s: %s", x.Cell, x.Way, f.title, held))
				}
			}
		}
	}
	fmt.Fprintf(out, "\n%d of %d bars are met\n", bars-len(missed), bars)
	for _, m := range missed {
		fmt.Fprintln(out, "  "+m)
	}
	if without > 0 {
		fmt.Fprintf(out, "%d more are of who was not beside us: LiveKit with --livekit and its binary, and coturn where it is installed\n", without)
	}
	return nil
}
