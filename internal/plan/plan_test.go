package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func host(i int) orama.Node {
	return orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
		MeshIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Heartbeat: now}
}

// hosts is a cluster of n hosts with the given namespaces, none of which has WebRTC.
func hosts(n int, names ...orama.NamespaceID) orama.Cluster {
	c := orama.Cluster{Revision: 7}
	for i := 1; i <= n; i++ {
		c.Nodes = append(c.Nodes, host(i))
	}
	for _, name := range names {
		c.Namespaces = append(c.Namespaces, orama.Namespace{ID: name})
	}
	return c
}

func options() EnableOptions { return EnableOptions{SealedSecret: "sealed", Now: now} }

func enable(t require.TestingT, c orama.Cluster, ns orama.NamespaceID) orama.Cluster {
	ch, err := Enable(c, ns, options())
	require.NoError(t, err)
	return apply(t, c, ch)
}

// apply is a store in small: it makes a change, and refuses a port that has an owner.
func apply(t require.TestingT, c orama.Cluster, ch orama.Change) orama.Cluster {
	require.Equal(t, c.Revision, ch.Base)
	c.Revision++
	c.Instances, c.Namespaces, c.DNS = slices.Clone(c.Instances), slices.Clone(c.Namespaces), slices.Clone(c.DNS)
	for _, d := range ch.DeleteInstances {
		c.Instances = slices.DeleteFunc(c.Instances, func(i orama.Instance) bool { return sameInstance(i, d) })
	}
	for _, d := range ch.DeleteDNS {
		c.DNS = slices.DeleteFunc(c.DNS, func(r orama.DNSRecord) bool { return r.Name == d.Name && r.Value == d.Value })
	}
	for _, n := range ch.PutNamespaces {
		i := slices.IndexFunc(c.Namespaces, func(x orama.Namespace) bool { return x.ID == n.ID })
		require.GreaterOrEqual(t, i, 0)
		c.Namespaces[i] = n
	}
	for _, p := range ch.PutInstances {
		if i := slices.IndexFunc(c.Instances, func(x orama.Instance) bool { return sameInstance(x, p) }); i >= 0 {
			c.Instances[i] = p
			continue
		}
		c.Instances = append(c.Instances, p)
	}
	c.DNS = append(c.DNS, ch.PutDNS...)
	onePortOneOwner(t, c)
	return c
}

func sameInstance(a, b orama.Instance) bool {
	return a.Namespace == b.Namespace && a.Node == b.Node && a.Role == b.Role
}

func onePortOneOwner(t require.TestingT, c orama.Cluster) {
	taken := map[netip.Addr][]orama.PortRange{}
	for _, i := range c.Instances {
		n, ok := nodeOf(c, i.Node)
		require.True(t, ok)
		for _, b := range []orama.PortRange{i.Ports.Relay, i.Ports.Signal, i.Ports.Media} {
			if b.Count > 0 {
				taken[n.MeshIP] = append(taken[n.MeshIP], b)
			}
		}
	}
	for a, blocks := range taken {
		slices.SortFunc(blocks, func(x, y orama.PortRange) int { return int(x.First) - int(y.First) })
		for i := range blocks[1:] {
			if end := int(blocks[i].First) + int(blocks[i].Count); end > int(blocks[i+1].First) {
				require.Fail(t, "two owners", "%v: %v and %v", a, blocks[i], blocks[i+1])
			}
		}
	}
}

func where(c orama.Cluster, ns orama.NamespaceID, role orama.Role) []orama.NodeID {
	var out []orama.NodeID
	for _, i := range c.Instances {
		if i.Namespace == ns && i.Role == role {
			out = append(out, i.Node)
		}
	}
	slices.Sort(out)
	return out
}

// seeAll has every instance observed in a state.
func seeAll(c orama.Cluster, s orama.State) orama.Cluster {
	c.Instances = slices.Clone(c.Instances)
	for i := range c.Instances {
		c.Instances[i].Observed.State = s
	}
	return c
}

