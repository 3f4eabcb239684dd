package rewrite

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// ink writes a descriptor as a string of bits, with nothing of the code that reads it: fields are text, and the number of bits that ns
// takes is counted from the specification's table.
type ink struct{ strings.Builder }

func (w *ink) f(n, v int) { fmt.Fprintf(w, "%0*b", n, v) }

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

// row is a line of the tables in section A.10.2: layers, frame differences, chain differences, and an indication for each target.
type row struct {
	s, t    int
	fdiffs  []int
	chains  []int
	targets string // "SDR-"
}

// drawn is a structure as those tables show it.
type drawn struct {
	offset    int
	rows      []row
	protected []int
	sizes     [][2]int
}

const dtiLetters = "-DSR"

func (d drawn) write(w *ink) {
	w.f(6, d.offset)
	w.f(5, len(d.rows[0].targets)-1)
	for n := range d.rows {
		switch {
		case n+1 == len(d.rows):
			w.f(2, 3)
		case d.rows[n+1].s > d.rows[n].s:
			w.f(2, 2)
		default:
			w.f(2, d.rows[n+1].t-d.rows[n].t)
		}
	}
	for _, r := range d.rows {
		for _, c := range r.targets {
			w.f(2, strings.IndexRune(dtiLetters, c))
		}
	}
	for _, r := range d.rows {
		for _, diff := range r.fdiffs {
			w.f(1, 1)
			w.f(4, diff-1)
		}
		w.f(1, 0)
	}
	chains := len(d.rows[0].chains)
	w.ns(len(d.rows[0].targets)+1, chains)
	if chains > 0 {
		for _, c := range d.protected {
			w.ns(chains, c)
		}
		for _, r := range d.rows {
			for _, c := range r.chains {
				w.f(4, c)
			}
		}
	}
	w.flag(d.sizes != nil)
	for _, s := range d.sizes {
		w.f(16, s[0]-1)
		w.f(16, s[1]-1)
	}
}

// spoken is one packet's descriptor.
type spoken struct {
	start, end bool
	template   int
	frame      uint16
	structure  *drawn
	mask       int // -1: none
	masked     int // its width
	dtis       string
	fdiffs     []int
	chains     []int
}

func (s spoken) write() []byte {
	w := &ink{}
	w.flag(s.start)
	w.flag(s.end)
	w.f(6, s.template)
	w.f(16, int(s.frame))
	if s.structure == nil && s.mask < 0 && s.dtis == "" && s.fdiffs == nil && s.chains == nil {
		return w.bytes()
	}
	w.flag(s.structure != nil)
	w.flag(s.mask >= 0)
	w.flag(s.dtis != "")
	w.flag(s.fdiffs != nil)
	w.flag(s.chains != nil)
	if s.structure != nil {
		s.structure.write(w)
	}
	if s.mask >= 0 {
		w.f(s.masked, s.mask)
	}
	for _, c := range s.dtis {
		w.f(2, strings.IndexRune(dtiLetters, c))
	}
	if s.fdiffs != nil {
		for _, diff := range s.fdiffs {
			size := 1 + (bits.Len(uint(diff-1))-1)/4
			if diff == 1 {
				size = 1
			}
			w.f(2, size)
			w.f(4*size, diff-1)
		}
		w.f(2, 0)
	}
	for _, c := range s.chains {
		w.f(8, c)
	}
	return w.bytes()
}

