package role

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/probe"
	"orama.network/orama/internal/store"
)

// probes is operator.Probes: this node's view of the others.
type probes struct {
	cfg   config.Node
	keys  *auth.Keys
	roots *x509.CertPool // what clients of this cluster believe; nil: the system's
}

// newInspector makes the node's inspector.
func newInspector(cfg config.Node, keys *auth.Keys, records *store.Store, roots *x509.CertPool) *operator.Inspector {
	return operator.NewInspector(operator.InspectorDeps{Node: cfg.ID, BaseDomain: cfg.BaseDomain, URLStyle: cfg.TURN.URLs,
		Store: records, Probes: probes{cfg, keys, roots}})
}

// NodeReport is what one node's agent knows of itself.
type NodeReport struct {
	ID        orama.NodeID     `json:"id"`
	At        time.Time        `json:"at"`
	Units     []node.Unit      `json:"units"`
	Listeners []probe.Listener `json:"listeners"` // of the agent and its units, and whoever is in our ranges
	Heartbeat time.Time        `json:"heartbeat"` // the last that is in the records
	Report    orama.NodeReport `json:"report"`    // as it is there
	Problem   string           `json:"problem,omitempty"`
}

func (h *host) serveNodeReport(w http.ResponseWriter, r *http.Request) {
	out := NodeReport{ID: h.cfg.ID, At: time.Now().UTC(), Units: h.units.Units(), Listeners: []probe.Listener{}}
	c, err := h.store.Cluster(r.Context())
	if err != nil {
		out.Problem = "the records cannot be read: " + err.Error()
	}
	for _, n := range c.Nodes {
		if n.ID == h.cfg.ID {
			out.Heartbeat, out.Report = n.Heartbeat, n.Report
		}
	}
	all, err := probe.Listeners("/proc")
	if err != nil {
		out.Problem = "who listens cannot be read: " + err.Error()
	}
	ours := map[int]bool{os.Getpid(): true}
	for _, u := range out.Units {
		ours[u.PID] = true
	}
	for _, l := range all {
		if ours[l.PID] || l.Address.Addr() == h.cfg.MeshIP {
			out.Listeners = append(out.Listeners, l)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) //nolint:errcheck // the reader went away
}

// ReadNodeReport asks the agent behind a socket.
func ReadNodeReport(ctx context.Context, socket string) (NodeReport, error) {
	var out NodeReport
	err := dialUnit(socket).do(ctx, http.MethodGet, "/v1/node/report", nil, &out)
	if err != nil {
		err = &orama.Error{Kind: orama.KindUnavailable, Code: "agent_unreachable", Message: "the node's agent does not answer on " + socket, Err: err}
	}
	return out, err
}

// Mesh tries the ports that the firewall lets in through the mesh: those of the node's SFUs.
func (p probes) Mesh(ctx context.Context, to orama.Node) error {
	return probe.Mesh(ctx, p.cfg.MeshIP, to.MeshIP, firstSignalPort)
}

// firstSignalPort is where the first SFU of a node signals. Nobody need listen: a refusal is an answer.
const firstSignalPort = 30000

// Gateway asks a gateway by its public URL.
func (p probes) Gateway(ctx context.Context, base string) (time.Duration, error) {
	return probe.Gateway(ctx, base, p.roots)
}

// NameServers are the nodes that serve the zone, as their reports say, the server that is updated, or those that the
// zone of a program names.
func (p probes) NameServers(ctx context.Context, c orama.Cluster) ([]string, error) {
	switch p.cfg.DNS.Mode {
	case "rfc2136":
		return []string{p.cfg.DNS.Server}, nil
	case "program":
		named, err := net.DefaultResolver.LookupNS(ctx, programZone(p.cfg))
		var out []string
		for _, ns := range named {
			out = append(out, net.JoinHostPort(strings.TrimSuffix(ns.Host, "."), "53"))
		}
		return out, err
	case "serve":
	default:
		return nil, nil
	}
	var out []string
	for _, n := range c.Nodes {
		if _, serves := n.Report.Checks["dns"]; serves {
			out = append(out, net.JoinHostPort(n.PublicIP.String(), dnsPort(p.cfg.DNS.Listen)))
		}
	}
	return slices.Compact(out), nil
}

// dnsPort is the port of the first listener; every node of a cluster uses the same.
func dnsPort(listen []string) string {
	for _, at := range listen {
		if _, port, err := net.SplitHostPort(at); err == nil {
			return port
		}
	}
	return "53"
}

// Lookup asks one name server.
func (p probes) Lookup(ctx context.Context, server, name string) ([]netip.Addr, error) {
	return probe.Lookup(ctx, server, name)
}

// Certificate looks at what a TLS server shows.
func (p probes) Certificate(ctx context.Context, address, name string) (notBefore, notAfter time.Time, untrusted string, err error) {
	return probe.Certificate(ctx, address, name, p.roots)
}

// Serves uses another node's instance as its own agent does, but from here.
func (p probes) Serves(ctx context.Context, c orama.Cluster, i orama.Instance) error {
	at := slices.IndexFunc(c.Nodes, func(n orama.Node) bool { return n.ID == i.Node })
	if at < 0 {
		return errors.New("its node is not in the records")
	}
	local := plan.Local{BaseDomain: p.cfg.BaseDomain, URLStyle: p.cfg.TURN.URLs, MeshCIDR: p.cfg.MeshCIDR, Open: p.keys.Open}
	if i.Role == orama.RoleSFU {
		ticket, err := p.keys.MintTicket(auth.Ticket{Namespace: i.Namespace, Node: i.Node, Boot: i.Observed.Boot,
			Room: "_probe", User: "orama", Admin: true})
		if err != nil {
			return fmt.Errorf("sfu probe: %w", err)
		}
		return probe.SFU(ctx, p.cfg.MeshIP, netip.AddrPortFrom(c.Nodes[at].MeshIP, i.Ports.Signal.First), ticket)
	}
	spec, ok := plan.TURN(c, i.Node, local)
	tenant := slices.IndexFunc(spec.Tenants, func(t plan.TenantSpec) bool { return t.Namespace == i.Namespace })
	if !ok || tenant < 0 {
		return errors.New("its secret cannot be opened with this cluster's key")
	}
	return prober{keys: p.keys}.TURN(ctx, spec, spec.Tenants[tenant])
}
