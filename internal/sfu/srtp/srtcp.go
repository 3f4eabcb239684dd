package srtp

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

const (
	// trailer is what SRTCP adds to a packet beside the tag, in bytes: the flag of encryption and the index.
	trailer   = 4
	encrypted = 1 << 31
	// rtcpHeader is what stays readable (RFC 7714 section 9.1), in bytes: the first header and the sender's SSRC.
	rtcpHeader = 8
	// OverheadRTCP is what protection adds to an RTCP packet, in bytes.
	OverheadRTCP = Overhead + trailer
	// maxSources bounds the SSRCs whose indexes are remembered.
	maxSources = 64
	// window is how far behind the newest a packet may come.
	window = 64
)

// ErrReplayed and ErrNotSealed are what opening gives for a packet that came before, is too old, or is not what the peer has sent.
var (
	ErrReplayed  = errors.New("srtp: the packet came before, or is too old")
	ErrNotSealed = errors.New("srtp: the packet is not what the peer has sent")
)

// SealRTCP appends a compound packet, protected, to dst, which must have room for it and OverheadRTCP, and must not overlap it. index is the number of the
// sender's packet, of 31 bits: one must never come twice with one SSRC.
func (s *Sealer) SealRTCP(dst, packet []byte, index uint32, nonce *Nonce) ([]byte, error) {
	if len(packet) < rtcpHeader || cap(dst)-len(dst) < len(packet)+OverheadRTCP {
		return dst, errPacket
	}
	nonce.rtcp(packet, index, &s.rtcpSalt)
	copy(nonce.aad[:], packet[:rtcpHeader])
	binary.BigEndian.PutUint32(nonce.aad[rtcpHeader:], index|encrypted)
	dst = append(dst, packet[:rtcpHeader]...)
	dst = s.rtcp.Seal(dst, nonce.nonce[:], packet[rtcpHeader:], nonce.aad[:])
	return binary.BigEndian.AppendUint32(dst, index|encrypted), nil
}

// Nonce is memory for one packet at a time. The zero value is ready.
type Nonce struct {
	nonce [saltLen]byte
	aad   [rtcpHeader + trailer]byte
}

// rtcp is RFC 7714 section 9.1: two bytes of zeros, SSRC, two of zeros, index.
func (n *Nonce) rtcp(packet []byte, index uint32, salt *[saltLen]byte) {
	n.nonce = [saltLen]byte{}
	copy(n.nonce[2:6], packet[4:8])
	binary.BigEndian.PutUint32(n.nonce[8:], index&^encrypted)
	for i := range n.nonce {
		n.nonce[i] ^= salt[i]
	}
}

// Opener opens the packets of one peer. It is for one goroutine at a time.
type Opener struct {
	aead  cipher.AEAD
	salt  [saltLen]byte
	media cipher.AEAD
	mask  [saltLen]byte // salt of media
	nonce Nonce
	seen  map[uint32]*indexes
}

// indexes are those of one SSRC that came.
type indexes struct {
	newest uint64
	came   uint64 // bit n: newest-n
}

// NewOpener derives the session keys from the peer's master key and salt.
func NewOpener(p Profile, key, salt []byte) (*Opener, error) {
	aead, sessionSalt, err := session(p, key, salt, labelRTCPKey, labelRTCPSalt)
	if err != nil {
		return nil, err
	}
	media, mask, err := session(p, key, salt, labelKey, labelSalt)
	return &Opener{aead: aead, salt: sessionSalt, media: media, mask: mask, seen: map[uint32]*indexes{}}, err
}

// OpenRTCP appends the compound packet in a protected one to dst, which must have room for it and must not overlap it.
func (o *Opener) OpenRTCP(dst, packet []byte) ([]byte, error) {
	end := len(packet) - trailer
	if end < rtcpHeader+Overhead || cap(dst)-len(dst) < end-Overhead {
		return dst, errPacket
	}
	index := binary.BigEndian.Uint32(packet[end:])
	if index&encrypted == 0 {
		return dst, ErrNotSealed // it may be only authenticated: nobody does that
	}
	index &^= encrypted
	ssrc := binary.BigEndian.Uint32(packet[4:])
	x := o.seen[ssrc]
	if x != nil && x.had(uint64(index)) {
		return dst, ErrReplayed
	}
	o.nonce.rtcp(packet, index, &o.salt)
	copy(o.nonce.aad[:], packet[:rtcpHeader])
	copy(o.nonce.aad[rtcpHeader:], packet[end:])
	start := len(dst)
	dst = append(dst, packet[:rtcpHeader]...)
	out, err := o.aead.Open(dst, o.nonce.nonce[:], packet[rtcpHeader:end], o.nonce.aad[:])
	if err != nil {
		return dst[:start], ErrNotSealed
	}
	if x == nil {
		if len(o.seen) == maxSources {
			return dst[:start], ErrReplayed // it cannot be told
		}
		x = &indexes{newest: uint64(index)}
		o.seen[ssrc] = x
	}
	x.note(uint64(index))
	return out, nil
}

func (x *indexes) had(index uint64) bool {
	if index > x.newest {
		return false
	}
	behind := x.newest - index
	return behind >= window || x.came>>behind&1 != 0
}

func (x *indexes) note(index uint64) {
	if index > x.newest {
		if ahead := index - x.newest; ahead >= window {
			x.came = 0
		} else {
			x.came <<= ahead
		}
		x.newest = index
	}
	x.came |= 1 << (x.newest - index)
}
