package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

var zoneNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func zoneNode(i int, silent time.Duration) orama.Node {
	return orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), PublicIP: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}),
		Heartbeat: zoneNow.Add(-silent)}
}

func rec(name, addr string, ttl int) orama.DNSRecord {
	return orama.DNSRecord{Name: name, Value: netip.MustParseAddr(addr), TTL: ttl}
}

func TestHostsFollowTheLivingGateways(t *testing.T) {
	c := orama.Cluster{Nodes: []orama.Node{zoneNode(1, 0), zoneNode(2, 15*time.Second), zoneNode(3, 16*time.Second)},
		Namespaces: []orama.Namespace{{ID: "demo"}}}
	gateways := func(now time.Time) []orama.DNSRecord {
		return slices.DeleteFunc(Hosts(c, "example.org", now), func(r orama.DNSRecord) bool { return strings.HasPrefix(r.Name, "node-") })
	}
	require.Equal(t, []orama.DNSRecord{
		rec("ns-demo.example.org", "203.0.113.1", 60), rec("ns-demo.example.org", "203.0.113.2", 60),
	}, gateways(zoneNow)[2:])
	require.Equal(t, rec("example.org", "203.0.113.1", 60), gateways(zoneNow)[0])
	require.Contains(t, Hosts(c, "example.org", zoneNow), rec("node-3.example.org", "203.0.113.3", 60), "a node's own name stays")

	require.Len(t, gateways(zoneNow.Add(time.Hour)), 6, "nobody beats: all stay")
	require.Empty(t, Hosts(orama.Cluster{}, "example.org", zoneNow))
}

// Whatever the heartbeats, a name of a cluster with nodes leads somewhere, and only to nodes of the cluster.
func TestHostsNeverLoseTheLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c orama.Cluster
		for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
			c.Nodes = append(c.Nodes, zoneNode(i+1, time.Duration(rapid.IntRange(-5, 60).Draw(t, "silent"))*time.Second))
		}
		c.Namespaces = []orama.Namespace{{ID: "a-b"}}
		seen := map[string]int{}
		for _, r := range Hosts(c, "example.org", zoneNow) {
			if strings.HasPrefix(r.Name, "node-") {
				continue
			}
			seen[r.Name]++
			require.LessOrEqual(t, int(r.Value.As4()[3]), len(c.Nodes))
		}
		require.Equal(t, seen["example.org"], seen["ns-a-b.example.org"])
		require.Positive(t, seen["example.org"])
		require.Len(t, seen, 2)
	})
}

func TestNameserversHaveAddresses(t *testing.T) {
	c := orama.Cluster{Nodes: []orama.Node{zoneNode(2, time.Hour), zoneNode(1, 0), {ID: "a_node", PublicIP: netip.MustParseAddr("203.0.113.9")}}}
	names, hosts := Nameservers(c, "example.org", nil)
	require.Equal(t, []string{"dns-node-1.example.org", "dns-node-2.example.org"}, names)
	require.Len(t, hosts, 2)

	names, hosts = Nameservers(c, "example.org", []string{"ns1.example.org", "dns.elsewhere.net.", "NS2.Example.org"})
	require.Equal(t, []string{"ns1.example.org", "dns.elsewhere.net", "NS2.Example.org"}, names)
	require.Equal(t, []orama.DNSRecord{rec("ns1.example.org", "203.0.113.9", 3600), rec("NS2.Example.org", "203.0.113.1", 3600)}, hosts)

	names, hosts = Nameservers(orama.Cluster{}, "example.org", []string{"ns1.example.org"})
	require.Empty(t, names)
	require.Empty(t, hosts)
}

func TestCertificateNamesCoverWhatCredentialsName(t *testing.T) {
	on := &orama.WebRTCConfig{}
	c := orama.Cluster{Namespaces: []orama.Namespace{{ID: "zz", WebRTC: on}, {ID: "aa", WebRTC: on}, {ID: "off"},
		{ID: "going", WebRTC: &orama.WebRTCConfig{Disabling: true}}}}
	require.Equal(t, []string{"example.org", "*.example.org", "*.ns-aa.example.org", "*.ns-zz.example.org"}, CertificateNames(c, "example.org"))
}

func TestHostNameIsNobodyElses(t *testing.T) {
	for id, want := range map[orama.NodeID]string{
		"Node-1": "node-1.example.org", "ns-demo": "", "dns-1": "", "turn": "", "turn-1": "", "two.labels": "", "": "", "a_b": "",
	} {
		require.Equal(t, want, HostName(id, "example.org"), id)
	}
}
