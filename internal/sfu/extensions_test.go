package sfu

import (
	"bytes"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/rewrite"
)

// withExtension gives a packet with one extension, written by pion.
func withExtension(t testing.TB, id uint8, b []byte, profile uint16) []byte {
	t.Helper()
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, Extension: true, ExtensionProfile: profile}, Payload: []byte{1, 2, 3}}
	require.NoError(t, p.SetExtension(id, b))
	raw, err := p.Marshal()
	require.NoError(t, err)
	return raw
}

// An extension is passed on in the sizes that it has, and in no other.
func TestSizesOfExtensions(t *testing.T) {
	for n, right := range [extCount][]int{extLevel: {1}, extCapture: {8, 16}, extPlayout: {3}, extDependency: {3, 16, 255}, extAllocation: {1, 16, 255}} {
		var kinds extensionKinds
		kinds[5] = uint8(n) + 1
		for _, size := range []int{1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 64, 255} {
			p := packet{}
			require.True(t, p.parse(withExtension(t, 5, bytes.Repeat([]byte{7}, size), rtp.ExtensionProfileTwoByte), &kinds))
			want := extensions[n].least <= size && size <= extensions[n].most && (n != extCapture || size == 8 || size == 16)
			require.Equal(t, want, p.ext[n] != nil, "%s of %d bytes", extensions[n].uri, size)
			require.Equal(t, []byte{1, 2, 3}, p.payload)
		}
		for _, size := range right {
			p := packet{}
			require.True(t, p.parse(withExtension(t, 5, make([]byte, size), rtp.ExtensionProfileTwoByte), &kinds))
			require.Len(t, p.ext[n], size)
		}
	}
}

// What a subscriber did not negotiate stays behind, and what it did comes under its own id; which layers there are is told to nobody.
func TestExtensionsAreNegotiatedByEach(t *testing.T) {
	list := func(first int) (out []webrtc.RTPHeaderExtensionParameter) {
		for n, x := range extensions {
			out = append(out, webrtc.RTPHeaderExtensionParameter{URI: x.uri, ID: first + n})
		}
		return append(out, webrtc.RTPHeaderExtensionParameter{URI: "urn:example:unknown", ID: first + extCount})
	}
	require.Equal(t, extensionIDs{extLevel: 3, extCapture: 4}, idsOf(webrtc.RTPCodecTypeAudio, list(3)))
	ids := idsOf(webrtc.RTPCodecTypeVideo, list(12))
	require.Equal(t, extensionIDs{extCapture: 13, extPlayout: 14, extDependency: 15}, ids)
	kinds := kindsOf(webrtc.RTPCodecTypeVideo, list(1))
	var in rtp.Packet
	in.Version = 2
	for id, size := range map[uint8]int{1: 1, 2: 8, 3: 3, 4: 40, 5: 2, 6: 9} {
		require.NoError(t, in.SetExtensionWithProfile(id, bytes.Repeat([]byte{id}, size), rtp.ExtensionProfileTwoByte))
	}
	raw, err := in.Marshal()
	require.NoError(t, err)
	p := packet{}
	require.True(t, p.parse(raw, &kinds))
	raw = appendExtensions(append(make([]byte, 0, 200), 0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), &ids, &p.ext, 0, 0)
	var seen rtp.Packet
	require.NoError(t, seen.Unmarshal(raw))
	require.ElementsMatch(t, []uint8{13, 14, 15}, seen.GetExtensionIDs())
	require.Equal(t, bytes.Repeat([]byte{2}, 8), seen.GetExtension(13))
	require.Equal(t, bytes.Repeat([]byte{3}, 3), seen.GetExtension(14))
	require.Equal(t, bytes.Repeat([]byte{4}, 40), seen.GetExtension(15))
}

