package sfu

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/sfu/rewrite"
)

// maxPacket is the largest RTP packet taken, in bytes: what fits an Ethernet frame.
const maxPacket = 1500

// packet is one packet of an up track on its way to the down tracks. It belongs to the reader.
type packet struct {
	up      *up
	hdr     rtp.Header
	payload []byte
	ext     extensionViews
	red     bool // the payload is RED (RFC 2198)
	layer   *layer
	info    rewrite.Info
	deps    rewrite.Descriptor // what info.Deps points to, if it does
	at      time.Time
}

// up is a published track: of one to three encodings, each with a reader that writes each
// packet to every subscriber in turn. It takes no lock that another room or peer could hold.
type up struct {
	id    orama.TrackID
	owner orama.PeerID
	kind  webrtc.RTPCodecType
	codec webrtc.RTPCodecCapability // of audio always Opus: RED is a wrapping of it
	mid   string
	read  rewrite.Codec
	kinds extensionKinds // what this publisher's header extensions are
	// roomChanged tells the publisher's loop that somebody has room for more or less of it. It does not block.
	roomChanged func()
	asks        asks                 // of its subscribers
	rids        []string             // of the encodings it was announced with, small before large; "" alone without simulcast
	switches    switches             // the publisher's loop only
	free        atomic.Int64         // bits a second that it sent last while nothing asked for less
	sendRTCP    func([]rtcp.Packet)  // reaches the publisher
	rtt         func() time.Duration // to the publisher; 0: not known
	metrics     *metrics

	loudest atomic.Uint32 // 128 - dBov of the loudest packet since last asked; 0: none came
	muted   atomic.Bool
	// silenced: an admin has muted it, and nothing of it is forwarded.
	silenced atomic.Bool
	subs     atomic.Pointer[[]*down]  // replaced whole, under mu; the readers only load it
	layers   atomic.Pointer[[]*layer] // replaced whole, under mu; in the order of their quality

	mu    sync.Mutex
	ended bool // guarded by mu
}

// endOfUp says why a reader stopped.
type endOfUp int

const (
	endGone  endOfUp = iota // the section went inactive, or the peer is gone
	endCodec                // the publisher changed to a codec that subscribers must negotiate anew
)

// run forwards until the encoding ends. What takes the short way is read by a goroutine of its own.
func (l *layer) run() endOfUp {
	l.source.attach(l.feed)
	var short sync.WaitGroup
	short.Go(l.runShort)
	why := l.runLong()
	l.source.detach(l.feed)
	if l.repaired != nil {
		l.repaired.detach(l.feed)
	}
	l.feed.Close() //nolint:errcheck // never fails
	short.Wait()
	return why
}

// runLong forwards what pion has.
func (l *layer) runLong() endOfUp {
	p, buf := packet{up: l.up, layer: l}, make([]byte, maxPacket)
	for {
		n, attributes, err := l.track.Read(buf)
		switch {
		case errors.Is(err, webrtc.ErrCodecNotFound), errors.Is(err, io.ErrShortBuffer):
			continue // a packet of a codec never agreed upon, or a giant: not a reason to end
		case err != nil:
			return endGone
		case n < rtpHeader:
			continue
		}
		l.repair()
		own, resent := attributes.Get(webrtc.AttributeRtxSequenceNumber).(uint16)
		if resent && l.repaired != nil && l.repaired.had(own) || !resent && l.source.had(binary.BigEndian.Uint16(buf[2:])) {
			continue // it came by the short way
		}
		if pt := buf[1] & 0x7f; !l.feed.knows(pt) {
			codec := l.track.Codec()
			if !l.up.sameCodec(codec) {
				return endCodec
			}
			if isRED(codec) {
				l.taking.Lock()
				l.red[pt>>6] |= 1 << (pt & 63)
				l.taking.Unlock()
			}
			l.feed.learn(pt)
		}
		l.take(&p, buf[:n], resent)
	}
}

// repair has retransmissions come by the short way as well, as soon as pion knows which stream has them: pion hands them out with the next packet that takes the long way, which
// may be a second later.
func (l *layer) repair() {
	ssrc := uint32(l.track.RtxSSRC())
	if l.repaired != nil || ssrc == 0 || len(l.repeats) == 0 {
		return
	}
	if s := l.streamOf(ssrc); s != nil {
		s.repairs.Store(&repairs{feed: l.feed, of: l.repeats})
		l.repaired = s
	}
}

// repeats reads which payload type of retransmissions is for which codec (RFC 4588 section 8.6).
func repeats(codecs []webrtc.RTPCodecParameters) map[uint8]uint8 {
	out := map[uint8]uint8{}
	for _, c := range codecs {
		if apt, ok := strings.CutPrefix(c.SDPFmtpLine, "apt="); ok && strings.EqualFold(c.MimeType, webrtc.MimeTypeRTX) {
			if pt, err := strconv.ParseUint(apt, 10, 7); err == nil {
				out[uint8(c.PayloadType)] = uint8(pt)
			}
		}
	}
	return out
}

// take forwards one packet, b. resent: it came in the stream of retransmissions.
func (l *layer) take(p *packet, b []byte, resent bool) {
	if !p.parse(b, &l.up.kinds) {
		return
	}
	l.taking.Lock()
	defer l.taking.Unlock()
	if l.admit(p, b, resent) {
		l.forward(p)
	}
}

