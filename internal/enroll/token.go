package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net"
	"strconv"
	"strings"

	"orama.network/orama"
)

// A token is its prefix and base64url of: 32 bytes of secret; the fingerprint, SHA-256 of the listener's public key as
// SubjectPublicKeyInfo; the listener's host:port; 4 bytes of SHA-256 of what is before.
const (
	tokenPrefix = "orama-join-1."
	secretLen   = 32
	printLen    = sha256.Size
	sumLen      = 4
	maxAddress  = 255 + 6 // a DNS name, a colon and a port
	maxToken    = len(tokenPrefix) + (secretLen+printLen+maxAddress+sumLen)*4/3 + 4
)

var tokenText = base64.RawURLEncoding.Strict()

// Token is what a joiner must know: whom to ask, how to know them, and the word that opens.
type Token struct {
	Secret      [secretLen]byte
	Fingerprint [printLen]byte
	Address     string // host:port
}

// NewToken makes a token with a fresh secret.
func NewToken(fingerprint [printLen]byte, address string) Token {
	t := Token{Fingerprint: fingerprint, Address: address}
	rand.Read(t.Secret[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return t
}

// String is the token as it is shown once.
func (t Token) String() string {
	b := append(append(append([]byte(nil), t.Secret[:]...), t.Fingerprint[:]...), t.Address...)
	return tokenPrefix + tokenText.EncodeToString(append(b, checksum(b)...))
}

// Hash is what is kept of the token: hex SHA-256 of its secret, which has 256 random bits and so needs no salt.
func (t Token) Hash() string {
	sum := sha256.Sum256(t.Secret[:])
	return hex.EncodeToString(sum[:])
}

var errToken = orama.Errorf(orama.KindInvalid, "invalid_join_token",
	"the join token is not whole; copy it again as 'orama node invite' printed it, from %s to its end", tokenPrefix)

// ParseToken reads a token; spaces and line ends around it do no harm. Its checksum tells a mistake in copying from a
// token that is wrong, before anybody is asked.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) > maxToken {
		return Token{}, errToken
	}
	b, err := tokenText.DecodeString(text)
	if err != nil || len(b) <= secretLen+printLen+sumLen {
		return Token{}, errToken
	}
	body, sum := b[:len(b)-sumLen], b[len(b)-sumLen:]
	if subtle.ConstantTimeCompare(sum, checksum(body)) != 1 {
		return Token{}, errToken
	}
	t := Token{Secret: [secretLen]byte(body), Fingerprint: [printLen]byte(body[secretLen:]), Address: string(body[secretLen+printLen:])}
	if !validAddress(t.Address) {
		return Token{}, errToken
	}
	return t, nil
}

func checksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("orama join token:"), b...))
	return sum[:sumLen]
}

func validAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	if err != nil || len(a) > maxAddress || host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}
