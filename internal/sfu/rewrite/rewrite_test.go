package rewrite

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// vp8 makes a payload with a 15-bit picture id, TL0PICIDX, layer and KEYIDX.
func vp8(start, key, sync bool, pid uint16, tl0, tid, keyIdx byte) []byte {
	b := []byte{0x80, 0xf0, 0x80 | byte(pid>>8), byte(pid), tl0, tid<<6 | keyIdx&0x1f, 1, 0, 0}
	if start {
		b[0] |= 0x10
	}
	if key {
		b[6] = 0
	}
	if sync {
		b[5] |= 0x20
	}
	return b
}

func TestReadVP8(t *testing.T) {
	i, ok := Read(VP8, vp8(true, true, true, 0x1234, 9, 2, 7))
	require.True(t, ok)
	require.True(t, i.Start && i.Key && i.Sync)
	require.Equal(t, []any{uint16(0x1234), uint8(9), uint8(2), uint8(7)}, []any{i.PID, i.TL0, i.Temporal, i.KeyIdx})
	i, ok = Read(VP8, []byte{0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x42, 0x68, 0x01})
	require.True(t, ok)
	require.Equal(t, []uint16{640, 360}, []uint16{i.Width, i.Height}, "without the scaling bits")
	for _, b := range [][]byte{nil, {0x80}, {0x90, 0x80}, {0x90, 0x80, 0x80}, {0x90, 0x40}, {0x90, 0x20}, {0x10}} {
		_, ok := Read(VP8, b)
		require.False(t, ok, "%x", b)
	}
}

func TestReadVP9(t *testing.T) {
	// I L B E V, picture id 300, T1 U S1, TL0 5, structure of 2 layers with sizes and one picture in the group.
	b := []byte{0xae, 0x81, 0x2c, 1<<5 | 0x10 | 1<<1, 5, 1<<5 | 0x18, 1, 64, 0, 180, 2, 128, 1, 104, 1, 0x04, 1, 0xff}
	i, ok := Read(VP9, b)
	require.True(t, ok)
	require.True(t, i.Start && i.End && i.Up && !i.Key, "the keyframe is the base layer's")
	require.Equal(t, []any{uint16(300), uint8(5), uint8(1), uint8(1)}, []any{i.PID, i.TL0, i.Spatial, i.Temporal})
	require.Equal(t, []uint16{640, 360}, []uint16{i.Width, i.Height})
	for n := range b {
		_, ok := Read(VP9, b[:n])
		require.False(t, ok, "cut at %d", n)
	}
	_, ok = Read(VP9, []byte{0xf0, 1, 0, 1, 1, 1, 1, 0xff})
	require.False(t, ok, "more than three references")
}

func FuzzRead(f *testing.F) {
	f.Add(uint8(1), vp8(true, true, true, 0x1234, 9, 2, 7))
	f.Add(uint8(2), []byte{0xae, 0x81, 0x2c, 0x32, 5, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 1, 0x04, 1, 0xff})
	f.Add(uint8(3), []byte{0x78, 0, 2, 0x68, 1, 0, 2, 0x67, 1})
	f.Fuzz(func(t *testing.T, c uint8, b []byte) {
		i, ok := Read(Codec(c%5), b)
		if !ok {
			return
		}
		var s Stream
		n, _ := s.Next(Codec(c%5), 1, 1, &i)
		head := make([]byte, 8)
		if w := i.Apply(n, b, head); w > len(head) || w > len(b) {
			t.Fatalf("wrote %d of %d bytes", w, len(b))
		}
	})
}

// decoder is a strict receiver of VP8: what it is sent in order must be continuous, and a picture needs those it is predicted from.
type decoder struct {
	t     *rapid.T
	any   bool
	seq   uint16
	ts    uint32
	pid   uint16
	tl0   uint8
	seen  map[uint16]bool
	holes int // packets lost on the way up since the last one: the only gaps allowed
}

