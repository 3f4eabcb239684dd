package wire

import (
	"crypto/sha1" //nolint:gosec // RFC 8489 section 14.5
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// Builder writes one message after another into its buffer.
type Builder struct{ b []byte }

// Begin starts a message; what was written before is gone. transaction is 12 bytes.
func (w *Builder) Begin(m Method, c Class, transaction []byte) {
	typ := uint16(m)&0xF | uint16(m)&0x70<<1 | uint16(m)&0xF80<<2 | uint16(c)&1<<4 | uint16(c)&2<<7
	w.b = binary.BigEndian.AppendUint16(w.b[:0], typ)
	w.b = append(w.b, 0, 0)
	w.b = binary.BigEndian.AppendUint32(w.b, cookie)
	w.b = append(w.b, transaction...)
}

// Bytes is the message. It is good until the next Begin.
func (w *Builder) Bytes() []byte {
	w.length(0)
	return w.b
}

func (w *Builder) length(more int) {
	binary.BigEndian.PutUint16(w.b[2:], uint16(len(w.b)-HeaderSize+more)) //nolint:gosec // no answer is that long
}

func (w *Builder) head(a Attr, size int) {
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(a))
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(size)) //nolint:gosec // a datagram's length
}

// Add appends an attribute; its padding is zeros.
func (w *Builder) Add(a Attr, v []byte) {
	w.head(a, len(v))
	w.b = append(w.b, v...)
	w.b = append(w.b, "\x00\x00\x00"[:-len(v)&3]...)
}

// AddUint32 appends an attribute of four bytes.
func (w *Builder) AddUint32(a Attr, v uint32) {
	w.head(a, 4)
	w.b = binary.BigEndian.AppendUint32(w.b, v)
}

// AddAddress appends an XORed address (RFC 8489 section 14.2).
func (w *Builder) AddAddress(a Attr, ap netip.AddrPort) {
	w.address(a, ap, true)
}

// AddPlainAddress appends an address as it is, such as ALTERNATE-SERVER.
func (w *Builder) AddPlainAddress(a Attr, ap netip.AddrPort) {
	w.address(a, ap, false)
}

func (w *Builder) address(a Attr, ap netip.AddrPort, xor bool) {
	ip, port := ap.Addr(), ap.Port()
	if xor {
		port ^= cookie >> 16
	}
	if ip.Is4() {
		w.head(a, 8)
		w.b = append(w.b, 0, FamilyIPv4)
	} else {
		w.head(a, 20)
		w.b = append(w.b, 0, FamilyIPv6)
	}
	w.b = binary.BigEndian.AppendUint16(w.b, port)
	at := len(w.b)
	if ip.Is4() {
		v := ip.As4()
		w.b = append(w.b, v[:]...)
	} else {
		v := ip.As16()
		w.b = append(w.b, v[:]...)
	}
	for i := at; xor && i < len(w.b); i++ {
		w.b[i] ^= w.b[4+i-at]
	}
}

// AddError appends ERROR-CODE without a reason phrase: it is for people, and an answer to strangers is short.
func (w *Builder) AddError(code int) {
	w.AddUint32(AttrErrorCode, uint32(code/100)<<8|uint32(code%100)) //nolint:gosec // 300 to 699
}

// AddUnknown appends UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13).
func (w *Builder) AddUnknown(list []Attr) {
	w.head(AttrUnknown, 2*len(list))
	for _, a := range list {
		w.b = binary.BigEndian.AppendUint16(w.b, uint16(a))
	}
	w.b = append(w.b, "\x00\x00"[:-2*len(list)&3]...)
}

// Sign appends the signature of the kind that the request had.
func (w *Builder) Sign(key []byte, s Seal) {
	switch s {
	case SealSHA1:
		w.Add(AttrIntegrity, sum(sha1.New, key, w.b, 4+integritySize))
	case SealSHA256:
		w.Add(AttrIntegritySHA256, sum(sha256.New, key, w.b, 4+integritySHA256Size))
	case Unsealed:
	}
}

// Fingerprint appends FINGERPRINT. It is the last.
func (w *Builder) Fingerprint() {
	w.length(8)
	w.AddUint32(AttrFingerprint, crc32.ChecksumIEEE(w.b)^fingerprintXOR)
}

// DataHead writes what goes before the payload of a Data indication (RFC 8656 section 11.4): all of it but the payload
// and its padding.
func (w *Builder) DataHead(transaction []byte, from netip.AddrPort, size int) []byte {
	w.Begin(Data, Indication, transaction)
	w.AddAddress(AttrXORPeerAddress, from)
	w.head(AttrData, size)
	w.length((size + 3) &^ 3)
	return w.b
}
