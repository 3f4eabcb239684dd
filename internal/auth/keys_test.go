package auth_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

var (
	keys  = auth.NewKeys([32]byte{1, 2, 3})
	now   = time.Unix(1_767_225_600, 0)
	token = auth.Token{Namespace: "myapp", User: "alice", Expires: now.Add(time.Hour), Room: "daily", Publish: true, Data: true}
)

func TestKeysAreTheSameOnEveryNode(t *testing.T) {
	again := auth.NewKeys([32]byte{1, 2, 3})
	require.Equal(t, keys.JWKS(), again.JWKS())
	require.Equal(t, keys.TicketKey(), again.TicketKey())
	other := auth.NewKeys([32]byte{1, 2, 4})
	require.NotEqual(t, keys.JWKS(), other.JWKS())
	require.NotEqual(t, keys.TicketKey(), other.TicketKey())
	require.NotContains(t, string(keys.JWKS()), keys.TicketKey(), "tickets have a key of their own")
}

// What is pinned here is on disks and in other people's hands: it must not change.
func TestDerivationIsPinned(t *testing.T) {
	require.Equal(t, "8mYxGcE_Na-mHXS0ebxcHr95HZXwXDbz_TxIA4bBsmI", keys.TicketKey())
	opened, err := keys.Open("v1.e-vbcX0JShAHRwF0fvaNOQtrZeW-jMWQS2FguGkFACWseeLjl_7dZNRfUwSf4w", "turn:myapp")
	require.NoError(t, err)
	require.Equal(t, "s3cret", opened)
}

// A stranger with the key set, and no code of ours, verifies a token.
func TestJWKSVerifiesATokenAndNamesItsKey(t *testing.T) {
	raw, err := keys.MintToken(token)
	require.NoError(t, err)
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(keys.JWKS(), &set))
	require.Len(t, set.Keys, 1)
	k := set.Keys[0]
	require.Equal(t, []string{"OKP", "Ed25519", "EdDSA", "sig"}, []string{k["kty"], k["crv"], k["alg"], k["use"]})
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + k["x"] + `"}`))
	require.Equal(t, base64.RawURLEncoding.EncodeToString(sum[:]), k["kid"], "RFC 7638")

	public, err := base64.RawURLEncoding.DecodeString(k["x"])
	require.NoError(t, err)
	claims := jwt.MapClaims{}
	parsed, err := jwt.NewParser(jwt.WithTimeFunc(func() time.Time { return now })).ParseWithClaims(raw, claims,
		func(*jwt.Token) (any, error) { return ed25519.PublicKey(public), nil })
	require.NoError(t, err)
	require.Equal(t, k["kid"], parsed.Header["kid"])
	require.Equal(t, "EdDSA", parsed.Header["alg"])
	require.Equal(t, "alice", claims["sub"])
	require.Equal(t, "myapp", claims["ns"])
	require.EqualValues(t, token.Expires.Unix(), claims["exp"])
	require.NotEmpty(t, claims["jti"])
	require.Equal(t, map[string]any{"room": "daily", "publish": true, "subscribe": false, "data": true, "admin": false}, claims["webrtc"])
}

func TestSealedSecretsOpenOnlyForTheirPurpose(t *testing.T) {
	sealed := keys.Seal("s3cret", "turn:myapp")
	require.NotContains(t, sealed, "s3cret")
	require.NotEqual(t, sealed, keys.Seal("s3cret", "turn:myapp"), "every sealing has its own nonce")
	got, err := keys.Open(sealed, "turn:myapp")
	require.NoError(t, err)
	require.Equal(t, "s3cret", got)
	_, err = keys.Open(sealed, "turn:other")
	require.Error(t, err)
	_, err = auth.NewKeys([32]byte{9}).Open(sealed, "turn:myapp")
	require.Error(t, err)
	for _, bad := range []string{"", "v1.", "v1.AAAA", "v2." + sealed[3:], sealed[3:], sealed + "A", sealed[:len(sealed)-2], "v1." + strings.Repeat("A", 80)} {
		_, err := keys.Open(bad, "turn:myapp")
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestSealRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain, aad := rapid.String().Draw(t, "plain"), rapid.String().Draw(t, "aad")
		sealed := keys.Seal(plain, aad)
		got, err := keys.Open(sealed, aad)
		if err != nil || got != plain {
			t.Fatalf("opened %q, %v", got, err)
		}
		b := []byte(sealed)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := keys.Open(string(b), aad); err == nil && got != plain {
			t.Fatalf("a damaged secret opened as %q", got)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(keys.Seal("s3cret", "x"), "x")
	f.Add("v1.", "")
	f.Fuzz(func(t *testing.T, sealed, aad string) {
		if _, err := keys.Open(sealed, aad); err != nil {
			require.Equal(t, orama.KindInternal, orama.KindOf(err))
		}
	})
}