func (d *decoder) take(n Numbers, i *Info) {
	if d.seen[n.Seq] {
		d.t.Fatalf("number %d twice", n.Seq)
	}
	d.seen[n.Seq] = true
	if d.any {
		gap := int(n.Seq - d.seq - 1)
		switch {
		case gap > 2*d.holes:
			d.t.Fatalf("a gap of %d after %d losses", gap, d.holes)
		case i.Start && int32(n.TS-d.ts) <= 0:
			d.t.Fatalf("a new picture at %d after %d", n.TS, d.ts)
		case i.Start && d.holes == 0 && (n.PID-d.pid)&0x7fff != 1:
			d.t.Fatalf("picture %d after %d", n.PID, d.pid)
		case i.Start && d.holes == 0 && i.Temporal == 0 && n.TL0 != d.tl0+1, i.Start && d.holes == 0 && i.Temporal > 0 && n.TL0 != d.tl0:
			d.t.Fatalf("TL0PICIDX %d after %d in layer %d", n.TL0, d.tl0, i.Temporal)
		case !i.Start && d.holes == 0 && (n.PID != d.pid || n.TS != d.ts):
			d.t.Fatalf("a picture goes on with other numbers")
		}
	}
	d.any, d.seq, d.ts, d.pid, d.tl0, d.holes = true, n.Seq, n.TS, n.PID, n.TL0, 0
}

// camera is a source of VP8 with two packets a picture and three temporal layers.
type camera struct {
	seq, pid uint16
	ts       uint32
	tl0      uint8
	n        int
}

func (c *camera) picture(key bool) (out [2]Info, seqs [2]uint16) {
	tid := []uint8{0, 2, 1, 2}[c.n%4]
	if key {
		c.n, tid = 0, 0
	}
	c.n, c.pid, c.ts = c.n+1, (c.pid+1)&0x7fff, c.ts+3000
	if tid == 0 {
		c.tl0++
	}
	for k := range out {
		c.seq++
		out[k], _ = Read(VP8, vp8(k == 0, key && k == 0, tid > 0, c.pid, c.tl0, tid, 0))
		seqs[k] = c.seq
	}
	return out, seqs
}

// Whatever is switched, lost and wished: a decoder sees a stream that has only the gaps of what was lost.
func TestADecoderNoticesNoSwitch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := decoder{t: t, seen: map[uint16]bool{}}
		var s Stream
		var f Filter
		var cams [3]camera
		for k := range cams {
			cams[k] = camera{seq: rapid.Uint16().Draw(t, "seq"), pid: rapid.Uint16Range(0, 0x7fff).Draw(t, "pid"),
				ts: rapid.Uint32().Draw(t, "ts"), tl0: rapid.Uint8().Draw(t, "tl0")}
		}
		now := 0
		for range rapid.IntRange(1, 150).Draw(t, "pictures") {
			key := !s.Begun()
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				now, key = rapid.IntRange(0, 2).Draw(t, "layer"), true
				s.Switch(s.LastTimestamp() + uint32(rapid.IntRange(0, 9000).Draw(t, "passed")))
				f.Reset()
			case 1:
				f.Want(0, uint8(rapid.IntRange(0, 2).Draw(t, "temporal")))
			}
			infos, seqs := cams[now].picture(key)
			for k := range infos {
				if !key && rapid.IntRange(0, 15).Draw(t, "lost") == 0 {
					d.holes++
					continue
				}
				if pass, _ := f.Pass(&infos[k], k == 1); !pass {
					s.Leave(VP8, seqs[k], &infos[k])
					continue
				}
				n, ok := s.Next(VP8, seqs[k], cams[now].ts, &infos[k])
				if !ok {
					if d.holes == 0 {
						t.Fatalf("packet %d was dropped", seqs[k])
					}
					continue
				}
				d.take(n, &infos[k])
			}
		}
	})
}

// A packet that comes late gets the number that was kept for it, whatever was left out since; a second copy gets none.
func TestLatePacketsAreMappedAsTheirNeighboursWere(t *testing.T) {
	var s Stream
	next := func(seq uint16) (uint16, bool) { n, ok := s.Next(Opaque, seq, 1, &Info{}); return n.Seq, ok }
	out, ok := next(65530)
	require.True(t, ok)
	require.Equal(t, uint16(32762), out, "SRTP's rollovers are far")
	next(65532) // 65531 is late
	s.Leave(Opaque, 65533, &Info{})
	out, ok = next(65534)
	require.True(t, ok)
	require.Equal(t, uint16(32765), out, "no gap is left")
	out, ok = next(65531)
	require.True(t, ok)
	require.Equal(t, uint16(32763), out)
	_, ok = next(65531)
	require.False(t, ok, "twice")
	_, ok = next(65533)
	require.False(t, ok, "it was left out")
	s.Switch(500)
	out, ok = next(7)
	require.True(t, ok)
	require.Equal(t, uint16(32766), out)
	_, ok = next(6)
	require.False(t, ok, "from before the switch")
}