func TestEnableSpreadsAndIsTheSpecification(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	require.Equal(t, []orama.NodeID{"node-1", "node-2"}, where(c, "demo", orama.RoleTURN))
	require.Equal(t, []orama.NodeID{"node-1", "node-2", "node-3"}, where(c, "demo", orama.RoleSFU))
	require.Equal(t, &orama.WebRTCConfig{SealedSecret: "sealed", CredentialTTL: 600 * time.Second, TURNNodes: 2, SFUNodes: 3, CreatedAt: now},
		c.Namespaces[0].WebRTC)
	for _, i := range c.Instances {
		require.Equal(t, orama.DesiredRun, i.Desired)
		require.Equal(t, orama.StateUnknown, i.Observed.State)
		if i.Role == orama.RoleTURN {
			require.Equal(t, orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800}}, i.Ports)
		} else {
			require.Equal(t, orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}, i.Ports)
		}
	}
}

func TestTheSecondNamespaceTakesTheFreerNode(t *testing.T) {
	c := hosts(3, "first", "second", "third")
	for _, ns := range []orama.NamespaceID{"first", "second", "third"} {
		c = enable(t, c, ns)
	}
	require.Equal(t, []orama.NodeID{"node-1", "node-2"}, where(c, "first", orama.RoleTURN))
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(c, "second", orama.RoleTURN))
	require.Equal(t, []orama.NodeID{"node-2", "node-3"}, where(c, "third", orama.RoleTURN))
}

func TestOneNodeIsEnough(t *testing.T) {
	c := enable(t, hosts(1, "demo"), "demo")
	require.Equal(t, []orama.NodeID{"node-1"}, where(c, "demo", orama.RoleTURN))
	require.Equal(t, []orama.NodeID{"node-1"}, where(c, "demo", orama.RoleSFU))
}

func TestEnablingAgain(t *testing.T) {
	c := enable(t, hosts(2, "demo"), "demo")
	again := options()
	again.SealedSecret = "another"
	ch, err := Enable(c, "demo", again)
	require.NoError(t, err)
	require.True(t, Empty(ch), "%+v", ch)

	again.Now = now.Add(time.Hour)
	ch, err = Enable(c, "demo", again)
	require.NoError(t, err, "silent nodes keep what they have")
	require.True(t, Empty(ch))

	again.CredentialTTL = 20 * time.Second
	ch, err = Enable(c, "demo", again)
	require.NoError(t, err)
	require.Empty(t, ch.PutInstances)
	require.Equal(t, "sealed", ch.PutNamespaces[0].WebRTC.SealedSecret, "the secret stays")
	require.Equal(t, 20*time.Second, ch.PutNamespaces[0].WebRTC.CredentialTTL)
	require.Equal(t, 600*time.Second, c.Namespaces[0].WebRTC.CredentialTTL, "what was read is not written to")

	c.Nodes = append(c.Nodes, host(3))
	ch, err = Enable(c, "demo", options())
	require.NoError(t, err)
	require.Empty(t, ch.PutNamespaces)
	c = apply(t, c, ch)
	require.Equal(t, []orama.NodeID{"node-1", "node-2", "node-3"}, where(c, "demo", orama.RoleSFU))
	require.Len(t, where(c, "demo", orama.RoleTURN), 2)
}

func TestEnableRefuses(t *testing.T) {
	_, err := Enable(hosts(3), "demo", options())
	require.Equal(t, orama.KindNotFound, orama.KindOf(err))

	c := enable(t, hosts(3, "demo"), "demo")
	ch, err := Disable(c, "demo", now)
	require.NoError(t, err)
	_, err = Enable(apply(t, c, ch), "demo", options())
	require.Equal(t, orama.KindConflict, orama.KindOf(err))

	_, err = Enable(hosts(0, "demo"), "demo", options())
	require.ErrorContains(t, err, "the cluster has no node")

	dead := hosts(1, "demo")
	dead.Nodes[0].Heartbeat = now.Add(-11 * time.Minute)
	_, err = Enable(dead, "demo", options())
	require.ErrorContains(t, err, "node-1: its agent is silent since 2026-11-22T11:49:00Z, or its clock is behind")
	require.Equal(t, orama.KindLimited, orama.KindOf(err))
}

