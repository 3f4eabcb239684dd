package gateway

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestEveryAnswerHasTheSecurityHeaders(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for _, a := range []answer{
		g.do("GET", roomsPath, w.token(), ""), g.do("GET", roomsPath, "", ""), g.do("GET", "/nowhere", "", ""), g.do("PUT", roomsPath, "", ""),
		g.do("GET", "/healthz", "", ""), g.do("GET", "/v1/openapi.json", "", ""), g.do("GET", daily, "", ""), g.do("GET", "/sdk/orama.js", "", ""),
		g.do("OPTIONS", roomsPath, "", "", header("Origin", "https://app.example"), header("Access-Control-Request-Method", "POST")),
	} {
		require.Equal(t, "camera=(self), microphone=(self)", a.Header.Get("Permissions-Policy"), a.Request.URL.Path)
		require.Equal(t, "nosniff", a.Header.Get("X-Content-Type-Options"))
		require.Equal(t, "no-referrer", a.Header.Get("Referrer-Policy"))
		require.Contains(t, a.Header.Get("Content-Security-Policy"), "default-src 'none'")
	}
	page := g.do("GET", "/demo/", "", "")
	require.Equal(t, 200, page.StatusCode)
	require.Contains(t, page.Header.Get("Permissions-Policy"), "camera=(self), microphone=(self)")
	require.Contains(t, page.Header.Get("Permissions-Policy"), "display-capture=(self)")
	csp := page.Header.Get("Content-Security-Policy")
	require.Contains(t, csp, "default-src 'self'")
	require.Contains(t, csp, "ws://127.0.0.11:8080", "the page may go on with another gateway")
	require.NotContains(t, csp, "unsafe")
}

func TestOrigins(t *testing.T) {
	w := newWorld(t, 1)
	strict := w.gateway()
	local := w.gateway(func(c *Config, _ *Deps, _ *timing) { c.LocalOrigins = true })
	self := func(g *edge) string { return g.url }
	for _, tc := range []struct {
		name          string
		origin        string
		strict, local bool
	}{
		{"the namespace's", "https://app.example", true, true},
		{"case does not matter", "https://APP.example", true, true},
		{"another namespace's", "https://other.example", false, false},
		{"another port", "https://app.example:444", false, false},
		{"another scheme", "http://app.example", false, false},
		{"a longer name", "https://app.example.evil.com", false, false},
		{"no page's origin", "null", false, false},
		{"localhost", "http://localhost:5173", false, true},
		{"loopback", "http://127.0.0.1:9999", false, true},
		{"looks local", "http://localhost.evil.com", false, false},
		{"another loopback", "http://127.0.0.99:8080", false, false},
		{"a gateway of the cluster", "http://127.0.0.11:8080", true, true},
		{"itself", "self", true, true},
		{"stranger", "https://evil.example", false, false},
		{"nonsense", "::::", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for g, allowed := range map[*edge]bool{strict: tc.strict, local: tc.local} {
				origin := tc.origin
				if origin == "self" {
					origin = self(g)
				}
				a := g.do("GET", roomsPath, w.token(), "", header("Origin", origin))
				_, resp, err := g.dial(daily, w.token(), func(o *websocket.DialOptions) { o.HTTPHeader.Set("Origin", origin) })
				require.Contains(t, a.Header.Values("Vary"), "Origin")
				if allowed {
					require.Equal(t, 200, a.StatusCode)
					require.Equal(t, origin, a.Header.Get("Access-Control-Allow-Origin"))
					require.NoError(t, err)
					w.sfus[0].join(t)
					continue
				}
				require.Equal(t, 403, a.StatusCode)
				require.Equal(t, "origin_not_allowed", a.code())
				require.Error(t, err)
				require.Equal(t, 403, resp.StatusCode)
			}
		})
	}
	require.Empty(t, strict.do("GET", roomsPath, w.token(), "", header("Origin", "https://evil.example")).Header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, strict.do("GET", roomsPath, w.token(), "").Header.Get("Access-Control-Allow-Origin"))
}

