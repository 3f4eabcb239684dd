package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"orama.network/orama"
)

// originAllowed decides whether a page of the request's origin may act for ns; nil asks whether it may
// for any namespace, which is all that can be known before there is a credential (a preflight has
// none). A request without Origin is no page's.
func (g *Gateway) originAllowed(r *http.Request, c orama.Cluster, ns *orama.Namespace) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		if strings.EqualFold(u.Host, r.Host) || g.cfg.LocalOrigins && isLocal(u) || isGateway(c, u) {
			return true
		}
	}
	if ns != nil {
		return listed(ns.AllowedOrigins, origin)
	}
	return slices.ContainsFunc(c.Namespaces, func(n orama.Namespace) bool { return listed(n.AllowedOrigins, origin) })
}

func isLocal(u *url.URL) bool { return u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1" }

// isGateway: the pages of any gateway of the cluster are the same pages.
func isGateway(c orama.Cluster, origin *url.URL) bool {
	return slices.ContainsFunc(c.Nodes, func(n orama.Node) bool {
		u, err := url.Parse(n.GatewayURL)
		return err == nil && u.Host != "" && u.Scheme == origin.Scheme && strings.EqualFold(u.Host, origin.Host)
	})
}

func listed(allowed []string, origin string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		return a == "*" || strings.EqualFold(strings.TrimSuffix(a, "/"), origin)
	})
}

// Values of Access-Control headers (Fetch standard, section 3.2).
const (
	corsMethods = "GET, POST, DELETE"
	corsHeaders = "Authorization, Content-Type, X-API-Key"
	corsExpose  = "Retry-After, WWW-Authenticate"
	corsMaxAge  = "600" // seconds; Chromium's limit is 7200, and an allow-list may change
)

// cors sets the headers that let a page read the answer, and answers preflights itself. Credentials travel
// in Authorization only, never in cookies, so Allow-Credentials is not needed.
func (g *Gateway) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		if public(r.URL.Path) {
			h.Set("Access-Control-Allow-Origin", "*")
		} else if g.pageMayRead(r) {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Expose-Headers", corsExpose)
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			preflight(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func preflight(w http.ResponseWriter) {
	h := w.Header()
	if h.Get("Access-Control-Allow-Origin") == "" {
		writeProblem(w, problemOf(orama.Errorf(orama.KindForbidden, "origin_not_allowed",
			"pages of this origin may not call this cluster")))
		return
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
}

// pageMayRead is as strict as can be without a credential: by the host's namespace, else by any.
// Whether the page may act is decided again by authenticate.
func (g *Gateway) pageMayRead(r *http.Request) bool {
	c, err := g.view.cluster(r.Context())
	if err != nil {
		return false
	}
	if id, ok := g.hostNamespace(r.Host); ok {
		ns, _ := namespaceOf(c, id)
		return g.originAllowed(r, c, &ns)
	}
	return g.originAllowed(r, c, nil)
}

// public paths hold nothing that a page of any origin may not read.
func public(path string) bool {
	return path == "/.well-known/jwks.json" || strings.HasPrefix(path, "/v1/openapi") || strings.HasPrefix(path, "/sdk/")
}

// secure sets what every answer has.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Permissions-Policy", "camera=(self), microphone=(self)")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
