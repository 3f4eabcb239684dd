package operator

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"orama.network/orama"
)

// Probes use the cluster from this node as others would. Every call is bounded by its context.
type Probes interface {
	// Mesh gives nil when the node answers on its mesh address, be it with a refusal.
	Mesh(ctx context.Context, to orama.Node) error
	// Gateway asks a gateway whether it serves, and tells how far its clock is ahead of ours.
	Gateway(ctx context.Context, base string) (ahead time.Duration, err error)
	// NameServers are those that are to answer for the base domain, host:port; none when none is configured.
	NameServers(ctx context.Context, c orama.Cluster) ([]string, error)
	// Lookup asks one of them for a name's A records. A name that does not exist has none, without an error.
	Lookup(ctx context.Context, server, name string) ([]netip.Addr, error)
	// Certificate shakes hands with a TLS server as a client that asks for the name; untrusted says why that client
	// would end it, or nothing.
	Certificate(ctx context.Context, address, name string) (notBefore, notAfter time.Time, untrusted string, err error)
	// Serves joins an SFU, or takes an allocation of a relay, and gives it back.
	Serves(ctx context.Context, c orama.Cluster, i orama.Instance) error
}

// InspectorDeps are what an Inspector works with.
type InspectorDeps struct {
	Node       orama.NodeID // this one
	BaseDomain string
	URLStyle   string // how relays are named to clients, see package plan
	Store      interface {
		Cluster(ctx context.Context) (orama.Cluster, error)
	}
	Probes Probes
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: none
}

// Inspector tells how the cluster does: Report from the records alone, Inspect by looking as well. It changes nothing.
// It may be used from any goroutine.
type Inspector struct {
	d    InspectorDeps
	busy chan struct{} // holds one token: one look at a time
}

// NewInspector makes one.
func NewInspector(d InspectorDeps) *Inspector {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Inspector{d: d, busy: make(chan struct{}, 1)}
}

// Report reads how the cluster does.
func (i *Inspector) Report(ctx context.Context) (Report, error) {
	c, err := i.d.Store.Cluster(ctx)
	if err != nil {
		return Report{}, err
	}
	return reportOf(c, i.d.Now()), nil
}

// Limits of one look.
const (
	lookWithin    = 20 * time.Second // all of it
	probeWithin   = 3 * time.Second  // one probe
	probesAtATime = 16
	settleWithin  = 5 * time.Second // a revision takes a heartbeat to be reported
	settleEvery   = 250 * time.Millisecond
)

// Inspect looks at everything and judges it. Whoever comes while another look goes on waits for its end.
func (i *Inspector) Inspect(ctx context.Context) (Inspection, error) {
	select {
	case i.busy <- struct{}{}:
		defer func() { <-i.busy }()
	case <-ctx.Done():
		return Inspection{}, ctx.Err()
	}
	look, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	e := i.gather(look)
	return judge(e), ctx.Err()
}

// gather collects the evidence.
func (i *Inspector) gather(ctx context.Context) Evidence {
	e := Evidence{At: i.d.Now(), From: i.d.Node, BaseDomain: i.d.BaseDomain, URLStyle: i.d.URLStyle}
	if e.Cluster, e.Unread = i.d.Store.Cluster(ctx); e.Unread != nil {
		return e
	}
	e.Revision = e.Cluster.Revision
	e.Mesh, e.Gateways, e.Served = map[orama.NodeID]string{}, map[orama.NodeID]GatewaySeen{}, map[InstanceKey]string{}
	g := &gathering{Inspector: i, first: e, e: &e, slots: make(chan struct{}, probesAtATime)}
	g.nodes(ctx)
	g.instances(ctx)
	g.names(ctx)
	g.certificates(ctx)
	last := i.settle(ctx, e.Cluster)
	g.wg.Wait()
	e.Cluster, e.At = last, i.d.Now()
	return e
}

// settle reads the records until every living node has reported the revision of c, and gives the last reading.
func (i *Inspector) settle(ctx context.Context, c orama.Cluster) orama.Cluster {
	revision, last := c.Revision, c
	end := i.d.Now().Add(settleWithin)
	for {
		behind := slices.ContainsFunc(last.Nodes, func(n orama.Node) bool { return alive(n, i.d.Now()) && n.Report.State < revision })
		if !behind || i.d.Now().After(end) || sleep(ctx, settleEvery) != nil {
			return last
		}
		if next, err := i.d.Store.Cluster(ctx); err == nil {
			last = next
		}
	}
}

// gathering is one look while it goes on.
type gathering struct {
	*Inspector
	first Evidence // as it was before the first probe: what they go by, while the records are read on
	slots chan struct{}
	wg    sync.WaitGroup

	mu sync.Mutex // guards the following field while probes run
	e  *Evidence
}