func TestPreflight(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	ask := func(path, origin, host string) answer {
		return g.do("OPTIONS", path, "", "", header("Origin", origin), header("Access-Control-Request-Method", "DELETE"),
			header("Access-Control-Request-Headers", "authorization,content-type"), func(r *http.Request) {
				if host != "" {
					r.Host = host
				}
			})
	}
	a := ask(roomsPath, "https://app.example", "")
	require.Equal(t, 204, a.StatusCode)
	require.Equal(t, "https://app.example", a.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, a.Header.Get("Access-Control-Allow-Methods"), "DELETE")
	for _, h := range []string{"Authorization", "Content-Type", "X-API-Key"} {
		require.Contains(t, a.Header.Get("Access-Control-Allow-Headers"), h)
	}
	require.Empty(t, a.Header.Get("Access-Control-Allow-Credentials"))
	require.Equal(t, 204, ask(roomsPath, "https://other.example", "").StatusCode, "without a host name any namespace's may ask")
	require.Equal(t, 204, ask(roomsPath, "https://app.example", "ns-myapp.orama.test").StatusCode)
	require.Equal(t, 403, ask(roomsPath, "https://other.example", "ns-myapp.orama.test").StatusCode, "with it only its own")
	require.Equal(t, 403, ask(roomsPath, "https://app.example", "ns-nowhere.orama.test").StatusCode)
	require.Equal(t, 403, ask(roomsPath, "https://evil.example", "").StatusCode)
	require.Equal(t, "*", ask("/.well-known/jwks.json", "https://evil.example", "").Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "*", g.do("GET", "/sdk/orama.js", "", "", header("Origin", "https://evil.example")).Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, 405, g.do("OPTIONS", roomsPath, "", "").StatusCode, "no preflight")
}

func TestAPageCanReadItsRefusal(t *testing.T) {
	w := newWorld(t, 1)
	a := w.gateway().do("GET", roomsPath, "", "", header("Origin", "https://app.example"))
	require.Equal(t, 401, a.StatusCode)
	require.Equal(t, "https://app.example", a.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, a.Header.Get("Access-Control-Expose-Headers"), "Retry-After")
}

func TestTheHostNamesTheNamespace(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for h, status := range map[string]int{
		"ns-myapp.orama.test": 200, "NS-MyApp.Orama.Test:8080": 200, "ns-myapp.orama.test.": 200, "127.0.0.1:8080": 200, "orama.test": 200, "www.orama.test": 200,
		"ns-other.orama.test": 403, "ns-.orama.test": 403, "ns-nowhere.orama.test:443": 403,
	} {
		a := g.do("GET", roomsPath, w.token(), "", host(h))
		require.Equal(t, status, a.StatusCode, h)
		if status == 403 {
			require.Equal(t, "wrong_namespace", a.code())
		}
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	for path, status := range map[string]int{
		"/": 302, "/demo": 302, "/demo/": 200, "/demo/main.js": 200, "/sdk/orama.js": 200, "/demo/index.html": 301,
		"/demo/nothing.js": 404, "/sdk/": 404, "/demo/../sdk/orama.js": 307, "/demo/%2e%2e/%2e%2e/etc/passwd": 404,
	} {
		a := g.do("GET", path, "", "")
		require.Equal(t, status, a.StatusCode, path)
		if status == 302 {
			require.Equal(t, "/demo/", a.Header.Get("Location"))
		}
	}
	a := g.do("GET", "/demo/main.js", "", "")
	require.Contains(t, a.Header.Get("Content-Type"), "javascript")
	require.Equal(t, "no-cache", a.Header.Get("Cache-Control"))
	require.Equal(t, 304, g.do("GET", "/demo/main.js", "", "", header("If-None-Match", a.Header.Get("ETag"))).StatusCode)

	without := w.gateway(func(_ *Config, d *Deps, _ *timing) { d.Pages = nil })
	require.Equal(t, 404, without.do("GET", "/demo/", "", "").StatusCode)
}
