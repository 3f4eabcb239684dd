package turn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"time"
)

// Nonces are made of time and address, so that nothing is kept for who has not shown a credential, and one is good for the
// address and transport alone that it was given to. 12 characters: a 401 to a request of 20 bytes has room for no more
// (see maxFactor).
const (
	nonceSize  = 12 // characters of base64: 3 bytes of time and 6 of MAC
	nonceUnit  = 4 * time.Second
	nonceLives = time.Hour // RFC 8489 section 9.2 leaves it to the server; RFC 8656 section 5 says at most an hour

	// cookieNonce begins a nonce that offers PASSWORD-ALGORITHMS (RFC 8489 section 9.2): the cookie, and the first of 24
	// bits set.
	cookieNonce = "obMatJos2" + "gAAA"
)

// nonces makes and judges them. Its key dies with the process: after a restart clients are told 438, and go on.
type nonces struct{ key [32]byte }

func newNonces() *nonces {
	n := &nonces{}
	rand.Read(n.key[:]) //nolint:errcheck // never fails since Go 1.24
	return n
}

// put appends a nonce for a client, with the cookie when it also tells of password algorithms.
func (n *nonces) put(b []byte, cookie bool, transport string, from netip.AddrPort, now time.Time) []byte {
	if cookie {
		b = append(b, cookieNonce...)
	}
	raw := n.raw(uint32(now.Unix()/int64(nonceUnit/time.Second)), cookie, transport, from) //nolint:gosec // 24 bits count for two years, and wrap
	return base64.RawURLEncoding.AppendEncode(b, raw[:])
}

func (n *nonces) raw(at uint32, cookie bool, transport string, from netip.AddrPort) (out [9]byte) {
	var in [4 + 16 + 2 + 1 + 4]byte
	binary.BigEndian.PutUint32(in[:], at&0xFFFFFF)
	ip := from.Addr().As16()
	copy(in[4:], ip[:])
	binary.BigEndian.PutUint16(in[20:], from.Port())
	if cookie {
		in[22] = 1 // so that nobody makes one offer of another (RFC 8489 section 9.2.1)
	}
	copy(in[23:], transport)
	m := hmac.New(sha256.New, n.key[:])
	m.Write(in[:])
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	copy(out[:3], in[1:4])
	copy(out[3:], sum[:6])
	return out
}

// good reports whether a nonce was given to this client within its life, and whether it offered password algorithms.
func (n *nonces) good(b []byte, transport string, from netip.AddrPort, now time.Time) (ok, cookie bool) {
	if len(b) == len(cookieNonce)+nonceSize && string(b[:len(cookieNonce)]) == cookieNonce {
		cookie, b = true, b[len(cookieNonce):]
	}
	if len(b) != nonceSize {
		return false, false
	}
	var raw [9]byte
	if _, err := base64.RawURLEncoding.Strict().Decode(raw[:], b); err != nil {
		return false, false
	}
	at := uint32(raw[0])<<16 | uint32(raw[1])<<8 | uint32(raw[2])
	age := (uint32(now.Unix()/int64(nonceUnit/time.Second)) - at) & 0xFFFFFF //nolint:gosec // as in put
	want := n.raw(at, cookie, transport, from)
	return hmac.Equal(raw[:], want[:]) && age <= uint32(nonceLives/nonceUnit), cookie
}
