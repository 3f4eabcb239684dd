// Package rewritetest writes dependency descriptors for tests, straight from the specification's tables and with nothing of the code that
// reads them. It is slow, and trusts its caller.
package rewritetest

import (
	"fmt"
	"math/bits"
	"strings"
)

// ink is a string of bits: fields are text, and what ns takes is counted from the specification's table.
type ink struct{ strings.Builder }

func (w *ink) f(n, v int) {
	if n > 0 {
		fmt.Fprintf(w, "%0*b", n, v)
	}
}

func (w *ink) flag(on bool) { w.f(1, map[bool]int{true: 1}[on]) }

func (w *ink) ns(n, v int) {
	width := bits.Len(uint(n))
	short := 1<<width - n // so many values take a bit less
	switch {
	case n == 1:
	case v < short:
		w.f(width-1, v)
	default:
		w.f(width, v+short)
	}
}

func (w *ink) bytes() []byte {
	s := w.String()
	s += strings.Repeat("0", (8-len(s)%8)%8)
	out := make([]byte, len(s)/8)
	for i, c := range s {
		out[i/8] |= byte(c-'0') << (7 - i%8)
	}
	return out
}

// Letters are the decode target indications as the tables write them; their place is their value.
const Letters = "-DSR"

// Row is a line of the tables in section A.10.2: layers, frame differences, chain differences, and an indication for each target.
type Row struct {
	S, T    int
	Fdiffs  []int
	Chains  []int
	Targets string
}

// R makes a Row.
func R(s, t int, fdiffs, chains []int, targets string) Row { return Row{s, t, fdiffs, chains, targets} }

// Structure is one of those tables.
type Structure struct {
	Offset    int // number of the first template
	Rows      []Row
	Protected []int    // the chain of each target
	Sizes     [][2]int // of each spatial layer; nil: not said
}

func (d Structure) write(w *ink) {
	w.f(6, d.Offset)
	w.f(5, len(d.Rows[0].Targets)-1)
	for n := range d.Rows {
		switch {
		case n+1 == len(d.Rows):
			w.f(2, 3)
		case d.Rows[n+1].S > d.Rows[n].S:
			w.f(2, 2)
		default:
			w.f(2, d.Rows[n+1].T-d.Rows[n].T)
		}
	}
	for _, r := range d.Rows {
		w.indications(r.Targets)
	}
	for _, r := range d.Rows {
		for _, diff := range r.Fdiffs {
			w.f(1, 1)
			w.f(4, diff-1)
		}
		w.f(1, 0)
	}
	d.writeChains(w)
	w.flag(d.Sizes != nil)
	for _, s := range d.Sizes {
		w.f(16, s[0]-1)
		w.f(16, s[1]-1)
	}
}

func (d Structure) writeChains(w *ink) {
	chains := len(d.Rows[0].Chains)
	w.ns(len(d.Rows[0].Targets)+1, chains)
	if chains == 0 {
		return
	}
	for _, c := range d.Protected {
		w.ns(chains, c)
	}
	for _, r := range d.Rows {
		for _, c := range r.Chains {
			w.f(4, c)
		}
	}
}

func (w *ink) indications(s string) {
	for _, c := range s {
		w.f(2, strings.IndexRune(Letters, c))
	}
}

// Packet is what one packet's descriptor says.
type Packet struct {
	Start, End bool
	Template   int
	Frame      uint16
	Structure  *Structure // nil: none
	Mask       int        // of active targets; below 0: none
	Masked     int        // its width
	DTIs       string     // "": the template's
	Fdiffs     []int      // nil: the template's
	Chains     []int      // likewise
}

// Write gives the descriptor's bytes.
func (s Packet) Write() []byte {
	w := &ink{}
	w.flag(s.Start)
	w.flag(s.End)
	w.f(6, s.Template)
	w.f(16, int(s.Frame))
	if s.Structure == nil && s.Mask < 0 && s.DTIs == "" && s.Fdiffs == nil && s.Chains == nil {
		return w.bytes()
	}
	w.flag(s.Structure != nil)
	w.flag(s.Mask >= 0)
	w.flag(s.DTIs != "")
	w.flag(s.Fdiffs != nil)
	w.flag(s.Chains != nil)
	if s.Structure != nil {
		s.Structure.write(w)
	}
	if s.Mask >= 0 {
		w.f(s.Masked, s.Mask)
	}
	w.indications(s.DTIs)
	if s.Fdiffs != nil {
		for _, diff := range s.Fdiffs {
			size := max(1, (bits.Len(uint(diff-1))+3)/4)
			w.f(2, size)
			w.f(4*size, diff-1)
		}
		w.f(2, 0)
	}
	for _, c := range s.Chains {
		w.f(8, c)
	}
	return w.bytes()
}

