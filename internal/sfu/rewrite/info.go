package rewrite

import "strings"

// Codec is how a payload is read.
type Codec uint8

// The codecs whose payloads are understood. Opaque ones are forwarded as they are.
const (
	Opaque Codec = iota
	VP8
	VP9
	H264
	AV1
)

// CodecOf finds the codec of a MIME type such as "video/VP8".
func CodecOf(mime string) Codec {
	switch strings.ToLower(mime) {
	case "video/vp8":
		return VP8
	case "video/vp9":
		return VP9
	case "video/h264":
		return H264
	case "video/av1":
		return AV1
	}
	return Opaque
}

// Describes reports whether a subscriber is sent dependency descriptors of the codec. Of VP8 and H.264 they stay behind: who gets one goes by it
// alone, and with a lost structure could decode nothing until the next keyframe, where the payload says all that a decoder needs.
func (c Codec) Describes() bool { return c == AV1 || c == VP9 }

// Info is what a packet says of the frame it belongs to. The zero value is a packet that says nothing.
type Info struct {
	Key      bool   // a decoder can start with the picture that begins here
	Start    bool   // first packet of a frame
	Seq      uint16 // of the packet, as the reader says
	Late     bool   // what was sent after it came before, as the reader knows: nothing begins here
	End      bool   // last packet of a frame, where the codec says so
	Sync     bool   // predicted from the base layer alone: a stream may go up to this temporal layer (VP8 Y)
	Up       bool   // no later picture of a higher temporal layer needs what was before: a stream may go up to any (VP9 U)
	Inter    bool   // VP9: predicted from earlier pictures
	Spatial  uint8
	Temporal uint8
	Width    uint16 // pixels, where a keyframe says it; else 0
	Height   uint16

	Deps  *Descriptor // what the dependency descriptor says, where there is one
	Edges             // of the descriptor

	parameters bool // H.264: a sequence parameter set is in it

	pidAt, tl0At, keyAt int  // offsets in the payload; 0: absent
	wide                bool // the picture id has 15 bits
	PID                 uint16
	TL0                 uint8
	KeyIdx              uint8
}

// HasPID reports whether the payload carries a picture id.
func (i *Info) HasPID() bool { return i.pidAt > 0 }

// Describe adds what a packet's dependency descriptor says to what its payload does. d must stay as it is while i is used.
func (i *Info) Describe(c Codec, d *Descriptor) {
	i.Deps, i.Edges = d, d.Edges
	if c == AV1 { // its payload tells nothing of these; VP9's tells as much
		i.Start, i.End = d.Start, d.End
		i.Key = i.Key && !d.Known || d.Key
	}
	if d.Known {
		i.Spatial, i.Temporal = d.Layers()
		if d.Key {
			i.Width, i.Height = d.Size()
		}
	}
}

// Whole reports whether the packet is not in the middle of a picture, as far as the codec says.
func (i *Info) Whole(c Codec) bool { return c != VP8 && c != VP9 || i.Start && i.Spatial == 0 }

// Read reads a payload's descriptor. A payload that cannot be read is refused.
func Read(c Codec, b []byte) (Info, bool) {
	switch c {
	case VP8:
		return readVP8(b)
	case VP9:
		return readVP9(b)
	case H264:
		return readH264(b), len(b) > 0
	case AV1:
		// AV1 RTP section 4.4: Z Y W W N. N begins a coded video sequence.
		return Info{Key: len(b) > 0 && b[0]&0x08 != 0}, len(b) > 0
	}
	return Info{}, true
}

// readPID reads a picture id of 7 or 15 bits at b[at], and gives where it ends.
func (i *Info) readPID(b []byte, at int) (int, bool) {
	if at >= len(b) {
		return 0, false
	}
	i.pidAt = at
	if b[at]&0x80 == 0 {
		i.PID = uint16(b[at])
		return at + 1, true
	}
	if at+1 >= len(b) {
		return 0, false
	}
	i.wide, i.PID = true, uint16(b[at]&0x7f)<<8|uint16(b[at+1])
	return at + 2, true
}