// The structures of section A.10.2.
var (
	l1t3 = drawn{offset: 0, protected: []int{0, 0, 0}, rows: []row{
		{0, 0, nil, []int{0}, "SSS"}, {0, 0, []int{4}, []int{4}, "SSS"}, {0, 1, []int{2}, []int{2}, "SD-"},
		{0, 2, []int{1}, []int{1}, "D--"}, {0, 2, []int{1}, []int{3}, "D--"},
	}}
	l3t3 = drawn{offset: 5, protected: []int{2, 2, 2, 1, 1, 1, 0, 0, 0}, sizes: [][2]int{{320, 180}, {640, 360}, {1280, 720}}, rows: []row{
		{0, 0, nil, []int{0, 0, 0}, "SSSSSSSSS"}, {0, 0, []int{12}, []int{12, 11, 10}, "RRRRRRSSS"},
		{0, 1, []int{6}, []int{6, 5, 4}, "RR-RR-SD-"}, {0, 2, []int{3}, []int{3, 2, 1}, "R--R--D--"}, {0, 2, []int{3}, []int{9, 8, 7}, "R--R--D--"},
		{1, 0, []int{1}, []int{1, 1, 1}, "SSSSSS---"}, {1, 0, []int{12, 1}, []int{1, 1, 1}, "RRRSSS---"}, {1, 1, []int{6, 1}, []int{7, 6, 5}, "RR-SD----"},
		{1, 2, []int{3, 1}, []int{4, 3, 2}, "R--D-----"}, {1, 2, []int{3, 1}, []int{10, 9, 8}, "R--D-----"},
		{2, 0, []int{1}, []int{2, 1, 1}, "SSS------"}, {2, 0, []int{12, 1}, []int{2, 1, 1}, "SSS------"}, {2, 1, []int{6, 1}, []int{8, 7, 6}, "SD-------"},
		{2, 2, []int{3, 1}, []int{5, 4, 3}, "D--------"}, {2, 2, []int{3, 1}, []int{11, 10, 9}, "D--------"},
	}}
	l3t3Shift = drawn{offset: 40, protected: []int{2, 2, 2, 1, 1, 1, 0, 0, 0}, rows: []row{
		{0, 0, nil, []int{0, 0, 0}, "SSSSSSSSS"}, {0, 0, []int{3}, []int{3, 2, 1}, "------SSS"}, {0, 0, []int{12}, []int{12, 8, 1}, "------SSS"},
		{0, 1, []int{6}, []int{6, 2, 7}, "------SD-"}, {0, 2, []int{3}, []int{3, 5, 4}, "------D--"}, {0, 2, []int{3}, []int{9, 5, 10}, "------D--"},
		{0, 2, []int{3}, []int{3, 11, 4}, "------D--"}, {1, 0, []int{1}, []int{1, 1, 1}, "SSSSSS---"}, {1, 0, []int{6}, []int{4, 6, 5}, "---SSS---"},
		{1, 0, []int{12}, []int{4, 12, 5}, "---SSS---"}, {1, 1, []int{6}, []int{10, 6, 11}, "---SD----"}, {1, 2, []int{3}, []int{1, 3, 2}, "---D-----"},
		{1, 2, []int{3}, []int{7, 3, 8}, "---D-----"}, {1, 2, []int{3}, []int{1, 9, 2}, "---D-----"}, {2, 0, []int{1}, []int{2, 1, 1}, "SSS------"},
		{2, 0, []int{12}, []int{11, 7, 12}, "SSS------"}, {2, 1, []int{6}, []int{5, 1, 6}, "SD-------"}, {2, 2, []int{3}, []int{2, 4, 3}, "D--------"},
		{2, 2, []int{3}, []int{8, 4, 9}, "D--------"}, {2, 2, []int{3}, []int{2, 10, 3}, "D--------"},
	}}
	// l2t1 is what the scenario of A.10.1.2 needs.
	l2t1 = drawn{offset: 0, protected: []int{0, 1}, rows: []row{
		{0, 0, nil, []int{0, 0}, "SS"}, {0, 0, []int{2}, []int{2, 1}, "SR"}, {1, 0, []int{1}, []int{1, 1}, "-S"}, {1, 0, []int{1, 2}, []int{1, 1}, "-R"},
	}}
)

// says gives a descriptor in the tables' words.
func says(d *Descriptor) row {
	r := row{s: int(d.def.spatial), t: int(d.def.temporal)}
	for n := range d.def.refCount {
		r.fdiffs = append(r.fdiffs, int(d.def.refs[n]))
	}
	for c := range d.of.chains {
		r.chains = append(r.chains, int(d.def.chains[c]))
	}
	for t := range d.of.targets {
		r.targets += dtiLetters[d.def.dti(t) : d.def.dti(t)+1]
	}
	return r
}

