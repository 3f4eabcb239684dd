package enroll

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"

	"orama.network/orama"
)

// How long an invitation lasts: usually, and at most.
const (
	DefaultTTL = time.Hour
	MaxTTL     = 7 * 24 * time.Hour
)

// silentAfter is how long a node must not have been heard of before another may take its name: as long as it takes
// until it loses its roles.
const silentAfter = 10 * time.Minute

// admitTries bounds how often an admission is tried against others that come at the same time.
const admitTries = 20

// maxConnections is how many hosts are spoken to at a time.
const maxConnections = 16

// Records is what enrolment needs of the cluster's records.
type Records interface {
	// PutInvitation records an invitation; one that is there stays.
	PutInvitation(ctx context.Context, i orama.Invitation) error
	// Invitation gives orama.ErrNotFound for one that is not there.
	Invitation(ctx context.Context, hash string) (orama.Invitation, error)
	Nodes(ctx context.Context) ([]orama.Node, error)
	// Admit uses the invitation up and records the node, in place of was where that is not nil; orama.ErrConflict: read
	// again.
	Admit(ctx context.Context, hash string, n orama.Node, was *orama.Node, now time.Time) error
}

// Offer is what a joiner is given beside its place.
type Offer struct {
	Config []byte
	Files  map[string][]byte
}

// Deps are a server's surroundings.
type Deps struct {
	Identity *Identity
	Address  string       // host:port that tokens name; the server listens there
	MeshCIDR netip.Prefix // where addresses are given
	OwnMesh  bool         // the mesh is ours: joiners bring a key, and are given an address
	Records  Records      //
	Offer    func() (Offer, error)
	Now      func() time.Time
	Log      *slog.Logger
}

// Server invites nodes and lets them in. It may be used from any goroutine.
type Server struct{ d Deps }

// NewServer makes a server; Run serves.
func NewServer(d Deps) *Server { return &Server{d} }

// Invite makes a token that works once within ttl, which is DefaultTTL for 0 and at most MaxTTL.
func (s *Server) Invite(ctx context.Context, ttl time.Duration) (shown string, expires time.Time, err error) {
	t, i, err := NewInvitation(s.d.Identity, s.d.Address, ttl, s.d.Now())
	if err != nil {
		return "", time.Time{}, err
	}
	if err := s.d.Records.PutInvitation(ctx, i); err != nil {
		return "", time.Time{}, err
	}
	s.d.Log.Info("a node was invited", "expires", i.Expires)
	return t.String(), i.Expires, nil
}

// NewInvitation makes a token and the record to keep.
func NewInvitation(id *Identity, address string, ttl time.Duration, now time.Time) (Token, orama.Invitation, error) {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < time.Minute || ttl > MaxTTL {
		return Token{}, orama.Invitation{}, orama.Errorf(orama.KindInvalid, "invalid_ttl", "an invitation lasts 1 minute to %d hours", int(MaxTTL.Hours()))
	}
	if !validAddress(address) {
		return Token{}, orama.Invitation{}, fmt.Errorf("enroll: %q is not HOST:PORT", address)
	}
	t := NewToken(id.Fingerprint, address)
	return t, orama.Invitation{Hash: t.Hash(), CreatedAt: now, Expires: now.Add(ttl)}, nil
}

// Run listens and serves until ctx ends and the last answer is given.
func (s *Server) Run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.d.Address)
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	return s.Serve(ctx, l)
}

// Serve is Run on a listener that is there, which it closes.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(s.d.Log.Handler(), slog.LevelDebug)}
	srv.SetKeepAlivesEnabled(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if srv.Shutdown(late) != nil {
			srv.Close()
		}
	}()
	limited := newPaced(netutil.LimitListener(l, maxConnections), s.d.Now)
	err := srv.Serve(tls.NewListener(limited, s.d.Identity.server()))
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return fmt.Errorf("enroll: %w", err)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/join", func(w http.ResponseWriter, r *http.Request) {
		a, err := s.join(r)
		s.answer(w, a, err)
	})
	mux.HandleFunc("POST /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !is(s.d.Identity.Fingerprint, r.TLS.PeerCertificates) {
			s.answer(w, nil, orama.Errorf(orama.KindUnauthenticated, "not_a_member", "only members of the cluster may ask this"))
			return
		}
		nodes, err := s.d.Records.Nodes(r.Context())
		s.answer(w, nodesAnswer{nodes}, err)
	})
	return mux
}

func (s *Server) answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		var e *orama.Error
		if !errors.As(err, &e) {
			s.d.Log.Error("a node could not be let in", "error", err)
			e = orama.Errorf(orama.KindInternal, "internal", "the cluster could not let this node in; its log says why")
		}
		status = e.Kind.HTTPStatus()
		v = errorAnswer{&wireError{e.Kind, e.Code, e.Message}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller went away
}

var errUnknown = orama.Errorf(orama.KindUnauthenticated, "join_token_unknown",
	"this cluster does not know the join token; ask for another with 'orama node invite'")

