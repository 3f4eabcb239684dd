package rewrite

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/rewrite/rewritetest"
)

// says gives a descriptor in the tables' words.
func says(d *Descriptor) rewritetest.Row {
	r := rewritetest.Row{S: int(d.def.spatial), T: int(d.def.temporal)}
	for n := range d.def.refCount {
		r.Fdiffs = append(r.Fdiffs, int(d.def.refs[n]))
	}
	for c := range d.of.chains {
		r.Chains = append(r.Chains, int(d.def.chains[c]))
	}
	for t := range d.of.targets {
		r.Targets += rewritetest.Letters[d.def.dti(t) : d.def.dti(t)+1]
	}
	return r
}

// Every template of the specification's examples is read as its table shows it.
func TestStructuresOfTheSpecification(t *testing.T) {
	for name, s := range map[string]rewritetest.Structure{"L1T3": rewritetest.L1T3, "L3T3": rewritetest.L3T3, "L3T3_KEY_SHIFT": rewritetest.L3T3Shift, "L2T1": rewritetest.L2T1} {
		var deps Dependencies
		var d Descriptor
		key := rewritetest.Packet{Start: true, End: true, Template: s.Offset, Frame: 100, Structure: &s, Mask: -1}.Write()
		require.True(t, deps.Read(key, &d), name)
		require.True(t, d.Start && d.End && d.Key && d.Known, name)
		for n, want := range s.Rows {
			b := rewritetest.Packet{Start: true, Template: (s.Offset + n) % 64, Frame: uint16(101 + n), Mask: -1}.Write()
			require.Len(t, b, 3, "what is usual takes three bytes")
			require.True(t, deps.Read(b, &d), "%s %d", name, n)
			require.True(t, d.Known && !d.Key && d.Start && !d.End)
			require.Equal(t, want, says(&d), "%s, template %d", name, n)
		}
		for n, want := range s.Protected {
			require.EqualValues(t, want, d.of.target[n].chain, "%s, target %d", name, n)
		}
	}
}

func TestTargetsOfTheSpecification(t *testing.T) {
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 5, Frame: 1, Structure: &rewritetest.L3T3, Mask: -1}.Write(), &d))
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
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 6, Frame: 13, Mask: 0b111111000, Masked: 9}.Write(), &d))
	require.EqualValues(t, 3, d.Target(2, 2))
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 6, Frame: 25, Mask: -1}.Write(), &d))
	require.EqualValues(t, 3, d.Target(2, 2), "it holds until there is other word")
	sp, te := d.Top()
	require.Equal(t, []uint8{1, 2}, []uint8{sp, te})
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 5, Frame: 37, Structure: &rewritetest.L3T3, Mask: -1}.Write(), &d))
	require.EqualValues(t, 0, d.Target(2, 2), "a structure makes all of them active")
	// K-SVC: between keyframes HD needs nothing of VGA, so VGA cannot be decoded from it.
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 40, Frame: 40, Structure: &rewritetest.L3T3Shift, Mask: -1}.Write(), &d))
	require.EqualValues(t, 0b111, d.of.target[0].within)
	require.EqualValues(t, 0b111000, d.of.target[3].within)
}

// The dynamic structure of A.10.1.3: what a packet says itself stands above its template.
func TestCustomDescriptions(t *testing.T) {
	s := rewritetest.Structure{Protected: []int{0, 1}, Rows: []rewritetest.Row{
		rewritetest.R(0, 0, nil, []int{0, 0}, "SS"), rewritetest.R(0, 0, []int{2}, []int{2, 1}, "SR"), rewritetest.R(1, 0, []int{1}, []int{1, 1}, "-R"), rewritetest.R(1, 0, []int{1, 2}, []int{1, 1}, "-R"),
	}}
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Frame: 1, Structure: &s, Mask: -1}.Write(), &d))
	for _, c := range []struct {
		say  rewritetest.Packet
		want rewritetest.Row
	}{
		{rewritetest.Packet{Template: 2, Frame: 105, Mask: -1, Chains: []int{2, 1}}, rewritetest.R(1, 0, []int{1}, []int{2, 1}, "-R")},
		{rewritetest.Packet{Template: 2, Frame: 107, Mask: -1, Chains: []int{4, 1}}, rewritetest.R(1, 0, []int{1}, []int{4, 1}, "-R")},
		{rewritetest.Packet{Template: 1, Frame: 108, Mask: -1, Fdiffs: []int{5}, Chains: []int{5, 1}}, rewritetest.R(0, 0, []int{5}, []int{5, 1}, "SR")},
		{rewritetest.Packet{Template: 1, Frame: 109, Mask: 1, Masked: 2, DTIs: "D-", Fdiffs: []int{1, 16, 17, 256, 257, 4096}}, rewritetest.R(0, 0, []int{1, 16, 17, 256, 257, 4096}, []int{2, 1}, "D-")},
		{rewritetest.Packet{Template: 1, Frame: 110, Mask: -1, Fdiffs: []int{}}, rewritetest.R(0, 0, nil, []int{2, 1}, "SR")},
	} {
		require.True(t, deps.Read(c.say.Write(), &d))
		require.Equal(t, c.want, says(&d), "frame %d", c.say.Frame)
		require.Equal(t, c.say.Frame, d.Frame)
	}
	require.False(t, d.MayDrop(0) || d.MayDrop(1))
	require.True(t, deps.Read(rewritetest.Packet{Template: 2, Frame: 111, Mask: -1}.Write(), &d))
	require.True(t, d.MayDrop(0), "it is not of it")
	require.False(t, d.MayDrop(1))
}

