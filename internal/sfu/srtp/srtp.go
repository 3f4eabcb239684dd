// Package srtp protects the media that the SFU sends, and opens media and RTCP that peers send (RFC 3711), with AES-GCM (RFC 7714), in place of
// pion's: it writes into the caller's memory, allocates nothing and has no lock.
package srtp

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

const (
	// Overhead is what protection adds to a packet, in bytes: the tag of GCM.
	Overhead = 16
	// saltLen is the length of a salt in the GCM profiles, in bytes (RFC 7714 section 12).
	saltLen = 12
	// exporterLabel is that of DTLS-SRTP (RFC 5764 section 4.2).
	exporterLabel = "EXTRACTOR-dtls_srtp"
)

// Profile is an SRTP protection profile (RFC 7714 section 14.2).
type Profile uint16

// The profiles that are protected here.
const (
	AES128GCM Profile = 7
	AES256GCM Profile = 8
)

func (p Profile) keyLen() int {
	switch p {
	case AES128GCM:
		return 16
	case AES256GCM:
		return 32
	}
	return 0
}

var (
	errProfile = errors.New("srtp: the protection profile is not one of AES-GCM")
	errRandom  = errors.New("srtp: the handshake's secrets are not whole")
	errPacket  = errors.New("srtp: the packet is no RTP, or there is no room for it")
)

// Sealer protects the packets of one side of a session. It is safe for several goroutines, as long as each Stream is used by one at a time.
type Sealer struct {
	aead     cipher.AEAD
	salt     [saltLen]byte
	rtcp     cipher.AEAD
	rtcpSalt [saltLen]byte
}

// NewSealer derives the session keys from a master key and salt (RFC 3711 section 4.3, RFC 7714 section 11), with a key derivation rate of 0.
func NewSealer(p Profile, key, salt []byte) (*Sealer, error) {
	aead, sessionSalt, err := session(p, key, salt, labelKey, labelSalt)
	if err != nil {
		return nil, err
	}
	rtcp, rtcpSalt, err := session(p, key, salt, labelRTCPKey, labelRTCPSalt)
	return &Sealer{aead: aead, salt: sessionSalt, rtcp: rtcp, rtcpSalt: rtcpSalt}, err
}

// The labels of the session keys and salts (RFC 3711 section 4.3.2).
const labelKey, labelSalt, labelRTCPKey, labelRTCPSalt = 0, 2, 3, 5

func session(p Profile, key, salt []byte, keyLabel, saltLabel byte) (cipher.AEAD, [saltLen]byte, error) {
	var out [saltLen]byte
	if p.keyLen() == 0 {
		return nil, out, errProfile
	}
	if len(key) != p.keyLen() || len(salt) != saltLen {
		return nil, out, errRandom
	}
	k, err := derive(key, salt, keyLabel, p.keyLen())
	if err != nil {
		return nil, out, err
	}
	n, err := derive(key, salt, saltLabel, saltLen)
	if err != nil {
		return nil, out, err
	}
	copy(out[:], n)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, out, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, out, err
}

// derive is the pseudo-random function of RFC 3711 section 4.3.3: AES in counter mode from the salt, in which the label stands.
func derive(key, salt []byte, label byte, n int) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	var counter [aes.BlockSize]byte
	copy(counter[:14], salt)
	counter[7] ^= label
	out := make([]byte, n)
	cipher.NewCTR(block, counter[:]).XORKeyStream(out, out)
	return out, nil
}

// Stream counts the packets of one SSRC, for as long as the session lasts: its rollover counter is part of every nonce.
type Stream struct {
	rollovers uint32
	last      uint16
	begun     bool
	nonce     [saltLen]byte // of the packet that is sealed; here, as it would escape
}

// index gives the rollover counter of a sequence number (RFC 3711 section 3.3.1). One that lies behind is sent again as it was.
func (s *Stream) index(seq uint16) uint32 {
	ahead := int16(seq - s.last)
	switch {
	case !s.begun:
		s.begun, s.last = true, seq
	case ahead > 0:
		if seq < s.last {
			s.rollovers++
		}
		s.last = seq
	case seq > s.last:
		return s.rollovers - 1
	}
	return s.rollovers
}

