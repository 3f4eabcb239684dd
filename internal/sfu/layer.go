package sfu

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/sfu/receive"
	"orama.network/orama/internal/sfu/rewrite"
)

const (
	// maxLayers is how many encodings of a track, and how many spatial layers in one, are told apart.
	maxLayers = 3
	// maxTemporal is how many temporal layers are told apart.
	maxTemporal = 4
	// layerSilent is after what time without a packet a layer counts as switched off, and layerBehind where another layer of the picture went on
	// for that long: an encoder may leave out some frames of one, and a screen on which nothing moves sends nothing of any.
	layerSilent = 1500 * time.Millisecond
	layerBehind = 500 * time.Millisecond
	// fullRate is the frame rate, a second, that a camera is taken to have with all its temporal layers.
	fullRate = 30
)

// layer is one encoding of an up track: the only one, or one of simulcast. Whoever has a packet of it holds taking, for the fields without a note.
type layer struct {
	up    *up
	rid   string
	order int // of the encodings in the publisher's description: small before large
	track *webrtc.TrackRemote
	ssrc  uint32

	lastAt       atomic.Int64                          // Unix ns of the last packet
	size         atomic.Uint64                         // width << 32 | height, in pixels; 0: unknown
	spatial, top atomic.Uint32                         // highest spatial and temporal layer seen
	rates        [maxLayers][maxTemporal]atomic.Uint64 // bit/s over the last whole second

	deps   *rewrite.Dependencies // nil: of this codec they are not read
	h264   rewrite.Beginnings
	newest uint16 // highest sequence number
	any    bool   // newest is valid

	bits  [maxLayers][maxTemporal]uint64
	since time.Time

	waited atomic.Bool // a keyframe was asked for and has not come
	mu     sync.Mutex
	keys   keyframes   // guarded by mu, as all below
	timer  *time.Timer // runs until keys.at
	ended  bool

	reports *reports
	history history

	source   *upStream // where its packets come from
	feed     *feed     // by the short way
	streamOf func(ssrc uint32) *upStream
	repeats  map[uint8]uint8 // by the payload type of retransmissions that of what is repeated
	repaired *upStream       // of retransmissions; nil: pion has them

	taking    sync.Mutex
	red       [2]uint64 // the payload types that are RED, by bit
	gaps      gaps
	reception receive.Reception
	losses    receive.Losses
	resends   bool     // what is lost is asked for
	lost      []uint16 // memory for a list
	asking    bool     // askTimer runs
	askTimer  *time.Timer
}

// reports keeps the last sender report of a remote track.
type reports struct {
	mu   sync.Mutex
	last senderReport // guarded by mu
}

// senderReport is a publisher's statement that its clock stood at ntp (RFC 5905, 32.32) when its media stood at rtp.
type senderReport struct {
	ntp uint64
	rtp uint32
	at  time.Time // when it came; zero: none did
}

// active reports whether the layer, one of several, sends at the moment.
func (l *layer) active(layers []*layer, now time.Time) bool {
	last, newest := l.lastAt.Load(), int64(0)
	for _, other := range layers {
		newest = max(newest, other.lastAt.Load())
	}
	return now.UnixNano()-last < int64(layerSilent) && newest-last < int64(layerBehind)
}

func (l *layer) width() int { return int(l.size.Load() >> 32) }

// count measures a packet, and keeps what it says of the layer.
func (l *layer) count(p *packet) {
	l.lastAt.Store(p.at.UnixNano())
	i := &p.info
	if i.Width > 0 {
		l.size.Store(uint64(i.Width)<<32 | uint64(i.Height))
	}
	s, t := min(i.Spatial, maxLayers-1), min(i.Temporal, maxTemporal-1)
	if spatial, temporal := l.spatial.Load(), l.top.Load(); i.Deps != nil && i.Deps.Known {
		// The structure says which layers there are now, and not only which there were once.
		s, t := i.Deps.Top()
		spatial, temporal = uint32(min(s, maxLayers-1)), uint32(min(t, maxTemporal-1))
		l.spatial.Store(spatial)
		l.top.Store(temporal)
	} else if spatial < uint32(s) || temporal < uint32(t) {
		l.spatial.Store(max(spatial, uint32(s)))
		l.top.Store(max(temporal, uint32(t)))
	}
	l.bits[s][t] += uint64(len(p.payload)+overhead) * 8
	if passed := p.at.Sub(l.since); passed >= time.Second {
		for s := range l.bits {
			for t, bits := range l.bits[s] {
				l.rates[s][t].Store(uint64(float64(bits) / passed.Seconds()))
			}
		}
		l.bits, l.since = [maxLayers][maxTemporal]uint64{}, p.at
	}
}

// place notes whether p comes late: nothing begins with it, as what follows it has gone by.
func (l *layer) place(p *packet) {
	seq := p.hdr.SequenceNumber
	p.info.Seq = seq
	if p.info.Late = l.any && int16(seq-l.newest) <= 0; !p.info.Late {
		l.newest, l.any = seq, true
	}
	if p.up.read == rewrite.H264 && !p.info.Late {
		l.h264.Look(&p.info, p.hdr.Timestamp)
	}
}

// look notices the keyframe that somebody waits for.
func (l *layer) look(p *packet) {
	if !p.info.Key || p.info.Late || !l.waited.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waited.Store(false)
	l.keys.seen()
}

// askKeyframe asks the publisher for a keyframe of this layer, now or as soon as keyframeEvery allows, and again until one comes. Safe
// for any goroutine.
func (l *layer) askKeyframe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.waited.Store(true)
	send, after := l.keys.ask(time.Now())
	if !send {
		l.up.metrics.pliCoalesced.Add(1)
	}
	l.followLocked(send, after)
}