// admit notes a packet, b, and reports whether it is to be forwarded. l.taking is held.
func (l *layer) admit(p *packet, b []byte, resent bool) bool {
	u := l.up
	u.metrics.packetsIn.Add(1)
	p.red = l.red[p.hdr.PayloadType>>6&1]>>(p.hdr.PayloadType&63)&1 != 0
	u.note(p.ext[extLevel])
	l.hears(p, resent)
	if resent && l.history.has(p.hdr.SequenceNumber, p.at) {
		return false // it was not lost: browsers try their way up with what they have sent already
	}
	if u.kind != webrtc.RTPCodecTypeVideo {
		l.count(p)
		return true
	}
	if !p.look() {
		return false
	}
	l.history.put(b, p)
	return true
}

// forward offers packets, which l has admitted one after the other, to all subscribers. l.taking is held.
func (l *layer) forward(burst ...*packet) {
	for _, d := range *l.up.subs.Load() {
		d.forward(burst...)
	}
}

// look reads what the payload says of itself, and has its layer note it. A packet without payload is padding of the publisher's and a
// number of its own: it is passed, so that it leaves no gap.
func (p *packet) look() bool {
	p.info = rewrite.Info{}
	if len(p.payload) > 0 {
		var ok bool
		if p.info, ok = rewrite.Read(p.up.read, p.payload); !ok {
			return false
		}
	}
	p.layer.place(p)
	p.layer.describe(p)
	p.layer.count(p)
	p.layer.look(p)
	if b := p.ext[extAllocation]; b != nil {
		p.up.heed(b)
	}
	return true
}

func isRED(c webrtc.RTPCodecParameters) bool { return strings.EqualFold(c.MimeType, mimeRED) }

// parse reads a packet that pion has decrypted in place. The header's memory is used again.
func (p *packet) parse(buf []byte, kinds *extensionKinds) bool {
	n, err := p.hdr.Unmarshal(buf)
	if err != nil {
		return false
	}
	end := len(buf)
	if p.hdr.Padding && end > n {
		end -= int(buf[end-1])
	}
	if end < n {
		return false
	}
	p.payload, p.at = buf[n:end], time.Now()
	kinds.read(buf[:n], &p.ext)
	return true
}

// note keeps the loudest level for the room's next look.
func (u *up) note(level []byte) {
	if level == nil {
		return
	}
	loud := 128 - uint32(level[0]&0x7f)
	for {
		old := u.loudest.Load()
		if loud <= old || u.loudest.CompareAndSwap(old, loud) {
			return
		}
	}
}

// level takes the loudness since the last call, 0 to 1.
func (u *up) level() float64 {
	loud := u.loudest.Swap(0)
	if loud == 0 || u.muted.Load() {
		return 0
	}
	return loudness(uint8(128 - loud))
}

// readReceiverRTCP reads the publisher's reports, which drives the interceptors.
func readReceiverRTCP(r *webrtc.RTPReceiver, rid string, got func([]byte)) {
	buf := make([]byte, maxPacket)
	for {
		var n int
		var err error
		if rid == "" {
			n, _, err = r.Read(buf)
		} else {
			n, _, err = r.ReadSimulcast(buf, rid)
		}
		if err != nil {
			return
		}
		got(buf[:n])
	}
}

// attach makes d receive the packets from now on, and reports whether it did not before.
func (u *up) attach(d *down) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended || slices.Contains(*u.subs.Load(), d) {
		return false
	}
	next := append(slices.Clone(*u.subs.Load()), d)
	u.subs.Store(&next)
	return true
}

// detach ends that. A packet under way may still be offered to d, which knows better.
func (u *up) detach(d *down) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(*u.subs.Load()), func(x *down) bool { return x == d })
	u.subs.Store(&next)
}

// askKeyframe asks for a keyframe of every encoding that somebody may be sent. Safe for any goroutine.
func (u *up) askKeyframe() {
	if u.kind != webrtc.RTPCodecTypeVideo {
		return
	}
	for _, l := range *u.layers.Load() {
		l.askKeyframe()
	}
}

// end lets go of the subscribers and of the encodings.
func (u *up) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	for _, l := range *u.layers.Load() {
		l.end()
	}
	u.subs.Store(&[]*down{})
}

// over reports whether the track has ended.
func (u *up) over() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ended
}

// newUp describes a remote track. It has no encoding yet.
func newUp(id orama.TrackID, owner orama.PeerID, track *webrtc.TrackRemote, r *webrtc.RTPReceiver, m *metrics) *up {
	u := &up{id: id, owner: owner, kind: track.Kind(), mid: r.RTPTransceiver().Mid(), metrics: m}
	params := r.GetParameters()
	u.codec = track.Codec().RTPCodecCapability
	if u.kind == webrtc.RTPCodecTypeAudio && isRED(track.Codec()) {
		for _, c := range params.Codecs {
			if strings.EqualFold(c.MimeType, webrtc.MimeTypeOpus) {
				u.codec = c.RTPCodecCapability
			}
		}
	}
	u.kinds = kindsOf(u.kind, params.HeaderExtensions)
	u.read = codecOf(u)
	u.subs.Store(&[]*down{})
	u.layers.Store(&[]*layer{})
	return u
}
