package sfu

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/sfu/rewrite"
)

// slotState is where a down track stands in its peer's negotiation.
type slotState int

const (
	slotFree     slotState = iota // negotiated as not sending: may be used for another track
	slotActive                    // offered, or negotiated, as sending
	slotRetiring                  // offered as not sending, not answered yet
	slotDead                      // the client rejected the section
)

// down is one section on which the SFU sends to one subscriber, and the track it sends there at
// the moment. It is pion's TrackLocal. Sender, SSRC and sequence numbers stay when the section is
// used for another track: they are the section's, not the track's.
type down struct {
	kind   webrtc.RTPCodecType
	codec  webrtc.RTPCodecCapability
	tr     *webrtc.RTPTransceiver
	sender *webrtc.RTPSender
	state  slotState // the peer's loop only

	to    *egress
	heard heard
	room  atomic.Int64 // what its subscriber has room for, bits a second; 0: any; below: it does not want it now

	mu      sync.Mutex
	up      *up // guarded by mu, as all below; nil: nothing is sent
	stream  string
	track   string
	paused  bool
	starved bool     // the path to the subscriber has no room for it
	bound   *binding // nil: not negotiated, or not any more
	sent    sentPackets
	packets uint32 // sent, for reports
	octets  uint32

	reported reported

	out    rewrite.Stream
	filter *rewrite.Filter // nil: it is sound
	from   *layer          // whose packets are sent; nil: none yet
	asked  *layer          // a keyframe of it was asked for, to switch to it
	broken bool            // packets were left out, as in a pause: it goes on with a keyframe
	lim    limits
	lastAt time.Time // when a packet was sent last
}

// newDown makes a section's track for u, to the subscriber that to leads to. It is not sending yet.
func newDown(u *up, to *egress) *down {
	d := &down{kind: u.kind, codec: u.codec, to: to}
	if d.kind == webrtc.RTPCodecTypeVideo {
		d.filter = &rewrite.Filter{}
	}
	d.assign(u)
	return d
}

// fits reports whether d can be used for u: retransmission keeps the payload type that the
// section was first bound with, so the codec must be the same.
func (d *down) fits(u *up) bool {
	return d.kind == u.kind && strings.EqualFold(d.codec.MimeType, u.codec.MimeType) && d.codec.SDPFmtpLine == u.codec.SDPFmtpLine
}

// assign points d at u.
func (d *down) assign(u *up) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up, d.stream, d.track, d.paused = u, string(u.owner), string(u.id), false
	d.starved = false
	d.room.Store(0)
	d.from, d.asked, d.broken = nil, nil, false
	d.lim = limits{spatial: -1, temporal: -1}
}

// release ends what d sends, and gives what it was. Nothing of it is kept: a section may be free for long, and through what it was sent it would hold
// a publisher that has left, and that one what it was sent itself.
func (d *down) release() *up {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.up
	d.up, d.from, d.asked, d.sent = nil, nil, nil, sentPackets{}
	return u
}

// used reports whether d has a track to send.
func (d *down) used() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.up != nil
}

func (d *down) pause(paused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = paused
}

// starve stops and resumes d for want of bandwidth. It goes on with a keyframe.
func (d *down) starve(starved bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starved = starved
}

// offer says what the subscriber has room for, and has the publisher told when that matters to it.
func (d *down) offer(room int) {
	was := int(d.room.Swap(int64(room)))
	if was != room && (was <= 0 || room <= 0 || max(room-was, was-room) > was/20) {
		d.mu.Lock()
		u := d.up
		d.mu.Unlock()
		if u != nil && u.roomChanged != nil {
			u.roomChanged()
		}
	}
}

// prefer bounds what is sent by what the subscriber shows: width in pixels, and frames a second; 0 does not bound.
func (d *down) prefer(width, fps int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lim.width, d.lim.fps = width, fps
}

// target bounds what is sent to a spatial layer, which is an encoding of simulcast or a layer of SVC, and a temporal one, both from 0;
// negative does not bound. Safe for any goroutine.
func (d *down) target(spatial, temporal int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lim.spatial, d.lim.temporal = spatial, temporal
}

// forward sends packets on, which are of one encoding. It is called by the readers of their track, and drops what is not for now.
func (d *down) forward(burst ...*packet) {
	if ask := d.pass(burst...); ask != nil {
		ask.askKeyframe()
	}
}

