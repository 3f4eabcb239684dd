package rewrite

// Allocation is what a publisher says of its encodings and their spatial layers: the video layers allocation, a header extension of
// WebRTC's (version 00). It comes with keyframes, and whenever it changes.
//
//	this stream(2) streams - 1(2) bitmask of layers(4)     the same for all streams; 0: a bitmask of 4 bits for each follows
//	temporal layers - 1 (2 bits each), for each active layer, to a whole byte
//	kbit/s (LEB128), for each active layer's temporal layers, with those below
//	width - 1 (16) height - 1 (16) frames a second (8), for each active layer; may be left out
type Allocation struct {
	Streams int // encodings that the publisher has, sent or not
	Layers  [maxSpatial][maxSpatial]AllocatedLayer
}

// AllocatedLayer is a spatial layer of an encoding. The zero value is not sent.
type AllocatedLayer struct {
	Active        bool
	Temporal      uint8              // layers
	Kbps          [maxSpatial]uint32 // up to each temporal layer
	Width, Height uint16             // pixels; 0: not said
	FPS           uint8
}

// Top gives the best layer of an encoding that is sent; false: nothing is.
func (a *Allocation) Top(stream int) (AllocatedLayer, bool) {
	for n := maxSpatial - 1; n >= 0; n-- {
		if a.Layers[stream][n].Active {
			return a.Layers[stream][n], true
		}
	}
	return AllocatedLayer{}, false
}

// ReadAllocation reads one. One that cannot be read is refused.
func ReadAllocation(b []byte) (a Allocation, ok bool) {
	if len(b) == 1 && b[0] == 0 { // nothing is sent at all
		return Allocation{Streams: 1}, true
	}
	r := bitReader{b: b}
	r.f(2)
	a.Streams = int(r.f(2)) + 1
	same := r.f(4)
	for n := range a.Streams {
		set := same
		if same == 0 {
			set = r.f(4)
		}
		for s := range maxSpatial {
			a.Layers[n][s].Active = set>>s&1 == 1
		}
	}
	r.align()
	a.each(func(l *AllocatedLayer) { l.Temporal = uint8(r.f(2)) + 1 })
	r.align()
	a.each(func(l *AllocatedLayer) {
		for t := range l.Temporal {
			l.Kbps[t] = r.leb128()
		}
	})
	if !r.bad && r.at < 8*len(b) {
		a.each(func(l *AllocatedLayer) { l.Width, l.Height, l.FPS = size(r.f(16)), size(r.f(16)), uint8(r.f(8)) })
	}
	return a, !r.bad
}

func (a *Allocation) each(f func(*AllocatedLayer)) {
	for n := range a.Streams {
		for s := range a.Layers[n] {
			if a.Layers[n][s].Active {
				f(&a.Layers[n][s])
			}
		}
	}
}

// align goes on to the next whole byte.
func (r *bitReader) align() { r.at = (r.at + 7) &^ 7 }

// leb128 reads a number of at most 32 bits, seven to a byte, low ones first.
func (r *bitReader) leb128() (v uint32) {
	for n := 0; n < 35; n += 7 {
		more := r.flag()
		v |= r.f(7) << n
		if !more {
			return v
		}
	}
	r.bad = true
	return 0
}
