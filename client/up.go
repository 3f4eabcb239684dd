package client

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// TrackOptions describe a track to publish.
type TrackOptions struct {
	Kind   string // "audio" or "video"
	Source string // "microphone", "camera", "screen", or a word of yours, at most 64 bytes; "": by kind
	Name   string // at most 128 bytes
	Codec  string // MIME type, such as "video/VP9"; "": Opus or VP8
	Muted  bool   // from the start
	// Layers name the encodings of a video with simulcast (RFC 8853), the smallest first, two or three. Each is written by its Layer,
	// and what is written to the track itself goes nowhere.
	Layers []string
}

// Sample is one encoded frame.
type Sample struct {
	Data     []byte
	Duration time.Duration // how long it lasts: what the next one's timestamp is later by
	Level    float64       // audio: loudness of the frame, 0 (silent) to 1; sent beside it (RFC 6464)
}

// LocalTrack is a track that this Room publishes. It outlives recoveries.
type LocalTrack struct {
	room      *Room
	opts      TrackOptions
	uplink    *uplink
	layers    []*Layer // of simulcast; none: the uplink is the only encoding
	keyframes chan struct{}
	bound     chan struct{} // closed when the SFU takes what is written to it, or it failed

	mu    sync.Mutex
	id    orama.TrackID // guarded by mu
	muted bool          // guarded by mu
	err   error         // guarded by mu; why it will never be bound

	ready bool // accessed by the loop only: bound is closed
}

func (o *TrackOptions) complete() error {
	switch o.Kind {
	case "audio":
		o.Codec, o.Source = or(o.Codec, webrtc.MimeTypeOpus), or(o.Source, "microphone")
	case "video":
		o.Codec, o.Source = or(o.Codec, webrtc.MimeTypeVP8), or(o.Source, "camera")
	default:
		return orama.Errorf(orama.KindInvalid, "invalid_kind", `a track's kind is "audio" or "video"`)
	}
	if len(o.Source) > signal.MaxSource || len(o.Name) > signal.MaxName {
		return orama.Errorf(orama.KindInvalid, "invalid_track", "a source is at most 64 bytes long, a name 128")
	}
	if !strings.HasPrefix(strings.ToLower(o.Codec), o.Kind+"/") {
		return orama.Errorf(orama.KindInvalid, "invalid_codec", "the codec is not one of %s", o.Kind)
	}
	return checkLayers(o)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func newLocalTrack(r *Room, o TrackOptions) *LocalTrack {
	t := &LocalTrack{room: r, opts: o, muted: o.Muted, keyframes: make(chan struct{}, 1), bound: make(chan struct{})}
	kind := webrtc.NewRTPCodecType(o.Kind)
	t.uplink = &uplink{id: o.Source, kind: kind, mime: o.Codec}
	t.layers = newLayers(t)
	return t
}

// ID is the track's id, "" until the SFU has confirmed it. It changes when a recovery had to start over.
func (t *LocalTrack) ID() orama.TrackID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.id
}

// Muted reports whether the track is muted.
func (t *LocalTrack) Muted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.muted
}

// KeyframeRequests gives a value when the SFU asked for a keyframe since it was last read.
func (t *LocalTrack) KeyframeRequests() <-chan struct{} { return t.keyframes }

// WriteRTP sends one packet; SSRC and payload type are filled in. While there is no connection
// or the track is muted the packet is dropped without an error.
func (t *LocalTrack) WriteRTP(p *rtp.Packet) error {
	if t.Muted() {
		return nil
	}
	return t.uplink.writeRTP(p)
}

// WriteSample packetizes and sends one encoded frame, with timestamps that follow the durations.
func (t *LocalTrack) WriteSample(s Sample) error {
	return t.uplink.writeSample(s, t.Muted())
}

