package sfu

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/sfu/rewrite"
)

// ladder gives a track with encodings of 320, 640 and 1280 pixels.
func ladder(now time.Time) *up {
	u := &up{kind: webrtc.RTPCodecTypeVideo, codec: vp8, read: rewrite.VP8, metrics: newMetrics()}
	u.subs.Store(&[]*down{})
	var layers []*layer
	for n := range 3 {
		l := &layer{up: u, order: n, reports: &reports{}}
		l.lastAt.Store(now.UnixNano())
		l.size.Store(320 << n << 32)
		l.top.Store(2)
		layers = append(layers, l)
	}
	u.layers.Store(&layers)
	return u
}

// Of several encodings the smallest alone is offered with fewer frames: a smaller picture that moves is better than a larger one that does not.
func TestOnlyTheSmallestIsOfferedWithFewerFrames(t *testing.T) {
	now := time.Unix(1000, 0)
	u := ladder(now)
	for n, l := range *u.layers.Load() {
		for k := range 3 {
			l.rates[0][k].Store(uint64(100_000 * (n + 1)))
		}
	}
	var got [][2]int
	for _, x := range u.offers(limits{spatial: -1, temporal: -1}, now) {
		got = append(got, [2]int{x.Spatial, x.Temporal})
	}
	require.Equal(t, [][2]int{{0, 0}, {0, 1}, {0, 2}, {1, 2}, {2, 2}}, got)
}

func TestChoose(t *testing.T) {
	now := time.Unix(1000, 0)
	any := limits{spatial: -1, temporal: -1}
	for name, c := range map[string]struct {
		lim  limits
		dead []int
		want choice
	}{
		"everything":               {any, nil, choice{2, 0, 2}},
		"narrow":                   {limits{width: 100, spatial: -1, temporal: -1}, nil, choice{0, 0, 2}},
		"exactly":                  {limits{width: 640, spatial: -1, temporal: -1}, nil, choice{1, 0, 2}},
		"slow":                     {limits{fps: 15, spatial: -1, temporal: -1}, nil, choice{2, 0, 1}},
		"slower than the slowest":  {limits{fps: 1, spatial: -1, temporal: -1}, nil, choice{2, 0, 0}},
		"told":                     {limits{spatial: 1, temporal: 0}, nil, choice{1, 0, 0}},
		"the best is off":          {any, []int{2}, choice{1, 0, 2}},
		"the wanted is off":        {limits{spatial: 0, temporal: -1}, []int{0}, choice{1, 0, 2}},
		"nothing is sent any more": {any, []int{0, 1, 2}, choice{}},
	} {
		u := ladder(now)
		for _, n := range c.dead {
			(*u.layers.Load())[n].lastAt.Store(0)
		}
		require.Equal(t, c.want, u.choose(*u.layers.Load(), c.lim, now), name)
	}
}

// The encodings' clocks differ; the publisher's reports say how.
func TestReportsAlignEncodings(t *testing.T) {
	a := senderReport{ntp: 5 << 32, rtp: 1000, at: time.Unix(1, 0)}
	b := senderReport{ntp: 7<<32 | 1<<31, rtp: 4294967290, at: time.Unix(1, 0)}
	require.Equal(t, uint32(1000+225000+900), align(a, b, b.rtp+900, 90000), "2.5 s and 10 ms later, over the wrap")
	require.Equal(t, uint32(1000+900), align(a, a, 1900, 90000))
}

func TestReportTime(t *testing.T) {
	now := time.Unix(1000, 0)
	u := ladder(now)
	d := newDown(u, newEgress(u.metrics, func() {}))
	d.bound = &binding{writer: &nowhere{}, pt: 96}
	_, _, ok := d.reportTime(now)
	require.False(t, ok)
	l := (*u.layers.Load())[2]
	b, err := (&rtcp.SenderReport{SSRC: 7, NTPTime: 9 << 32, RTPTime: 5000}).Marshal()
	require.NoError(t, err)
	l.reports.take(8, b, now)
	require.Zero(t, l.reports.get(), "another source's")
	l.reports.take(7, b, now)
	p := &packet{up: u, layer: l, payload: []byte{0x10, 0, 0}, at: now, info: rewrite.Info{Key: true, Start: true}}
	p.hdr.Timestamp = 5900
	d.forward(p)
	ntp, rtp, ok := d.reportTime(now.Add(500 * time.Millisecond))
	require.True(t, ok)
	require.Equal(t, uint64(9<<32|1<<31), ntp)
	require.Equal(t, uint32(5000+45000)+d.out.Offset(), rtp)
	require.Equal(t, uint32(5900), d.out.LastTimestamp()-d.out.Offset())
	d.target(0, 0)
	require.Equal(t, limits{spatial: 0, temporal: 0}, d.lim)
}

func TestBitrates(t *testing.T) {
	now := time.Now()
	u := ladder(now)
	l := (*u.layers.Load())[1]
	l.since = now
	for n := range 11 {
		l.count(&packet{payload: make([]byte, 1000), at: now.Add(time.Duration(n) * 100 * time.Millisecond), info: rewrite.Info{Temporal: 1}})
	}
	rates, known := l.bitrates()
	require.True(t, known)
	require.EqualValues(t, (1000+overhead)*88, rates[0][1])
	_, known = (*u.layers.Load())[0].bitrates()
	require.False(t, known)
}

// Packets of the encodings beside the one that is sent ask for nothing: a keyframe is wished for once to switch, and once to go on after a pause.
func TestWhatIsNotSentAsksForNoKeyframe(t *testing.T) {
	now := time.Unix(1000, 0)
	u := ladder(now)
	d := newDown(u, newEgress(u.metrics, func() {}))
	d.bound = &binding{writer: &nowhere{}, pt: 96}
	var seq uint16
	pass := func(key bool) (asked []*layer) {
		seq, now = seq+1, now.Add(33*time.Millisecond)
		for _, l := range *u.layers.Load() {
			l.lastAt.Store(now.UnixNano())
			p := &packet{up: u, layer: l, payload: []byte{0x10, 0, 0}, at: now, info: rewrite.Info{Key: key, Start: true}}
			p.hdr.SequenceNumber = seq
			if ask := d.pass(p); ask != nil {
				asked = append(asked, ask)
			}
		}
		return asked
	}
	layers := *u.layers.Load()
	require.Equal(t, []*layer{layers[2]}, pass(false), "it begins")
	pass(true)
	for range 10 {
		require.Empty(t, pass(false), "it is sent as is wanted")
	}
	d.target(0, -1)
	require.Equal(t, []*layer{layers[0]}, pass(false), "another is wanted")
	require.Empty(t, pass(false), "once")
	require.Empty(t, pass(true))
	require.Empty(t, pass(false))
	d.pause(true)
	pass(false)
	d.pause(false)
	require.Equal(t, []*layer{layers[0]}, pass(false), "it goes on after a pause")
}