// The table of ports gives each node 20 namespaces. The 21st is refused, with the limit and not on ports in use.
func TestTheTwentyFirstNamespaceIsRefusedByName(t *testing.T) {
	var names []orama.NamespaceID
	for i := range 21 {
		names = append(names, orama.NamespaceID(fmt.Sprintf("ns%02d", i)))
	}
	for _, nodes := range []int{1, 3} {
		c := hosts(nodes, names...)
		for _, ns := range names[:20] {
			c = enable(t, c, ns)
			require.Len(t, where(c, ns, orama.RoleSFU), nodes)
			require.Len(t, where(c, ns, orama.RoleTURN), min(2, nodes))
		}
		_, err := Enable(c, names[20], options())
		var e *orama.Error
		require.True(t, errors.As(err, &e))
		require.Equal(t, orama.KindLimited, e.Kind)
		require.Equal(t, "no_capacity", e.Code)
		if nodes == 1 {
			require.Contains(t, e.Message, "node-1: all 20 blocks of relay ports 49152-65535 are taken")
		} else { // relays spread over three nodes, so media is full first
			require.Contains(t, e.Message, "node-3: all 20 blocks of media ports 20000-29999 are taken")
		}
	}
}

func TestPortsOfStrangersAreSkipped(t *testing.T) {
	c := hosts(1, "demo")
	c.Nodes[0].Report.Busy = []orama.PortRange{{First: 49951, Count: 2}, {First: 20499, Count: 1}, {First: 30000, Count: 3}}
	ch, err := Enable(c, "demo", options())
	require.NoError(t, err)
	require.Equal(t, uint16(49152+1600), ch.PutInstances[0].Ports.Relay.First, "a stranger's ports may lie in two blocks")
	require.Equal(t, orama.Ports{Signal: orama.PortRange{First: 30003, Count: 1}, Media: orama.PortRange{First: 20500, Count: 500}}, ch.PutInstances[1].Ports)

	// Clients on the same host use ports of the relay range for a moment. A relay passes over them.
	for i := range relaySpace.blocks() {
		b := relaySpace.block(i)
		c.Nodes[0].Report.Busy = append(c.Nodes[0].Report.Busy, orama.PortRange{First: b.First + 7, Count: uint16(30 - i)})
	}
	ch, err = Enable(c, "demo", options())
	require.NoError(t, err)
	require.Equal(t, relaySpace.block(19), ch.PutInstances[0].Ports.Relay, "the block with the fewest")

	c.Nodes[0].Report.Busy = []orama.PortRange{{First: 49152, Count: 16384}}
	_, err = Enable(c, "demo", options())
	require.ErrorContains(t, err, "node-1: all 20 blocks of relay ports 49152-65535 are taken, 0 by namespaces and 20 by other programs' sockets")
	c.Nodes[0].Report.Busy = []orama.PortRange{{First: 30000, Count: 100}}
	_, err = Enable(c, "demo", options())
	require.ErrorContains(t, err, "all 100 blocks of signalling ports")
}

func TestPlacementIsOnTheLiving(t *testing.T) {
	c := hosts(3, "demo")
	c.Nodes[0].Heartbeat = now.Add(-time.Minute) // silent, not lost
	c = enable(t, c, "demo")
	require.Equal(t, []orama.NodeID{"node-2", "node-3"}, where(c, "demo", orama.RoleTURN))
	require.Equal(t, []orama.NodeID{"node-2", "node-3"}, where(c, "demo", orama.RoleSFU), "nothing new for a silent one")
	require.Equal(t, []Shortfall{{orama.RoleSFU, 2, 3, "node-1: its agent is silent since 2026-11-22T11:59:00Z, or its clock is behind"}},
		Missing(c, "demo", now))
	c.Nodes[0].Heartbeat = now
	c = enable(t, c, "demo")
	require.Len(t, where(c, "demo", orama.RoleSFU), 3)
	require.Empty(t, Missing(c, "demo", now))
}

func TestRelaysAreApart(t *testing.T) {
	zones := func(names ...string) orama.Cluster {
		c := hosts(len(names), "demo")
		for i, z := range names {
			c.Nodes[i].Zone = z
		}
		return c
	}
	c := enable(t, zones("a", "a", "b"), "demo")
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(c, "demo", orama.RoleTURN))
	require.Len(t, where(c, "demo", orama.RoleSFU), 3, "SFUs may share a zone")

	c = enable(t, zones("a", "a", "a"), "demo")
	require.Equal(t, []orama.NodeID{"node-1"}, where(c, "demo", orama.RoleTURN), "rather one fewer")
	require.Equal(t, "1 of 2 turn: node-2: it shares zone a with the relay on node-1; node-3: it shares zone a with the relay on node-1",
		Missing(c, "demo", now)[0].String())
	require.Len(t, where(enable(t, zones("", ""), "demo"), "demo", orama.RoleTURN), 2, "who names no zone shares none")

	c = hosts(3, "demo")
	c.Nodes[1].MeshIP = c.Nodes[0].MeshIP
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(enable(t, c, "demo"), "demo", orama.RoleTURN), "one mesh address is one host")

	// The best node alone would leave no place for a second relay.
	c = zones("a", "a", "b")
	c.Nodes[0].PublicIP = c.Nodes[2].PublicIP // node-1 is together with both others
	require.Equal(t, []orama.NodeID{"node-2", "node-3"}, where(enable(t, c, "demo"), "demo", orama.RoleTURN))
}

