package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"orama.network/orama"
)

// Names inside tokens and tickets. A token is of no use as a ticket, nor a ticket as a token:
// keys and audiences both differ.
const (
	issuer         = "orama"
	audienceToken  = "orama-gateway"
	audienceTicket = "orama-sfu"
)

const (
	// MaxToken bounds a token or ticket before anything else looks at it, in bytes.
	MaxToken = 4 << 10
	// MaxUser bounds a user's name, in bytes.
	MaxUser = 128
	// MaxTokenTTL is the longest life of a token.
	MaxTokenTTL = 30 * 24 * time.Hour
)

// Token is what a client proves itself with at a gateway.
type Token struct {
	Namespace orama.NamespaceID
	User      orama.UserID
	Issued    time.Time    // whole seconds; filled by MintToken when zero: now. Zero in a token of an earlier version
	Expires   time.Time    // whole seconds
	ID        string       // filled by MintToken when empty
	Room      orama.RoomID // "": any room of the namespace
	Publish   bool
	Subscribe bool
	Data      bool
	Admin     bool // may do what an owner may
}

// tokenClaims is Token on the wire.
type tokenClaims struct {
	jwt.RegisteredClaims
	Namespace string      `json:"ns"`
	WebRTC    webrtcGrant `json:"webrtc"`
}

type webrtcGrant struct {
	Room      string `json:"room,omitempty"`
	Publish   bool   `json:"publish"`
	Subscribe bool   `json:"subscribe"`
	Data      bool   `json:"data"`
	Admin     bool   `json:"admin"`
}

// ValidUser checks a user's name: 1 to 128 bytes of UTF-8 without control characters.
func ValidUser(name string) error {
	if name == "" || len(name) > MaxUser || !utf8.ValidString(name) {
		return orama.Errorf(orama.KindInvalid, "invalid_user", "a user's name is 1 to 128 bytes of UTF-8")
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return orama.Errorf(orama.KindInvalid, "invalid_user", "a user's name holds no control characters")
		}
	}
	return nil
}

// MintToken signs a token. It refuses what VerifyToken would.
func (k *Keys) MintToken(t Token) (string, error) {
	if err := t.valid(); err != nil {
		return "", err
	}
	if t.ID == "" {
		t.ID = newID()
	}
	if t.Issued.IsZero() {
		t.Issued = time.Now()
	}
	return k.token.sign(tokenClaims{
		RegisteredClaims: registered(audienceToken, t.User, t.ID, t.Issued, t.Expires),
		Namespace:        string(t.Namespace),
		WebRTC: webrtcGrant{Room: string(t.Room), Publish: t.Publish, Subscribe: t.Subscribe,
			Data: t.Data, Admin: t.Admin},
	})
}

func (t Token) valid() error {
	if err := ValidNamespace(string(t.Namespace)); err != nil {
		return err
	}
	if err := ValidUser(string(t.User)); err != nil {
		return err
	}
	if t.Expires.IsZero() {
		return orama.Errorf(orama.KindInvalid, "invalid_expiry", "a token needs an expiry")
	}
	if t.Room != "" {
		return ValidRoom(string(t.Room))
	}
	return nil
}

// errToken is all that a stranger learns of a bad token, expiry aside.
var (
	errToken   = orama.Errorf(orama.KindUnauthenticated, "invalid_token", "the token is not valid here")
	errExpired = orama.Errorf(orama.KindUnauthenticated, "token_expired", "the token has expired; get a new one")
)

// VerifyToken checks signature, algorithm, key id, issuer, audience and expiry, and every claim's
// form. The error is of KindUnauthenticated.
func (k *Keys) VerifyToken(raw string, now time.Time) (Token, error) {
	var c tokenClaims
	if err := verify(raw, k.token.public, k.token.kid, audienceToken, now, &c); err != nil {
		return Token{}, err
	}
	t := Token{
		Namespace: orama.NamespaceID(c.Namespace), User: orama.UserID(c.Subject),
		Expires: c.ExpiresAt.Time, ID: c.RegisteredClaims.ID, Room: orama.RoomID(c.WebRTC.Room),
		Publish: c.WebRTC.Publish, Subscribe: c.WebRTC.Subscribe, Data: c.WebRTC.Data, Admin: c.WebRTC.Admin,
	}
	if c.IssuedAt != nil {
		t.Issued = c.IssuedAt.Time
	}
	if t.valid() != nil || t.ID == "" {
		return Token{}, errToken
	}
	return t, nil
}

func registered(audience string, user orama.UserID, id string, issued, expires time.Time) jwt.RegisteredClaims {
	c := jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: string(user), ID: id,
		ExpiresAt: jwt.NewNumericDate(expires),
	}
	if !issued.IsZero() {
		c.IssuedAt = jwt.NewNumericDate(issued)
	}
	return c
}

func (s signer) sign(c jwt.Claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = s.kid
	raw, err := t.SignedString(s.private)
	if err == nil && len(raw) > MaxToken {
		return "", orama.Errorf(orama.KindInvalid, "token_too_large", "the claims do not fit into a token")
	}
	return raw, err
}

// verify parses raw into c. EdDSA is the only algorithm there is (RFC 8725 section 3.1).
func verify(raw string, public ed25519.PublicKey, kid, audience string, now time.Time, c jwt.Claims) error {
	if len(raw) > MaxToken {
		return errToken
	}
	p := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	_, err := p.ParseWithClaims(raw, c, func(t *jwt.Token) (any, error) {
		if t.Header["kid"] != kid {
			return nil, errToken
		}
		return public, nil
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errExpired
	default:
		return errToken
	}
}

// newID makes a token id: 16 random bytes as base64url text.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}
