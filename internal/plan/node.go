package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
)

// Local is what a node's own configuration adds to the records.
type Local struct {
	BaseDomain   string
	URLStyle     string // StyleIP or StyleName
	MeshCIDR     netip.Prefix
	HTTPSBackend string                                   // see TURNSpec
	HTTPSProxy   bool                                     // see TURNSpec
	NoTCP443     bool                                     // see TURNSpec; clients are given 5349 instead
	Edge         bool                                     // the host's TURN runs without a tenant too: it has 443/tcp, which leads to the gateway
	CertPEM      string                                   // see TURNSpec
	KeyPEM       string                                   // see TURNSpec
	TicketKey    string                                   // see SFUSpec
	Open         func(sealed, aad string) (string, error) // unseals a TURN secret
}

// SecretAAD is what a namespace's TURN secret is sealed to, so that one cannot be put in another's place.
func SecretAAD(ns orama.NamespaceID) string { return "turn:" + string(ns) }

// secret opens a namespace's TURN secret. Without it nothing of the namespace can run: fail closed.
func (l Local) secret(n orama.Namespace) (string, bool) {
	if l.Open == nil || n.WebRTC == nil || n.WebRTC.Disabling {
		return "", false
	}
	s, err := l.Open(n.WebRTC.SealedSecret, SecretAAD(n.ID))
	return s, err == nil && s != ""
}

// wanted lists the instances that are to run, of namespaces that are enabled, by namespace, node and role.
func wanted(c orama.Cluster, keep func(orama.Instance) bool) []orama.Instance {
	var out []orama.Instance
	for _, i := range c.Instances {
		n, ok := namespaceOf(c, i.Namespace)
		if ok && n.WebRTC != nil && !n.WebRTC.Disabling && i.Desired == orama.DesiredRun && keep(i) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b orama.Instance) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Role, b.Role))
	})
	return out
}

// Manifest is what a node must run, as its state file keeps it.
func Manifest(c orama.Cluster, node orama.NodeID) manifest.State {
	s := manifest.State{Version: manifest.Version, NodeID: node, Revision: c.Revision, Namespaces: []manifest.Namespace{}}
	for _, i := range wanted(c, func(i orama.Instance) bool { return i.Node == node }) {
		last := len(s.Namespaces) - 1
		if last < 0 || s.Namespaces[last].Name != i.Namespace {
			s.Namespaces = append(s.Namespaces, manifest.Namespace{Name: i.Namespace})
			last++
		}
		n := &s.Namespaces[last]
		if i.Role == orama.RoleTURN {
			n.HasTURN, n.Ports.Relay = true, i.Ports.Relay
		} else {
			n.HasSFU, n.Ports.Signal, n.Ports.Media = true, i.Ports.Signal, i.Ports.Media
		}
	}
	return s
}

// TURN is what a node's TURN process must serve. False: the node is not to have one. A namespace whose secret
// cannot be opened is left out.
func TURN(c orama.Cluster, node orama.NodeID, l Local) (TURNSpec, bool) {
	n, ok := nodeOf(c, node)
	if !ok {
		return TURNSpec{}, false
	}
	mine := wanted(c, func(i orama.Instance) bool { return i.Node == node && i.Role == orama.RoleTURN })
	if len(mine) == 0 && !l.Edge {
		return TURNSpec{}, false
	}
	s := TURNSpec{Node: node, PublicIP: n.PublicIP, RelayIP: n.MeshIP, Realm: l.BaseDomain,
		HTTPSBackend: l.HTTPSBackend, HTTPSProxy: l.HTTPSProxy, NoTCP443: l.NoTCP443, CertPEM: l.CertPEM, KeyPEM: l.KeyPEM, Tenants: []TenantSpec{}}
	for _, i := range mine {
		ns, _ := namespaceOf(c, i.Namespace)
		if secret, ok := l.secret(ns); ok {
			s.Tenants = append(s.Tenants, TenantSpec{Namespace: ns.ID, Secret: secret, Relay: i.Ports.Relay, Allow: fenceOf(c, ns.ID), Alternates: otherRelays(c, ns.ID, node)})
		}
	}
	return s, true
}

// otherRelays are the public addresses of a namespace's relays on other nodes, those that were seen to serve.
func otherRelays(c orama.Cluster, ns orama.NamespaceID, node orama.NodeID) (out []netip.Addr) {
	for _, i := range wanted(c, func(i orama.Instance) bool { return i.Namespace == ns && i.Role == orama.RoleTURN && i.Node != node }) {
		if n, ok := nodeOf(c, i.Node); ok && i.Observed.State == orama.StateReady {
			out = append(out, n.PublicIP)
		}
	}
	return out
}

// fenceOf is everything that a namespace's relays may talk to: the one media socket of each of its SFUs that is to run.
func fenceOf(c orama.Cluster, ns orama.NamespaceID) []netip.AddrPort {
	allow := []netip.AddrPort{}
	for _, i := range wanted(c, func(i orama.Instance) bool { return i.Namespace == ns && i.Role == orama.RoleSFU }) {
		if n, ok := nodeOf(c, i.Node); ok {
			allow = append(allow, netip.AddrPortFrom(n.MeshIP, i.Ports.Media.First))
		}
	}
	return allow
}

// SFU is what a namespace's SFU process on a node must be. False: there is not to be one, or its secret cannot be opened.
func SFU(c orama.Cluster, node orama.NodeID, ns orama.NamespaceID, l Local) (SFUSpec, bool) {
	n, ok := nodeOf(c, node)
	if !ok {
		return SFUSpec{}, false
	}
	mine := wanted(c, func(i orama.Instance) bool { return i.Node == node && i.Namespace == ns && i.Role == orama.RoleSFU })
	if len(mine) != 1 {
		return SFUSpec{}, false
	}
	space, _ := namespaceOf(c, ns)
	secret, ok := l.secret(space)
	if !ok {
		return SFUSpec{}, false
	}
	s := SFUSpec{Namespace: ns, Node: node, MeshIP: n.MeshIP, MeshCIDR: l.MeshCIDR,
		SignalPort: mine[0].Ports.Signal.First, MediaPort: mine[0].Ports.Media.First, TicketKey: l.TicketKey,
		Relays: []RelaySource{}, Secret: secret, CredentialTTL: space.WebRTC.CredentialTTL, Servers: Servers(c, ns, l)}
	for _, other := range c.Nodes {
		if other.GatewayURL != "" {
			s.Gateways = append(s.Gateways, other.GatewayURL)
		}
	}
	for _, r := range relaysOf(c, ns) {
		s.Relays = append(s.Relays, RelaySource{IP: r.node.MeshIP, Ports: r.inst.Ports.Relay})
	}
	return s, true
}
