package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"orama.network/orama"
)

// genCluster draws hosts, some carrying several nodes, some silent, some with strangers' ports; and namespaces.
func genCluster(t *rapid.T) orama.Cluster {
	c := orama.Cluster{Revision: rapid.Int64Range(1, 1000).Draw(t, "revision")}
	machines := rapid.IntRange(1, 5).Draw(t, "hosts")
	for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
		h := rapid.IntRange(0, machines-1).Draw(t, "host")
		n := host(h + 1)
		n.ID = orama.NodeID(fmt.Sprintf("node-%d", i))
		n.MeshIP = host(rapid.SampledFrom([]int{h, h, h, i}).Draw(t, "mesh") + 1).MeshIP
		n.Zone = rapid.SampledFrom([]string{"", "", "a", "b", "c"}).Draw(t, "zone")
		n.Heartbeat = now.Add(-rapid.SampledFrom([]time.Duration{0, 0, 0, time.Minute}).Draw(t, "silent"))
		n.Report.Busy = rapid.SampledFrom([][]orama.PortRange{nil, nil, {{First: 20400, Count: 3000}, {First: 50000, Count: 1}},
			{{First: 49152, Count: 15000}}}).Draw(t, "busy")
		n.Report.CPUs, n.Report.Load = 1, rapid.SampledFrom([]float64{0, 1, 2}).Draw(t, "load")
		c.Nodes = append(c.Nodes, n)
	}
	for i := range rapid.IntRange(1, 25).Draw(t, "namespaces") {
		c.Namespaces = append(c.Namespaces, orama.Namespace{ID: orama.NamespaceID(fmt.Sprintf("ns%d", i))})
	}
	return c
}

// placeable counts, by trying every set of nodes, how many more of a role there could be beside those that run.
func placeable(c orama.Cluster, ns orama.NamespaceID, role orama.Role, at time.Time, quiet Silence) int {
	var open, runs []orama.Node
	for _, n := range c.Nodes {
		if slices.Contains(running(c, ns, role), n.ID) {
			runs = append(runs, n)
		} else if !slices.Contains(where(c, ns, role), n.ID) && at.Sub(n.Heartbeat) <= aliveFor && quiet[n.ID] <= aliveFor {
			open = append(open, n)
		}
	}
	taken, most := portsOf(c), 0
	for set := range 1 << len(open) {
		chosen := slices.Clone(runs)
		for i, n := range open {
			if set&(1<<i) != 0 {
				chosen = append(chosen, n)
			}
		}
		if fits(c, role, taken, runs, chosen) {
			most = max(most, len(chosen)-len(runs))
		}
	}
	return most
}

// fits reports whether those of chosen that are not in runs could take the role.
func fits(c orama.Cluster, role orama.Role, taken ports, runs, chosen []orama.Node) bool {
	room := map[netip.Addr]int{}
	for i, n := range chosen {
		if i < len(runs) {
			continue
		}
		if _, counted := room[n.MeshIP]; !counted {
			room[n.MeshIP] = freeBlocks(taken, n.MeshIP, role)
		}
		if room[n.MeshIP]--; room[n.MeshIP] < 0 {
			return false
		}
		if role != orama.RoleTURN {
			continue
		}
		for _, o := range chosen[:i] {
			if o.PublicIP == n.PublicIP || o.MeshIP == n.MeshIP || o.Zone == n.Zone && n.Zone != "" {
				return false
			}
		}
		if slices.ContainsFunc(c.Instances, func(x orama.Instance) bool {
			o, _ := nodeOf(c, x.Node)
			return x.Role == role && o.ID != n.ID && o.PublicIP == n.PublicIP
		}) {
			return false
		}
	}
	return true
}

func freeBlocks(p ports, a netip.Addr, role orama.Role) int {
	count := func(s space) (n int) {
		for i := range s.blocks() {
			if shared(p.owned[a], s.block(i)) == 0 && shared(p.busy[a], s.block(i)) <= s.tolerates {
				n++
			}
		}
		return n
	}
	if role == orama.RoleTURN {
		return count(relaySpace)
	}
	return min(count(signalSpace), count(mediaSpace))
}

// sim is a cluster in time, with somebody who watches it.
type sim struct {
	*rapid.T
	c      orama.Cluster
	at     time.Time
	down   map[orama.NodeID]bool // agents that do not reach the records
	watch  Watch
	silent Silence
}