func TestTwoRelaysNeverShareAPublicAddress(t *testing.T) {
	c := hosts(3, "demo", "other")
	c.Nodes[1].PublicIP, c.Nodes[1].MeshIP = c.Nodes[0].PublicIP, c.Nodes[0].MeshIP
	c = enable(t, c, "demo")
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(c, "demo", orama.RoleTURN))
	require.Len(t, where(c, "demo", orama.RoleSFU), 3, "SFUs have ports of their own")
	c = enable(t, c, "other")
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(c, "other", orama.RoleTURN), "one TURN process an address, for all namespaces")
}

// Whatever is measured, in the order of its weight: the first of two equal nodes is taken unless the second is better.
func TestCapacityIsReal(t *testing.T) {
	fine := orama.NodeReport{CPUs: 4, Load: 1, MemoryTotal: 100, MemoryAvailable: 60, Relays: 60, Bandwidth: 30, LinkSpeed: 100}
	for name, worse := range map[string]func(*orama.NodeReport){
		"a part does not serve":  func(r *orama.NodeReport) { r.Checks = map[string]string{"cache": "connection refused"} },
		"CPU is strained":        func(r *orama.NodeReport) { r.Load = 7 },
		"memory is strained":     func(r *orama.NodeReport) { r.MemoryAvailable = 5 },
		"the link is strained":   func(r *orama.NodeReport) { r.Bandwidth = 90 },
		"more relays are in use": func(r *orama.NodeReport) { r.Relays = 120 },
		"more load per CPU":      func(r *orama.NodeReport) { r.CPUs = 2 },
		"less memory":            func(r *orama.NodeReport) { r.MemoryAvailable = 40 },
		"a fuller link":          func(r *orama.NodeReport) { r.Bandwidth = 60 },
	} {
		c := hosts(2, "demo")
		c.Nodes[0].Report, c.Nodes[1].Report = fine, fine
		worse(&c.Nodes[0].Report)
		o := options()
		o.TURNNodes, o.SFUNodes = 1, 1
		ch, err := Enable(c, "demo", o)
		require.NoError(t, err)
		require.Equal(t, orama.NodeID("node-2"), ch.PutInstances[0].Node, name)
		worse(&c.Nodes[1].Report)
		ch, err = Enable(c, "demo", o)
		require.NoError(t, err)
		require.Equal(t, orama.NodeID("node-1"), ch.PutInstances[0].Node, name)
	}
	c := hosts(2, "demo")
	c.Nodes[0].Report, c.Nodes[1].Report = fine, fine
	c.Nodes[0].Report.Load, c.Nodes[0].Report.Bandwidth = 1.2, 31
	require.Equal(t, orama.NodeID("node-1"), enable(t, c, "demo").Instances[0].Node, "noise decides nothing")
}

func TestPrerequisites(t *testing.T) {
	serves := map[string]string{"store": "", "cache": "", "gateway": ""}
	c := hosts(6)
	for i := range c.Nodes {
		c.Nodes[i].Report = orama.NodeReport{State: 7, Checks: serves}
	}
	c.Nodes[1].Heartbeat = now.Add(-16 * time.Second)
	c.Nodes[2].Report.State = 6
	c.Nodes[3].Report.Checks = nil
	c.Nodes[4].Report.Checks = map[string]string{"store": "", "gateway": ""}
	c.Nodes[5].Report.Checks = map[string]string{"store": "", "gateway": "", "cache": "connection refused"}
	var standings []Standing
	got := Prerequisites(c, now, 7)
	for _, p := range got {
		standings = append(standings, p.Standing)
		require.Equal(t, p.Standing == Serves, p.Detail == "")
	}
	require.Equal(t, []Standing{Serves, Silent, Unknown, Unknown, Unknown, Fails}, standings)
	require.Equal(t, "the cache does not serve: connection refused; see that it runs there and answers on the mesh", got[5].Detail)
	require.Contains(t, got[4].Detail, "how its cache does")
}