// probe runs one probe when there is a slot for it, and keeps what it gives.
func (g *gathering) probe(ctx context.Context, look func(context.Context) (keep func(*Evidence))) {
	g.wg.Go(func() {
		select {
		case g.slots <- struct{}{}:
		case <-ctx.Done():
			return // not looked at
		}
		defer func() { <-g.slots }()
		bounded, cancel := context.WithTimeout(ctx, probeWithin)
		defer cancel()
		keep := look(bounded)
		g.mu.Lock()
		defer g.mu.Unlock()
		keep(g.e)
	})
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (g *gathering) nodes(ctx context.Context) {
	for _, n := range g.first.living() {
		if n.ID != g.d.Node {
			g.probe(ctx, func(ctx context.Context) func(*Evidence) {
				err := g.d.Probes.Mesh(ctx, n)
				return func(e *Evidence) { e.Mesh[n.ID] = problem(err) }
			})
		}
		g.probe(ctx, func(ctx context.Context) func(*Evidence) {
			ahead, err := g.d.Probes.Gateway(ctx, n.GatewayURL)
			return func(e *Evidence) {
				e.Gateways[n.ID] = GatewaySeen{Problem: problem(err), Ahead: ahead, Timed: err == nil}
			}
		})
	}
}

// instances uses each TURN and SFU that its own agent calls ready: what is not is known already.
func (g *gathering) instances(ctx context.Context) {
	for _, in := range g.first.Cluster.Instances {
		if !g.first.ready(in) {
			continue
		}
		g.probe(ctx, func(ctx context.Context) func(*Evidence) {
			err := g.d.Probes.Serves(ctx, g.first.Cluster, in)
			return func(e *Evidence) { e.Served[keyOf(in)] = problem(err) }
		})
	}
}

// ready: it is to run, and its own agent saw it serve.
func (e Evidence) ready(i orama.Instance) bool {
	return i.Desired == orama.DesiredRun && seen(i, e.At).State == orama.StateReady
}

func (g *gathering) names(ctx context.Context) {
	want, _ := g.first.published()
	bounded, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	servers, err := g.d.Probes.NameServers(bounded, g.first.Cluster)
	g.mu.Lock()
	g.e.NoServers = problem(err)
	g.mu.Unlock()
	for _, server := range servers {
		for name := range want {
			g.probe(ctx, func(ctx context.Context) func(*Evidence) {
				addrs, err := g.d.Probes.Lookup(ctx, server, name)
				s := NameSeen{Server: server, Name: name, Problem: problem(err)}
				for _, a := range addrs {
					s.Values = append(s.Values, a.String())
				}
				return func(e *Evidence) { e.Names = append(e.Names, s) }
			})
		}
	}
}

// relayTLS is the port of TURN over TLS that every relay has. 443 shows the same certificate, where it is had.
const relayTLS = "5349"

// certificates asks each relay that is ready for every name that credentials hand out and that leads to it, and each
// gateway on https for its own.
func (g *gathering) certificates(ctx context.Context) {
	want, _ := g.first.published()
	for _, n := range g.first.living() {
		if u, err := url.Parse(n.GatewayURL); err == nil && u.Scheme == "https" {
			g.certificate(ctx, n.ID, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), u.Hostname())
		}
		for _, in := range g.first.Cluster.Instances {
			if in.Node != n.ID || in.Role != orama.RoleTURN || !g.first.ready(in) {
				continue
			}
			space, _ := namespaceOf(g.first.Cluster, in.Namespace)
			for _, name := range g.first.named(space) {
				if slices.Contains(want[name], n.PublicIP.String()) {
					g.certificate(ctx, n.ID, net.JoinHostPort(n.PublicIP.String(), relayTLS), name)
				}
			}
		}
	}
}

func (g *gathering) certificate(ctx context.Context, node orama.NodeID, address, name string) {
	g.probe(ctx, func(ctx context.Context) func(*Evidence) {
		begin, end, untrusted, err := g.d.Probes.Certificate(ctx, address, name)
		s := CertificateSeen{Node: node, Address: address, Name: name, Problem: problem(err), Untrusted: untrusted, NotBefore: begin, NotAfter: end}
		return func(e *Evidence) { e.Certificates = append(e.Certificates, s) }
	})
}

// Handler serves:
//
//	GET /v1/report      Report
//	GET /v1/inspection  Inspection
//
// A refusal is {"error":…} with a status, as Operator's.
func (i *Inspector) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/report", func(w http.ResponseWriter, r *http.Request) {
		got, err := i.Report(r.Context())
		reply(w, http.StatusOK, got, err)
	})
	mux.HandleFunc("GET /v1/inspection", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // a look takes as long as its slowest probe
		got, err := i.Inspect(r.Context())
		reply(w, http.StatusOK, got, err)
	})
	return mux
}

// Report reads how the cluster does.
func (c *Client) Report(ctx context.Context) (Report, error) {
	var r Report
	err := c.call(ctx, http.MethodGet, "/v1/report", nil, &r)
	return r, err
}

// Inspect has the agent look at everything; that takes seconds.
func (c *Client) Inspect(ctx context.Context) (Inspection, error) {
	var r Inspection
	err := c.call(ctx, http.MethodGet, "/v1/inspection", nil, &r)
	return r, err
}