// readVP8 reads the payload descriptor (RFC 7741 section 4.2) and the frame header behind it.
func readVP8(b []byte) (Info, bool) {
	var i Info
	if len(b) < 1 {
		return i, false
	}
	i.Start = b[0]&0x17 == 0x10 // S = 1 and PID = 0: the start of the first partition
	at := 1
	if b[0]&0x80 != 0 { // X
		if len(b) < 2 {
			return i, false
		}
		x := b[1]
		at = 2
		if x&0x80 != 0 { // I
			var ok bool
			if at, ok = i.readPID(b, at); !ok {
				return i, false
			}
		}
		if x&0x40 != 0 { // L
			if at >= len(b) {
				return i, false
			}
			i.tl0At, i.TL0 = at, b[at]
			at++
		}
		if x&0x30 != 0 { // T or K
			if at >= len(b) {
				return i, false
			}
			if x&0x20 != 0 {
				i.Temporal, i.Sync = b[at]>>6, b[at]&0x20 != 0
			}
			if x&0x10 != 0 {
				i.keyAt, i.KeyIdx = at, b[at]&0x1f
			}
			at++
		}
	}
	if at >= len(b) {
		return i, false
	}
	if i.Start && b[at]&1 == 0 { // P = 0 (RFC 6386 section 9.1)
		i.Key = true
		if h := b[at:]; len(h) >= 10 && h[3] == 0x9d && h[4] == 0x01 && h[5] == 0x2a {
			i.Width, i.Height = (uint16(h[7])<<8|uint16(h[6]))&0x3fff, (uint16(h[9])<<8|uint16(h[8]))&0x3fff
		}
	}
	return i, true
}

// readVP9 reads the payload descriptor (RFC 9628 section 4.2).
func readVP9(b []byte) (Info, bool) {
	var i Info
	if len(b) < 1 {
		return i, false
	}
	hasPID, layers, flexible := b[0]&0x80 != 0, b[0]&0x20 != 0, b[0]&0x10 != 0
	i.Inter, i.Start, i.End = b[0]&0x40 != 0, b[0]&0x08 != 0, b[0]&0x04 != 0
	at, ok := 1, true
	if hasPID {
		if at, ok = i.readPID(b, at); !ok {
			return i, false
		}
	}
	if layers {
		if at >= len(b) {
			return i, false
		}
		i.Temporal, i.Up, i.Spatial = b[at]>>5, b[at]&0x10 != 0, b[at]>>1&7
		if at++; !flexible {
			if at >= len(b) {
				return i, false
			}
			i.tl0At, i.TL0 = at, b[at]
			at++
		}
	}
	if i.Inter && flexible {
		for n := 0; ; n++ {
			if at >= len(b) || n == 3 {
				return i, false
			}
			at++
			if b[at-1]&1 == 0 {
				break
			}
		}
	}
	if b[0]&0x02 != 0 {
		if at, ok = i.readVP9Structure(b, at); !ok {
			return i, false
		}
	}
	i.Key = !i.Inter && i.Start && i.Spatial == 0
	return i, at < len(b)
}

// readVP9Structure skips the scalability structure and keeps the size of the highest layer.
func (i *Info) readVP9Structure(b []byte, at int) (int, bool) {
	if at >= len(b) {
		return 0, false
	}
	s := b[at]
	at++
	if s&0x10 != 0 {
		n := 4 * (int(s>>5) + 1)
		if at+n > len(b) {
			return 0, false
		}
		at += n
		i.Width, i.Height = uint16(b[at-4])<<8|uint16(b[at-3]), uint16(b[at-2])<<8|uint16(b[at-1])
	}
	if s&0x08 == 0 {
		return at, true
	}
	if at >= len(b) {
		return 0, false
	}
	pictures := int(b[at])
	at++
	for range pictures {
		if at >= len(b) {
			return 0, false
		}
		at += 1 + int(b[at]>>2&3)
	}
	return at, at <= len(b)
}
