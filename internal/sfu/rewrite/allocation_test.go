package rewrite

import (
	"testing"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

// What pion writes is read.
func TestReadAllocation(t *testing.T) {
	want := rtp.VLA{RTPStreamCount: 2, HasResolutionAndFramerate: true, ActiveSpatialLayer: []rtp.SpatialLayer{
		{RTPStreamID: 0, SpatialID: 0, TargetBitrates: []int{50, 100, 130}, Width: 320, Height: 180, Framerate: 15},
		{RTPStreamID: 1, SpatialID: 0, TargetBitrates: []int{300}, Width: 640, Height: 360, Framerate: 30},
		{RTPStreamID: 1, SpatialID: 1, TargetBitrates: []int{1 << 20, 1<<21 + 5}, Width: 1280, Height: 720, Framerate: 30},
	}}
	b, err := want.Marshal()
	require.NoError(t, err)
	b = b[:len(b)-1] // of two streams pion counts a byte too many
	a, ok := ReadAllocation(b)
	require.True(t, ok)
	require.Equal(t, 2, a.Streams)
	require.Equal(t, AllocatedLayer{Active: true, Temporal: 3, Kbps: [4]uint32{50, 100, 130}, Width: 320, Height: 180, FPS: 15}, a.Layers[0][0])
	top, sent := a.Top(1)
	require.True(t, sent)
	require.Equal(t, AllocatedLayer{Active: true, Temporal: 2, Kbps: [4]uint32{1 << 20, 1<<21 + 5}, Width: 1280, Height: 720, FPS: 30}, top)
	_, sent = a.Top(2)
	require.False(t, sent)
	sizes := 3 * 5
	for n := range b {
		_, ok := ReadAllocation(b[:n])
		require.Equal(t, n == len(b)-sizes, ok, "cut at %d", n)
	}
	a, ok = ReadAllocation([]byte{0})
	require.True(t, ok)
	require.Equal(t, Allocation{Streams: 1}, a)
}

func FuzzAllocation(f *testing.F) {
	f.Add([]byte{2 << 4, 0x11, 0x00, 1 << 4, 100, 0xc8, 1, 0xac, 2, 0x01, 0x3f, 0x00, 0xb3, 15, 0x02, 0x7f, 0x01, 0x67, 30})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := ReadAllocation(b); ok && (a.Streams < 1 || a.Streams > maxSpatial) {
			t.Fatalf("%d streams", a.Streams)
		}
	})
}

// A switch begins with the first packet of a keyframe's access unit: the parameters, if there are any.
func TestBeginnings(t *testing.T) {
	sps, pps, idr, slice, both := []byte{0x67, 0x42}, []byte{0x68, 0xce}, []byte{0x65, 0x88}, []byte{0x65, 0x08}, []byte{0x78, 0, 2, 0x67, 1, 0, 3, 0x65, 0x88, 1}
	var s Beginnings
	for n, c := range []struct {
		ts   uint32
		b    []byte
		want bool
	}{
		{1, sps, true}, {1, pps, false}, {1, idr, false}, {1, slice, false}, {2, []byte{0x41, 0x9a}, false},
		{3, sps, true}, {3, sps, false}, {3, idr, false}, // two sets
		{4, both, true}, {4, slice, false},
		{5, idr, false}, {5, slice, false}, // its parameters are lost
		{6, sps, true}, {6, idr, false},
		{7, idr, false}, {8, idr, true}, {8, slice, false}, {9, idr, true}, // told elsewhere
	} {
		i, ok := Read(H264, c.b)
		require.True(t, ok)
		s.Look(&i, c.ts)
		require.Equal(t, c.want, i.Key, "packet %d", n)
	}
}
