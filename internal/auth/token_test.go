package auth_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := auth.Token{
			Namespace: "myapp", User: orama.UserID(rapid.StringMatching(`[^\pC]{1,30}`).Draw(t, "user")),
			Issued:  now.Add(-time.Duration(rapid.IntRange(0, 1e6).Draw(t, "age")) * time.Second),
			Expires: now.Add(time.Duration(rapid.IntRange(1, 1e6).Draw(t, "ttl")) * time.Second), ID: "id",
			Room:    orama.RoomID(rapid.SampledFrom([]string{"", "daily", "a.b~c"}).Draw(t, "room")),
			Publish: rapid.Bool().Draw(t, "p"), Subscribe: rapid.Bool().Draw(t, "s"), Data: rapid.Bool().Draw(t, "d"), Admin: rapid.Bool().Draw(t, "a"),
		}
		raw, err := keys.MintToken(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := keys.VerifyToken(raw, now)
		if err != nil {
			t.Fatal(err)
		}
		if !out.Expires.Equal(in.Expires) {
			t.Fatalf("expires %v, not %v", out.Expires, in.Expires)
		}
		if !out.Issued.Equal(in.Issued) {
			t.Fatalf("issued %v, not %v", out.Issued, in.Issued)
		}
		out.Expires, out.Issued = in.Expires, in.Issued
		if in != out {
			t.Fatalf("%+v became %+v", in, out)
		}
	})
}

func TestMintRefusesWhatVerifyWould(t *testing.T) {
	for name, change := range map[string]func(*auth.Token){
		"namespace":    func(t *auth.Token) { t.Namespace = "Bad" },
		"no user":      func(t *auth.Token) { t.User = "" },
		"long user":    func(t *auth.Token) { t.User = orama.UserID(strings.Repeat("x", auth.MaxUser+1)) },
		"control user": func(t *auth.Token) { t.User = "a\nb" },
		"broken user":  func(t *auth.Token) { t.User = "\xff" },
		"room":         func(t *auth.Token) { t.Room = "a b" },
		"no expiry":    func(t *auth.Token) { t.Expires = time.Time{} },
	} {
		tok := token
		change(&tok)
		_, err := keys.MintToken(tok)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), name)
	}
	a, err := keys.MintToken(token)
	require.NoError(t, err)
	b, err := keys.MintToken(token)
	require.NoError(t, err)
	require.NotEqual(t, a, b, "every token has an id of its own")
}

func TestExpiryIsStrict(t *testing.T) {
	raw, err := keys.MintToken(token)
	require.NoError(t, err)
	_, err = keys.VerifyToken(raw, token.Expires.Add(-time.Second))
	require.NoError(t, err)
	for _, at := range []time.Time{token.Expires, token.Expires.Add(time.Hour)} {
		_, err = keys.VerifyToken(raw, at)
		require.ErrorContains(t, err, "expired")
		require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
	}
}

// sign makes a token as a forger or a careless issuer might. The cluster key of keys gives private.
func sign(t *testing.T, method jwt.SigningMethod, key any, header map[string]any, change func(jwt.MapClaims)) string {
	t.Helper()
	claims := jwt.MapClaims{"iss": "orama", "aud": "orama-gateway", "sub": "alice", "ns": "myapp", "jti": "x", "exp": now.Add(time.Hour).Unix()}
	change(claims)
	tok := jwt.NewWithClaims(method, claims)
	for k, v := range header {
		tok.Header[k] = v
	}
	raw, err := tok.SignedString(key)
	require.NoError(t, err)
	return raw
}

func TestForgedTokens(t *testing.T) {
	good, err := keys.MintToken(token)
	require.NoError(t, err)
	head, _, err := jwt.NewParser().ParseUnverified(good, jwt.MapClaims{})
	require.NoError(t, err)
	kid := map[string]any{"kid": head.Header["kid"]}
	private := auth.TokenPrivate(keys)
	same := func(jwt.MapClaims) {}
	_, err = keys.VerifyToken(sign(t, jwt.SigningMethodEdDSA, private, kid, same), now)
	require.NoError(t, err, "else the cases below prove nothing")

	_, stranger, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	public := []byte(private.Public().(ed25519.PublicKey))
	without := func(k string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { delete(c, k) } }
	with := func(k string, v any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[k] = v } }
	ed := jwt.SigningMethodEdDSA
	parts := strings.Split(good, ".")
	for name, raw := range map[string]string{
		"empty":                 "",
		"dots":                  "..",
		"huge":                  good + strings.Repeat("A", auth.MaxToken),
		"another key":           sign(t, ed, stranger, kid, same),
		"none":                  sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, same),
		"HMAC with public key":  sign(t, jwt.SigningMethodHS256, public, kid, same),
		"no key id":             sign(t, ed, private, nil, same),
		"another key id":        sign(t, ed, private, map[string]any{"kid": "x"}, same),
		"a number as key id":    sign(t, ed, private, map[string]any{"kid": 1}, same),
		"no issuer":             sign(t, ed, private, kid, without("iss")),
		"another issuer":        sign(t, ed, private, kid, with("iss", "evil")),
		"no audience":           sign(t, ed, private, kid, without("aud")),
		"a ticket's audience":   sign(t, ed, private, kid, with("aud", "orama-sfu")),
		"no expiry":             sign(t, ed, private, kid, without("exp")),
		"not yet":               sign(t, ed, private, kid, with("nbf", now.Add(time.Hour).Unix())),
		"no subject":            sign(t, ed, private, kid, without("sub")),
		"no namespace":          sign(t, ed, private, kid, without("ns")),
		"bad namespace":         sign(t, ed, private, kid, with("ns", "../x")),
		"no id":                 sign(t, ed, private, kid, without("jti")),
		"bad room":              sign(t, ed, private, kid, with("webrtc", map[string]any{"room": "a b"})),
		"a word for a boolean":  sign(t, ed, private, kid, with("webrtc", map[string]any{"admin": "yes"})),
		"payload of another":    parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"root"}`)) + "." + parts[2],
		"padding":               good + "=",
		"another's signature":   parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no signature":          parts[0] + "." + parts[1] + ".",
		"trailing bits changed": good[:len(good)-1] + flip(good[len(good)-1:]),
	} {
		_, err := keys.VerifyToken(raw, now)
		require.Error(t, err, name)
		require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err), name)
	}
}

// flip changes only the unused low bits of the last base64 character.
func flip(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.Index(alphabet, s)^1])
}

func TestATicketIsNoTokenAndATokenNoTicket(t *testing.T) {
	raw, err := keys.MintTicket(ticket())
	require.NoError(t, err)
	_, err = keys.VerifyToken(raw, now)
	require.Error(t, err)
	raw, err = keys.MintToken(token)
	require.NoError(t, err)
	_, err = verifier(t).Verify(raw, now)
	require.Error(t, err)
}

func FuzzVerifyToken(f *testing.F) {
	good, _ := keys.MintToken(token)
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := keys.VerifyToken(raw, now)
		if err != nil {
			require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
			return
		}
		require.Equal(t, token.User, got.User, "only a token of ours passes")
	})
}