// Every template of the specification's examples is read as its table shows it.
func TestStructuresOfTheSpecification(t *testing.T) {
	for name, s := range map[string]drawn{"L1T3": l1t3, "L3T3": l3t3, "L3T3_KEY_SHIFT": l3t3Shift, "L2T1": l2t1} {
		var deps Dependencies
		var d Descriptor
		key := spoken{start: true, end: true, template: s.offset, frame: 100, structure: &s, mask: -1}.write()
		require.True(t, deps.Read(key, &d), name)
		require.True(t, d.Start && d.End && d.Key && d.Known, name)
		for n, want := range s.rows {
			b := spoken{start: true, template: (s.offset + n) % 64, frame: uint16(101 + n), mask: -1}.write()
			require.Len(t, b, 3, "what is usual takes three bytes")
			require.True(t, deps.Read(b, &d), "%s %d", name, n)
			require.True(t, d.Known && !d.Key && d.Start && !d.End)
			require.Equal(t, want, says(&d), "%s, template %d", name, n)
		}
		for n, want := range s.protected {
			require.EqualValues(t, want, d.of.target[n].chain, "%s, target %d", name, n)
		}
	}
}

func TestTargetsOfTheSpecification(t *testing.T) {
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(spoken{start: true, template: 5, frame: 1, structure: &l3t3, mask: -1}.write(), &d))
	w, h := d.Size()
	require.Equal(t, []uint16{1280, 720}, []uint16{w, h})
	for n, want := range [][2]uint8{{2, 2}, {2, 1}, {2, 0}, {1, 2}, {1, 1}, {1, 0}, {0, 2}, {0, 1}, {0, 0}} {
		require.EqualValues(t, n, d.Target(want[0], want[1]))
		require.Equal(t, want, [2]uint8{d.of.target[n].spatial, d.of.target[n].temporal})
	}
	require.EqualValues(t, 0, d.Target(3, 7))
	for n, within := range []uint32{0b111111111, 0b110110110, 0b100100100, 0b111111000, 0b110110000, 0b100100000, 0b111000000, 0b110000000, 0b100000000} {
		require.Equal(t, within, d.of.target[n].within, "target %d", n)
	}
	// Only VGA and below is made: nothing better can be chosen.
	require.True(t, deps.Read(spoken{start: true, template: 6, frame: 13, mask: 0b111111000, masked: 9}.write(), &d))
	require.EqualValues(t, 3, d.Target(2, 2))
	require.True(t, deps.Read(spoken{start: true, template: 6, frame: 25, mask: -1}.write(), &d))
	require.EqualValues(t, 3, d.Target(2, 2), "it holds until there is other word")
	sp, te := d.Top()
	require.Equal(t, []uint8{1, 2}, []uint8{sp, te})
	require.True(t, deps.Read(spoken{start: true, template: 5, frame: 37, structure: &l3t3, mask: -1}.write(), &d))
	require.EqualValues(t, 0, d.Target(2, 2), "a structure makes all of them active")
	// K-SVC: between keyframes HD needs nothing of VGA, so VGA cannot be decoded from it.
	require.True(t, deps.Read(spoken{start: true, template: 40, frame: 40, structure: &l3t3Shift, mask: -1}.write(), &d))
	require.EqualValues(t, 0b111, d.of.target[0].within)
	require.EqualValues(t, 0b111000, d.of.target[3].within)
}