func TestDisableAndFinish(t *testing.T) {
	c := seeAll(enable(t, enable(t, hosts(3, "demo", "other"), "demo"), "other"), orama.StateReady)
	put, _ := DNS(c, "orama.test")
	c = apply(t, c, orama.Change{Base: c.Revision, PutDNS: put})
	require.NotEmpty(t, c.DNS)

	_, any := Finish(c, "demo", nil)
	require.False(t, any, "an enabled namespace is not finished")
	ch, err := Disable(c, "demo", now)
	require.NoError(t, err)
	require.Equal(t, "webrtc.disabling", ch.Events[0].Kind)
	c = apply(t, c, ch)
	for _, r := range c.DNS {
		require.Contains(t, r.Name, "ns-other", "names go first")
	}
	again, err := Disable(c, "demo", now)
	require.NoError(t, err)
	require.True(t, Empty(again))
	_, any = Finish(c, "demo", nil)
	require.False(t, any, "nothing was seen gone")

	first := slices.IndexFunc(c.Instances, func(i orama.Instance) bool { return i.Namespace == "demo" })
	c.Instances[first].Observed.State = orama.StateGone
	ch, any = Finish(c, "demo", nil)
	require.True(t, any)
	require.Len(t, ch.DeleteInstances, 1)
	require.Empty(t, ch.PutNamespaces, "the record stays while an instance may run")
	c = apply(t, c, ch)

	others := len(where(c, "other", orama.RoleSFU)) + len(where(c, "other", orama.RoleTURN))
	for i := range c.Instances {
		c.Instances[i].Observed.State = orama.StateGone // the other namespace's are to run: seen gone means crashed
	}
	ch, any = Finish(c, "demo", nil)
	require.True(t, any)
	require.Equal(t, []orama.NamespaceID{"demo"}, ch.DeleteRoomsOf)
	require.Equal(t, []orama.NamespaceID{"demo"}, ch.DeleteEventsOf)
	c = apply(t, c, ch)
	require.Nil(t, c.Namespaces[0].WebRTC)
	require.Len(t, c.Instances, others)
	_, any = Finish(c, "other", nil)
	require.False(t, any)
	_, any = Finish(c, "demo", nil)
	require.False(t, any)

	_, err = Disable(c, "demo", now)
	require.Equal(t, orama.KindNotFound, orama.KindOf(err))
	_, err = Disable(c, "nobody", now)
	require.Equal(t, orama.KindNotFound, orama.KindOf(err))
	enable(t, c, "demo")
}

func TestDNSNamesReadyRelaysAndKeepsTheLast(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	step := func() (put, del []orama.DNSRecord) {
		put, del = DNS(c, "orama.test")
		c = apply(t, c, orama.Change{Base: c.Revision, PutDNS: put, DeleteDNS: del})
		againPut, againDel := DNS(c, "orama.test")
		require.Empty(t, append(againPut, againDel...), "a fixed point")
		return put, del
	}
	see := func(i int, s orama.State) { c.Instances[i].Observed.State = s } // 0 and 1 are TURN
	rec := func(name string, i int) orama.DNSRecord {
		return orama.DNSRecord{Name: name + ".ns-demo.orama.test", Value: host(i).PublicIP, TTL: 60}
	}

	put, del := step()
	require.Empty(t, append(put, del...), "nothing is ready")
	see(1, orama.StateReady)
	put, del = step()
	require.Equal(t, []orama.DNSRecord{rec("turn-2", 2), rec("turn", 2)}, put)
	require.Empty(t, del)
	see(0, orama.StateReady)
	put, del = step()
	require.Equal(t, []orama.DNSRecord{rec("turn-1", 1), rec("turn", 1)}, put)
	require.Empty(t, del)
	see(1, orama.StateFailed)
	put, del = step()
	require.Empty(t, put)
	require.Equal(t, []orama.DNSRecord{rec("turn", 2)}, del, "turn-2 has no other address")
	see(0, orama.StateFailed)
	put, del = step()
	require.Empty(t, append(put, del...), "the last stays")

	c.DNS = append(c.DNS, orama.DNSRecord{Name: "www.orama.test", Value: host(1).PublicIP, TTL: 5},
		orama.DNSRecord{Name: "turn.ns-gone.orama.test", Value: host(1).PublicIP, TTL: 60})
	_, del = step()
	require.Equal(t, []orama.DNSRecord{{Name: "turn.ns-gone.orama.test", Value: host(1).PublicIP, TTL: 60}}, del)
}

