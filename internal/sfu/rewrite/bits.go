package rewrite

// bitReader reads a bit at a time from high to low. Reading beyond the end gives zeros and is remembered in bad.
type bitReader struct {
	b   []byte
	at  int // in bits
	bad bool
}

// f reads n bits, at most 32 (AV1 RTP section A.8.2).
func (r *bitReader) f(n int) (v uint32) {
	if r.bad || r.at+n > 8*len(r.b) {
		r.bad = true
		return 0
	}
	for range n {
		v = v<<1 | uint32(r.b[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

func (r *bitReader) flag() bool { return r.f(1) == 1 }

// ns reads a number below n in as few bits as that takes (AV1 RTP section A.8.2).
func (r *bitReader) ns(n uint32) uint32 {
	w := 0
	for x := n; x != 0; x >>= 1 {
		w++
	}
	m := uint32(1)<<w - n
	v := r.f(w - 1)
	if v < m {
		return v
	}
	return v<<1 - m + r.f(1)
}

// bitWriter writes the same way into memory that is there, and remembers in bad when that is not enough.
type bitWriter struct {
	b   []byte
	at  int // in bits
	bad bool
}

func (w *bitWriter) f(n int, v uint32) {
	if w.bad || w.at+n > 8*len(w.b) {
		w.bad = true
		return
	}
	for n--; n >= 0; n-- {
		bit := byte(0x80) >> (w.at % 8)
		w.b[w.at/8] &^= bit
		if v>>n&1 == 1 {
			w.b[w.at/8] |= bit
		}
		w.at++
	}
}

// copy writes the bits of b from one place to another.
func (w *bitWriter) copy(b []byte, from, to int) {
	r := bitReader{b: b, at: from}
	for r.at < to && !w.bad {
		n := min(32, to-r.at)
		w.f(n, r.f(n))
	}
}

// pad fills the last byte with zeros, and gives how many there are.
func (w *bitWriter) pad() int {
	w.f((8-w.at%8)%8, 0)
	return w.at / 8
}
