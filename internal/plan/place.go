package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"orama.network/orama"
)

// A node that missed a beat keeps what it has and gets nothing new. One silent for very long loses what it has.
const (
	aliveFor   = 15 * time.Second
	presentFor = 10 * time.Minute
)

// placement chooses nodes for one namespace.
type placement struct {
	c     orama.Cluster
	ns    orama.NamespaceID
	now   time.Time
	quiet Silence // what a watcher saw, beside what the heartbeats say; nil: nobody watched
	ports ports
}

// placementOf starts from a cluster, whose lists it does not write to.
func placementOf(c orama.Cluster, ns orama.NamespaceID, now time.Time) *placement {
	c.Instances = slices.Clip(c.Instances)
	return &placement{c: c, ns: ns, now: now, ports: portsOf(c)}
}

// place adds instances of a role until want of them are to run, or no further node can take one. What runs is not
// moved. As many are added as can be; among the ways to do so the one with the better nodes is taken.
func (p *placement) place(role orama.Role, want int) []orama.Instance {
	var placed []orama.Instance
	for p.running(role) < want {
		n, ok := p.next(role, want-p.running(role))
		if !ok {
			break
		}
		got, _ := p.ports.findFor(role, n.MeshIP)
		p.ports.take(n.MeshIP, got)
		inst := orama.Instance{Namespace: p.ns, Node: n.ID, Role: role, Desired: orama.DesiredRun, Ports: got,
			Observed: orama.Observation{State: orama.StateUnknown}}
		p.c.Instances = append(p.c.Instances, inst)
		placed = append(placed, inst)
	}
	return placed
}

func (p *placement) running(role orama.Role) int {
	n := 0
	for _, i := range p.c.Instances {
		if p.mine(i, role) {
			n++
		}
	}
	return n
}

// mine reports whether an instance is one of the namespace's that are to run in a role.
func (p *placement) mine(i orama.Instance, role orama.Role) bool {
	return i.Namespace == p.ns && i.Role == role && i.Desired == orama.DesiredRun
}

// next finds the best node that the most others can still be put beside: of relays the first choice decides
// which others are left, for no two share a host or a zone.
func (p *placement) next(role orama.Role, need int) (orama.Node, bool) {
	open := p.candidates(role)
	if len(open) == 0 {
		return orama.Node{}, false
	}
	if role != orama.RoleTURN {
		return open[0], true
	}
	for k := min(need, len(open)); k > 1; k-- {
		if set := apartFrom(nil, open, k); set != nil {
			return set[0], true
		}
	}
	return open[0], true
}

// candidates are the nodes that can take one more instance of a role now, the best first.
func (p *placement) candidates(role orama.Role) []orama.Node {
	var open []orama.Node
	for _, n := range p.c.Nodes {
		if !p.has(role, n.ID) && p.obstacle(role, n) == "" {
			open = append(open, n)
		}
	}
	slices.SortFunc(open, func(a, b orama.Node) int { return p.compare(role, a, b) })
	return open
}

// apartFrom extends chosen by nodes of open, in their order, to k that are all apart from each other; nil: there is no such set.
func apartFrom(chosen, open []orama.Node, k int) []orama.Node {
	if len(chosen) == k {
		return chosen
	}
	for i, n := range open {
		if len(chosen)+len(open)-i < k {
			return nil
		}
		if slices.ContainsFunc(chosen, func(o orama.Node) bool { return together(o, n) != "" }) {
			continue
		}
		if set := apartFrom(append(slices.Clip(chosen), n), open[i+1:], k); set != nil {
			return set
		}
	}
	return nil
}

// together says what one failure would take both nodes by, or "" when they are apart: a host, or a zone where both name one.
func together(a, b orama.Node) string {
	switch {
	case a.PublicIP == b.PublicIP:
		return fmt.Sprintf("public address %s", a.PublicIP)
	case a.MeshIP == b.MeshIP:
		return fmt.Sprintf("mesh address %s", a.MeshIP)
	case a.Zone != "" && a.Zone == b.Zone:
		return fmt.Sprintf("zone %s", a.Zone)
	}
	return ""
}

// has reports whether a node has an instance of the namespace, on its way out or not.
func (p *placement) has(role orama.Role, id orama.NodeID) bool {
	return slices.ContainsFunc(p.c.Instances, func(i orama.Instance) bool {
		return i.Namespace == p.ns && i.Role == role && i.Node == id
	})
}

// obstacle says why a node that has no instance of the role cannot take one, or "". It does not change while nothing
// else does, so that it may be logged once.
func (p *placement) obstacle(role orama.Role, n orama.Node) string {
	if why := p.unheard(n); why != "" {
		return why
	}
	if role == orama.RoleTURN {
		if why := p.beside(n); why != "" {
			return why
		}
	}
	_, full := p.ports.findFor(role, n.MeshIP)
	return full
}

