package gateway

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

// echoOperator answers with what reached it.
func echoOperator(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)                                                                               //nolint:errcheck // a test's
	json.NewEncoder(w).Encode(map[string]any{"call": r.Method + " " + r.URL.RequestURI(), "body": string(body), //nolint:errcheck // as above
		"credential": r.Header.Get("X-API-Key") + r.Header.Get("Authorization")})
}

func withOperator(_ *Config, d *Deps, _ *timing) { d.Operator = http.HandlerFunc(echoOperator) }

func TestOperatorCallsReachTheAgent(t *testing.T) {
	w := newWorld(t, 0)
	key := w.addKey("", auth.RoleOperator)
	g := w.gateway(withOperator)
	for _, by := range []func(*http.Request){header("X-API-Key", key), header("Authorization", "Bearer "+key)} {
		a := g.do("POST", "/v1/operator/namespaces/my%2Fapp/webrtc?force=true", "", `{"x":1}`, by)
		require.Equal(t, 200, a.StatusCode, "%s", a.body)
		var got map[string]string
		require.NoError(t, json.Unmarshal(a.body, &got))
		require.Equal(t, "POST /v1/namespaces/my%2Fapp/webrtc?force=true", got["call"])
		require.Equal(t, `{"x":1}`, got["body"])
		require.Empty(t, got["credential"], "the key goes no further")
	}
	require.Equal(t, 404, w.gateway().do("GET", "/v1/operator/report", key, "").StatusCode, "without an agent there is no such path")
}

func TestOperatorCallsAreForOperatorsOnly(t *testing.T) {
	w := newWorld(t, 0)
	key := w.addKey("", auth.RoleOperator)
	impostor := w.addKey(ns, auth.RoleOperator)
	g := w.gateway(withOperator)
	bad := key[:len(key)-1] + "x"
	_, unknown := auth.NewAPIKey("", auth.RoleOperator)
	require.NotContains(t, w.store.keys, unknown.ID)
	fresh, _ := auth.NewAPIKey("", auth.RoleOperator)
	for name, c := range map[string]struct {
		credential string
		status     int
		code       string
	}{
		"nothing":            {"", 401, "no_credential"},
		"a typo":             {bad, 401, "invalid_api_key"},
		"a key nobody made":  {fresh, 401, "invalid_api_key"},
		"an owner":           {w.owner, 403, "operator_required"},
		"a member":           {w.member, 403, "operator_required"},
		"an operator of one": {impostor, 403, "operator_required"},
		"a token":            {w.token(), 403, "operator_required"},
		"a token with admin": {w.token(func(t *auth.Token) { t.Admin = true }), 403, "operator_required"},
		"what is no token":   {"a.b.c", 401, "invalid_token"},
	} {
		a := g.do("GET", "/v1/operator/report", c.credential, "")
		require.Equal(t, c.status, a.StatusCode, name)
		require.Equal(t, c.code, a.code(), name)
	}
	require.Equal(t, 200, g.do("GET", "/v1/operator/report", key, "").StatusCode)
	require.Equal(t, "not_for_pages", g.do("GET", "/v1/operator/report", key, "", header("Origin", "https://app.example")).code())
	for _, path := range []string{"/v1/webrtc/rooms"} {
		a := g.do("GET", path, key, "")
		require.Equal(t, 403, a.StatusCode, "an operator's key is of no namespace")
		require.Equal(t, "namespace_required", a.code())
	}
	require.NotContains(t, w.logs.String(), key)
}

func TestOperatorKeysDoNotTravelInClear(t *testing.T) {
	w := newWorld(t, 0)
	key := w.addKey("", auth.RoleOperator)
	g := w.gateway(withOperator, func(c *Config, _ *Deps, _ *timing) {
		c.MeshCIDR = netip.MustParsePrefix("10.0.0.0/24")
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	})
	for name, c := range map[string]struct {
		from   string
		tls    bool
		header http.Header
		status int
	}{
		"over TLS":                          {"203.0.113.5:1", true, nil, 200},
		"in clear":                          {"203.0.113.5:1", false, nil, 403},
		"in clear, and lying":               {"203.0.113.5:1", false, http.Header{"X-Forwarded-Proto": {"https"}}, 403},
		"from this machine":                 {"127.0.0.1:1", false, nil, 200},
		"from this machine, IPv6":           {"[::1]:1", false, nil, 200},
		"over the mesh":                     {"10.0.0.7:1", false, nil, 200},
		"beside the mesh":                   {"10.0.1.7:1", false, nil, 403},
		"by a proxy here that had TLS":      {"127.0.0.1:1", false, http.Header{"X-Forwarded-For": {"203.0.113.5"}, "X-Forwarded-Proto": {"https"}}, 200},
		"by a proxy here that had none":     {"127.0.0.1:1", false, http.Header{"X-Forwarded-For": {"203.0.113.5"}, "X-Forwarded-Proto": {"http"}}, 403},
		"by a proxy here that does not say": {"127.0.0.1:1", false, http.Header{"X-Forwarded-For": {"203.0.113.5"}}, 403},
		"by a trusted proxy that had TLS":   {"198.51.100.1:1", false, http.Header{"X-Forwarded-For": {"203.0.113.5"}, "X-Forwarded-Proto": {"https"}}, 200},
	} {
		r := httptest.NewRequest("GET", "/v1/operator/report", nil)
		r.RemoteAddr = c.from
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		for k, v := range c.header {
			r.Header[k] = v
		}
		r.Header.Set("X-API-Key", key)
		rec := httptest.NewRecorder()
		g.Handler().ServeHTTP(rec, r)
		require.Equal(t, c.status, rec.Code, "%s: %s", name, rec.Body)
		if c.status == 403 {
			require.Contains(t, rec.Body.String(), "tls_required", name)
		}
	}
}

func TestOperatorCallsAreLimited(t *testing.T) {
	w := newWorld(t, 0)
	key := w.addKey("", auth.RoleOperator)
	g := w.gateway(withOperator)
	status := 200
	for range operatorBurst * 2 {
		if status = g.do("GET", "/v1/operator/report", key, "").StatusCode; status != 200 {
			break
		}
	}
	require.Equal(t, 429, status)
	bad, _ := auth.NewAPIKey("", auth.RoleOperator)
	for range authFailureBurst + 1 {
		status = g.do("GET", "/v1/operator/report", bad, "").StatusCode
	}
	require.Equal(t, 429, status, "guessing is slowed down")
}