// pass lets time go by, in which the nodes that are not down are heard.
func (s *sim) pass(d time.Duration) {
	s.c = deepCopy(s.c)
	for end := s.at.Add(d); s.at.Before(end); {
		s.at = s.at.Add(min(10*time.Second, end.Sub(s.at)))
		for i, n := range s.c.Nodes {
			if !s.down[n.ID] {
				s.c.Nodes[i].Heartbeat = s.at
			}
		}
		s.silent = s.watch.Look(s.c.Nodes, s.at)
	}
}

// observe has agents that are not down see their instances as they should be, some of them.
func (s *sim) observe(some func() bool) {
	s.c = deepCopy(s.c)
	for i, in := range s.c.Instances {
		switch {
		case s.down[in.Node] || !some():
		case in.Desired == orama.DesiredStop:
			s.c.Instances[i].Observed.State = orama.StateGone
		default:
			s.c.Instances[i].Observed.State = orama.StateReady
		}
	}
}

func (s *sim) apply(ch orama.Change) {
	s.c = apply(s, s.c, ch)
	relaysAreApart(s, s.c)
}

func relaysAreApart(t *sim, c orama.Cluster) {
	for i, a := range c.Instances {
		for _, b := range c.Instances[:i] {
			if a.Role != orama.RoleTURN || b.Role != orama.RoleTURN || a.Node == b.Node {
				continue
			}
			x, _ := nodeOf(c, a.Node)
			y, _ := nodeOf(c, b.Node)
			if x.PublicIP == y.PublicIP {
				t.Fatalf("%s and %s have TURN on one address", x.ID, y.ID)
			}
			if a.Namespace == b.Namespace && a.Desired == orama.DesiredRun && b.Desired == orama.DesiredRun && together(x, y) != "" {
				t.Fatalf("relays of %s on %s and %s share %s", a.Namespace, x.ID, y.ID, together(x, y))
			}
		}
	}
}

// converge does what an operator's loop does once, and holds each decision to its rules.
func (s *sim) converge() {
	for _, n := range s.c.Namespaces {
		if ch, any := Finish(s.c, n.ID, s.silent); any {
			s.checkForgotten(ch)
			s.apply(ch)
			if _, again := Finish(s.c, n.ID, s.silent); again {
				s.Fatalf("finishing is no fixed point")
			}
		}
	}
	was := deepCopy(s.c)
	ch, reasons := Converge(s.c, s.at, s.silent)
	if !reflect.DeepEqual(was, s.c) {
		s.Fatalf("Converge wrote to what it was given")
	}
	s.checkMoved(ch)
	if !Empty(ch) {
		s.apply(ch)
	}
	again, same := Converge(s.c, s.at, s.silent)
	if !Empty(again) || !slices.Equal(same, reasons) {
		s.Fatalf("converging is no fixed point: %+v\n%q\n%q", again, reasons, same)
	}
	if len(s.silent) > 0 && !s.silent.most(s.c.Nodes) {
		s.checkNoneCouldBeMore(was, len(reasons))
	}
}

// checkForgotten: an enabled namespace forgets a lost node's instance only when another serves.
func (s *sim) checkForgotten(ch orama.Change) {
	for _, d := range ch.DeleteInstances {
		n, _ := namespaceOf(s.c, d.Namespace)
		if d.Observed.State == orama.StateGone || n.WebRTC.Disabling {
			continue
		}
		if s.silent[d.Node] < presentFor || !slices.ContainsFunc(s.c.Instances, func(i orama.Instance) bool {
			return i.Namespace == d.Namespace && i.Role == d.Role && i.Desired == orama.DesiredRun && i.Observed.State == orama.StateReady
		}) {
			s.Fatalf("%s of %s on %s was forgotten", d.Role, d.Namespace, d.Node)
		}
	}
}

