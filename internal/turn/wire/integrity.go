package wire

import (
	"crypto/hmac"
	"crypto/md5"  //nolint:gosec // RFC 8489 section 9.2.2: what every client knows
	"crypto/sha1" //nolint:gosec // section 14.5
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Seal is how a message was signed, and so how it is answered.
type Seal uint8

// The seals.
const (
	Unsealed Seal = iota
	SealSHA1
	SealSHA256
)

// Key is a long-term credential as the algorithms need it. The zero value fits no message.
type Key struct {
	MD5    [md5.Size]byte
	SHA256 [sha256.Size]byte
}

// NewKey makes the key of a long-term credential (RFC 8489 section 18.5.1).
func NewKey(username, realm, password string) Key {
	text := []byte(username + ":" + realm + ":" + password)
	return Key{MD5: md5.Sum(text), SHA256: sha256.Sum256(text)} //nolint:gosec // see above
}

// For is the key's bytes under a password algorithm: MD5, unless the client chose SHA-256.
func (k *Key) For(sha bool) []byte {
	if sha {
		return k.SHA256[:]
	}
	return k.MD5[:]
}

// Sealed says how a message was signed; of two signatures the stronger counts.
func (m *Message) Sealed() Seal {
	switch {
	case m.Has(AttrIntegritySHA256):
		return SealSHA256
	case m.Has(AttrIntegrity):
		return SealSHA1
	}
	return Unsealed
}

// Signed reports whether the message's signature is one of key. It takes as long for a wrong one.
func (m *Message) Signed(key []byte) bool {
	typ, longest, shortest, algorithm := AttrIntegrity, integritySize, integritySize, sha1.New
	if m.Sealed() == SealSHA256 { // RFC 8489 section 14.6: it may be cut
		typ, longest, shortest, algorithm = AttrIntegritySHA256, integritySHA256Size, 16, sha256.New
	}
	p := m.find(typ)
	if p == nil || p.end-p.start > longest || p.end-p.start < shortest || (p.end-p.start)%4 != 0 {
		return false
	}
	v := m.Raw[p.start:p.end]
	return hmac.Equal(v, sum(algorithm, key, m.Raw[:p.start-4], 4+len(v))[:len(v)])
}

// sum is the HMAC of a message up to an attribute of the size given, whose end the length in the header is made to be.
func sum(algorithm func() hash.Hash, key, upTo []byte, size int) []byte {
	h := hmac.New(algorithm, key)
	var length [2]byte
	binary.BigEndian.PutUint16(length[:], uint16(len(upTo)-HeaderSize+size)) //nolint:gosec // a datagram's length
	h.Write(upTo[:2])
	h.Write(length[:])
	h.Write(upTo[4:])
	return h.Sum(nil)
}

// Password algorithms (RFC 8489 section 18.5).
const (
	passwordMD5 = 1
	passwordSHA = 2
)

// Algorithms is PASSWORD-ALGORITHMS: SHA-256, then MD5, without parameters (RFC 8489 section 14.11).
var Algorithms = []byte{0, passwordSHA, 0, 0, 0, passwordMD5, 0, 0}

// Chosen reads which password algorithm a client chose (RFC 8489 section 9.2.4). fits is false for a choice that was not
// offered, or one that does not repeat the offer.
func (m *Message) Chosen() (sha, fits bool) {
	one, chose := m.Get(AttrPasswordAlgorithm)
	all, repeats := m.Get(AttrPasswordAlgorithms)
	switch {
	case !chose && !repeats:
		return false, true // a client of RFC 5389
	case !chose || !repeats || string(all) != string(Algorithms) || len(one) != 4 || one[2] != 0 || one[3] != 0 || one[0] != 0:
		return false, false
	}
	return one[1] == passwordSHA, one[1] == passwordSHA || one[1] == passwordMD5
}
