package gateway

import (
	"net/http"
	"strings"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// operatorPath is where an operator's calls come in from elsewhere: what an agent's socket serves under /v1/ is here
// under this path, to whoever bears an operator key. It is no part of the public document: its only client is ours.
const operatorPath = "/v1/operator/"

// Limits of one operator key: a terminal that looks every second, and a program beside it.
const (
	operatorBurst     = 60
	operatorPerSecond = 5
)

func (g *Gateway) registerOperator(mux *recorder) {
	if g.operator != nil {
		mux.HandleFunc(operatorPath, g.serveOperator)
	}
}

// serveOperator lets an operator's call through to the agent. What comes in without TLS from outside is refused before the key is
// looked at: it was readable on its way, and the sooner its holder learns of it the better.
func (g *Gateway) serveOperator(w http.ResponseWriter, r *http.Request) {
	if err := g.admitOperator(r); err != nil {
		g.refuse(w, r, err)
		return
	}
	inner := r.Clone(r.Context())
	inner.URL.Path = "/v1/" + strings.TrimPrefix(r.URL.Path, operatorPath)
	if r.URL.RawPath != "" {
		inner.URL.RawPath = "/v1/" + strings.TrimPrefix(r.URL.RawPath, operatorPath)
	}
	for _, h := range []string{"X-Api-Key", "Authorization"} {
		inner.Header.Del(h) // it has done its work
	}
	g.operator.ServeHTTP(w, inner)
}

func (g *Gateway) admitOperator(r *http.Request) error {
	if !g.private(r) {
		return orama.Errorf(orama.KindForbidden, "tls_required",
			"an operator key came over plain HTTP and may have been read; make another key, end this one, and use https")
	}
	if r.Header.Get("Origin") != "" {
		return orama.Errorf(orama.KindForbidden, "not_for_pages", "an operator's calls are not for web pages")
	}
	secret, _, err := credential(r)
	if err != nil {
		return err
	}
	key, err := g.operatorKey(r, secret)
	if err != nil {
		return err
	}
	if wait := g.rates.Take("operator:"+key, operatorBurst, operatorPerSecond); wait > 0 {
		return limited(wait)
	}
	return nil
}

// operatorKey verifies an operator key and gives its id. An owner's key or a token is a good credential of the wrong kind.
func (g *Gateway) operatorKey(r *http.Request, secret string) (string, error) {
	limit := "auth:" + g.clientAddress(r)
	if wait := g.rates.Wait(limit, authFailureBurst, authFailuresPerSec); wait > 0 {
		return "", limited(wait)
	}
	key, err := g.lookUpOperator(r, secret)
	if orama.KindOf(err) == orama.KindUnauthenticated {
		if wait := g.rates.Take(limit, authFailureBurst, authFailuresPerSec); wait > 0 {
			return "", limited(wait)
		}
	}
	return key, err
}

func (g *Gateway) lookUpOperator(r *http.Request, secret string) (string, error) {
	if !auth.LooksLikeAPIKey(secret) {
		if _, err := g.keys.VerifyToken(secret, g.now()); err != nil {
			return "", err
		}
		return "", errNotOperator
	}
	key, err := g.apiKey(r.Context(), secret)
	switch {
	case err != nil:
		return "", err
	case key.Role != auth.RoleOperator || key.Namespace != "":
		return "", errNotOperator
	}
	return key.ID, nil
}

var errNotOperator = orama.Errorf(orama.KindForbidden, "operator_required", "only an operator of the cluster may do this")

// private reports whether nobody between the caller and us could read the request: it came over TLS, to us or to a
// proxy before us, or from this machine, or over the mesh. A proxy that does not say how it was reached was reached in clear.
func (g *Gateway) private(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	from := remoteIP(r.RemoteAddr)
	near := from.IsLoopback() || g.cfg.MeshCIDR.IsValid() && g.cfg.MeshCIDR.Contains(from)
	if len(r.Header.Values("X-Forwarded-For"))+len(r.Header.Values("Forwarded")) == 0 && r.Header.Get("X-Forwarded-Proto") == "" {
		return near
	}
	return (near || g.trusted(from)) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}
