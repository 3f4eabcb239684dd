package rewrite

// window is how many numbers back a late packet is still mapped as its neighbours were; a power of two that divides 2^15.
const window = 512

// number is the fate of one number of the source.
type number struct {
	in, off uint16
	state   uint8
}

const (
	numEmpty   uint8 = iota
	numMissing       // passed over: a loss, or late
	numSent
	numLeft // left out on purpose
)

// numbers maps a source's numbers of a given width (16 or 15 bits) so that what is left out on purpose leaves no gap, and
// what is lost does.
type numbers struct {
	ring *[window]number // nil until it begins
	mask uint16          // of the width
	off  uint16
	last uint16 // highest of the source
	out  uint16 // highest given
	any  bool   // last is valid
	sent bool   // out is valid
}

// begin says that the next number is of another source, and follows what was given last.
func (n *numbers) begin(first, mask uint16) {
	n.mask, n.any = mask, false
	if n.ring == nil {
		n.ring = new([window]number)
	}
	clear(n.ring[:])
	n.last = (first - 1) & mask
	if n.sent {
		n.off = (n.out + 1 - first) & mask
	}
}

// ahead gives how far in is after the highest number of the source; negative: late.
func (n *numbers) ahead(in uint16) int {
	d := int((in - n.last) & n.mask)
	if d > int(n.mask)/2 {
		d -= int(n.mask) + 1
	}
	return d
}

// place gives the slot of a number, after those passed over have got theirs; nil for one that is too old.
func (n *numbers) place(in uint16) *number {
	d := n.ahead(in)
	if !n.any {
		if d != 1 {
			return nil
		}
		n.any = true
	}
	if d <= -window {
		return nil
	}
	for i := max(1, d-window+1); i <= d; i++ {
		at := (n.last + uint16(i)) & n.mask
		n.ring[at%window] = number{in: at, off: n.off, state: numMissing}
	}
	if d > 0 {
		n.last = in
	}
	if s := &n.ring[in%window]; s.state != numEmpty && s.in == in {
		return s
	}
	return nil
}

// keep gives the number to send. again allows one that was given before: a picture has several packets.
func (n *numbers) keep(in uint16, again bool) (uint16, bool) {
	s := n.place(in)
	if s == nil || s.state == numLeft || s.state == numSent && !again {
		return 0, false
	}
	s.state = numSent
	out := (in + s.off) & n.mask
	if ahead := (out - n.out) & n.mask; !n.sent || ahead != 0 && ahead <= n.mask/2 {
		n.out, n.sent = out, true
	}
	return out, true
}

// leave leaves a number out: those after it move up. A late one's place is gone already.
func (n *numbers) leave(in uint16) {
	newest := n.ahead(in) > 0
	s := n.place(in)
	if s == nil || s.state != numMissing {
		return
	}
	s.state = numLeft
	if newest {
		n.off = (n.off - 1) & n.mask
	}
}

// Stream is one subscriber's numbering. The zero value has sent nothing. Its owner guards it.
type Stream struct {
	seq numbers
	pid numbers

	pidOpen       bool   // the source has shown a picture id
	frameOff      uint16 // is added to the source's frame numbers
	frame         uint16 // highest given
	frameOpen     bool   // the source has shown a frame number
	frames        bool   // frame is valid
	tsOff, lastTS uint32
	tl0Off, tl0   uint8
	keyOff, key   uint8
	begun         bool
	wantTS        uint32
	fresh         bool // the next packet begins another source
}

// Begun reports whether anything was sent.
func (s *Stream) Begun() bool { return s.begun }

// Begins reports whether the next packet is the first of a source.
func (s *Stream) Begins() bool { return !s.begun || s.fresh }

// LastTimestamp is the highest timestamp sent.
func (s *Stream) LastTimestamp() uint32 { return s.lastTS }

// Offset is what is added to the source's timestamps now.
func (s *Stream) Offset() uint32 { return s.tsOff }

// Switch says that the next packet is the first of another source, or of the same after a pause, and is to have the timestamp ts at
// least: never one that was sent already.
func (s *Stream) Switch(ts uint32) { s.fresh, s.wantTS = true, ts }

func (s *Stream) begin(seq uint16, ts uint32, i *Info) {
	s.seq.begin(seq, 0xffff)
	if !s.seq.sent {
		// In the lower half: whoever missed everything until the numbers run over would never guess SRTP's rollover counter (RFC 3711 section 3.3.1).
		s.seq.off = seq & 0x8000
	}
	s.pidOpen, s.frameOpen = false, false
	if s.begun {
		if int32(s.wantTS-s.lastTS) < 1 {
			s.wantTS = s.lastTS + 1
		}
		s.tsOff = s.wantTS - ts
		s.tl0Off, s.keyOff = s.tl0+1-i.TL0, s.key+1-i.KeyIdx
	} else {
		s.lastTS = ts
	}
	s.begun, s.fresh = true, false
}