// The structures of section A.10.2, and what the scenario of A.10.1.2 needs.
var (
	L1T3 = Structure{Offset: 0, Protected: []int{0, 0, 0}, Rows: []Row{
		{0, 0, nil, []int{0}, "SSS"}, {0, 0, []int{4}, []int{4}, "SSS"}, {0, 1, []int{2}, []int{2}, "SD-"},
		{0, 2, []int{1}, []int{1}, "D--"}, {0, 2, []int{1}, []int{3}, "D--"},
	}}
	L3T3 = Structure{Offset: 5, Protected: []int{2, 2, 2, 1, 1, 1, 0, 0, 0}, Sizes: [][2]int{{320, 180}, {640, 360}, {1280, 720}}, Rows: []Row{
		{0, 0, nil, []int{0, 0, 0}, "SSSSSSSSS"}, {0, 0, []int{12}, []int{12, 11, 10}, "RRRRRRSSS"},
		{0, 1, []int{6}, []int{6, 5, 4}, "RR-RR-SD-"}, {0, 2, []int{3}, []int{3, 2, 1}, "R--R--D--"}, {0, 2, []int{3}, []int{9, 8, 7}, "R--R--D--"},
		{1, 0, []int{1}, []int{1, 1, 1}, "SSSSSS---"}, {1, 0, []int{12, 1}, []int{1, 1, 1}, "RRRSSS---"}, {1, 1, []int{6, 1}, []int{7, 6, 5}, "RR-SD----"},
		{1, 2, []int{3, 1}, []int{4, 3, 2}, "R--D-----"}, {1, 2, []int{3, 1}, []int{10, 9, 8}, "R--D-----"},
		{2, 0, []int{1}, []int{2, 1, 1}, "SSS------"}, {2, 0, []int{12, 1}, []int{2, 1, 1}, "SSS------"}, {2, 1, []int{6, 1}, []int{8, 7, 6}, "SD-------"},
		{2, 2, []int{3, 1}, []int{5, 4, 3}, "D--------"}, {2, 2, []int{3, 1}, []int{11, 10, 9}, "D--------"},
	}}
	L3T3Shift = Structure{Offset: 40, Protected: []int{2, 2, 2, 1, 1, 1, 0, 0, 0}, Rows: []Row{
		{0, 0, nil, []int{0, 0, 0}, "SSSSSSSSS"}, {0, 0, []int{3}, []int{3, 2, 1}, "------SSS"}, {0, 0, []int{12}, []int{12, 8, 1}, "------SSS"},
		{0, 1, []int{6}, []int{6, 2, 7}, "------SD-"}, {0, 2, []int{3}, []int{3, 5, 4}, "------D--"}, {0, 2, []int{3}, []int{9, 5, 10}, "------D--"},
		{0, 2, []int{3}, []int{3, 11, 4}, "------D--"}, {1, 0, []int{1}, []int{1, 1, 1}, "SSSSSS---"}, {1, 0, []int{6}, []int{4, 6, 5}, "---SSS---"},
		{1, 0, []int{12}, []int{4, 12, 5}, "---SSS---"}, {1, 1, []int{6}, []int{10, 6, 11}, "---SD----"}, {1, 2, []int{3}, []int{1, 3, 2}, "---D-----"},
		{1, 2, []int{3}, []int{7, 3, 8}, "---D-----"}, {1, 2, []int{3}, []int{1, 9, 2}, "---D-----"}, {2, 0, []int{1}, []int{2, 1, 1}, "SSS------"},
		{2, 0, []int{12}, []int{11, 7, 12}, "SSS------"}, {2, 1, []int{6}, []int{5, 1, 6}, "SD-------"}, {2, 2, []int{3}, []int{2, 4, 3}, "D--------"},
		{2, 2, []int{3}, []int{8, 4, 9}, "D--------"}, {2, 2, []int{3}, []int{2, 10, 3}, "D--------"},
	}}
	L2T1 = Structure{Offset: 0, Protected: []int{0, 1}, Rows: []Row{
		{0, 0, nil, []int{0, 0}, "SS"}, {0, 0, []int{2}, []int{2, 1}, "SR"}, {1, 0, []int{1}, []int{1, 1}, "-S"}, {1, 0, []int{1, 2}, []int{1, 1}, "-R"},
	}}
)