// pass does that under the locks, and gives an encoding to ask for a keyframe of: the last that it wants.
func (d *down) pass(burst ...*packet) (ask *layer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to.mu.Lock()
	defer d.to.mu.Unlock()
	for _, p := range burst {
		if l := d.passLocked(p); l != nil {
			ask = l
		}
	}
	if ask != d.asked {
		return nil // what it wanted was in the burst
	}
	return ask
}

func (d *down) passLocked(p *packet) (ask *layer) {
	if d.up != p.up || d.bound == nil {
		return nil
	}
	if d.paused || d.starved || p.up.silenced.Load() {
		d.broken = true
		return nil
	}
	marker := p.hdr.Marker
	if d.kind == webrtc.RTPCodecTypeVideo {
		var ok bool
		if marker, ask, ok = d.choose(p); !ok {
			return ask
		}
	} else if d.from != p.layer || d.broken || d.lastAt.IsZero() {
		d.switchTo(p)
	}
	payload, pt := p.payload, d.bound.pt
	if p.red {
		if pt = d.bound.ptRED; pt == 0 || d.to.lean.Load() {
			var ok bool
			if payload, ok = redPrimary(p.payload); !ok {
				return ask
			}
			pt = d.bound.pt
		}
	}
	d.send(p, payload, pt, marker)
	return ask
}

// choose decides whether a video packet is sent, and switches encodings where a decoder can begin.
func (d *down) choose(p *packet) (marker bool, ask *layer, ok bool) {
	layers := *d.up.layers.Load()
	if len(layers) == 0 {
		return false, nil, false
	}
	c := d.up.choose(layers, d.lim, p.at)
	want := layers[c.encoding]
	d.filter.Want(c.spatial, c.temporal)
	// Its decoder is new, and waits for a keyframe itself. One that goes by dependency descriptors has no use for what comes before.
	alone := d.from == nil && len(layers) == 1 && p.info.Deps == nil && p.info.Whole(d.up.read)
	switch {
	case p.layer == want && !p.info.Late && (d.from != want || d.broken) && (p.info.Key || alone || d.up.read == rewrite.Opaque):
		d.switchTo(p)
	case p.layer == d.from && !d.broken && !(p.info.Late && d.out.Begins()): // what lies between was left out, and would seem lost
	case d.from != want || d.broken:
		return false, d.wish(want), false
	default: // of another encoding than the one that is sent, and wanted
		return false, nil, false
	}
	if d.from != want || d.filter.NeedsKey() {
		ask = d.wish(want)
	}
	pass, marker := d.filter.Pass(&p.info, p.hdr.Marker)
	if d.from == want && !d.filter.NeedsKey() {
		d.asked = nil // what was wished for is here; the next wish is a new one
	}
	if !pass {
		d.out.Leave(d.up.read, p.hdr.SequenceNumber, &p.info)
	}
	return marker, ask, pass
}

// wish gives l once: its requests are repeated by themselves.
func (d *down) wish(l *layer) *layer {
	if d.asked == l {
		return nil
	}
	d.asked = l
	return l
}

// switchTo makes p the next packet of what is sent, wherever it comes from.
func (d *down) switchTo(p *packet) {
	clock := d.codec.ClockRate
	ts := d.out.LastTimestamp() + uint32(max(p.at.Sub(d.lastAt), time.Millisecond).Milliseconds())*clock/1000 + 1
	switch {
	case d.from == nil:
	case d.from == p.layer:
		ts = p.hdr.Timestamp + d.out.Offset() // its clock went on
	default: // by the publisher's clock, if it has told it of both and that is near what the arrival says
		a, b := d.from.reports.get(), p.layer.reports.get()
		if !a.at.IsZero() && !b.at.IsZero() {
			if exact := align(a, b, p.hdr.Timestamp, clock) + d.out.Offset(); max(int32(exact-ts), int32(ts-exact)) < int32(clock) {
				ts = exact
			}
		}
	}
	d.out.Switch(ts)
	if d.filter != nil {
		d.filter.Reset()
	}
	d.from, d.asked, d.broken = p.layer, nil, false
}

// send numbers a packet and hands it on; the egress's lock is held. Video for which the path has no room is left out before it has a number, and goes on with a keyframe.
func (d *down) send(p *packet, payload []byte, pt uint8, marker bool) {
	video := d.kind == webrtc.RTPCodecTypeVideo
	if video && !d.to.takesLocked(p.at) {
		d.to.metrics.heldBack.Add(1)
		d.broken = true
		return
	}
	n, ok := d.out.Next(d.up.read, p.hdr.SequenceNumber, p.hdr.Timestamp, &p.info)
	if !ok {
		return
	}
	d.lastAt = p.at
	if d.filter != nil && p.info.Deps != nil && d.bound.exts[extDependency] != 0 {
		n.Mask = d.filter.Mask(p.info.Deps)
	}
	d.packets, d.octets = d.packets+1, d.octets+uint32(len(payload))
	c := parcel{from: p.layer, as: d.bound, n: n, src: p.hdr.SequenceNumber, pt: pt, marker: marker}
	if video {
		d.sent.put(&c, p.at)
	}
	number := d.to.sendLocked(c, p, payload, !video)
	if video && d.bound.rtxPT == 0 {
		d.sent.number(n.Seq, number)
	}
}