// Seal protects a packet where it is, which must have room for Overhead behind it, and gives it with that. The same number of the same stream
// must never come with other contents: that would give the key away.
func (s *Sealer) Seal(packet []byte, of *Stream) ([]byte, error) {
	head, ok := HeaderLen(packet)
	if !ok || cap(packet)-len(packet) < Overhead {
		return nil, errPacket
	}
	seq := binary.BigEndian.Uint16(packet[2:])
	nonce(&of.nonce, packet, of.index(seq), &s.salt)
	return s.aead.Seal(packet[:head], of.nonce[:], packet[head:], packet[:head]), nil
}

// nonce is RFC 7714 section 8.1: two bytes of zeros, SSRC, rollover counter, sequence number.
func nonce(n *[saltLen]byte, packet []byte, rollovers uint32, salt *[saltLen]byte) {
	n[0], n[1] = 0, 0
	copy(n[2:6], packet[8:12])
	binary.BigEndian.PutUint32(n[6:], rollovers)
	copy(n[10:], packet[2:4])
	for i := range n {
		n[i] ^= salt[i]
	}
}

// Source is what is known of the packets of one SSRC that a peer has sent. The zero value knows nothing; its first packet is taken for one before the
// first rollover of its numbers.
type Source struct {
	indexes
	begun bool
}

// index is where a sequence number is nearest to the newest that came (RFC 3711 section 3.3.1). ok is false for one before the first.
func (s *Source) index(seq uint16) (index uint64, ok bool) {
	if !s.begun {
		return uint64(seq), true
	}
	at := int64(s.newest) + int64(int16(seq-uint16(s.newest))) //nolint:gosec // 48 bits
	return uint64(at), at >= 0 && at < 1<<48
}

// The profiles of header extensions (RFC 8285 section 4.2 and 4.3), and those that say that they are encrypted (RFC 9335 section 5.1).
const (
	oneByte, twoByte               = 0xbede, 0x1000
	cryptexOneByte, cryptexTwoByte = 0xc0de, 0xc2de
)

// clearLen gives how much of a packet is not encrypted, and the profile of its extensions as it will be when it is opened; 0: that which it has.
func clearLen(packet []byte, head int) (n int, profile uint16) {
	if packet[0]&0x1f == 0x10 { // with contributing sources among them it is more work, and nobody has those
		switch binary.BigEndian.Uint16(packet[fixedHeader:]) {
		case cryptexOneByte:
			return fixedHeader + 4, oneByte
		case cryptexTwoByte:
			return fixedHeader + 4, twoByte
		}
	}
	return head, 0
}

// Open appends an RTP packet that the peer has protected to dst, which must have room for it and must not overlap it. Header extensions may be encrypted (RFC 9335). Each number of an
// SSRC is opened once, and none that is 64 or more behind the newest (RFC 3711 section 3.3.2).
func (o *Opener) Open(dst, packet []byte, of *Source) ([]byte, error) {
	head, ok := HeaderLen(packet)
	if !ok || len(packet) < head+Overhead || cap(dst)-len(dst) < len(packet)-Overhead {
		return dst, errPacket
	}
	index, ok := of.index(binary.BigEndian.Uint16(packet[2:]))
	if !ok || of.begun && of.had(index) {
		return dst, ErrReplayed
	}
	nonce(&o.nonce.nonce, packet, uint32(index>>16), &o.mask) //nolint:gosec // 32 bits
	start := len(dst)
	n, profile := clearLen(packet, head)
	dst = append(dst, packet[:n]...)
	out, err := o.media.Open(dst, o.nonce.nonce[:], packet[n:], packet[:n])
	if err != nil {
		return dst[:start], ErrNotSealed
	}
	if profile != 0 {
		binary.BigEndian.PutUint16(out[start+fixedHeader:], profile)
	}
	if !of.begun {
		of.begun, of.newest = true, index
	}
	of.note(index)
	return out, nil
}

// fixedHeader is the length of the part of an RTP header that all packets have (RFC 3550 section 5.1), in bytes.
const fixedHeader = 12

// HeaderLen is where the payload of an RTP packet begins (RFC 3550 section 5.3.1), in bytes. ok is false for what is none.
func HeaderLen(b []byte) (int, bool) {
	if len(b) < fixedHeader || b[0]>>6 != 2 {
		return 0, false
	}
	n := fixedHeader + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 {
		if len(b) < n+4 {
			return 0, false
		}
		n += 4 + 4*int(binary.BigEndian.Uint16(b[n+2:]))
	}
	return n, n <= len(b)
}