func TestServersByAddress(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	local := Local{BaseDomain: "orama.test", URLStyle: StyleIP}
	require.Equal(t, []string{"turn:192.0.2.1:3478?transport=udp", "turn:192.0.2.2:3478?transport=udp",
		"turn:192.0.2.1:3478?transport=tcp", "turn:192.0.2.2:3478?transport=tcp"}, Select(Servers(c, "demo", local), nil))
	require.Equal(t, []string{"turns:turn-1.ns-demo.orama.test:5349?transport=tcp", "turns:turn-2.ns-demo.orama.test:5349?transport=tcp",
		"turns:turn-1.ns-demo.orama.test:443?transport=tcp", "turns:turn-2.ns-demo.orama.test:443?transport=tcp"},
		Select(Servers(c, "demo", local), []string{"tls"}))
	require.Equal(t, []string{"turns:turn-1.ns-demo.orama.test:443?transport=udp", "turns:turn-2.ns-demo.orama.test:443?transport=udp"},
		Select(Servers(c, "demo", local), []string{"dtls"}))

	c.Instances[1].Observed.State = orama.StateReady
	require.Equal(t, []string{"turn:192.0.2.2:3478?transport=udp"}, Select(Servers(c, "demo", local), []string{"udp"}), "ready ones when there are any")
	require.Equal(t, []string{"turns:turn-2.ns-demo.orama.test:443?transport=udp"}, Select(Servers(c, "demo", local), []string{"dtls"}),
		"a relay's number is its own")
	require.Empty(t, Select(Servers(c, "demo", local), []string{"pigeon"}))
	require.Empty(t, Servers(c, "nobody", local))

	c.Nodes[1].PublicIP = netip.MustParseAddr("2001:db8::2")
	require.Equal(t, []string{"turn:[2001:db8::2]:3478?transport=udp"}, Select(Servers(c, "demo", local), []string{"udp"}))
}

func TestServersByName(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	got := Select(Servers(c, "demo", Local{BaseDomain: "orama.network", URLStyle: StyleName}), nil)
	require.Equal(t, []string{
		"turn:turn.ns-demo.orama.network:3478?transport=udp",
		"turn:turn-1.ns-demo.orama.network:3478?transport=udp",
		"turn:turn-2.ns-demo.orama.network:3478?transport=udp",
		"turn:turn.ns-demo.orama.network:3478?transport=tcp",
		"turn:turn-1.ns-demo.orama.network:3478?transport=tcp",
		"turn:turn-2.ns-demo.orama.network:3478?transport=tcp",
		"turns:turn.ns-demo.orama.network:443?transport=tcp",
		"turns:turn-1.ns-demo.orama.network:443?transport=tcp",
		"turns:turn-2.ns-demo.orama.network:443?transport=tcp",
	}, got)
	for _, u := range got {
		require.False(t, strings.Contains(u, ":443?transport=udp"), "a browser takes it for TLS over TCP")
	}
}

func local(sealed ...string) Local {
	return Local{BaseDomain: "orama.test", URLStyle: StyleIP, MeshCIDR: netip.MustParsePrefix("10.0.0.0/24"), HTTPSBackend: "b",
		CertPEM: "c", KeyPEM: "k", TicketKey: "ticket", Open: func(s, aad string) (string, error) {
			if slices.Contains(sealed, aad) {
				return "", errors.New("sealed with another key")
			}
			return s + " of " + aad, nil
		}}
}