func (l *layer) keyframeDue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.followLocked(l.keys.due(time.Now()))
	}
}

// followLocked does what keys has said.
func (l *layer) followLocked(send bool, after time.Duration) {
	if send {
		l.up.metrics.pliSent.Add(1)
		pli := &rtcp.PictureLossIndication{MediaSSRC: l.ssrc}
		l.up.sendRTCP([]rtcp.Packet{pli})
	}
	if after > 0 {
		if l.timer != nil {
			l.timer.Stop()
		}
		l.timer = time.AfterFunc(after, l.keyframeDue)
	}
}

func (l *layer) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// take keeps the last report of a source out of one RTCP packet.
func (r *reports) take(ssrc uint32, b []byte, now time.Time) {
	packets, err := rtcp.Unmarshal(b)
	if err != nil {
		return
	}
	for _, p := range packets {
		if sr, ok := p.(*rtcp.SenderReport); ok && sr.SSRC == ssrc {
			r.mu.Lock()
			r.last = senderReport{ntp: sr.NTPTime, rtp: sr.RTPTime, at: now}
			r.mu.Unlock()
		}
	}
}

func (r *reports) get() senderReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// align gives where, on the RTP clock of a, the moment is that b calls ts. Both are reports of one publisher.
func align(a, b senderReport, ts, clock uint32) uint32 {
	return a.rtp + uint32(ticks(int64(b.ntp-a.ntp), clock)) + ts - b.rtp
}

// ticks turns a span of 32.32 seconds into ticks of clock.
func ticks(span int64, clock uint32) int64 {
	return (span>>32)*int64(clock) + (span&0xffffffff)*int64(clock)>>32
}

// add makes another encoding of u, which comes from s; nil when there are enough, or u has ended.
func (u *up) add(t *webrtc.TrackRemote, order int, reports *reports, s *upStream) *layer {
	u.mu.Lock()
	defer u.mu.Unlock()
	have := *u.layers.Load()
	if u.ended || len(have) >= maxLayers {
		return nil
	}
	l := &layer{
		up: u, rid: t.RID(), track: t, ssrc: uint32(t.SSRC()), order: order, reports: reports, deps: dependenciesOf(u.read),
		source: s, feed: newFeed(time.Now()), reception: receive.Reception{Clock: u.codec.ClockRate}, resends: u.kind == webrtc.RTPCodecTypeVideo,
	}
	next := append(slices.Clone(have), l)
	slices.SortStableFunc(next, func(a, b *layer) int { return cmp.Compare(a.order, b.order) })
	u.layers.Store(&next)
	return l
}

// dependenciesOf gives what reads the dependency descriptors of a codec; nil where nothing is known of its frames.
func dependenciesOf(c rewrite.Codec) *rewrite.Dependencies {
	if c == rewrite.Opaque {
		return nil
	}
	return &rewrite.Dependencies{}
}

// remove takes an encoding off, and reports whether it was the last.
func (u *up) remove(l *layer) bool {
	l.end()
	u.mu.Lock()
	defer u.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(*u.layers.Load()), func(x *layer) bool { return x == l })
	u.layers.Store(&next)
	return len(next) == 0
}

// choice is what a subscriber is to be sent of a track: an encoding by its place in up.layers, and the layers inside it.
type choice struct {
	encoding          int
	spatial, temporal uint8
}

// limits are the most that is to be sent; zero values do not limit.
type limits struct {
	width, fps        int
	spatial, temporal int // the highest layers; negative: any
}

// choose finds the most of u within lim that is sent at the moment, and at least the least.
func (u *up) choose(layers []*layer, lim limits, now time.Time) choice {
	c := choice{encoding: -1}
	for n, l := range layers {
		if len(layers) > 1 && !l.active(layers, now) {
			continue
		}
		if c.encoding >= 0 && (lim.spatial >= 0 && n > lim.spatial || lim.width > 0 && l.widthOr(1280>>(len(layers)-1-n)) > lim.width) {
			break
		}
		c.encoding = n
	}
	if c.encoding < 0 {
		return choice{}
	}
	l := layers[c.encoding]
	top := int(l.spatial.Load())
	s := top
	if len(layers) == 1 && lim.spatial >= 0 {
		s = min(s, lim.spatial)
	}
	for s > 0 && lim.width > 0 && l.widthOr(1280)>>(top-s) > lim.width {
		s--
	}
	most := int(l.top.Load())
	t := most
	if lim.temporal >= 0 {
		t = min(t, lim.temporal)
	}
	for t > 0 && lim.fps > 0 && fullRate>>(most-t) > lim.fps {
		t--
	}
	c.spatial, c.temporal = uint8(s), uint8(t)
	return c
}

func (l *layer) widthOr(guess int) int { return cmp.Or(l.width(), guess) }

// codecOf finds how the payloads of u are read.
func codecOf(u *up) rewrite.Codec { return rewrite.CodecOf(u.codec.MimeType) }

// sameCodec reports whether u takes packets of a codec as they are.
func (u *up) sameCodec(c webrtc.RTPCodecParameters) bool {
	return isRED(c) && u.kind == webrtc.RTPCodecTypeAudio || strings.EqualFold(c.MimeType, u.codec.MimeType)
}

// bitrates gives what l sent over the last whole second, in bit/s as a subscriber's access carries it, by spatial and temporal layer, each for
// itself. known is false until there was one. Safe for any goroutine.
func (l *layer) bitrates() (rates [maxLayers][maxTemporal]uint64, known bool) {
	for s := range l.rates {
		for t := range l.rates[s] {
			rates[s][t] = l.rates[s][t].Load()
			known = known || rates[s][t] > 0
		}
	}
	return rates, known
}
