package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBars(t *testing.T) {
	require.Equal(t, "ok", most(0.65).verdict(10, 6.5, 0.65))
	require.Equal(t, "short", most(0.65).verdict(10, 6.6, 0.66))
	require.Equal(t, "ok", least(1.5).verdict(100, 150, 1.5))
	require.Equal(t, "short", least(1.5).verdict(100, 149, 1.49))
	require.Equal(t, "ok", notAbove.verdict(0, 0.04, 0))
	require.Equal(t, "short", notAbove.verdict(0, 0.1, 0))
	require.Equal(t, "ok", notAbove.verdict(5, 5.4, 1.08))
	require.Empty(t, none.verdict(1, 2, 2))
	require.Equal(t, "≤0.65 ≥1.50 not above ", most(0.65).String()+" "+least(1.5).String()+" "+notAbove.String()+" "+none.String())
}

func sampleReport() *report {
	r := &report{Machine: "a machine", Rounds: 3, WindowMS: 500}
	c := cell{Kind: kindLight, Clients: 100, Bytes: 160, Way: string(up)}
	for _, ours := range []float64{8, 9, 20} { // the third round was disturbed
		r.add(c, reading{keyCPU: 10, keyP99: 40}, reading{keyCPU: ours, keyP99: 50, keyTaken: 1})
	}
	r.add(cell{Kind: kindSaturation, Clients: 1, Bytes: 160, Way: string(down)}, reading{keyCPU: 5, keyRate: 200e3, keyBusy: 99}, reading{keyCPU: 2, keyRate: 400e3, keyBusy: 80, keyTaken: 7})
	return r
}

func TestRatioIsTheRoundsMedian(t *testing.T) {
	f := sampleReport().Rows[0].figure(keyCPU)
	require.Equal(t, figure{coturn: 10, ours: 9, ratio: 0.9, low: 0.8, high: 2}, f)
}

func TestStandings(t *testing.T) {
	by := map[string]standing{}
	for _, s := range sampleReport().standings() {
		by[s.Kind+" "+s.Figure] = s
	}
	require.Equal(t, standing{Kind: kindLight, Figure: "p99 µs", Bar: "≤1.00", Mean: 1.25, Worst: 1.25, OK: 0, Cells: 1, Verdict: "short"}, by["light p99 µs"])
	require.Equal(t, "ok", by["light CPU µs"].Verdict)
	require.Equal(t, "ok", by["saturation 1000/s"].Verdict)
	require.NotContains(t, by, "memory kB each", "nothing measured, nothing said")
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, sampleReport().print(&out, false))
	text := out.String()
	require.Contains(t, text, "20,000 single packets a second")
	require.Contains(t, text, "CPU ratios of 0.80 to 2.00")
	require.Contains(t, text, "ours was idle 13 %")
	require.Contains(t, text, "noisy: core taken 0/7 %")
	require.NotContains(t, text, titles[kindMemory])
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, sampleReport().print(&out, true))
	var got struct {
		Rows []struct {
			Kind   string
			Rounds [2][]map[string]float64
		}
		Bars []standing
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.Len(t, got.Rows, 2)
	require.InDelta(t, 9, got.Rows[0].Rounds[sideOurs][1][keyCPU], 0)
	require.NotEmpty(t, got.Bars)
}

func TestParse(t *testing.T) {
	s, err := parse([]string{"--quick", "--only", "light,memory", "--rounds", "5"})
	require.NoError(t, err)
	require.Equal(t, []string{kindLight, kindMemory}, s.only)
	require.Equal(t, []int{100}, s.clients)
	require.Equal(t, 5, s.rounds)
	s, err = parse([]string{"--quick", "--clients", "1,500"})
	require.NoError(t, err)
	require.Equal(t, []int{1, 500}, s.clients)
	for _, bad := range [][]string{{"--only", "x"}, {"--clients", "0"}, {"--clients", "100000"}, {"--rounds", "0"}, {"--sizes", "4"}, {"--sizes", "3000"}} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
}