// The dynamic structure of A.10.1.3: what a packet says itself stands above its template.
func TestCustomDescriptions(t *testing.T) {
	s := drawn{protected: []int{0, 1}, rows: []row{
		{0, 0, nil, []int{0, 0}, "SS"}, {0, 0, []int{2}, []int{2, 1}, "SR"}, {1, 0, []int{1}, []int{1, 1}, "-R"}, {1, 0, []int{1, 2}, []int{1, 1}, "-R"},
	}}
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(spoken{start: true, frame: 1, structure: &s, mask: -1}.write(), &d))
	for _, c := range []struct {
		say  spoken
		want row
	}{
		{spoken{template: 2, frame: 105, mask: -1, chains: []int{2, 1}}, row{1, 0, []int{1}, []int{2, 1}, "-R"}},
		{spoken{template: 2, frame: 107, mask: -1, chains: []int{4, 1}}, row{1, 0, []int{1}, []int{4, 1}, "-R"}},
		{spoken{template: 1, frame: 108, mask: -1, fdiffs: []int{5}, chains: []int{5, 1}}, row{0, 0, []int{5}, []int{5, 1}, "SR"}},
		{spoken{template: 1, frame: 109, mask: 1, masked: 2, dtis: "D-", fdiffs: []int{1, 16, 17, 256, 257, 4096}}, row{0, 0, []int{1, 16, 17, 256, 257, 4096}, []int{2, 1}, "D-"}},
		{spoken{template: 1, frame: 110, mask: -1, fdiffs: []int{}}, row{0, 0, nil, []int{2, 1}, "SR"}},
	} {
		require.True(t, deps.Read(c.say.write(), &d))
		require.Equal(t, c.want, says(&d), "frame %d", c.say.frame)
		require.Equal(t, c.say.frame, d.Frame)
	}
	require.False(t, d.MayDrop(0) || d.MayDrop(1))
	require.True(t, deps.Read(spoken{template: 2, frame: 111, mask: -1}.write(), &d))
	require.True(t, d.MayDrop(0), "it is not of it")
	require.False(t, d.MayDrop(1))
}

// What may be dropped, by the figure of A.10.1.1: indications and chains of L3T3.
func TestWhatMayBeDropped(t *testing.T) {
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(spoken{start: true, frame: 1, structure: &l1t3, mask: -1}.write(), &d))
	for template, want := range []string{"nnn", "nnn", "yyy", "yyy", "yyy"} {
		require.True(t, deps.Read(spoken{template: template, frame: uint16(2 + template), mask: -1}.write(), &d))
		for target := range uint8(3) {
			// The middle layer is needed by the top one, but is in no chain.
			require.Equal(t, want[target] == 'y', d.MayDrop(target), "template %d, target %d", template, target)
		}
	}
}

// Bytes that were written down by hand from the syntax, and not by any code here.
func TestDescriptorBytes(t *testing.T) {
	// start, no end, template 0, frame 0x0102; structure only; offset 0, one target; one template; S; no fdiff; no chains; no sizes:
	// 10000000 00000001 00000010 | 10000 000000 00000 11 10 0 0 0 -> 10000000 00000000 11100000
	key, err := hex.DecodeString("8001028000" + "e0")
	require.NoError(t, err)
	one := drawn{rows: []row{{0, 0, nil, nil, "S"}}}
	require.Equal(t, key, spoken{start: true, frame: 0x0102, structure: &one, mask: -1}.write(), "the test's own encoder")
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(key, &d))
	require.True(t, d.Key)
	require.Equal(t, row{0, 0, nil, nil, "S"}, says(&d))
	out := make([]byte, MaxDescriptor)
	// The same as frame 3 with a mask of one bit: the flag is set, and the bit is behind the structure, which had one left over.
	require.Equal(t, "80000"+"3c000"+"e1", hex.EncodeToString(out[:d.Rewrite(key, out, 3, 1)]))
	require.Equal(t, "80000"+"38000"+"e0", hex.EncodeToString(out[:d.Rewrite(key, out, 3, 0)]))
	// Three bytes become four: 01000 1 00.
	short := []byte{0x80, 1, 3}
	require.True(t, deps.Read(short, &d))
	require.Equal(t, "80000444", hex.EncodeToString(out[:d.Rewrite(short, out, 4, 1)]))
	require.Zero(t, d.Rewrite(short, out[:3], 4, 1), "there is no room")
}