// checkMoved: only what a lost node has is taken from it, and a minority decides nothing.
func (s *sim) checkMoved(ch orama.Change) {
	quiet := 0
	for _, n := range s.c.Nodes {
		if s.silent[n.ID] > aliveFor {
			quiet++
		}
	}
	if 2*quiet > len(s.c.Nodes) && !Empty(ch) {
		s.Fatalf("%d of %d nodes are silent, and something is moved: %+v", quiet, len(s.c.Nodes), ch)
	}
	for _, p := range ch.PutInstances {
		if p.Desired == orama.DesiredStop && s.silent[p.Node] < presentFor {
			s.Fatalf("%s lost its %s after %s", p.Node, p.Role, s.silent[p.Node])
		}
		if p.Desired == orama.DesiredRun && s.down[p.Node] && s.silent[p.Node] > aliveFor {
			s.Fatalf("%s was given to %s, which is silent", p.Role, p.Node)
		}
	}
}

// checkNoneCouldBeMore: as many run on nodes that are not lost as was possible before; and who has too few is told of.
func (s *sim) checkNoneCouldBeMore(was orama.Cluster, reasons int) {
	before := deepCopy(was)
	for i, in := range before.Instances {
		if s.silent.lost(before, in.Node) {
			before.Instances[i].Desired = orama.DesiredStop
		}
	}
	short := 0
	live := func(c orama.Cluster, ns orama.NamespaceID, role orama.Role) (n int) {
		for _, id := range running(c, ns, role) {
			if !s.silent.lost(c, id) {
				n++
			}
		}
		return n
	}
	for _, n := range s.c.Namespaces {
		if n.WebRTC == nil || n.WebRTC.Disabling {
			continue
		}
		for _, r := range wants(*n.WebRTC) {
			// Namespaces before this one may have taken blocks, so that the state after counts, too.
			could := min(placeable(before, n.ID, r.role, s.at, s.silent), r.want-live(was, n.ID, r.role))
			got := live(s.c, n.ID, r.role) - live(was, n.ID, r.role)
			after := deepCopy(s.c)
			for i, in := range after.Instances {
				if s.silent.lost(after, in.Node) {
					after.Instances[i].Desired = orama.DesiredStop
				}
			}
			if live(s.c, n.ID, r.role) < r.want {
				short++
				if more := placeable(after, n.ID, r.role, s.at, s.silent); more > 0 {
					s.Fatalf("%s: %d more %s could be placed", n.ID, more, r.role)
				}
			}
			if got < could && len(s.c.Namespaces) == 1 {
				s.Fatalf("%s: %d %s were added, %d could", n.ID, got, r.role, could)
			}
		}
	}
	if short > 0 && reasons == 0 {
		s.Fatalf("%d roles are short, and nobody is told why", short)
	}
}

// enable enables a namespace, and holds the decision to its rules.
func (s *sim) enable(ns orama.NamespaceID) {
	c, o := s.c, options()
	o.Now = s.at
	n, _ := namespaceOf(c, ns)
	could := map[orama.Role]int{}
	for _, r := range []orama.Role{orama.RoleTURN, orama.RoleSFU} {
		could[r] = placeable(c, ns, r, s.at, nil)
	}
	was := deepCopy(c)
	ch, err := Enable(c, ns, o)
	if !reflect.DeepEqual(was, c) {
		s.Fatalf("Enable wrote to what it was given")
	}
	again, err2 := Enable(c, ns, o)
	if !reflect.DeepEqual(ch, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
		s.Fatalf("Enable is not deterministic")
	}
	if n.WebRTC != nil && n.WebRTC.Disabling {
		if orama.KindOf(err) != orama.KindConflict {
			s.Fatalf("enabled while being disabled: %v", err)
		}
		return
	}
	run := func(c orama.Cluster, r orama.Role) int { return len(running(c, ns, r)) }
	possible := run(c, orama.RoleTURN)+could[orama.RoleTURN] > 0 && run(c, orama.RoleSFU)+could[orama.RoleSFU] > 0
	if possible != (err == nil) {
		s.Fatalf("possible: %t, error: %v", possible, err)
	}
	if err != nil {
		return
	}
	if !Empty(ch) {
		s.apply(ch)
	}
	for r, want := range map[orama.Role]int{orama.RoleTURN: DefaultTURNNodes, orama.RoleSFU: DefaultSFUNodes} {
		if got, most := run(s.c, r), min(want, run(c, r)+could[r]); got < most || got > want {
			s.Fatalf("%s: %d run, %d could, %d are wanted", r, got, most, want)
		}
	}
	if ch, err := Enable(s.c, ns, o); err != nil || !Empty(ch) {
		s.Fatalf("enabling is no fixed point: %+v %v", ch, err)
	}
}