// unheard says that a node is silent, or "".
func (p *placement) unheard(n orama.Node) string {
	switch {
	case silent(n, p.now) > aliveFor:
		return silentSince(n)
	case p.quiet[n.ID] > aliveFor:
		return "its agent is silent, though its last heartbeat looks new: its clock is ahead"
	}
	return ""
}

// beside says which relay stands in the way of one on n.
func (p *placement) beside(n orama.Node) string {
	for _, i := range p.c.Instances {
		o, known := nodeOf(p.c, i.Node)
		if i.Role != orama.RoleTURN || !known || o.ID == n.ID {
			continue
		}
		// 3478 and 443 exist once per public address, so it has one TURN process whoever its tenants are.
		if o.PublicIP == n.PublicIP {
			return fmt.Sprintf("%s has TURN on the same public address %s", o.ID, n.PublicIP)
		}
		if what := together(o, n); what != "" && p.mine(i, orama.RoleTURN) {
			return fmt.Sprintf("it shares %s with the relay on %s", what, o.ID)
		}
	}
	return ""
}

// silent is how long ago a node's agent last reached the records, by the clocks of both; one that is ahead is 0.
func silent(n orama.Node, now time.Time) time.Duration { return max(0, now.Sub(n.Heartbeat)) }

// Alive reports whether a node's agent was heard within the last 15 s.
func Alive(n orama.Node, now time.Time) bool { return silent(n, now) <= aliveFor }

func silentSince(n orama.Node) string {
	if n.Heartbeat.IsZero() {
		return "its agent was never heard"
	}
	return "its agent is silent since " + n.Heartbeat.UTC().Format(time.RFC3339) + ", or its clock is behind"
}

// reasons says per node why it could not be placed on.
func (p *placement) reasons(role orama.Role) []string {
	var said []string
	for _, n := range p.c.Nodes {
		runs := slices.ContainsFunc(p.c.Instances, func(i orama.Instance) bool { return p.mine(i, role) && i.Node == n.ID })
		why := p.unheard(n)
		if why == "" && p.has(role, n.ID) {
			why = "what it had is still being stopped"
		} else if why == "" {
			why = p.obstacle(role, n)
		}
		if !runs && why != "" {
			said = append(said, fmt.Sprintf("%s: %s", n.ID, why))
		}
	}
	if len(p.c.Nodes) == 0 {
		said = append(said, "the cluster has no node")
	}
	if len(said) == 0 {
		said = append(said, fmt.Sprintf("there are %d nodes, and each has one", len(p.c.Nodes)))
	}
	slices.Sort(said)
	return said
}

// compare orders nodes for a role, the better first. Parts that do not serve come first, for such a node may follow
// them; then a zone of its own. A node that is strained takes nothing while another can; of the rest those with the
// most free blocks, which spreads the namespaces, and then those with the most left of what was measured. Measures
// are compared in steps, so that they do not outweigh the rest by their noise.
func (p *placement) compare(role orama.Role, a, b orama.Node) int {
	return cmp.Or(
		cmp.Compare(failing(a), failing(b)),
		cmp.Compare(p.zoneShared(role, a), p.zoneShared(role, b)),
		cmp.Compare(strained(a.Report), strained(b.Report)),
		cmp.Compare(p.free(role, b.MeshIP), p.free(role, a.MeshIP)),
		cmp.Compare(p.count(a.ID), p.count(b.ID)),
		cmp.Compare(a.Report.Relays/50, b.Report.Relays/50),
		cmp.Compare(steps(loadPerCPU(a.Report), 4), steps(loadPerCPU(b.Report), 4)),
		cmp.Compare(steps(memoryUsed(a.Report), 10), steps(memoryUsed(b.Report), 10)),
		cmp.Compare(steps(linkUsed(a.Report), 10), steps(linkUsed(b.Report), 10)),
		cmp.Compare(a.ID, b.ID),
	)
}

// free counts the blocks of the scarcest space of a role.
func (p *placement) free(role orama.Role, a netip.Addr) int {
	if role == orama.RoleTURN {
		return p.ports.unowned(a, relaySpace)
	}
	return p.ports.unowned(a, mediaSpace)
}

// zoneShared counts the namespace's instances of the role that are to run in the node's zone.
func (p *placement) zoneShared(role orama.Role, n orama.Node) int {
	if n.Zone == "" {
		return 0
	}
	count := 0
	for _, i := range p.c.Instances {
		if other, ok := nodeOf(p.c, i.Node); ok && other.Zone == n.Zone && p.mine(i, role) {
			count++
		}
	}
	return count
}

// count is how many instances a node has, of every namespace and role.
func (p *placement) count(id orama.NodeID) int {
	count := 0
	for _, i := range p.c.Instances {
		if i.Node == id {
			count++
		}
	}
	return count
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
