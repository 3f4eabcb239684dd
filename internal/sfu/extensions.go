package sfu

import (
	"encoding/binary"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/sfu/rewrite"
)

// The header extensions that the SFU reads itself (RFC 8285). Both ways they are negotiated by each peer, with ids of its own, and what
// is not in this list stays behind. mid, rid and the transport-wide numbers are pion's and never passed on.
const (
	extLevel      = iota // RFC 6464
	extCapture           // when the frame was captured: absolute capture time
	extPlayout           // how long a receiver may wait before it shows a frame
	extDependency        // AV1 RTP, appendix A
	extAllocation        // which layers the publisher sends: for the SFU alone
	extCount
)

const (
	audioLevelURI    = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
	captureTimeURI   = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
	playoutDelayURI  = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
	dependencyURI    = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
	layersAllocation = "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00"
)

// extensions says of each who may have it, and what sizes it has; another size is not passed on.
var extensions = [extCount]struct {
	uri          string
	audio, video bool
	down         bool // subscribers may have it
	least, most  int  // bytes
}{
	extLevel:      {audioLevelURI, true, false, true, 1, 1},
	extCapture:    {captureTimeURI, true, true, true, 8, 16},
	extPlayout:    {playoutDelayURI, false, true, true, 3, 3},
	extDependency: {dependencyURI, false, true, true, 3, rewrite.MaxDescriptor},
	extAllocation: {layersAllocation, false, true, false, 1, 255},
}

// extensionKinds says what a publisher's extension ids mean: the place in extensions and one; 0: nothing that is known.
type extensionKinds [256]uint8

// extensionIDs are a subscriber's ids; 0: it does not take the extension.
type extensionIDs [extCount]uint8

// extensionViews are the contents of one packet's extensions, in the packet's memory; nil: it has none.
type extensionViews [extCount][]byte

// negotiated calls found for each extension of the list that is for a kind of track.
func negotiated(kind webrtc.RTPCodecType, list []webrtc.RTPHeaderExtensionParameter, found func(n int, id uint8)) {
	for _, e := range list {
		for n, x := range extensions {
			if e.URI == x.uri && e.ID > 0 && e.ID < 256 && (kind == webrtc.RTPCodecTypeAudio && x.audio || kind == webrtc.RTPCodecTypeVideo && x.video) {
				found(n, uint8(e.ID))
			}
		}
	}
}

func kindsOf(kind webrtc.RTPCodecType, list []webrtc.RTPHeaderExtensionParameter) (k extensionKinds) {
	negotiated(kind, list, func(n int, id uint8) { k[id] = uint8(n) + 1 })
	return k
}

func idsOf(kind webrtc.RTPCodecType, list []webrtc.RTPHeaderExtensionParameter) (ids extensionIDs) {
	negotiated(kind, list, func(n int, id uint8) {
		if extensions[n].down {
			ids[n] = id
		}
	})
	return ids
}

// read finds the extensions in a packet, in one pass. The packet's fixed header is known to be whole.
func (k *extensionKinds) read(packet []byte, v *extensionViews) {
	*v = extensionViews{}
	elements(packet, func(id uint8, b []byte) { k.note(v, id, b) })
}

// transportNumber finds the number that a packet has among all of its transport, in the extension with an id.
func transportNumber(packet []byte, id uint8) (number uint16, ok bool) {
	elements(packet, func(got uint8, b []byte) {
		if got == id && len(b) == 2 {
			number, ok = binary.BigEndian.Uint16(b), true
		}
	})
	return number, ok
}

// elements calls found for each extension of a packet (RFC 8285 section 4). The packet's fixed header is known to be whole.
func elements(packet []byte, found func(id uint8, b []byte)) {
	at := 12 + 4*int(packet[0]&0x0f)
	if packet[0]&0x10 == 0 || len(packet) < at+4 {
		return
	}
	profile := binary.BigEndian.Uint16(packet[at:])
	words := int(binary.BigEndian.Uint16(packet[at+2:]))
	b := packet[at+4 : min(len(packet), at+4+4*words)]
	switch {
	case profile == rtp.ExtensionProfileOneByte:
		for len(b) > 0 && b[0]>>4 != 15 { // 15 ends them
			if b[0] == 0 {
				b = b[1:]
				continue
			}
			n := 1 + int(b[0]&0x0f) + 1
			if n > len(b) {
				return
			}
			found(b[0]>>4, b[1:n])
			b = b[n:]
		}
	case profile&0xfff0 == rtp.ExtensionProfileTwoByte:
		for len(b) > 1 {
			if b[0] == 0 {
				b = b[1:]
				continue
			}
			n := 2 + int(b[1])
			if n > len(b) {
				return
			}
			found(b[0], b[2:n])
			b = b[n:]
		}
	}
}