// SetMuted mutes or unmutes the track and tells the others.
func (t *LocalTrack) SetMuted(ctx context.Context, muted bool) error {
	t.mu.Lock()
	t.muted = muted
	t.mu.Unlock()
	return t.room.do(ctx, func() { t.room.tellMuted(t) })
}

// Unpublish takes the track away from the room.
func (t *LocalTrack) Unpublish(ctx context.Context) error {
	return t.room.do(ctx, func() { t.room.unpublish(t) })
}

func (t *LocalTrack) ref(mid string) signal.TrackRef {
	return signal.TrackRef{Mid: mid, Source: t.opts.Source, Name: t.opts.Name, Muted: t.Muted()}
}

func (t *LocalTrack) setID(id orama.TrackID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.id = id
}

// settle ends the wait of Publish, once. Called by the loop.
func (t *LocalTrack) settle(err error) {
	if t.ready {
		return
	}
	t.ready = true
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	close(t.bound)
}

// readRTCP reads what comes back for a sender until it stops: pion's interceptors (NACK) depend on it.
func (t *LocalTrack) readRTCP(s *webrtc.RTPSender) {
	for {
		packets, _, err := s.ReadRTCP()
		if err != nil {
			return
		}
		for _, p := range packets {
			switch p.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				select {
				case t.keyframes <- struct{}{}:
				default:
				}
			}
		}
	}
}

// uplink is one encoding of a LocalTrack. Its sequence numbers and timestamps run on from one connection to the next.
type uplink struct {
	id   string
	kind webrtc.RTPCodecType
	mime string
	rid  string // of a layer

	mu         sync.Mutex
	lanes      []*lane        // guarded by mu, replaced whole; none: what is written is dropped
	packetizer rtp.Packetizer // guarded by mu
	clock      float64        // guarded by mu; Hz
}

// lane takes an uplink through one connection: it is the webrtc.TrackLocal that pion knows.
type lane struct {
	*uplink
	// open says that the SFU has taken the answer that made the section. Until then nothing is sent: what comes earlier is of nobody to the
	// SFU, and its pion gives such a source up for good, or swallows its first packets in looking for a name.
	open  atomic.Bool
	known atomic.Bool // of a layer: the SFU has answered to its packets

	bound sync.Mutex
	mid   string   // guarded by bound; of a layer
	now   *binding // guarded by bound; nil: what is written is dropped
}

type binding struct {
	id     string
	ssrc   uint32
	pt     uint8
	level  uint8 // id of the audio level extension (RFC 6464), 0: none
	names  names
	writer webrtc.TrackLocalWriter
}

// newLane begins another one.
func (u *uplink) newLane(mid string) *lane {
	l := &lane{uplink: u, mid: mid}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lanes = append(slices.Clone(u.lanes), l)
	return l
}

// drop ends one.
func (u *uplink) drop(l *lane) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lanes = slices.DeleteFunc(slices.Clone(u.lanes), func(o *lane) bool { return o == l })
}

func (l *lane) ID() string                { return l.id }
func (l *lane) RID() string               { return l.rid }
func (l *lane) StreamID() string          { return "up" }
func (l *lane) Kind() webrtc.RTPCodecType { return l.kind }

// Bind is called by pion when the track's section was negotiated.
func (l *lane) Bind(c webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	for _, codec := range c.CodecParameters() {
		if !strings.EqualFold(codec.MimeType, l.mime) {
			continue
		}
		b := &binding{id: c.ID(), ssrc: uint32(c.SSRC()), pt: uint8(codec.PayloadType), writer: c.WriteStream(),
			names: namesOf(c.HeaderExtensions())}
		for _, ext := range c.HeaderExtensions() {
			if ext.URI == sdp.AudioLevelURI {
				b.level = uint8(ext.ID) //nolint:gosec // 1 to 14
			}
		}
		l.known.Store(false)
		l.packetize(b, codec.ClockRate)
		l.bound.Lock()
		defer l.bound.Unlock()
		l.now = b
		return codec, nil
	}
	return webrtc.RTPCodecParameters{}, webrtc.ErrUnsupportedCodec
}

