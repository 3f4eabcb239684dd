package load

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const ms = time.Millisecond

func TestHistogramIsCloseEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "d")).Truncate(time.Microsecond)
		var h histogram
		h.add(d)
		require.Equal(t, d, h.quantile(0.5), "of one, all are it")
		i := bucketOf(d)
		require.LessOrEqual(t, floorOf(i), d)
		require.Greater(t, floorOf(i+1), d)
		require.LessOrEqual(t, floorOf(i+1)-floorOf(i), max(d/30, time.Microsecond))
	})
	var h, other histogram
	require.Zero(t, h.quantile(0.99))
	for i := range 100 {
		h.add(time.Duration(i+1) * ms)
	}
	other.merge(&h)
	require.InDelta(t, 50, other.quantile(0.5).Milliseconds(), 3)
	require.InDelta(t, 100, other.quantile(0.99).Milliseconds(), 3)
	h.add(time.Hour)
	require.Equal(t, time.Hour, h.largest)
}

func numbered(n uint16) *rtp.Packet { return &rtp.Packet{Header: rtp.Header{SequenceNumber: n}} }

// However packets are shuffled and doubled, each counts once, and what is left out is lost.
func TestLossIsWhatNeverComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint16().Draw(t, "first")
		keep := rapid.SliceOfN(rapid.Bool(), 1, 500).Draw(t, "keep")
		keep[0], keep[len(keep)-1] = true, true
		order := []int{}
		kept := uint64(0)
		for i, k := range keep {
			if k {
				order = append(order, i, i)
				kept++
			}
		}
		rest := order[1:]
		rand.New(rand.NewPCG(1, uint64(len(keep)))).Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		m := &meter{}
		for _, i := range order {
			m.packet(numbered(first+uint16(i)), 0)
		}
		s := m.read(0, nil)
		require.Equal(t, kept, s.received)
		require.EqualValues(t, len(keep), s.expected)
		m.reset()
		s = m.read(0, nil)
		require.Zero(t, s.expected+s.received)
		m.packet(numbered(first), 0) // late, of before
		m.packet(numbered(first+uint16(len(keep))), 0)
		s = m.read(0, nil)
		require.EqualValues(t, 1, s.expected)
		require.EqualValues(t, 1, s.received)
	})
	m := &meter{}
	for _, n := range []uint16{1, 2, 30000, 30001} {
		m.packet(numbered(n), 0)
	}
	require.EqualValues(t, 4, m.read(0, nil).expected, "a new beginning is no gap")
}

func TestFramesAreTimedWhenWhole(t *testing.T) {
	m := &meter{run: 7, video: true, nominal: 50 * ms}
	last := make([]byte, 20)
	putStamp(last[8:], 7, 10*ms)
	start := &rtp.Packet{Header: rtp.Header{SequenceNumber: 1, Timestamp: 9}, Payload: []byte{0x90, 0x80, 1, 0}}
	middle := &rtp.Packet{Header: rtp.Header{SequenceNumber: 2, Timestamp: 9}, Payload: []byte{0x80, 0x80, 1, 0}}
	end := &rtp.Packet{Header: rtp.Header{SequenceNumber: 3, Timestamp: 9, Marker: true}, Payload: last}
	m.packet(start, 12*ms)
	m.packet(end, 13*ms)
	require.Zero(t, m.latency.count)
	m.packet(middle, 30*ms)
	m.packet(middle, 40*ms)
	require.EqualValues(t, 1, m.latency.count)
	require.Equal(t, 20*ms, m.latency.largest)
	_, ok := readStamp(last, 8)
	require.False(t, ok, "another run's")
	_, ok = readStamp(last[:3], 7)
	require.False(t, ok)
}

func TestFreezes(t *testing.T) {
	for name, c := range map[string]struct {
		gaps   []time.Duration
		count  int
		lasted time.Duration
	}{
		"none":               {[]time.Duration{50 * ms, 60 * ms, 150 * ms}, 0, 0},
		"one":                {[]time.Duration{50 * ms, 200 * ms, 50 * ms}, 1, 200 * ms},
		"slow video is none": {[]time.Duration{180 * ms, 180 * ms, 180 * ms}, 0, 0},
	} {
		f := freezes{}
		at := time.Second
		f.frame(at, 50*ms)
		for _, g := range c.gaps {
			at += g
			f.frame(at, 50*ms)
		}
		count, lasted := f.asOf(at, 50*ms)
		require.Equal(t, c.count, count, name)
		require.Equal(t, c.lasted, lasted, name)
		count, lasted = f.asOf(at+time.Second, 50*ms)
		require.Equal(t, c.count+1, count, "one that goes on counts: %s", name)
		require.Equal(t, c.lasted+time.Second, lasted, name)
	}
}

func TestHeadroom(t *testing.T) {
	for name, c := range map[string]struct {
		before, during usage
		subscribers    int
		more, apart    int
	}{
		"half used":         {usage{}, usage{machine: 0.8, servers: 0.4}, 10, 10, 40},
		"others work too":   {usage{machine: 0.4}, usage{machine: 0.8, servers: 0.2}, 10, 20, 60},
		"full":              {usage{}, usage{machine: 1.9, servers: 1}, 10, 0, 16},
		"no room for any":   {usage{machine: 1.7}, usage{machine: 2, servers: 1}, 10, -1, -1},
		"nobody":            {usage{}, usage{machine: 1, servers: 1}, 0, -1, -1},
		"too little to say": {usage{machine: 0.5}, usage{machine: 0.51}, 10, -1, -1},
	} {
		more, apart := room(2, c.before, c.during, c.subscribers)
		require.InDelta(t, c.more, more, 1, name)
		require.InDelta(t, c.apart, apart, 1, name)
	}
}

func TestWhatTheKernelTells(t *testing.T) {
	require.Equal(t, 230*ms, parseStat([]byte("cpu  10 2 3 100 50 1 3 4 9 9\ncpu0 1 1 1 1\n")))
	require.Zero(t, parseStat(nil))
	require.Equal(t, 300*ms, parseProcess([]byte("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 20 10 0 0")))
	require.Zero(t, parseProcess([]byte("7 (x) S 1")))
	require.True(t, isServer([]byte("/usr/bin/orama\x00sfu\x00run\x00--x\x00")))
	require.False(t, isServer([]byte("/usr/bin/orama\x00load\x00--x\x00y\x00")))
	require.False(t, isServer(nil))
	require.True(t, here([]string{"http://127.0.3.4:80", "http://localhost:8080", "http://[::1]"}))
	require.False(t, here([]string{"http://localhost", "https://192.0.2.1"}))
}

func TestFramesHaveRoomForStamps(t *testing.T) {
	for _, s := range toneFrames() {
		require.EqualValues(t, 3, s.Data[0]&3)
		require.EqualValues(t, stampSize, s.Data[2])
		require.Len(t, s.Data, 60+2+stampSize)
	}
	total := 0
	for _, s := range clipFrames(1_000_000) {
		total += len(s.Data)
	}
	require.InEpsilon(t, 250_000, total, 0.05, "two seconds")
}