// What is rewritten reads as it did, but for the frame number and the mask.
func TestRewrittenDescriptorsReadTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]drawn{l1t3, l3t3, l3t3Shift, l2t1}).Draw(t, "structure")
		targets := len(s.protected)
		say := spoken{start: rapid.Bool().Draw(t, "start"), end: rapid.Bool().Draw(t, "end"), frame: rapid.Uint16().Draw(t, "frame"), mask: -1,
			template: (s.offset + rapid.IntRange(0, len(s.rows)-1).Draw(t, "template")) % 64, masked: targets}
		if rapid.Bool().Draw(t, "structured") {
			say.structure = &s
		}
		if rapid.Bool().Draw(t, "masked") {
			say.mask = rapid.IntRange(0, 1<<targets-1).Draw(t, "mask")
		}
		if rapid.Bool().Draw(t, "custom dtis") {
			say.dtis = rapid.StringOfN(rapid.SampledFrom([]rune(dtiLetters)), targets, targets, -1).Draw(t, "dtis")
		}
		if rapid.Bool().Draw(t, "custom fdiffs") {
			say.fdiffs = rapid.SliceOfN(rapid.IntRange(1, 4096), 0, maxRefs).Draw(t, "fdiffs")
		}
		if rapid.Bool().Draw(t, "custom chains") {
			say.chains = rapid.SliceOfN(rapid.IntRange(0, 255), len(s.rows[0].chains), len(s.rows[0].chains)).Draw(t, "chains")
		}
		var before, after Dependencies
		var d, e Descriptor
		key := spoken{start: true, template: s.offset, frame: say.frame - 1, structure: &s, mask: -1}.write()
		require.True(t, before.Read(key, &d))
		require.True(t, after.Read(key, &e))
		b := say.write()
		require.True(t, before.Read(b, &d))
		frame, mask := rapid.Uint16().Draw(t, "new frame"), rapid.Uint32Range(0, 1<<targets-1).Draw(t, "new mask")
		out := make([]byte, MaxDescriptor)
		n := d.Rewrite(b, out, frame, mask)
		require.Positive(t, n)
		require.LessOrEqual(t, n, len(b)+2+targets/8)
		if mask != 0 {
			again := say
			again.frame, again.mask = frame, int(mask)
			require.Equal(t, hex.EncodeToString(again.write()), hex.EncodeToString(out[:n]), "as one who says it would write it")
		}
		out[1], out[2] = b[1], b[2]
		require.True(t, after.Read(out[:n], &e))
		require.Equal(t, says(&d), says(&e))
		require.Equal(t, []bool{d.Start, d.End, d.Key}, []bool{e.Start, e.End, e.Key})
		if mask != 0 {
			require.Equal(t, mask, e.active)
		}
	})
}

// Stragglers are read with the structure that they were written with, and a late structure changes nothing.
func TestStructuresInAnyOrder(t *testing.T) {
	var deps Dependencies
	var d Descriptor
	unknown := spoken{start: true, template: 7, frame: 9, mask: -1}.write()
	require.True(t, deps.Read(unknown, &d))
	require.False(t, d.Known)
	require.Equal(t, uint16(9), d.Frame)
	out := make([]byte, MaxDescriptor)
	require.Equal(t, []byte{0x87, 0, 1}, out[:d.Rewrite(unknown, out, 1, 1)], "the frame's number at least")
	first := spoken{start: true, template: 0, frame: 10, structure: &l1t3, mask: -1}.write()
	second := spoken{start: true, template: 5, frame: 20, structure: &l3t3, mask: -1}.write()
	require.True(t, deps.Read(first, &d))
	generation := d.of.generation
	require.True(t, deps.Read(second, &d))
	require.Greater(t, d.of.generation, generation)
	require.True(t, deps.Read(spoken{template: 3, frame: 12, mask: -1}.write(), &d))
	require.Equal(t, l1t3.rows[3], says(&d), "late")
	require.True(t, deps.Read(first, &d))
	require.Equal(t, generation, d.of.generation, "again")
	require.True(t, deps.Read(spoken{template: 6, frame: 21, mask: -1}.write(), &d))
	require.Equal(t, l3t3.rows[1], says(&d))
	require.False(t, deps.Read(spoken{template: 60, frame: 22, mask: -1}.write(), &d) && d.Known, "no such template")
	// Half a revolution of frame numbers without a keyframe, and the next one is still the next one.
	for n := range 40000 {
		require.True(t, deps.Read(spoken{template: 6, frame: uint16(23 + n), mask: -1}.write(), &d))
	}
	require.True(t, deps.Read(spoken{start: true, template: 0, frame: uint16(23 + 40000), structure: &l1t3, mask: -1}.write(), &d))
	require.True(t, deps.Read(spoken{template: 3, frame: uint16(24 + 40000), mask: -1}.write(), &d))
	require.Equal(t, l1t3.rows[3], says(&d))
	// An encoder that is made anew may number as it likes.
	seq := d.Seq
	require.True(t, deps.Read(spoken{start: true, template: 5, frame: uint16(24 + 40000 - 20000), structure: &l3t3, mask: -1}.write(), &d))
	require.Equal(t, seq+1, d.Seq)
	require.True(t, d.Key)
	require.True(t, deps.Read(spoken{template: 6, frame: uint16(25 + 20000), mask: -1}.write(), &d))
	require.True(t, d.Known)
}

