package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the TURN REST convention is HMAC-SHA1
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"orama.network/orama"
)

// MaxTURNUsername bounds a TURN username before anything else looks at it, in bytes:
// 20 digits, a colon and a namespace.
const MaxTURNUsername = 64

// NewTURNSecret makes a namespace's shared secret: 32 random bytes as base64url text.
// The text's bytes are the HMAC key, so that any TURN REST client agrees.
func NewTURNSecret() string {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}

// MintTURN makes a credential by the TURN REST convention: username `{expiry_unix}:{namespace}`
// and base64(HMAC-SHA1(secret, username)).
func MintTURN(secret string, ns orama.NamespaceID, expiry time.Time) (username, credential string) {
	username = strconv.FormatInt(expiry.Unix(), 10) + ":" + string(ns)
	return username, TURNCredential(secret, username)
}

// TURNCredential is the password that belongs to a username.
func TURNCredential(secret, username string) string {
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// ParseTURNUsername splits a username into its expiry and namespace. It never panics and
// accepts only the canonical form: decimal seconds without sign or leading zero, a colon, a valid namespace.
func ParseTURNUsername(username string) (expiry time.Time, ns orama.NamespaceID, err error) {
	if len(username) > MaxTURNUsername {
		return time.Time{}, "", fmt.Errorf("turn username: longer than %d bytes", MaxTURNUsername)
	}
	secs, name, ok := strings.Cut(username, ":")
	if !ok {
		return time.Time{}, "", fmt.Errorf("turn username: no colon")
	}
	n, err := strconv.ParseInt(secs, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != secs {
		return time.Time{}, "", fmt.Errorf("turn username: expiry is not a canonical positive number")
	}
	if err := ValidNamespace(name); err != nil {
		return time.Time{}, "", err
	}
	return time.Unix(n, 0), orama.NamespaceID(name), nil
}

// EqualTURN compares two credentials in constant time.
func EqualTURN(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
