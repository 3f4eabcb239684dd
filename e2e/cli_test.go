//go:build e2e

package e2e

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// Exit codes of the binary.
const (
	codeUsage    = 2
	codeNotFound = 4
)

// A namespace's life on the command line.
func TestNamespaceCommands(t *testing.T) {
	c := up(t)
	var made struct {
		Namespace string `json:"namespace"`
		OwnerKey  string `json:"owner_key"`
	}
	c.do(t, &made, "namespace", "create", "myapp")
	require.Equal(t, "myapp", made.Namespace)
	require.Regexp(t, `^orama_`, made.OwnerKey)
	require.Contains(t, c.namespaces(t), "myapp")

	_, _, code := c.orama(t, "namespace", "create", "myapp")
	require.NotZero(t, code, "a name can be had once")
	for _, name := range []string{"", "a", "A", "-a", "a-", "a_b", "ä", "a b", "../up", strings.Repeat("a", 41), "turn", "admin"} {
		out, errs, code := c.orama(t, "namespace", "create", "--json", "--", name)
		require.Equal(t, codeUsage, code, "%q was not refused: %s%s", name, out, errs)
	}

	var status struct {
		Enabled bool `json:"enabled"`
	}
	c.do(t, &status, "namespace", "webrtc-status", "--namespace", "myapp")
	require.False(t, status.Enabled)
	begun := time.Now()
	c.do(t, &status, "namespace", "enable", "webrtc", "--namespace", "myapp")
	t.Logf("enabled in %s", ms(time.Since(begun)))
	require.True(t, status.Enabled)
	roles := map[string]int{}
	for _, in := range c.instances(t, "myapp") {
		require.Equal(t, "ready", in.State, "%+v", in)
		roles[in.Role]++
	}
	require.Equal(t, map[string]int{"turn": 2, "sfu": 3}, roles)
	require.Equal(t, http.StatusOK, c.ask(t, made.OwnerKey))
	require.NotEmpty(t, named(t, "sfu-myapp.sock"))

	c.do(t, nil, "namespace", "disable", "webrtc", "--namespace", "myapp")
	c.do(t, &status, "namespace", "webrtc-status", "--namespace", "myapp")
	require.False(t, status.Enabled)
	require.Empty(t, named(t, "sfu-myapp.sock"), "its SFUs still run")
	c.answersSoon(t, made.OwnerKey, "a namespace without WebRTC", func(code int) bool { return code != http.StatusOK })
	c.do(t, nil, "namespace", "delete", "myapp")
	require.NotContains(t, c.namespaces(t), "myapp")
	c.answersSoon(t, made.OwnerKey, "the key of a deleted namespace", func(code int) bool { return code == http.StatusUnauthorized })
}

func (c *cluster) namespaces(t testing.TB) []string {
	t.Helper()
	var list struct {
		Namespaces []struct {
			Name string `json:"name"`
		} `json:"namespaces"`
	}
	c.do(t, &list, "namespace", "list")
	var out []string
	for _, n := range list.Namespaces {
		out = append(out, n.Name)
	}
	return out
}

// ask asks for TURN credentials with an API key.
func (c *cluster) ask(t testing.TB, key string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Gateways[0]+"/v1/webrtc/turn/credentials", nil)
	require.NoError(t, err)
	req.Header.Set("X-API-Key", key)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	return res.StatusCode
}

// answersSoon waits until a gateway, which may believe what it read a moment ago, answers as it should.
func (c *cluster) answersSoon(t testing.TB, key, what string, right func(code int) bool) {
	t.Helper()
	took := eventually(t, 2*time.Second, func() string {
		if code := c.ask(t, key); !right(code) {
			return fmt.Sprintf("%s: the gateway answers %d", what, code)
		}
		return ""
	})
	t.Logf("%s is refused within %s", what, ms(took))
}

// What a program may rely on when something is wrong.
func TestExitCodes(t *testing.T) {
	c := up(t)
	for _, x := range []struct {
		code int
		args []string
	}{
		{codeUsage, []string{"no-such-command"}},
		{codeUsage, []string{"namespace", "no-such-command"}},
		{codeUsage, []string{"namespace", "create"}},
		{codeUsage, []string{"namespace", "enable", "webrtc"}},
		{codeUsage, []string{"namespace", "list", "--no-such-flag"}},
		{codeUsage, []string{"token", "--namespace", "demo"}},
		{codeNotFound, []string{"namespace", "enable", "webrtc", "--namespace", "nobody"}},
		{codeNotFound, []string{"namespace", "webrtc-status", "--namespace", "nobody"}},
		{codeNotFound, []string{"namespace", "disable", "webrtc", "--namespace", "nobody"}},
		{codeNotFound, []string{"namespace", "delete", "nobody"}},
		{codeNotFound, []string{"token", "--namespace", "nobody", "--user", "alice"}},
	} {
		out, errs, code := c.orama(t, append(x.args, "--json")...)
		require.Equal(t, x.code, code, "orama %s: %s%s", strings.Join(x.args, " "), out, errs)
		var said struct {
			Error struct{ Code, Message string }
		}
		require.NoError(t, json.Unmarshal([]byte(out), &said), out)
		require.NotEmpty(t, said.Error.Code)
		require.NotEmpty(t, said.Error.Message)
		_, errs, code = c.orama(t, x.args...)
		require.Equal(t, x.code, code)
		require.NotEmpty(t, errs, "orama %s says nothing to people", strings.Join(x.args, " "))
	}
	const unavailable = 5
	_, errs, code := run(t, "namespace", "list", "--data-dir", dataDir(t))
	require.Contains(t, []int{codeNotFound, unavailable}, code, "a cluster that is not there: %s", errs)
}

// A token of the command line is one that anybody can verify with the published keys.
func TestTokenVerifies(t *testing.T) {
	c := up(t)
	raw := c.token(t, c.Namespace, "alice", "--room", "daily", "--ttl", "15m")
	res, err := http.Get(c.Gateways[1] + "/.well-known/jwks.json")
	require.NoError(t, err)
	defer res.Body.Close()
	var set struct {
		Keys []struct{ Kty, Crv, Kid, X, Alg string }
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&set))
	var claims struct {
		jwt.RegisteredClaims
		NS     string `json:"ns"`
		WebRTC struct {
			Room                     string
			Publish, Subscribe, Data bool
			Admin                    bool
		} `json:"webrtc"`
	}
	_, err = jwt.ParseWithClaims(raw, &claims, func(token *jwt.Token) (any, error) {
		for _, k := range set.Keys {
			if k.Kid == token.Header["kid"] && k.Kty == "OKP" && k.Crv == "Ed25519" {
				x, err := base64.RawURLEncoding.DecodeString(k.X)
				return ed25519.PublicKey(x), err
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithExpirationRequired())
	require.NoError(t, err)
	require.Equal(t, "alice", claims.Subject)
	require.Equal(t, c.Namespace, claims.NS)
	require.Equal(t, "daily", claims.WebRTC.Room)
	require.True(t, claims.WebRTC.Publish && claims.WebRTC.Subscribe && claims.WebRTC.Data)
	require.False(t, claims.WebRTC.Admin)
	require.NotEmpty(t, claims.ID)
	require.WithinDuration(t, time.Now().Add(15*time.Minute), claims.ExpiresAt.Time, 5*time.Second)
}