// What may be dropped, by the figure of A.10.1.1: indications and chains of L3T3.
func TestWhatMayBeDropped(t *testing.T) {
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Frame: 1, Structure: &rewritetest.L1T3, Mask: -1}.Write(), &d))
	for template, want := range []string{"nnn", "nnn", "yyy", "yyy", "yyy"} {
		require.True(t, deps.Read(rewritetest.Packet{Template: template, Frame: uint16(2 + template), Mask: -1}.Write(), &d))
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
	one := rewritetest.Structure{Rows: []rewritetest.Row{rewritetest.R(0, 0, nil, nil, "S")}}
	require.Equal(t, key, rewritetest.Packet{Start: true, Frame: 0x0102, Structure: &one, Mask: -1}.Write(), "the test's own encoder")
	var deps Dependencies
	var d Descriptor
	require.True(t, deps.Read(key, &d))
	require.True(t, d.Key)
	require.Equal(t, rewritetest.R(0, 0, nil, nil, "S"), says(&d))
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
		s := rapid.SampledFrom([]rewritetest.Structure{rewritetest.L1T3, rewritetest.L3T3, rewritetest.L3T3Shift, rewritetest.L2T1}).Draw(t, "structure")
		targets := len(s.Protected)
		say := rewritetest.Packet{Start: rapid.Bool().Draw(t, "start"), End: rapid.Bool().Draw(t, "end"), Frame: rapid.Uint16().Draw(t, "frame"), Mask: -1,
			Template: (s.Offset + rapid.IntRange(0, len(s.Rows)-1).Draw(t, "template")) % 64, Masked: targets}
		if rapid.Bool().Draw(t, "structured") {
			say.Structure = &s
		}
		if rapid.Bool().Draw(t, "masked") {
			say.Mask = rapid.IntRange(0, 1<<targets-1).Draw(t, "mask")
		}
		if rapid.Bool().Draw(t, "custom dtis") {
			say.DTIs = rapid.StringOfN(rapid.SampledFrom([]rune(rewritetest.Letters)), targets, targets, -1).Draw(t, "dtis")
		}
		if rapid.Bool().Draw(t, "custom fdiffs") {
			say.Fdiffs = rapid.SliceOfN(rapid.IntRange(1, 4096), 0, maxRefs).Draw(t, "fdiffs")
		}
		if rapid.Bool().Draw(t, "custom chains") {
			say.Chains = rapid.SliceOfN(rapid.IntRange(0, 255), len(s.Rows[0].Chains), len(s.Rows[0].Chains)).Draw(t, "chains")
		}
		var before, after Dependencies
		var d, e Descriptor
		key := rewritetest.Packet{Start: true, Template: s.Offset, Frame: say.Frame - 1, Structure: &s, Mask: -1}.Write()
		require.True(t, before.Read(key, &d))
		require.True(t, after.Read(key, &e))
		b := say.Write()
		require.True(t, before.Read(b, &d))
		frame, mask := rapid.Uint16().Draw(t, "new frame"), rapid.Uint32Range(0, 1<<targets-1).Draw(t, "new mask")
		out := make([]byte, MaxDescriptor)
		n := d.Rewrite(b, out, frame, mask)
		require.Positive(t, n)
		require.LessOrEqual(t, n, len(b)+2+targets/8)
		if mask != 0 {
			again := say
			again.Frame, again.Mask = frame, int(mask)
			require.Equal(t, hex.EncodeToString(again.Write()), hex.EncodeToString(out[:n]), "as one who says it would write it")
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
	unknown := rewritetest.Packet{Start: true, Template: 7, Frame: 9, Mask: -1}.Write()
	require.True(t, deps.Read(unknown, &d))
	require.False(t, d.Known)
	require.Equal(t, uint16(9), d.Frame)
	out := make([]byte, MaxDescriptor)
	require.Equal(t, []byte{0x87, 0, 1}, out[:d.Rewrite(unknown, out, 1, 1)], "the frame's number at least")
	first := rewritetest.Packet{Start: true, Template: 0, Frame: 10, Structure: &rewritetest.L1T3, Mask: -1}.Write()
	second := rewritetest.Packet{Start: true, Template: 5, Frame: 20, Structure: &rewritetest.L3T3, Mask: -1}.Write()
	require.True(t, deps.Read(first, &d))
	generation := d.of.generation
	require.True(t, deps.Read(second, &d))
	require.Greater(t, d.of.generation, generation)
	require.True(t, deps.Read(rewritetest.Packet{Template: 3, Frame: 12, Mask: -1}.Write(), &d))
	require.Equal(t, rewritetest.L1T3.Rows[3], says(&d), "late")
	require.True(t, deps.Read(first, &d))
	require.Equal(t, generation, d.of.generation, "again")
	require.True(t, deps.Read(rewritetest.Packet{Template: 6, Frame: 21, Mask: -1}.Write(), &d))
	require.Equal(t, rewritetest.L3T3.Rows[1], says(&d))
	require.False(t, deps.Read(rewritetest.Packet{Template: 60, Frame: 22, Mask: -1}.Write(), &d) && d.Known, "no such template")
	// Half a revolution of frame numbers without a keyframe, and the next one is still the next one.
	for n := range 40000 {
		require.True(t, deps.Read(rewritetest.Packet{Template: 6, Frame: uint16(23 + n), Mask: -1}.Write(), &d))
	}
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 0, Frame: uint16(23 + 40000), Structure: &rewritetest.L1T3, Mask: -1}.Write(), &d))
	require.True(t, deps.Read(rewritetest.Packet{Template: 3, Frame: uint16(24 + 40000), Mask: -1}.Write(), &d))
	require.Equal(t, rewritetest.L1T3.Rows[3], says(&d))
	// An encoder that is made anew may number as it likes.
	seq := d.Seq
	require.True(t, deps.Read(rewritetest.Packet{Start: true, Template: 5, Frame: uint16(24 + 40000 - 20000), Structure: &rewritetest.L3T3, Mask: -1}.Write(), &d))
	require.Equal(t, seq+1, d.Seq)
	require.True(t, d.Key)
	require.True(t, deps.Read(rewritetest.Packet{Template: 6, Frame: uint16(25 + 20000), Mask: -1}.Write(), &d))
	require.True(t, d.Known)
}