func TestWhatANodeRuns(t *testing.T) {
	c := enable(t, enable(t, hosts(3, "aa", "bb"), "aa"), "bb") // TURN: aa on 1 and 2, bb on 1 and 3

	one, ok := TURN(c, "node-1", local())
	require.True(t, ok)
	fence := func(media uint16) []netip.AddrPort {
		return []netip.AddrPort{netip.AddrPortFrom(host(1).MeshIP, media), netip.AddrPortFrom(host(2).MeshIP, media), netip.AddrPortFrom(host(3).MeshIP, media)}
	}
	require.Equal(t, TURNSpec{Node: "node-1", PublicIP: host(1).PublicIP, RelayIP: host(1).MeshIP, Realm: "orama.test", HTTPSBackend: "b",
		CertPEM: "c", KeyPEM: "k", Tenants: []TenantSpec{
			{Namespace: "aa", Secret: "sealed of turn:aa", Relay: orama.PortRange{First: 49152, Count: 800}, Allow: fence(20000)},
			{Namespace: "bb", Secret: "sealed of turn:bb", Relay: orama.PortRange{First: 49952, Count: 800}, Allow: fence(20500)},
		}}, one)

	sfu, ok := SFU(c, "node-2", "bb", local())
	require.True(t, ok)
	require.Equal(t, SFUSpec{Namespace: "bb", Node: "node-2", MeshIP: host(2).MeshIP, MeshCIDR: netip.MustParsePrefix("10.0.0.0/24"),
		SignalPort: 30001, MediaPort: 20500, TicketKey: "ticket", Secret: "sealed of turn:bb", CredentialTTL: 600 * time.Second,
		Relays: []RelaySource{{IP: host(1).MeshIP, Ports: orama.PortRange{First: 49952, Count: 800}},
			{IP: host(3).MeshIP, Ports: orama.PortRange{First: 49152, Count: 800}}},
		Servers: Servers(c, "bb", local())}, sfu)

	m := Manifest(c, "node-3")
	require.Equal(t, manifest.State{Version: 1, NodeID: "node-3", Revision: c.Revision, Namespaces: []manifest.Namespace{
		{Name: "aa", HasSFU: true, Ports: orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}},
		{Name: "bb", HasSFU: true, HasTURN: true, Ports: orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800},
			Signal: orama.PortRange{First: 30001, Count: 1}, Media: orama.PortRange{First: 20500, Count: 500}}},
	}}, m)
}

func TestWhatANodeDoesNotRun(t *testing.T) {
	c := enable(t, enable(t, hosts(3, "aa", "bb"), "aa"), "bb")
	_, ok := TURN(c, "node-9", local())
	require.False(t, ok)
	_, ok = SFU(c, "node-9", "aa", local())
	require.False(t, ok)
	_, ok = SFU(c, "node-1", "cc", local())
	require.False(t, ok)

	one, ok := TURN(c, "node-1", local("turn:aa"))
	require.True(t, ok, "one damaged secret does not take the others' relays")
	require.Len(t, one.Tenants, 1)
	_, ok = SFU(c, "node-1", "aa", local("turn:aa"))
	require.False(t, ok)

	ch, err := Disable(c, "aa", now)
	require.NoError(t, err)
	c = apply(t, c, ch)
	one, ok = TURN(c, "node-1", local())
	require.True(t, ok)
	require.Equal(t, orama.NamespaceID("bb"), one.Tenants[0].Namespace)
	_, ok = TURN(c, "node-2", local())
	require.False(t, ok, "no tenant is left")
	_, ok = SFU(c, "node-1", "aa", local())
	require.False(t, ok)
	require.Empty(t, Manifest(c, "node-2").Namespaces[0].Ports.Relay)
	require.Len(t, Manifest(c, "node-2").Namespaces, 1)
	require.Equal(t, []manifest.Namespace{}, Manifest(c, "node-9").Namespaces)
}

// The fence is exactly the SFUs that are to run: one on its way out is not in it.
func TestTheFenceFollowsWhatIsToRun(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	for i := range c.Instances {
		if c.Instances[i].Role == orama.RoleSFU && c.Instances[i].Node != "node-3" {
			c.Instances[i].Desired = orama.DesiredStop
		}
	}
	spec, ok := TURN(c, "node-1", local())
	require.True(t, ok)
	require.Equal(t, []netip.AddrPort{netip.AddrPortFrom(host(3).MeshIP, 20000)}, spec.Tenants[0].Allow)
}

// Two plans from one reading do not meet in the reading's spare room.
func TestEnableKeepsOutOfTheCallersArray(t *testing.T) {
	c := hosts(3, "demo")
	backing := make([]orama.Instance, 8)
	c.Instances = backing[:0]
	_, err := Enable(c, "demo", options())
	require.NoError(t, err)
	require.Equal(t, make([]orama.Instance, 8), backing)
}