func (s *Server) join(r *http.Request) (*Answer, error) {
	q, err := decodeRequest(http.MaxBytesReader(nil, r.Body, maxRequest))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(q.Secret)
	hash := hex.EncodeToString(sum[:])
	if err := s.check(r.Context(), hash, s.d.Now()); err != nil {
		return nil, err
	}
	// What is handed out is collected first: a member that has nothing to give must not use the token up.
	offer, err := s.d.Offer()
	if err != nil {
		return nil, err
	}
	for range admitTries {
		now := s.d.Now()
		if err := s.check(r.Context(), hash, now); err != nil {
			return nil, err
		}
		nodes, err := s.d.Records.Nodes(r.Context())
		if err != nil {
			return nil, err
		}
		n, was, err := place(q, nodes, s.d.MeshCIDR, s.d.OwnMesh, now)
		if err != nil {
			return nil, err
		}
		err = s.d.Records.Admit(r.Context(), hash, n, was, now)
		if errors.Is(err, orama.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.d.Log.Info("a node has joined", "node", n.ID, "public_ip", n.PublicIP, "mesh_ip", n.MeshIP, "in_place_of_a_silent_one", was != nil)
		return &Answer{MeshIP: n.MeshIP, Nodes: others(nodes, n.ID), Config: offer.Config, Files: offer.Files}, nil
	}
	return nil, orama.Errorf(orama.KindUnavailable, "join_busy", "too many nodes join at the same time; try again")
}

// check says why an invitation does not work, to somebody who held it.
func (s *Server) check(ctx context.Context, hash string, now time.Time) error {
	i, err := s.d.Records.Invitation(ctx, hash)
	switch {
	case errors.Is(err, orama.ErrNotFound):
		return errUnknown
	case err != nil:
		return err
	case !i.UsedAt.IsZero():
		return orama.Errorf(orama.KindForbidden, "join_token_used", "the join token was used by %s at %s, and works once; ask for another with 'orama node invite'",
			i.UsedBy, i.UsedAt.UTC().Format(time.RFC3339))
	case !now.Before(i.Expires):
		return orama.Errorf(orama.KindForbidden, "join_token_expired", "the join token expired at %s; ask for another with 'orama node invite'", i.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// place works out a joiner's record: was is the node whose place it takes. A node that was admitted and never heard of
// is one whose joining failed on its own side, so it may come again.
func place(q Request, nodes []orama.Node, network netip.Prefix, ownMesh bool, now time.Time) (n orama.Node, was *orama.Node, err error) {
	n = orama.Node{ID: q.Node, Zone: q.Zone, PublicIP: q.PublicIP, MeshIP: q.MeshIP, MeshKey: q.MeshKey, MeshEndpoint: q.MeshEndpoint}
	switch {
	case ownMesh && q.MeshKey == "":
		return n, nil, invalid("this cluster makes its own mesh, so a WireGuard key is needed; join without --mesh-ip")
	case !ownMesh && (q.MeshKey != "" || !q.MeshIP.IsValid()):
		return n, nil, invalid("this cluster's mesh is made by its operator; name this host's address on it with --mesh-ip")
	}
	for _, o := range nodes {
		switch {
		case o.ID == q.Node && !o.Heartbeat.IsZero() && !(q.Replace && now.Sub(o.Heartbeat) >= silentAfter):
			return n, nil, orama.Errorf(orama.KindConflict, "node_exists",
				"there is a node %s already; choose another name with --node, or, when that host is gone for good and silent for %d minutes, add --replace", o.ID, int(silentAfter.Minutes()))
		case o.ID == q.Node:
			was = &o
		case q.MeshKey != "" && o.MeshKey == q.MeshKey:
			return n, nil, orama.Errorf(orama.KindConflict, "mesh_key_exists", "%s has the same WireGuard key; a key belongs to one host", o.ID)
		case o.MeshIP == q.MeshIP:
			return n, nil, orama.Errorf(orama.KindConflict, "mesh_ip_exists", "the mesh address %s is %s's", o.MeshIP, o.ID)
		case q.MeshEndpoint != "" && o.MeshEndpoint == q.MeshEndpoint:
			return n, nil, orama.Errorf(orama.KindConflict, "mesh_endpoint_exists", "%s is reached at %s already; name this host's own address with --public-ip", o.ID, o.MeshEndpoint)
		}
	}
	if n.MeshIP.IsValid() {
		if !network.Contains(n.MeshIP) {
			return n, nil, invalid(fmt.Sprintf("the mesh address %s is not in the mesh %s", n.MeshIP, network))
		}
		return n, was, nil
	}
	if was != nil && network.Contains(was.MeshIP) {
		n.MeshIP = was.MeshIP
		return n, was, nil
	}
	n.MeshIP, err = lowestFree(network, nodes)
	return n, was, err
}

// lowestFree is the first address of a network that is nobody's; its first and, of IPv4, its last are left out.
func lowestFree(network netip.Prefix, nodes []orama.Node) (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, n := range nodes {
		taken[n.MeshIP] = true
	}
	for a := network.Masked().Addr().Next(); network.Contains(a); a = a.Next() {
		if last := a.Is4() && !network.Contains(a.Next()); !taken[a] && !last {
			return a, nil
		}
	}
	return netip.Addr{}, orama.Errorf(orama.KindLimited, "mesh_full", "the mesh %s has no free address", network)
}

func others(nodes []orama.Node, self orama.NodeID) []orama.Node {
	var out []orama.Node
	for _, n := range nodes {
		if n.ID != self {
			n.Report = orama.NodeReport{}
			out = append(out, n)
		}
	}
	return out
}
