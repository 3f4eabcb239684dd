package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"orama.network/orama"
)

// A node that missed a beat keeps its place in the queue's front; one silent for longer is used
// only when the others do not suffice; one silent for very long not at all.
const (
	aliveFor   = 15 * time.Second
	presentFor = 10 * time.Minute
)

// placement chooses nodes for one namespace.
type placement struct {
	c     orama.Cluster
	ns    orama.NamespaceID
	now   time.Time
	ports ports
	why   []string // for each node that was passed over, in node order
}

// place adds instances of a role until want of them are to run, or no further node can take one.
func (p *placement) place(role orama.Role, want int) []orama.Instance {
	var placed []orama.Instance
	open := slices.Clone(p.c.Nodes)
	for have := p.running(role); have < want; {
		i, ok := p.best(role, open)
		if !ok {
			break
		}
		n := open[i]
		open = slices.Delete(open, i, i+1)
		got, full := p.ports.takeFor(role, n.MeshIP)
		if full != "" {
			p.why = append(p.why, fmt.Sprintf("%s: %s", n.ID, full))
			continue
		}
		inst := orama.Instance{Namespace: p.ns, Node: n.ID, Role: role, Desired: orama.DesiredRun, Ports: got,
			Observed: orama.Observation{State: orama.StateUnknown}}
		p.c.Instances = append(p.c.Instances, inst)
		placed = append(placed, inst)
		have++
	}
	slices.Sort(p.why)
	return placed
}

func (p *placement) running(role orama.Role) int {
	n := 0
	for _, i := range p.c.Instances {
		if i.Namespace == p.ns && i.Role == role && i.Desired == orama.DesiredRun {
			n++
		}
	}
	return n
}

// best finds the most suitable of the open nodes: alive before silent, a zone of its own before a shared
// one, then the one with the fewest instances of the role, of any role, then the lowest id.
func (p *placement) best(role orama.Role, open []orama.Node) (int, bool) {
	best, found := 0, false
	for i, n := range open {
		if !p.able(role, n) {
			continue
		}
		if !found || p.compare(role, n, open[best]) < 0 {
			best, found = i, true
		}
	}
	return best, found
}

// able reports whether a node may take the role at all, ports aside.
func (p *placement) able(role orama.Role, n orama.Node) bool {
	if p.now.Sub(n.Heartbeat) > presentFor {
		return false
	}
	for _, i := range p.c.Instances {
		if i.Role != role {
			continue
		}
		if i.Namespace == p.ns && i.Node == n.ID {
			return false
		}
		// 3478 and 443 exist once per public address, so it has one TURN process whoever its tenants are.
		if role == orama.RoleTURN && i.Node != n.ID && p.publicIP(i.Node) == n.PublicIP {
			return false
		}
	}
	return true
}

func (p *placement) publicIP(id orama.NodeID) netip.Addr {
	n, _ := nodeOf(p.c, id)
	return n.PublicIP
}

func (p *placement) compare(role orama.Role, a, b orama.Node) int {
	return cmp.Or(
		cmp.Compare(p.silent(a), p.silent(b)),
		cmp.Compare(p.zoneShared(role, a), p.zoneShared(role, b)),
		cmp.Compare(p.load(a.ID, role), p.load(b.ID, role)),
		cmp.Compare(p.load(a.ID, ""), p.load(b.ID, "")),
		cmp.Compare(a.ID, b.ID),
	)
}

func (p *placement) silent(n orama.Node) int {
	if p.now.Sub(n.Heartbeat) > aliveFor {
		return 1
	}
	return 0
}

// zoneShared counts the namespace's instances of the role in the node's zone.
func (p *placement) zoneShared(role orama.Role, n orama.Node) int {
	if n.Zone == "" {
		return 0
	}
	count := 0
	for _, i := range p.c.Instances {
		if i.Namespace != p.ns || i.Role != role {
			continue
		}
		if other, ok := nodeOf(p.c, i.Node); ok && other.Zone == n.Zone {
			count++
		}
	}
	return count
}

// load counts a node's instances of a role, or of every role for "".
func (p *placement) load(id orama.NodeID, role orama.Role) int {
	count := 0
	for _, i := range p.c.Instances {
		if i.Node == id && (role == "" || i.Role == role) {
			count++
		}
	}
	return count
}

// reasons says per node why none could be placed.
func (p *placement) reasons(role orama.Role) []string {
	said := slices.Clone(p.why)
	for _, n := range p.c.Nodes {
		if silent := p.now.Sub(n.Heartbeat); silent > presentFor {
			said = append(said, fmt.Sprintf("%s: silent for more than %s", n.ID, presentFor))
		} else if role == orama.RoleTURN && !p.able(role, n) {
			said = append(said, fmt.Sprintf("%s: another node has TURN on its public address %s", n.ID, n.PublicIP))
		}
	}
	if len(said) == 0 {
		said = append(said, "the cluster has no node")
	}
	slices.Sort(said)
	return slices.Compact(said)
}

func nodeOf(c orama.Cluster, id orama.NodeID) (orama.Node, bool) {
	for _, n := range c.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return orama.Node{}, false
}

func namespaceOf(c orama.Cluster, id orama.NamespaceID) (orama.Namespace, bool) {
	for _, n := range c.Namespaces {
		if n.ID == id {
			return n, true
		}
	}
	return orama.Namespace{}, false
}