func TestDescriptorsThatAreRefused(t *testing.T) {
	good := spoken{start: true, template: 5, frame: 1, structure: &l3t3, mask: 3, masked: 9, chains: []int{1, 2, 3}}.write()
	var d Descriptor
	for n := range good {
		var deps Dependencies
		require.False(t, n != 3 && deps.Read(good[:n], &d), "cut at %d", n)
	}
	manyRefs := make([]int, maxRefs+1)
	for n := range manyRefs {
		manyRefs[n] = 1
	}
	deep := drawn{rows: []row{{0, 0, nil, nil, "S"}, {1, 0, nil, nil, "S"}, {2, 0, nil, nil, "S"}, {3, 0, nil, nil, "S"}, {4, 0, nil, nil, "S"}}}
	tall := drawn{}
	for n := range maxTemporal + 1 {
		tall.rows = append(tall.rows, row{0, n, nil, nil, "S"})
	}
	wide := drawn{}
	for range maxTemplates + 1 {
		wide.rows = append(wide.rows, row{0, 0, nil, nil, "S"})
	}
	refs := drawn{rows: []row{{0, 0, manyRefs, nil, "S"}}}
	for name, s := range map[string]drawn{"spatial": deep, "temporal": tall, "templates": wide, "references": refs} {
		var deps Dependencies
		require.False(t, deps.Read(spoken{start: true, structure: &s, mask: -1}.write(), &d), name)
	}
	var deps Dependencies
	require.False(t, deps.Read(make([]byte, MaxDescriptor+1), &d))
	require.False(t, deps.Read(spoken{start: true, template: 1, structure: &drawn{rows: []row{{0, 0, nil, nil, "S"}}}, mask: -1}.write(), &d), "its own template is missing")
	require.True(t, deps.Read(good, &d))
	require.False(t, deps.Read(spoken{template: 6, frame: 2, mask: -1, fdiffs: manyRefs}.write(), &d))
}

// Whatever comes, reading ends, and what was read can be written.
func FuzzDependencies(f *testing.F) {
	for _, s := range []*drawn{&l1t3, &l3t3, &l3t3Shift, &l2t1} {
		key := spoken{start: true, template: s.offset, frame: 1, structure: s, mask: -1}.write()
		f.Add(key, spoken{template: s.offset + 1, frame: 2, mask: 1, masked: len(s.protected)}.write(), uint32(1))
		f.Add(key, spoken{template: s.offset + 1, frame: 2, mask: -1, fdiffs: []int{300}, chains: s.rows[0].chains}.write(), uint32(2))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, mask uint32) {
		var deps Dependencies
		var d Descriptor
		var filter Filter
		filter.Want(1, 1)
		out := make([]byte, MaxDescriptor)
		for _, x := range [][]byte{a, b, a, b} {
			if !deps.Read(x, &d) {
				continue
			}
			i := Info{}
			i.Describe(AV1, &d)
			filter.Pass(&i, false)
			if n := d.Rewrite(x, out, 7, mask); n > 0 && d.Known {
				var again Descriptor
				copied := deps
				out[1], out[2] = x[1], x[2]
				if !copied.Read(out[:n], &again) {
					t.Fatalf("%x became %x, which cannot be read", x, out[:n])
				}
			}
		}
	})
}