// Unbind is called by pion when the sender stops.
func (l *lane) Unbind(c webrtc.TrackLocalContext) error {
	l.bound.Lock()
	defer l.bound.Unlock()
	if l.now != nil && l.now.id == c.ID() {
		l.now = nil
	}
	return nil
}

// ready gives what the lane sends with, nil when it does not.
func (l *lane) ready() (*binding, string) {
	if !l.open.Load() {
		return nil, ""
	}
	l.bound.Lock()
	defer l.bound.Unlock()
	return l.now, l.mid
}

// packetize makes the packetizer with the first connection.
func (u *uplink) packetize(b *binding, rate uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clock = float64(rate)
	if p := payloader(u.mime); u.packetizer == nil && p != nil {
		u.packetizer = rtp.NewPacketizer(1200, b.pt, b.ssrc, p, rtp.NewRandomSequencer(), rate)
	}
}

func payloader(mime string) rtp.Payloader {
	switch strings.ToLower(mime) {
	case strings.ToLower(webrtc.MimeTypeOpus):
		return &codecs.OpusPayloader{}
	case strings.ToLower(webrtc.MimeTypeVP8):
		return &codecs.VP8Payloader{EnablePictureID: true}
	case strings.ToLower(webrtc.MimeTypeVP9):
		return &codecs.VP9Payloader{}
	case strings.ToLower(webrtc.MimeTypeH264):
		return &codecs.H264Payloader{}
	case strings.ToLower(webrtc.MimeTypeAV1):
		return &codecs.AV1Payloader{}
	}
	return nil
}

func (u *uplink) writeRTP(p *rtp.Packet) (err error) {
	u.mu.Lock()
	lanes := u.lanes
	u.mu.Unlock()
	for _, l := range lanes {
		err = errors.Join(err, l.write(p, nil))
	}
	return err
}

// write sends one packet, with the level of its sound if that is told.
func (l *lane) write(p *rtp.Packet, level *float64) error {
	b, mid := l.ready()
	if b == nil {
		return nil
	}
	h := p.Header
	h.SSRC, h.PayloadType = b.ssrc, b.pt
	if l.rid != "" && !l.known.Load() {
		if err := b.names.put(&h, mid, l.rid); err != nil {
			return err
		}
	}
	if level != nil && b.level != 0 {
		if err := setLevel(&h, b.level, *level); err != nil {
			return err
		}
	}
	_, err := b.writer.WriteRTP(&h, p.Payload)
	return err
}

// writeSample keeps the clock running while muted or unbound.
func (u *uplink) writeSample(s Sample, muted bool) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.packetizer == nil {
		if u.clock == 0 {
			return nil // not negotiated yet
		}
		return orama.Errorf(orama.KindInvalid, "no_packetizer", "there is no packetizer for %s: use WriteRTP", u.mime)
	}
	ticks := uint32(math.Round(s.Duration.Seconds() * u.clock))
	if muted || !slices.ContainsFunc(u.lanes, func(l *lane) bool { b, _ := l.ready(); return b != nil }) {
		u.packetizer.SkipSamples(ticks)
		return nil
	}
	for _, p := range u.packetizer.Packetize(s.Data, ticks) {
		for _, l := range u.lanes {
			err = errors.Join(err, l.write(p, &s.Level))
		}
	}
	return err
}

// setLevel writes the audio level in -dBov, 0 to 127 (RFC 6464, section 3).
func setLevel(h *rtp.Header, id uint8, level float64) error {
	dbov := uint8(127)
	if level > 0 {
		dbov = uint8(min(127, max(0, -20*math.Log10(level))))
	}
	raw, err := rtp.AudioLevelExtension{Level: dbov, Voice: level > 0}.Marshal()
	if err != nil {
		return err
	}
	return h.SetExtension(id, raw)
}