// Any order of enabling, disabling, nodes that fall silent and come back, seeing, time and converging: a port has one owner and
// no two relays share a host or a zone (apply checks), never fewer instances are placed than could be, nothing is taken
// from a node that is not lost, what is left undone has its reason, and each step is a fixed point.
func TestAnyHistoryKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &sim{T: t, c: genCluster(t), at: now, down: map[orama.NodeID]bool{}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			ns := rapid.SampledFrom(s.c.Namespaces).Draw(t, "namespace").ID
			switch rapid.SampledFrom([]string{"enable", "enable", "enable", "disable", "observe", "observe", "silence", "return", "pass", "pass", "converge", "converge", "dns"}).Draw(t, "step") {
			case "enable":
				s.enable(ns)
			case "disable":
				if ch, err := Disable(s.c, ns, s.at); err == nil && !Empty(ch) {
					s.apply(ch)
				}
			case "observe":
				s.observe(func() bool { return rapid.Bool().Draw(t, "is seen") })
			case "silence":
				s.down[rapid.SampledFrom(s.c.Nodes).Draw(t, "node").ID] = true
			case "return":
				delete(s.down, rapid.SampledFrom(s.c.Nodes).Draw(t, "node").ID)
			case "pass":
				s.pass(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 11 * time.Minute}).Draw(t, "time"))
			case "converge":
				s.converge()
			case "dns":
				put, del := DNS(s.c, "orama.test")
				s.apply(orama.Change{Base: s.c.Revision, PutDNS: put, DeleteDNS: del})
				if put, del := DNS(s.c, "orama.test"); len(put)+len(del) > 0 {
					t.Fatalf("dns is no fixed point: %v %v", put, del)
				}
			}
		}
		for _, n := range s.c.Nodes {
			if err := validManifest(s.c, n.ID); err != nil {
				t.Fatalf("%v", err)
			}
		}
		s.end()
	})
}

// end: when every node is back and time goes by, all that was disabled is gone, and the rest is as full as it can be.
func (s *sim) end() {
	clear(s.down)
	for range 4 {
		s.pass(time.Minute)
		s.observe(func() bool { return true })
		s.converge()
	}
	before := deepCopy(s.c)
	s.converge()
	if !reflect.DeepEqual(before, s.c) {
		s.Fatalf("it does not come to rest")
	}
	for _, n := range s.c.Namespaces {
		if n.WebRTC != nil && n.WebRTC.Disabling {
			s.Fatalf("%s is still being disabled", n.ID)
		}
	}
	for _, i := range s.c.Instances {
		if n, _ := namespaceOf(s.c, i.Namespace); n.WebRTC == nil || i.Desired == orama.DesiredStop {
			s.Fatalf("left behind: %+v", i)
		}
	}
}

func validManifest(c orama.Cluster, id orama.NodeID) error {
	m := Manifest(c, id)
	for _, n := range m.Namespaces {
		if n.HasTURN != slices.ContainsFunc(c.Instances, func(i orama.Instance) bool {
			return i.Namespace == n.Name && i.Node == id && i.Role == orama.RoleTURN && i.Desired == orama.DesiredRun
		}) {
			return fmt.Errorf("has_turn of %s on %s is wrong", n.Name, id)
		}
	}
	spec, ok := TURN(c, id, local())
	if ok != m.HasTURN() {
		return fmt.Errorf("manifest and TURN differ on %s", id)
	}
	for _, t := range spec.Tenants {
		if len(t.Allow) != len(wanted(c, func(i orama.Instance) bool { return i.Namespace == t.Namespace && i.Role == orama.RoleSFU })) {
			return fmt.Errorf("fence of %s has %d addresses", t.Namespace, len(t.Allow))
		}
	}
	return nil
}

func deepCopy(c orama.Cluster) orama.Cluster {
	c.Nodes, c.Instances, c.DNS = slices.Clone(c.Nodes), slices.Clone(c.Instances), slices.Clone(c.DNS)
	c.Namespaces = slices.Clone(c.Namespaces)
	for i, n := range c.Namespaces {
		if n.WebRTC != nil {
			w := *n.WebRTC
			c.Namespaces[i].WebRTC = &w
		}
	}
	return c
}