// note keeps what is known and as long as it should be; of two the first.
func (k *extensionKinds) note(v *extensionViews, id uint8, b []byte) {
	n := int(k[id]) - 1
	if n < 0 || v[n] != nil {
		return
	}
	if x := &extensions[n]; len(b) < x.least || len(b) > x.most {
		return
	}
	if n == extCapture && len(b) != 8 && len(b) != 16 {
		return
	}
	v[n] = b
}

// appendExtensions appends to a fixed header what a subscriber takes of a packet's extensions, and the transport's number, whose id may be 0: one-byte
// elements where they fit, two-byte ones otherwise (RFC 8285 section 4).
func appendExtensions(b []byte, ids *extensionIDs, v *extensionViews, numberID uint8, number uint16) []byte {
	head, wide := len(b), numberID > 14
	for n, id := range ids {
		wide = wide || id != 0 && v[n] != nil && (len(v[n]) > 16 || id > 14)
	}
	b = append(b, 0, 0, 0, 0)
	if numberID != 0 {
		b = append(element(b, numberID, 2, wide), byte(number>>8), byte(number))
	}
	for n, id := range ids {
		if id != 0 && v[n] != nil {
			b = append(element(b, id, len(v[n]), wide), v[n]...)
		}
	}
	if len(b) == head+4 {
		return b[:head]
	}
	for (len(b)-head)%4 != 0 {
		b = append(b, 0)
	}
	profile := uint16(rtp.ExtensionProfileOneByte)
	if wide {
		profile = rtp.ExtensionProfileTwoByte
	}
	binary.BigEndian.PutUint16(b[head:], profile)
	binary.BigEndian.PutUint16(b[head+2:], uint16((len(b)-head-4)/4)) //nolint:gosec // a few hundred bytes
	b[head-rtpHeader] |= 0x10
	return b
}

// element begins one of n bytes: none is empty.
func element(b []byte, id uint8, n int, wide bool) []byte {
	if wide {
		return append(b, id, byte(n))
	}
	return append(b, id<<4|byte(n-1))
}

// register has pion negotiate them.
func (extensionIDs) register(m *webrtc.MediaEngine) error {
	for _, x := range extensions {
		directions := []webrtc.RTPTransceiverDirection{webrtc.RTPTransceiverDirectionRecvonly}
		if x.down {
			directions = append(directions, webrtc.RTPTransceiverDirectionSendonly)
		}
		for kind, on := range map[webrtc.RTPCodecType]bool{webrtc.RTPCodecTypeAudio: x.audio, webrtc.RTPCodecTypeVideo: x.video} {
			if !on {
				continue
			}
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: x.uri}, kind, directions...); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe reads the dependency descriptor of a video packet. Only of codecs whose layers are told by it is it passed on: a receiver
// that gets it goes by it alone.
func (l *layer) describe(p *packet) {
	if b := p.ext[extDependency]; b != nil && l.deps != nil && l.deps.Read(b, &p.deps) {
		p.info.Describe(p.up.read, &p.deps)
	}
}

// restructures reports whether a packet may bring another template dependency structure (AV1 RTP, appendix A.8.2): the first flag of the fourth byte.
func (p *packet) restructures() bool {
	b := p.ext[extDependency]
	return len(b) > 3 && b[3]&0x80 != 0
}

// extendLocked appends p's extensions to the header that is sent, in the subscriber's words, and the transport's number; 0: none.
func (e *egress) extendLocked(out []byte, c *parcel, p *packet, number uint16) []byte {
	views := p.ext
	if b := views[extDependency]; b != nil && c.as.exts[extDependency] != 0 {
		if views[extDependency] = nil; p.info.Described() && c.from.up.read.Describes() {
			if n := p.info.Rewrite(b, e.deps[:], c.n.Frame, c.n.Mask); n > 0 {
				views[extDependency] = e.deps[:n]
			}
		}
	}
	id := c.as.twccID
	if number == 0 {
		id = 0
	}
	return appendExtensions(out, &c.as.exts, &views, id, number)
}

// heed takes what the publisher says of its encodings: one that is switched off is so at once, and how large they are is known before
// their keyframes are.
func (u *up) heed(b []byte) {
	a, ok := rewrite.ReadAllocation(b)
	layers := *u.layers.Load()
	if !ok || a.Streams != len(layers) {
		return
	}
	for n, l := range layers {
		top, sent := a.Top(n)
		switch {
		case !sent && len(layers) > 1:
			l.lastAt.Store(0)
		case top.Width > 0:
			l.size.Store(uint64(top.Width)<<32 | uint64(top.Height))
		}
	}
}
