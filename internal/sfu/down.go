package sfu

import (
	"strings"
	"sync"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
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

	metrics *metrics
	heard   heard

	mu      sync.Mutex
	up      *up // guarded by mu, as all below; nil: nothing is sent
	stream  string
	track   string
	paused  bool
	writer  webrtc.TrackLocalWriter
	ssrc    uint32
	pt      uint8 // of codec at this subscriber
	ptRED   uint8 // 0: the subscriber takes no RED
	levelID uint8 // 0: the subscriber takes no audio level
	munger  munger
	hdr     rtp.Header
}

// newDown makes a section's track for u. It is not sending yet.
func newDown(u *up, m *metrics) *down {
	d := &down{kind: u.kind, codec: u.codec, metrics: m}
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
	d.munger.switchTo()
}

// release ends what d sends, and gives what it was.
func (d *down) release() *up {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.up
	d.up = nil
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

// forward sends p on. It is called by the reader of p.up, and drops what is not for now.
func (d *down) forward(p *packet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.up != p.up || d.writer == nil {
		return
	}
	if d.paused || p.up.silenced.Load() {
		d.munger.skip()
		return
	}
	payload, pt := p.payload, d.pt
	if p.red {
		if pt = d.ptRED; pt == 0 {
			var ok bool
			if payload, ok = redPrimary(p.payload); !ok {
				return
			}
			pt = d.pt
		}
	}
	seq, ts, ok := d.munger.next(p.hdr.SequenceNumber, p.hdr.Timestamp, d.codec.ClockRate, p.at)
	if !ok {
		return
	}
	d.hdr = rtp.Header{
		Version: 2, Marker: p.hdr.Marker, PayloadType: pt, SequenceNumber: seq, Timestamp: ts, SSRC: d.ssrc,
		Extensions: d.hdr.Extensions[:0],
	}
	if d.levelID != 0 && p.level != nil {
		d.hdr.SetExtension(d.levelID, p.level) //nolint:errcheck // one byte always fits
	}
	if _, err := d.writer.WriteRTP(&d.hdr, payload); err == nil {
		d.metrics.packetsOut.Add(1)
	}
}

// Bind is pion's: the section is negotiated.
func (d *down) Bind(c webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	codec, ok := matchCodec(c.CodecParameters(), d.codec)
	if !ok {
		// An error here would fail the whole description. The section stays silent instead.
		d.writer = nil
		return webrtc.RTPCodecParameters{RTPCodecCapability: d.codec}, nil
	}
	d.writer, d.ssrc, d.pt, d.ptRED, d.levelID = c.WriteStream(), uint32(c.SSRC()), uint8(codec.PayloadType), 0, 0
	for _, other := range c.CodecParameters() {
		if d.kind == webrtc.RTPCodecTypeAudio && isRED(other) {
			d.ptRED = uint8(other.PayloadType)
		}
	}
	for _, e := range c.HeaderExtensions() {
		if d.kind == webrtc.RTPCodecTypeAudio && e.URI == audioLevelURI {
			d.levelID = uint8(e.ID)
		}
	}
	return codec, nil
}

// Unbind is pion's: the section sends no more.
func (d *down) Unbind(webrtc.TrackLocalContext) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writer = nil
	return nil
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

// readRTCP hands the subscriber's keyframe requests on until the sender ends. Reading also
// drives the retransmissions.
func (d *down) readRTCP(sender *webrtc.RTPSender) {
	buf := make([]byte, maxPacket)
	for {
		n, attrs, err := sender.Read(buf)
		if err != nil {
			return
		}
		packets, err := attrs.GetRTCPPackets(buf[:n])
		if err != nil {
			continue
		}
		for _, p := range packets {
			d.heard.note(p, time.Now())
			switch p.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				d.askKeyframe()
			}
		}
	}
}

func (d *down) askKeyframe() {
	d.mu.Lock()
	u := d.up
	d.mu.Unlock()
	if u != nil {
		u.askKeyframe()
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
