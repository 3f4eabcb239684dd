package rewrite

// readH264 looks for what a decoder can begin with (RFC 6184 section 5.2): a sequence parameter set, or the first slice of an IDR picture.
func readH264(b []byte) (i Info) {
	const stapA, fuA = 24, 28
	if len(b) < 2 {
		return i
	}
	switch b[0] & 0x1f {
	default:
		i.unit(b[0], b[1])
	case fuA:
		if len(b) > 2 && b[1]&0x80 != 0 {
			i.unit(b[1], b[2])
		}
	case stapA:
		for b = b[1:]; len(b) > 3; {
			i.unit(b[2], b[3])
			b = b[min(len(b), 2+(int(b[0])<<8|int(b[1]))):]
		}
	}
	return i
}

// unit takes a unit's header and the byte behind it.
func (i *Info) unit(header, next byte) {
	const idr, sps = 5, 7
	switch header & 0x1f {
	case sps:
		i.Key, i.parameters = true, true
	case idr: // first_mb_in_slice is 0, which is a bit 1 (H.264 section 7.3.3): a picture may have more slices, and they begin nothing
		i.Key = i.Key || next&0x80 != 0
	}
}

// Beginnings finds, in one H.264 source, the first packet of each keyframe's access unit. Parameter sets mostly come in packets of their
// own before the picture that needs them, and a decoder that began behind them would lack them. The zero value is ready.
type Beginnings struct {
	at    uint32 // the timestamp of the last parameters
	given bool   // at is valid
	bare  int    // keyframes since then without any
}

// Look leaves i.Key only in a packet with which a decoder can begin. Packets that come late are not shown to it.
func (s *Beginnings) Look(i *Info, ts uint32) {
	switch {
	case !i.Key:
	case i.parameters:
		i.Key = !s.given || ts != s.at || s.bare > 0 // one picture may have several sets
		s.at, s.given, s.bare = ts, true, 0
	case s.given && ts == s.at:
		i.Key = false
	default: // its parameters are lost, or the publisher has told them elsewhere, as the second in a row says
		s.bare++
		i.Key = s.bare > 1
	}
}
