package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

// real is a host with every part of its own.
func real() Host {
	return Host{
		Gateway: []string{"192.0.2.1:80", "0.0.0.0:8443", "127.0.0.1:8080", "[::1]:8080", "localhost:81", "10.0.0.1:82", ":83", "gateway.test:84"},
		DNS:     []string{"192.0.2.1:53"}, Enroll: "192.0.2.1:7100", WireGuard: 51820,
		Mesh: []Service{{"store", "tcp", 4001}, {"store", "tcp", 4002}, {"cache", "udp", 3322}},
	}
}

// table writes openings as lines that can be compared by eye.
func table(openings []Opening) []string {
	out := []string{}
	for _, o := range openings {
		to, from := "any", "everywhere"
		if o.To.IsValid() {
			to = o.To.String()
		}
		if o.Mesh {
			from = "mesh"
		}
		out = append(out, fmt.Sprintf("%s %s:%d+%d/%s from %s", o.Tag, to, o.Ports.First, o.Ports.Count, o.Proto, from))
	}
	return out
}

var always = []string{
	"gateway 192.0.2.1:80+1/tcp from everywhere",
	"gateway any:8443+1/tcp from everywhere",
	"gateway 10.0.0.1:82+1/tcp from mesh",
	"gateway any:83+1/tcp from everywhere",
	"gateway any:84+1/tcp from everywhere",
	"dns 192.0.2.1:53+1/udp from everywhere",
	"dns 192.0.2.1:53+1/tcp from everywhere",
	"enroll 192.0.2.1:7100+1/tcp from everywhere",
	"mesh 192.0.2.1:51820+1/udp from everywhere",
	"store 10.0.0.1:4001+1/tcp from mesh",
	"store 10.0.0.1:4002+1/tcp from mesh",
	"cache 10.0.0.1:3322+1/udp from mesh",
}

func TestFirewallOfAHost(t *testing.T) {
	turn := []string{
		"turn 192.0.2.1:3478+1/udp from everywhere",
		"turn 192.0.2.1:3478+1/tcp from everywhere",
		"turn 192.0.2.1:443+1/udp from everywhere",
		"turn 192.0.2.1:443+1/tcp from everywhere",
		"turn 192.0.2.1:5349+1/tcp from everywhere",
	}
	instance := func(ns orama.NamespaceID, role orama.Role, n uint16) orama.Instance {
		i := orama.Instance{Namespace: ns, Node: "node-1", Role: role, Desired: orama.DesiredRun}
		if role == orama.RoleTURN {
			i.Ports.Relay = relaySpace.block(int(n))
		} else {
			i.Ports.Signal, i.Ports.Media = signalSpace.block(int(n)), mediaSpace.block(int(n))
		}
		return i
	}
	elsewhere := instance("alpha", orama.RoleTURN, 3)
	elsewhere.Node = "node-2"
	leaving := func(i orama.Instance, s orama.State) orama.Instance {
		i.Desired, i.Observed.State = orama.DesiredStop, s
		return i
	}
	both := []orama.Instance{instance("alpha", orama.RoleTURN, 0), instance("alpha", orama.RoleSFU, 0), elsewhere}
	for name, tc := range map[string]struct {
		host      Host
		instances []orama.Instance
		want      []string
	}{
		"nothing at all":                {},
		"no namespace":                  {host: real(), want: always},
		"a namespace on another host":   {host: real(), instances: []orama.Instance{elsewhere}, want: always},
		"a namespace with TURN and SFU": {host: real(), instances: both, want: slices.Concat(always, []string{"alpha:sfu 10.0.0.1:30000+1/tcp from mesh", "alpha:sfu 10.0.0.1:20000+1/udp from mesh", "alpha:relay 10.0.0.1:49152+800/udp from mesh"}, turn)},
		"an SFU alone opens nothing to the world": {instances: []orama.Instance{instance("alpha", orama.RoleSFU, 19)},
			want: []string{"alpha:sfu 10.0.0.1:30019+1/tcp from mesh", "alpha:sfu 10.0.0.1:29500+1/udp from mesh"}},
		"TURN of two namespaces listens once": {instances: []orama.Instance{instance("beta", orama.RoleTURN, 1), instance("alpha", orama.RoleTURN, 0)},
			want: slices.Concat([]string{"alpha:relay 10.0.0.1:49152+800/udp from mesh", "beta:relay 10.0.0.1:49952+800/udp from mesh"}, turn)},
		"relays on the public address": {host: Host{PublicRelays: true}, instances: []orama.Instance{instance("alpha", orama.RoleTURN, 0)},
			want: slices.Concat([]string{"alpha:relay 192.0.2.1:49152+800/udp from everywhere"}, turn)},
		"a namespace that is draining stays open": {instances: []orama.Instance{leaving(both[0], orama.StateDraining)},
			want: slices.Concat([]string{"alpha:relay 10.0.0.1:49152+800/udp from mesh"}, turn)},
		"one that was seen gone is closed": {instances: []orama.Instance{leaving(both[0], orama.StateGone), leaving(both[1], orama.StateGone)}},
		"a gateway on TURN's 443 keeps it": {host: Host{Gateway: []string{"192.0.2.1:443"}}, instances: []orama.Instance{instance("alpha", orama.RoleTURN, 0)},
			want: []string{"gateway 192.0.2.1:443+1/tcp from everywhere", "alpha:relay 10.0.0.1:49152+800/udp from mesh", turn[0], turn[1], turn[2], turn[4]}},
	} {
		t.Run(name, func(t *testing.T) {
			c := hosts(2, "alpha", "beta")
			c.Instances = tc.instances
			got := table(Firewall(c, c.Nodes[0], tc.host))
			if tc.want == nil {
				tc.want = []string{}
			}
			require.Equal(t, tc.want, got)
		})
	}
}

// Whatever is enabled and disabled: nothing of an SFU is open to the world, SSH is never ours, no hole is there twice, what a client
// needs is open wherever a relay runs, and nothing of TURN where none does.
func TestFirewallOfAnyCluster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCluster(t)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			ns := rapid.SampledFrom(c.Namespaces).Draw(t, "namespace").ID
			if ch, err := Enable(c, ns, options()); err == nil && rapid.Bool().Draw(t, "enable") {
				c = apply(t, c, ch)
			} else if ch, err := Disable(c, ns, now); err == nil {
				c = apply(t, c, ch)
			}
		}
		for _, n := range c.Nodes {
			checkOpenings(t, c, n, Firewall(c, n, Host{}))
		}
	})
}

func checkOpenings(t require.TestingT, c orama.Cluster, n orama.Node, got []Opening) {
	relays := 0
	for _, i := range c.Instances {
		if i.Node == n.ID && i.Role == orama.RoleTURN {
			relays++
			require.True(t, slices.ContainsFunc(got, func(o Opening) bool { return o.Ports == i.Ports.Relay && o.Mesh && o.To == n.MeshIP }))
		}
	}
	type hole struct {
		proto string
		port  uint16
		to    netip.Addr
	}
	seen, listeners := map[hole]bool{}, 0
	for _, o := range got {
		h := hole{o.Proto, o.Ports.First, o.To}
		require.False(t, seen[h], "%v twice", h)
		seen[h] = true
		require.False(t, o.Ports.Contains(22))
		if !o.Mesh {
			require.Equal(t, "turn", o.Tag, "only TURN faces the world")
			require.Equal(t, n.PublicIP, o.To)
			listeners++
		}
	}
	if relays > 0 {
		require.Equal(t, len(turnListeners), listeners)
	} else {
		require.Zero(t, listeners)
	}
}
