package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// caller is who a request comes from, as its credential proves.
type caller struct {
	ns        orama.Namespace
	user      orama.UserID
	room      orama.RoomID // "": any
	granted   time.Time    // when the token was issued; zero: not known, or a key
	publish   bool
	subscribe bool
	data      bool
	admin     bool   // may do what an owner may, in its room
	key       string // id of the API key; "" for a token
	scheme    string // subprotocol to answer, as the client wrote it; "" without
}

// mayUse refuses a room that the token is not for.
func (c *caller) mayUse(room orama.RoomID) error {
	if c.room != "" && c.room != room {
		return orama.Errorf(orama.KindForbidden, "wrong_room", "the token is for another room")
	}
	return nil
}

// keptOut refuses a token that was issued before its user was kicked from the room. A key is no token: who has one may make new tokens.
func (g *Gateway) keptOut(ctx context.Context, c *caller, room orama.RoomID) error {
	if c.key != "" {
		return nil
	}
	at, err := g.store.Kicked(ctx, c.ns.ID, room, c.user)
	switch {
	case orama.KindOf(err) == orama.KindNotFound:
		return nil
	case err != nil:
		return storeError(err)
	case c.granted.After(at):
		return nil
	}
	return orama.Errorf(orama.KindForbidden, "kicked", "an admin has removed you from this room")
}

// Schemes of a credential: in Authorization, and as WebSocket subprotocols.
const (
	schemeBearer = "Bearer"
	schemeAPIKey = "ApiKey"
)

var errNoCredential = orama.Errorf(orama.KindUnauthenticated, "no_credential",
	"a token or an API key is needed: Authorization: Bearer, X-API-Key, or a WebSocket subprotocol")

// credential finds the secret that a request comes with. The query string is never looked at: it ends up in logs.
func credential(r *http.Request) (secret, scheme string, err error) {
	if protocols := headerTokens(r.Header, "Sec-WebSocket-Protocol"); len(protocols) > 0 {
		for i, p := range protocols[:len(protocols)-1] {
			if strings.EqualFold(p, schemeBearer) || strings.EqualFold(p, schemeAPIKey) {
				secret, scheme = protocols[i+1], p
				break
			}
		}
	}
	if h := r.Header.Get("Authorization"); h != "" {
		word, rest, _ := strings.Cut(h, " ")
		if !strings.EqualFold(word, schemeBearer) {
			return "", "", errNoCredential
		}
		return strings.TrimSpace(rest), scheme, nil
	}
	if h := r.Header.Get("X-API-Key"); h != "" {
		return strings.TrimSpace(h), scheme, nil
	}
	if secret == "" {
		return "", "", errNoCredential
	}
	return secret, scheme, nil
}

func headerTokens(h http.Header, key string) []string {
	var out []string
	for _, line := range h.Values(key) {
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.TrimSpace(token); token != "" {
				out = append(out, token)
			}
		}
	}
	return out
}

// authenticate proves who the caller is, that its namespace exists and is the one of the host
// name, and that a page of this origin may act for it.
func (g *Gateway) authenticate(r *http.Request) (*caller, error) {
	secret, scheme, err := credential(r)
	if err != nil {
		return nil, err
	}
	c, err := g.identify(r, secret)
	if err != nil {
		return nil, err
	}
	c.scheme = scheme
	cl, err := g.view.settled(r.Context(), func(cl orama.Cluster) bool {
		n, ok := namespaceOf(cl, c.ns.ID)
		return ok && n.WebRTC != nil && g.originAllowed(r, cl, &n)
	})
	if err != nil {
		return nil, err
	}
	ns, ok := namespaceOf(cl, c.ns.ID)
	if !ok {
		return nil, orama.Errorf(orama.KindUnauthenticated, "namespace_gone", "the credential's namespace does not exist")
	}
	c.ns = ns
	if named, ok := g.hostNamespace(r.Host); ok && named != ns.ID {
		return nil, orama.Errorf(orama.KindForbidden, "wrong_namespace", "the credential is for another namespace than this host")
	}
	if !g.originAllowed(r, cl, &ns) {
		return nil, orama.Errorf(orama.KindForbidden, "origin_not_allowed", "pages of this origin may not use the namespace; add it to its allowed origins")
	}
	return c, nil
}

