package plan

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"orama.network/orama"
)

// Opening is one hole in a host's firewall, and why it is there.
type Opening struct {
	Tag   string          `json:"tag"`         // "turn", "gateway", "myapp:relay": by it the rule is known as ours
	Proto string          `json:"proto"`       // "udp" or "tcp"
	Ports orama.PortRange `json:"ports"`       //
	To    netip.Addr      `json:"to,omitzero"` // of this host; the zero address is all of its addresses
	Mesh  bool            `json:"mesh"`        // for what comes in through the mesh's interface alone
}

// Host is what a node listens on whatever its namespaces are.
type Host struct {
	Gateway      []string  // host:port of its gateway, plain and TLS
	DNS          []string  // host:port where it answers for the base domain, UDP and TCP
	Enroll       string    // host:port where it lets new nodes in; "": it does not
	WireGuard    uint16    // UDP port of the mesh itself, on the public address; 0: the mesh is not ours
	Mesh         []Service // on the mesh address, for the other nodes: store and cache
	PublicRelays bool      // relay sockets are bound to the public address instead of the mesh's
}

// Service is one port of a node that others reach through the mesh.
type Service struct {
	Name  string // "store", "cache"
	Proto string // "udp" or "tcp"
	Port  uint16
}

// turnListeners are where a host's TURN is reached. The specification's table has the two UDP rows. Browsers turn
// `turns:HOST:443?transport=udp` into TLS over TCP, so without 443/tcp no browser would ever have TLS to a relay;
// 3478/tcp and 5349/tcp are for those whose networks let no UDP through.
var turnListeners = []struct {
	proto string
	port  uint16
}{{"udp", 3478}, {"tcp", 3478}, {"udp", 443}, {"tcp", 443}, {"tcp", 5349}}

// Firewall is everything that has to be open on a node, each hole once: what the host listens on, TURN's listeners while
// any namespace has a relay here, and each namespace's blocks. An SFU is for the mesh alone, and so is a relay's block, because that is
// where relay sockets are bound; only PublicRelays opens it to the world. An instance's ports stay open until it was seen gone. SSH and
// whatever else the host does is not ours to open, nor to close.
func Firewall(c orama.Cluster, self orama.Node, h Host) []Opening {
	out := h.openings(self)
	turn := false
	for _, i := range instancesOn(c, self.ID) {
		switch i.Role {
		case orama.RoleTURN:
			turn = true
			at := Opening{Tag: string(i.Namespace) + ":relay", Proto: "udp", Ports: i.Ports.Relay, To: self.MeshIP, Mesh: true}
			if h.PublicRelays {
				at.To, at.Mesh = self.PublicIP, false
			}
			out = append(out, at)
		case orama.RoleSFU:
			tag := string(i.Namespace) + ":sfu"
			media := orama.PortRange{First: i.Ports.Media.First, Count: 1} // the one socket of the block that all peers share
			out = append(out, Opening{tag, "tcp", i.Ports.Signal, self.MeshIP, true}, Opening{tag, "udp", media, self.MeshIP, true})
		}
	}
	if turn {
		for _, l := range turnListeners {
			out = append(out, Opening{"turn", l.proto, orama.PortRange{First: l.port, Count: 1}, self.PublicIP, false})
		}
	}
	return distinct(out)
}

// instancesOn lists what has ports on a node, by namespace and role.
func instancesOn(c orama.Cluster, node orama.NodeID) []orama.Instance {
	var out []orama.Instance
	for _, i := range c.Instances {
		if i.Node == node && (i.Desired == orama.DesiredRun || i.Observed.State != orama.StateGone) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b orama.Instance) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Role, b.Role))
	})
	return out
}

// distinct leaves out what is open already: two rules that differ in nothing but their tag are one rule to a
// firewall, and the first keeps it, so that a gateway on 443 stays reachable when TURN goes.
func distinct(in []Opening) []Opening {
	seen := map[Opening]bool{}
	return slices.DeleteFunc(in, func(o Opening) bool {
		o.Tag = ""
		was := seen[o]
		seen[o] = true
		return was || o.Ports.First == 0 || o.Ports.Count == 0
	})
}

func (h Host) openings(self orama.Node) []Opening {
	var out []Opening
	for _, at := range h.Gateway {
		out = append(out, opening("gateway", "tcp", at, self)...)
	}
	for _, at := range h.DNS {
		out = append(out, opening("dns", "udp", at, self)...)
		out = append(out, opening("dns", "tcp", at, self)...)
	}
	if h.Enroll != "" {
		out = append(out, opening("enroll", "tcp", h.Enroll, self)...)
	}
	out = append(out, Opening{"mesh", "udp", orama.PortRange{First: h.WireGuard, Count: 1}, self.PublicIP, false})
	for _, s := range h.Mesh {
		out = append(out, Opening{s.Name, s.Proto, orama.PortRange{First: s.Port, Count: 1}, self.MeshIP, true})
	}
	return out
}

// opening is what a listener on host:port needs: nothing on a loopback address, the mesh's interface alone on the
// mesh address, every address where the host is none or a name.
func opening(tag, proto, at string, self orama.Node) []Opening {
	host, text, err := net.SplitHostPort(at)
	if err != nil {
		return nil // config has refused it
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || host == "localhost" {
		return nil
	}
	o := Opening{Tag: tag, Proto: proto, Ports: orama.PortRange{First: uint16(port), Count: 1}}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		if ip.IsLoopback() {
			return nil
		}
		o.To, o.Mesh = ip, ip == self.MeshIP
	}
	return []Opening{o}
}