// The spatial layers of VP9 go up with a keyframe alone, and the marker moves to the highest that is sent.
func TestFilterOfSpatialLayers(t *testing.T) {
	var f Filter
	picture := func(key bool) (sent []bool, marks []bool) {
		for sp := range uint8(3) {
			pass, end := f.Pass(&Info{Start: true, End: true, Key: key && sp == 0, Spatial: sp}, sp == 2)
			sent, marks = append(sent, pass), append(marks, end)
		}
		return sent, marks
	}
	sent, marks := picture(true)
	require.Equal(t, []bool{true, false, false}, sent)
	require.Equal(t, []bool{true, false, false}, marks)
	f.Want(1, 0)
	require.True(t, f.NeedsKey())
	sent, _ = picture(false)
	require.Equal(t, []bool{true, false, false}, sent, "not without a keyframe")
	sent, marks = picture(true)
	require.Equal(t, []bool{true, true, false}, sent)
	require.Equal(t, []bool{false, true, false}, marks)
	f.Want(0, 0)
	sent, _ = picture(false)
	require.Equal(t, []bool{true, false, false}, sent, "down at once")
}

func TestKeyframeStart(t *testing.T) {
	for _, c := range []struct {
		name    string
		codec   Codec
		payload []byte
		want    bool
	}{
		{"VP8 keyframe", VP8, []byte{0x10, 0x00, 0x00, 0x00, 0x9d}, true},
		{"VP8 with a 15-bit picture id, TL0 and TID", VP8, []byte{0x90, 0xe0, 0x80, 1, 2, 3, 0x10}, true},
		{"VP8 with a 7-bit picture id", VP8, []byte{0x90, 0x80, 0x01, 0x10}, true},
		{"VP8 predicted", VP8, []byte{0x10, 0x01}, false},
		{"VP8 later packet", VP8, []byte{0x00, 0x00}, false},
		{"VP8 second partition", VP8, []byte{0x11, 0x00}, false},
		{"VP8 cut", VP8, []byte{0x90, 0xe0}, false},
		{"VP9 keyframe", VP9, []byte{0x88, 1, 0}, true},
		{"VP9 predicted", VP9, []byte{0xca, 1}, false},
		{"VP9 middle", VP9, []byte{0x82, 1}, false},
		{"H264 IDR", H264, []byte{0x65, 0x88}, true},
		{"H264 second slice of an IDR", H264, []byte{0x65, 0x08}, false},
		{"H264 fragment begins a second slice", H264, []byte{0x7c, 0x85, 0x08}, false},
		{"H264 aggregate of parameters and the IDR", H264, []byte{0x78, 0, 2, 0x68, 1, 0, 3, 0x65, 0x88, 1}, true},
		{"H264 aggregate of second slices", H264, []byte{0x78, 0, 2, 0x65, 0x08, 0, 2, 0x65, 0x08}, false},
		{"H264 picture parameters alone", H264, []byte{0x68, 0x88}, false},
		{"H264 SPS", H264, []byte{0x67, 1}, true},
		{"H264 slice", H264, []byte{0x41, 1}, false},
		{"H264 fragment begins an IDR", H264, []byte{0x7c, 0x85, 0x88}, true},
		{"H264 fragment goes on", H264, []byte{0x7c, 0x05, 0x88}, false},
		{"H264 aggregate with SPS second", H264, []byte{0x78, 0, 2, 0x68, 1, 0, 2, 0x67, 1}, true},
		{"H264 aggregate of slices", H264, []byte{0x78, 0, 2, 0x41, 1, 0, 2, 0x41, 1}, false},
		{"H264 aggregate lies", H264, []byte{0x78, 0xff, 0xff, 0x41, 1}, false},
		{"AV1 sequence", AV1, []byte{0x18, 1}, true},
		{"AV1 frame", AV1, []byte{0x10, 1}, false},
		{"nothing", AV1, nil, false},
		{"unknown", Opaque, []byte{0xff, 0xff}, false},
	} {
		i, ok := Read(c.codec, c.payload)
		require.Equal(t, c.want, ok && i.Key, c.name)
	}
}
