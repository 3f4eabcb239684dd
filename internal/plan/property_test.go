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

// genCluster draws hosts, some carrying several nodes, some silent; and namespaces.
func genCluster(t *rapid.T) orama.Cluster {
	c := orama.Cluster{Revision: rapid.Int64Range(1, 1000).Draw(t, "revision")}
	machines := rapid.IntRange(1, 5).Draw(t, "hosts")
	for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
		h := rapid.IntRange(0, machines-1).Draw(t, "host")
		n := host(h + 1)
		n.ID = orama.NodeID(fmt.Sprintf("node-%d", i))
		n.Zone = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
		n.Heartbeat = now.Add(-rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(t, "silent"))
		c.Nodes = append(c.Nodes, n)
	}
	for i := range rapid.IntRange(1, 25).Draw(t, "namespaces") {
		c.Namespaces = append(c.Namespaces, orama.Namespace{ID: orama.NamespaceID(fmt.Sprintf("ns%d", i))})
	}
	return c
}

// placeable counts, without placing, on how many more nodes or hosts a role could go at most.
func placeable(c orama.Cluster, ns orama.NamespaceID, role orama.Role) int {
	taken := portsOf(c, nil)
	room := map[netip.Addr]int{} // blocks left per host
	able := map[netip.Addr]int{} // nodes per host that may take one
	for _, n := range c.Nodes {
		if now.Sub(n.Heartbeat) > presentFor || slices.Contains(where(c, ns, role), n.ID) {
			continue
		}
		if role == orama.RoleTURN && slices.ContainsFunc(c.Instances, func(i orama.Instance) bool {
			o, _ := nodeOf(c, i.Node)
			return i.Role == role && o.ID != n.ID && o.PublicIP == n.PublicIP
		}) {
			continue
		}
		able[n.MeshIP]++
		if _, counted := room[n.MeshIP]; !counted {
			room[n.MeshIP] = freeBlocks(taken, n.MeshIP, role)
		}
	}
	total := 0
	for a, n := range able {
		if role == orama.RoleTURN {
			n = 1 // one TURN process an address
		}
		total += min(n, room[a])
	}
	return total
}

func freeBlocks(p ports, a netip.Addr, role orama.Role) int {
	count := func(s space) (n int) {
		for i := range s.blocks() {
			if p.free(a, s.block(i)) {
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

// Any order of enabling, disabling and seeing things go: a port has one owner (apply checks), never fewer instances are
// placed than could be, a refusal has its reason, nothing that was read is written to, and each step is a fixed point.
func TestAnyHistoryKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCluster(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			ns := rapid.SampledFrom(c.Namespaces).Draw(t, "namespace").ID
			switch rapid.SampledFrom([]string{"enable", "enable", "enable", "disable", "gone", "finish", "dns"}).Draw(t, "step") {
			case "enable":
				c = checkEnable(t, c, ns)
			case "disable":
				if ch, err := Disable(c, ns, now); err == nil && !Empty(ch) {
					c = apply(t, c, ch)
				}
			case "gone":
				c = deepCopy(c)
				for i := range c.Instances {
					if c.Instances[i].Desired == orama.DesiredStop && rapid.Bool().Draw(t, "is gone") {
						c.Instances[i].Observed.State = orama.StateGone
					} else if rapid.Bool().Draw(t, "is ready") {
						c.Instances[i].Observed.State = orama.StateReady
					}
				}
				continue
			case "finish":
				if ch, any := Finish(c, ns); any {
					c = apply(t, c, ch)
					if _, again := Finish(c, ns); again {
						t.Fatalf("finishing is no fixed point")
					}
				}
			case "dns":
				put, del := DNS(c, "orama.test")
				c = apply(t, c, orama.Change{Base: c.Revision, PutDNS: put, DeleteDNS: del})
				if put, del := DNS(c, "orama.test"); len(put)+len(del) > 0 {
					t.Fatalf("dns is no fixed point: %v %v", put, del)
				}
			}
		}
		for _, n := range c.Nodes {
			if err := validManifest(c, n.ID); err != nil {
				t.Fatalf("%v", err)
			}
		}
	})
}

func checkEnable(t *rapid.T, c orama.Cluster, ns orama.NamespaceID) orama.Cluster {
	n, _ := namespaceOf(c, ns)
	could := map[orama.Role]int{}
	for _, r := range []orama.Role{orama.RoleTURN, orama.RoleSFU} {
		could[r] = placeable(c, ns, r)
	}
	was := deepCopy(c)
	ch, err := Enable(c, ns, options())
	if !reflect.DeepEqual(was, c) {
		t.Fatalf("Enable wrote to what it was given")
	}
	again, err2 := Enable(c, ns, options())
	if !reflect.DeepEqual(ch, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
		t.Fatalf("Enable is not deterministic")
	}
	if n.WebRTC != nil && n.WebRTC.Disabling {
		if orama.KindOf(err) != orama.KindConflict {
			t.Fatalf("enabled while being disabled: %v", err)
		}
		return c
	}
	p := placement{c: c, ns: ns}
	possible := p.running(orama.RoleTURN)+could[orama.RoleTURN] > 0 && p.running(orama.RoleSFU)+could[orama.RoleSFU] > 0
	if possible != (err == nil) {
		t.Fatalf("possible: %t, error: %v", possible, err)
	}
	if err != nil {
		return c
	}
	after := c
	if !Empty(ch) {
		after = apply(t, c, ch)
	}
	for r, want := range map[orama.Role]int{orama.RoleTURN: DefaultTURNNodes, orama.RoleSFU: DefaultSFUNodes} {
		p, q := placement{c: c, ns: ns}, placement{c: after, ns: ns}
		if got, most := q.running(r), min(want, p.running(r)+could[r]); got < most || got > want {
			t.Fatalf("%s: %d run, %d could, %d are wanted", r, got, most, want)
		}
	}
	if ch, err := Enable(after, ns, options()); err != nil || !Empty(ch) {
		t.Fatalf("enabling is no fixed point: %+v %v", ch, err)
	}
	return after
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