// reportTime gives the publisher's time (RFC 5905, 32.32) and where the section's RTP clock stands at it, for sender reports: sound and
// picture of one publisher are told by one clock. It is false until the publisher has told its time.
func (d *down) reportTime(now time.Time) (ntp uint64, rtp uint32, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from == nil || !d.out.Begun() {
		return 0, 0, false
	}
	sr := d.from.reports.get()
	if sr.at.IsZero() {
		return 0, 0, false
	}
	span := now.Sub(sr.at)
	passed := int64(span/time.Second)<<32 + int64(span%time.Second)<<32/int64(time.Second)
	return sr.ntp + uint64(passed), sr.rtp + uint32(ticks(passed, d.codec.ClockRate)) + d.out.Offset(), true
}

// Bind is pion's: the section is negotiated.
func (d *down) Bind(c webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	codec, ok := matchCodec(c.CodecParameters(), d.codec)
	if !ok {
		// An error here would fail the whole description. The section stays silent instead.
		d.unbindLocked()
		return webrtc.RTPCodecParameters{RTPCodecCapability: d.codec}, nil
	}
	bound := &binding{writer: c.WriteStream(), ssrc: uint32(c.SSRC()), pt: uint8(codec.PayloadType), exts: idsOf(d.kind, c.HeaderExtensions())}
	for _, other := range c.CodecParameters() {
		switch {
		case d.kind == webrtc.RTPCodecTypeAudio && isRED(other):
			bound.ptRED = uint8(other.PayloadType)
		case strings.EqualFold(other.MimeType, webrtc.MimeTypeRTX) && other.SDPFmtpLine == "apt="+strconv.Itoa(int(codec.PayloadType)):
			bound.rtxSSRC, bound.rtxPT = uint32(c.SSRCRetransmission()), uint8(other.PayloadType)
		}
	}
	if bound.rtxSSRC == 0 {
		bound.rtxPT = 0
	}
	for _, e := range c.HeaderExtensions() {
		if e.URI == sdp.TransportCCURI {
			bound.twccID = uint8(e.ID)
		}
	}
	d.unbindLocked()
	d.bound, d.sent = bound, sentPackets{}
	d.to.bind(d, bound)
	return codec, nil
}

// Unbind is pion's: the section sends no more.
func (d *down) Unbind(webrtc.TrackLocalContext) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unbindLocked()
	return nil
}

func (d *down) unbindLocked() {
	if d.bound != nil {
		d.to.release(d.bound)
		d.bound = nil
	}
}

// ID is the track id that the subscriber sees: the track's.
func (d *down) ID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.track
}

// StreamID is the stream id that the subscriber sees: the publisher's peer id.
func (d *down) StreamID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stream
}

// RID is pion's; the SFU sends one encoding.
func (d *down) RID() string { return "" }

// Kind is pion's.
func (d *down) Kind() webrtc.RTPCodecType { return d.kind }

// askKeyframe asks for a keyframe of what is sent here, or would be.
func (d *down) askKeyframe() {
	d.mu.Lock()
	u, l := d.up, d.from
	d.mu.Unlock()
	switch {
	case u == nil:
	case l == nil || d.kind != webrtc.RTPCodecTypeVideo:
		u.askKeyframe()
	default:
		l.askKeyframe()
	}
}

// matchCodec finds want among what a subscriber negotiated: the same format parameters if there
// are any such, the same codec otherwise.
func matchCodec(have []webrtc.RTPCodecParameters, want webrtc.RTPCodecCapability) (webrtc.RTPCodecParameters, bool) {
	var second *webrtc.RTPCodecParameters
	for i, c := range have {
		if !strings.EqualFold(c.MimeType, want.MimeType) || c.ClockRate != want.ClockRate {
			continue
		}
		if c.SDPFmtpLine == want.SDPFmtpLine {
			return c, true
		}
		if second == nil {
			second = &have[i]
		}
	}
	if second == nil {
		return webrtc.RTPCodecParameters{}, false
	}
	return *second, true
}