// Whatever is written, in whatever combination, another reader finds all of it, and the payload behind.
func TestWrittenExtensionsAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ids extensionIDs
		var views extensionViews
		free := rapid.Permutation([]uint8{1, 2, 5, 13, 14, 15, 200}).Draw(t, "ids")
		want := map[uint8][]byte{}
		for n := range ids {
			ids[n] = free[n] * uint8(rapid.IntRange(0, 1).Draw(t, "taken"))
			if rapid.Bool().Draw(t, "there") {
				views[n] = rapid.SliceOfN(rapid.Byte(), 1, rapid.SampledFrom([]int{16, 255}).Draw(t, "most")).Draw(t, "bytes")
				if ids[n] != 0 {
					want[ids[n]] = views[n]
				}
			}
		}
		number := free[extCount] * uint8(rapid.IntRange(0, 1).Draw(t, "numbered"))
		if number != 0 {
			want[number] = []byte{0x12, 0x34}
		}
		b := make([]byte, rtpHeader, maxPacket)
		header(b, 0xe0, 7, 8, 9)
		b = append(appendExtensions(b, &ids, &views, number, 0x1234), 42)
		var p rtp.Packet
		require.NoError(t, p.Unmarshal(b))
		require.Equal(t, []byte{42}, p.Payload)
		require.Equal(t, []uint64{1, 96, 7, 8, 9}, []uint64{map[bool]uint64{true: 1}[p.Marker], uint64(p.PayloadType), uint64(p.SequenceNumber), uint64(p.Timestamp), uint64(p.SSRC)})
		require.Len(t, p.GetExtensionIDs(), len(want))
		for id, v := range want {
			require.Equal(t, v, p.GetExtension(id))
		}
	})
}

// Nothing that a packet says of itself makes reading its extensions fail, and what is found is inside it.
func FuzzExtensions(f *testing.F) {
	f.Add(withExtension(f, 3, []byte{1}, rtp.ExtensionProfileOneByte))
	f.Add(withExtension(f, 3, make([]byte, 200), rtp.ExtensionProfileTwoByte))
	var kinds extensionKinds
	for n := range extCount {
		kinds[n+1] = uint8(n) + 1
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := packet{}
		if !p.parse(b, &kinds) {
			return
		}
		for n, v := range p.ext {
			if v != nil && (len(v) < extensions[n].least || len(v) > extensions[n].most) {
				t.Fatalf("%d bytes of %s", len(v), extensions[n].uri)
			}
		}
	})
}

// What a publisher says of its encodings is believed at once: one that is off is off, and sizes are known without a keyframe.
func TestAllocationIsHeeded(t *testing.T) {
	l := ladder(time.Unix(1000, 0))
	for _, x := range *l.layers.Load() {
		x.size.Store(0)
	}
	// Of three streams the third has no layer; the second has two temporal ones. (pion's writer says the same of all streams as of those that are sent.)
	b := []byte{2 << 4, 0x11, 0x00, 1 << 4, 100, 0xc8, 1, 0xac, 2, 0x01, 0x3f, 0x00, 0xb3, 15, 0x02, 0x7f, 0x01, 0x67, 30}
	l.heed(b)
	layers := *l.layers.Load()
	require.Equal(t, []int{320, 640, 0}, []int{layers[0].width(), layers[1].width(), layers[2].width()})
	require.Equal(t, choice{1, 0, 2}, l.choose(layers, limits{spatial: -1, temporal: -1}, time.Unix(1000, 0)))
	l.heed(b[:3])
	l.heed([]byte{0x10})
}

// AV1's descriptors are rewritten without a part of the garbage collector's.
func TestForwardingAV1AllocatesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t, rewrite.AV1, 1)
		s.decoder.clean = true
		s.down.bound.writer = &nowhere{}
		raws := append(s.cameras[0].picture(true), s.cameras[0].picture(false)...)
		p := &packet{up: s.u, layer: s.layers[0]}
		s.down.target(0, 0)
		for range 2 {
			for _, raw := range raws {
				p.parse(raw, &s.u.kinds)
				p.look()
				s.down.pass(p)
			}
		}
		seq := uint16(0)
		if n := testing.AllocsPerRun(20, func() {
			for _, raw := range raws {
				seq++
				p.parse(raw, &s.u.kinds)
				p.look()
				s.down.pass(p)
			}
		}); n != 0 {
			t.Fatalf("%v allocations", n)
		}
	})
}
