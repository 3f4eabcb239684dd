package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

type credentialsInput struct {
	Transports string `query:"transports" doc:"Which TURN URLs to be told of: a list of udp, tcp, tls and dtls. Left out: those that every browser can use" example:"udp,tcp"`
}

type credentialsOutput struct {
	Body signal.Credentials
}

// turnCredentials answers with relays that were seen to serve, never with ones that are only intended.
func (g *Gateway) turnCredentials(ctx context.Context, in *credentialsInput) (*credentialsOutput, error) {
	c := callerOf(ctx)
	cfg, err := webrtcOf(c.ns)
	if err != nil {
		return nil, err
	}
	transports, err := parseTransports(in.Transports)
	if err != nil {
		return nil, err
	}
	if c.room != "" {
		if err := g.keptOut(ctx, c, c.room); err != nil {
			return nil, err
		}
	}
	if wait := g.rates.Take("turn:"+string(c.ns.ID)+"/"+string(c.user), credentialBurst, credentialsPerSec); wait > 0 {
		return nil, limited(wait)
	}
	cl, err := g.view.settled(ctx, func(cl orama.Cluster) bool { return relayReady(cl, c.ns.ID) })
	if err != nil {
		return nil, err
	}
	urls := plan.Select(plan.Servers(cl, c.ns.ID, plan.Local{BaseDomain: g.cfg.BaseDomain, URLStyle: g.cfg.URLStyle}), transports)
	if !relayReady(cl, c.ns.ID) || len(urls) == 0 {
		return nil, unavailable("turn_unavailable", "no TURN server of the namespace is ready; try again", time.Second)
	}
	secret, err := g.keys.Open(cfg.SealedSecret, plan.SecretAAD(c.ns.ID))
	if err != nil {
		return nil, err
	}
	username, credential := auth.MintTURN(secret, c.ns.ID, g.now().Add(cfg.CredentialTTL))
	return &credentialsOutput{Body: signal.Credentials{
		URLs: urls, URIs: urls, Username: username, Credential: credential, Password: credential,
		TTL: int(cfg.CredentialTTL / time.Second),
	}}, nil
}

func relayReady(c orama.Cluster, ns orama.NamespaceID) bool {
	return slices.ContainsFunc(c.Instances, func(in orama.Instance) bool {
		return in.Namespace == ns && in.Role == orama.RoleTURN && in.Desired == orama.DesiredRun &&
			in.Observed.State == orama.StateReady
	})
}

type tokenInput struct {
	Body struct {
		_         struct{}     `additionalProperties:"true"`
		User      orama.UserID `json:"user" minLength:"1" maxLength:"128" doc:"Who the token is for" example:"alice"`
		Room      orama.RoomID `json:"room,omitempty" maxLength:"128" doc:"The only room it is good for; left out: any" example:"daily"`
		TTL       int          `json:"ttl,omitempty" minimum:"1" maximum:"86400" default:"3600" doc:"Life in seconds"`
		Publish   *bool        `json:"publish,omitempty" default:"true"`
		Subscribe *bool        `json:"subscribe,omitempty" default:"true"`
		Data      *bool        `json:"data,omitempty" default:"true"`
		Admin     bool         `json:"admin,omitempty" doc:"May do what an owner may; only an owner's key can grant it"`
	}
}

type tokenOutput struct {
	Body struct {
		Token     string            `json:"token"`
		Namespace orama.NamespaceID `json:"namespace"`
		User      orama.UserID      `json:"user"`
		ExpiresAt time.Time         `json:"expires_at"`
	}
}

func (g *Gateway) mintToken(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
	c, b := callerOf(ctx), &in.Body
	if b.Admin && !c.admin {
		return nil, orama.Errorf(orama.KindForbidden, "owner_required", "only an owner's key may mint admin tokens")
	}
	ttl := min(time.Duration(b.TTL)*time.Second, maxAPITokenTTL)
	if ttl == 0 {
		ttl = defaultTokenTTL
	}
	yes := func(p *bool) bool { return p == nil || *p }
	return g.mint(auth.Token{
		Namespace: c.ns.ID, User: b.User, Room: b.Room, Expires: g.now().Add(ttl),
		Publish: yes(b.Publish), Subscribe: yes(b.Subscribe), Data: yes(b.Data), Admin: b.Admin,
	})
}

func (g *Gateway) mint(t auth.Token) (*tokenOutput, error) {
	t.Expires = t.Expires.Truncate(time.Second)
	t.Issued = g.now()
	raw, err := g.keys.MintToken(t)
	if err != nil {
		return nil, err
	}
	out := &tokenOutput{}
	out.Body.Token, out.Body.Namespace, out.Body.User, out.Body.ExpiresAt = raw, t.Namespace, t.User, t.Expires.UTC()
	return out, nil
}

type demoInput struct {
	request *http.Request

	Body struct {
		_      struct{} `additionalProperties:"true"`
		Invite string   `json:"invite" maxLength:"256" doc:"The invitation in the demo page's URL"`
		Name   string   `json:"name,omitempty" maxLength:"128" doc:"Not part of the token; the page sends it in join"`
	}
}

// Resolve takes what the handler must know of the request itself.
func (in *demoInput) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	in.request = r
	return nil
}

// guestID is lower-case base32 of 10 random bytes.
func guestID() orama.UserID {
	b := make([]byte, 10)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return orama.UserID("guest-" + strings.ToLower(base32.StdEncoding.EncodeToString(b)))
}

// demoToken lets the holder of an invitation into one namespace as a guest.
func (g *Gateway) demoToken(ctx context.Context, in *demoInput) (*tokenOutput, error) {
	if g.cfg.Demo.Namespace == "" || g.cfg.Demo.InviteHash == "" {
		return nil, orama.Errorf(orama.KindNotFound, "no_demo", "this cluster has no demo page")
	}
	if wait := g.rates.Take("demo:"+g.clientAddress(in.request), demoBurst, demoPerSecond); wait > 0 {
		return nil, limited(wait)
	}
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return nil, err
	}
	ns, ok := namespaceOf(cl, g.cfg.Demo.Namespace)
	if !ok {
		return nil, orama.Errorf(orama.KindNotFound, "no_demo", "this cluster has no demo namespace")
	}
	if !g.originAllowed(in.request, cl, &ns) {
		return nil, orama.Errorf(orama.KindForbidden, "origin_not_allowed", "pages of this origin may not use the demo")
	}
	sum := sha256.Sum256([]byte(in.Body.Invite))
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(strings.ToLower(g.cfg.Demo.InviteHash))) != 1 {
		return nil, orama.Errorf(orama.KindForbidden, "invalid_invite", "the invitation is not valid; open the link that `orama up` printed")
	}
	return g.mint(auth.Token{Namespace: ns.ID, User: guestID(), Expires: g.now().Add(demoTokenTTL), Publish: true, Subscribe: true, Data: true})
}