// Leave leaves a packet out on purpose, and of VP8 its picture: the numbers after it close the gap. Pictures of VP9 name each other by
// the differences of their ids, so those keep theirs.
func (s *Stream) Leave(c Codec, seq uint16, i *Info) {
	if s.Begins() {
		return
	}
	s.seq.leave(seq)
	if c == VP8 && i.HasPID() {
		s.openPID(i)
		s.pid.leave(i.PID)
	}
}

// openPID begins a source's picture ids with the first that is seen: what comes before may be padding, which has none.
func (s *Stream) openPID(i *Info) {
	if s.pidOpen {
		return
	}
	mask := uint16(0x7f)
	if i.wide {
		mask = 0x7fff
	}
	s.pid.begin(i.PID, mask)
	s.pidOpen = true
}

// nextFrame gives a frame's number, which begins a source's anew where the one before ended. References are differences of the numbers,
// so what is left out leaves its gap.
func (s *Stream) nextFrame(d *Descriptor) uint16 {
	in := uint16(d.Seq)
	if !s.frameOpen {
		if s.frameOff = d.Frame - in; s.frames {
			s.frameOff = s.frame + 1 - in
		}
		s.frameOpen = true
	}
	out := in + s.frameOff
	if !s.frames || int16(out-s.frame) > 0 {
		s.frame, s.frames = out, true
	}
	return out
}

// Next gives the numbers to send a packet with; false: it is a straggler or a repetition, and is not sent.
func (s *Stream) Next(c Codec, seq uint16, ts uint32, i *Info) (Numbers, bool) {
	if s.Begins() {
		s.begin(seq, ts, i)
	}
	n := Numbers{TS: ts + s.tsOff, TL0: i.TL0 + s.tl0Off, KeyIdx: (i.KeyIdx + s.keyOff) & 0x1f}
	var ok bool
	if i.HasPID() {
		s.openPID(i)
		if c == VP8 {
			if n.PID, ok = s.pid.keep(i.PID, true); !ok {
				return Numbers{}, false
			}
		} else { // references are differences of picture ids: what is left out leaves its gap
			n.PID = (i.PID + s.pid.off) & s.pid.mask
			if ahead := (n.PID - s.pid.out) & s.pid.mask; !s.pid.sent || ahead <= s.pid.mask/2 {
				s.pid.out, s.pid.sent = n.PID, true
			}
		}
	}
	if n.Seq, ok = s.seq.keep(seq, false); !ok {
		return Numbers{}, false
	}
	if i.Deps != nil {
		n.Frame = s.nextFrame(i.Deps)
	}
	if int32(n.TS-s.lastTS) >= 0 {
		s.lastTS, s.tl0, s.key = n.TS, n.TL0, n.KeyIdx
	}
	return n, true
}

// Numbers are what a packet is sent with. There are many of them.
type Numbers struct {
	TS     uint32
	Mask   uint32 // that the dependency descriptor is to have; 0: its own
	Seq    uint16
	PID    uint16
	Frame  uint16 // of the dependency descriptor
	TL0    uint8
	KeyIdx uint8
}

// Apply copies the head of a payload to dst with the numbers of n in it and gives how many bytes it wrote: the rest of the payload
// follows unchanged. dst has room for 8 bytes at least.
func (i *Info) Apply(n Numbers, payload, dst []byte) int {
	end := copy(dst, payload[:min(len(payload), i.head())])
	if i.pidAt > 0 {
		if i.wide {
			dst[i.pidAt], dst[i.pidAt+1] = 0x80|byte(n.PID>>8), byte(n.PID)
		} else {
			dst[i.pidAt] = byte(n.PID & 0x7f)
		}
	}
	if i.tl0At > 0 {
		dst[i.tl0At] = n.TL0
	}
	if i.keyAt > 0 {
		dst[i.keyAt] = dst[i.keyAt]&0xe0 | n.KeyIdx&0x1f
	}
	return end
}

// head is how many bytes Apply may change: at most 7.
func (i *Info) head() int {
	end := max(i.tl0At, i.keyAt) + 1
	if i.pidAt > 0 {
		end = max(end, i.pidAt+1)
		if i.wide {
			end = max(end, i.pidAt+2)
		}
	}
	return end
}