// identify verifies a token or an API key. Of an address that brought many bad ones, keys are not
// even looked up until it has slowed down.
func (g *Gateway) identify(r *http.Request, secret string) (*caller, error) {
	limit := "auth:" + g.clientAddress(r)
	isKey := auth.LooksLikeAPIKey(secret)
	if wait := g.rates.Wait(limit, authFailureBurst, authFailuresPerSec); isKey && wait > 0 {
		return nil, limited(wait)
	}
	c, err := g.verify(r.Context(), secret, isKey)
	if orama.KindOf(err) == orama.KindUnauthenticated {
		if wait := g.rates.Take(limit, authFailureBurst, authFailuresPerSec); wait > 0 {
			return nil, limited(wait)
		}
	}
	return c, err
}

func (g *Gateway) verify(ctx context.Context, secret string, isKey bool) (*caller, error) {
	if isKey {
		return g.verifyKey(ctx, secret)
	}
	t, err := g.keys.VerifyToken(secret, g.now())
	if err != nil {
		return nil, err
	}
	return &caller{
		ns: orama.Namespace{ID: t.Namespace}, user: t.User, room: t.Room,
		publish: t.Publish, subscribe: t.Subscribe, data: t.Data, admin: t.Admin, granted: t.Issued,
	}, nil
}

var errBadKey = orama.Errorf(orama.KindUnauthenticated, "invalid_api_key", "the API key is not valid here")

func (g *Gateway) verifyKey(ctx context.Context, shown string) (*caller, error) {
	key, err := g.apiKey(ctx, shown)
	if err != nil {
		return nil, err
	}
	if key.Namespace == "" {
		return nil, orama.Errorf(orama.KindForbidden, "namespace_required", "this key is the operator's; here one of a namespace is needed")
	}
	return &caller{
		ns: orama.Namespace{ID: key.Namespace}, user: orama.UserID("key-" + key.ID), key: key.ID,
		publish: true, subscribe: true, data: true, admin: key.Role == auth.RoleOwner,
	}, nil
}

// apiKey finds the record of a key, if the key is good.
func (g *Gateway) apiKey(ctx context.Context, shown string) (orama.APIKey, error) {
	id, secret, err := auth.ParseAPIKey(shown)
	if err != nil {
		return orama.APIKey{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timing.storeWithin)
	defer cancel()
	key, err := g.store.APIKey(ctx, id)
	switch {
	case orama.KindOf(err) == orama.KindNotFound:
		return orama.APIKey{}, errBadKey
	case err != nil:
		return orama.APIKey{}, storeError(err)
	case !auth.CheckAPIKey(key, secret):
		return orama.APIKey{}, errBadKey
	}
	return key, nil
}

// hostNamespace reads the namespace out of a host name ns-{name}.{baseDomain}.
func (g *Gateway) hostNamespace(host string) (orama.NamespaceID, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	label, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), "."+strings.ToLower(g.cfg.BaseDomain))
	if !ok || g.cfg.BaseDomain == "" {
		return "", false
	}
	name, ok := strings.CutPrefix(label, "ns-")
	return orama.NamespaceID(name), ok
}

// clientAddress is the key by which an address is limited: IPv6 by its /64, which one host can have whole.
func (g *Gateway) clientAddress(r *http.Request) string {
	addr := remoteIP(r.RemoteAddr)
	hops := headerTokens(r.Header, "X-Forwarded-For")
	for i := len(hops) - 1; i >= 0 && g.trusted(addr); i-- {
		next, err := netip.ParseAddr(hops[i])
		if err != nil {
			break
		}
		addr = next.Unmap()
	}
	if addr.Is6() {
		p, _ := addr.WithZone("").Prefix(64) // only fails for more bits than there are
		return p.String()
	}
	return addr.String()
}

func (g *Gateway) trusted(a netip.Addr) bool {
	for _, p := range g.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func remoteIP(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