func TestDescriptorsThatAreRefused(t *testing.T) {
	good := rewritetest.Packet{Start: true, Template: 5, Frame: 1, Structure: &rewritetest.L3T3, Mask: 3, Masked: 9, Chains: []int{1, 2, 3}}.Write()
	var d Descriptor
	for n := range good {
		var deps Dependencies
		require.False(t, n != 3 && deps.Read(good[:n], &d), "cut at %d", n)
	}
	manyRefs := make([]int, maxRefs+1)
	for n := range manyRefs {
		manyRefs[n] = 1
	}
	deep := rewritetest.Structure{Rows: []rewritetest.Row{rewritetest.R(0, 0, nil, nil, "S"), rewritetest.R(1, 0, nil, nil, "S"), rewritetest.R(2, 0, nil, nil, "S"), rewritetest.R(3, 0, nil, nil, "S"), rewritetest.R(4, 0, nil, nil, "S")}}
	tall := rewritetest.Structure{}
	for n := range maxTemporal + 1 {
		tall.Rows = append(tall.Rows, rewritetest.R(0, n, nil, nil, "S"))
	}
	wide := rewritetest.Structure{}
	for range maxTemplates + 1 {
		wide.Rows = append(wide.Rows, rewritetest.R(0, 0, nil, nil, "S"))
	}
	refs := rewritetest.Structure{Rows: []rewritetest.Row{rewritetest.R(0, 0, manyRefs, nil, "S")}}
	for name, s := range map[string]rewritetest.Structure{"spatial": deep, "temporal": tall, "templates": wide, "references": refs} {
		var deps Dependencies
		require.False(t, deps.Read(rewritetest.Packet{Start: true, Structure: &s, Mask: -1}.Write(), &d), name)
	}
	var deps Dependencies
	require.False(t, deps.Read(make([]byte, MaxDescriptor+1), &d))
	require.False(t, deps.Read(rewritetest.Packet{Start: true, Template: 1, Structure: &rewritetest.Structure{Rows: []rewritetest.Row{rewritetest.R(0, 0, nil, nil, "S")}}, Mask: -1}.Write(), &d), "its own template is missing")
	require.True(t, deps.Read(good, &d))
	require.False(t, deps.Read(rewritetest.Packet{Template: 6, Frame: 2, Mask: -1, Fdiffs: manyRefs}.Write(), &d))
}

// Whatever comes, reading ends, and what was read can be written.
func FuzzDependencies(f *testing.F) {
	for _, s := range []*rewritetest.Structure{&rewritetest.L1T3, &rewritetest.L3T3, &rewritetest.L3T3Shift, &rewritetest.L2T1} {
		key := rewritetest.Packet{Start: true, Template: s.Offset, Frame: 1, Structure: s, Mask: -1}.Write()
		f.Add(key, rewritetest.Packet{Template: s.Offset + 1, Frame: 2, Mask: 1, Masked: len(s.Protected)}.Write(), uint32(1))
		f.Add(key, rewritetest.Packet{Template: s.Offset + 1, Frame: 2, Mask: -1, Fdiffs: []int{300}, Chains: s.Rows[0].Chains}.Write(), uint32(2))
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
