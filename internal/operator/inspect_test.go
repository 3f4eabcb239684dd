package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

var inspectedAt = time.Unix(1_800_000_000, 0)

// healthy is a cluster of three nodes with one namespace, all of it well, and looked at from node-1.
func healthy() Evidence {
	e := Evidence{At: inspectedAt, From: "node-1", BaseDomain: base, URLStyle: plan.StyleName, Revision: 7,
		Mesh: map[orama.NodeID]string{}, Gateways: map[orama.NodeID]GatewaySeen{}, Served: map[InstanceKey]string{}}
	e.Cluster = orama.Cluster{Revision: 7, Namespaces: []orama.Namespace{{ID: "myapp", WebRTC: &orama.WebRTCConfig{TURNNodes: 2, SFUNodes: 3}}, {ID: "quiet"}}}
	for i := 1; i <= 3; i++ {
		n := orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), Zone: fmt.Sprintf("zone-%d", i),
			PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), MeshIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}),
			GatewayURL: fmt.Sprintf("https://gw%d.orama.test", i), Heartbeat: inspectedAt.Add(-time.Second),
			Report: orama.NodeReport{Version: "v1", State: 7, Checks: map[string]string{}, Used: map[string]time.Time{}}}
		for _, part := range []string{partStore, partCache, partGateway, partMesh, partFirewall, partPorts, partDNS, partCertificate, partClock} {
			n.Report.Checks[part] = ""
		}
		ready := orama.Observation{State: orama.StateReady, Since: inspectedAt.Add(-time.Hour), At: inspectedAt.Add(-2 * time.Second), Boot: "b"}
		in := orama.Instance{Namespace: "myapp", Node: n.ID, Role: orama.RoleSFU, Desired: orama.DesiredRun, Observed: ready,
			Ports: orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}}
		n.Report.Used["sfu/myapp"] = inspectedAt.Add(-5 * time.Second)
		e.Cluster.Instances = append(e.Cluster.Instances, in)
		if i <= 2 {
			in.Role, in.Ports = orama.RoleTURN, orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800}}
			e.Cluster.Instances = append(e.Cluster.Instances, in)
			n.Report.Used["turn/myapp"] = inspectedAt.Add(-4 * time.Second)
			for _, name := range []string{"turn.ns-myapp." + base, fmt.Sprintf("turn-%d.ns-myapp.%s", i, base)} {
				e.Cluster.DNS = append(e.Cluster.DNS, orama.DNSRecord{Name: name, Value: n.PublicIP, TTL: 60})
				e.Certificates = append(e.Certificates, CertificateSeen{Node: n.ID, Address: n.PublicIP.String() + ":5349", Name: name,
					NotBefore: inspectedAt.Add(-24 * time.Hour), NotAfter: inspectedAt.Add(60 * 24 * time.Hour)})
			}
		}
		if i > 1 {
			e.Mesh[n.ID] = ""
		}
		e.Gateways[n.ID] = GatewaySeen{Timed: true}
		e.Cluster.Nodes = append(e.Cluster.Nodes, n)
	}
	for _, i := range e.Cluster.Instances {
		e.Served[keyOf(i)] = ""
	}
	want, _ := e.published()
	for name, values := range want {
		e.Names = append(e.Names, NameSeen{Server: "192.0.2.1:53", Name: name, Values: slices.Clone(values)})
	}
	return e
}

func (e *Evidence) node(i int) *orama.Node { return &e.Cluster.Nodes[i-1] }

func (e *Evidence) instance(i int, role orama.Role) *orama.Instance {
	at := slices.IndexFunc(e.Cluster.Instances, func(x orama.Instance) bool {
		return x.Node == orama.NodeID(fmt.Sprintf("node-%d", i)) && x.Role == role
	})
	return &e.Cluster.Instances[at]
}

func worst(got Inspection, check string) (Finding, bool) {
	for _, f := range got.Checks { // the worst comes first
		if f.Name == check {
			return f, true
		}
	}
	return Finding{}, false
}

func TestHealthyClusterPasses(t *testing.T) {
	got := judge(healthy())
	require.True(t, got.OK)
	said := map[string]bool{}
	for _, f := range got.Checks {
		require.Equal(t, SeverityOK, f.Severity, "%+v", f)
		require.NotEmpty(t, f.Detail)
		said[f.Name] = true
	}
	require.Len(t, said, len(checks), "each check says something")
}

// breakage breaks one thing, and names the check that must see it, the node or namespace it must be said of, and a
// word of the detail.
type breakage struct {
	name      string
	harm      func(e *Evidence)
	check     string
	severity  Severity
	node      orama.NodeID
	namespace orama.NamespaceID
	detail    string
}

var breakages = []breakage{
	{"a node dies", func(e *Evidence) { e.node(3).Heartbeat = e.At.Add(-time.Minute) }, "node", SeverityCritical, "node-3", "", "silent for 1m0s"},
	{"a node never spoke", func(e *Evidence) { e.node(3).Heartbeat = time.Time{} }, "node", SeverityCritical, "node-3", "", "never"},
	{"no node", func(e *Evidence) { e.Cluster.Nodes = nil }, "node", SeverityCritical, "", "", "no node"},
	{"store of one node", func(e *Evidence) { e.node(2).Report.Checks["store"] = "no leader" }, "store", SeverityCritical, "node-2", "", "no leader"},
	{"store is not reported", func(e *Evidence) { delete(e.node(2).Report.Checks, "store") }, "store", SeverityWarning, "node-2", "", "says nothing"},
	{"store without quorum", func(e *Evidence) {
		e.node(2).Heartbeat, e.node(3).Heartbeat = time.Time{}, time.Time{}
	}, "store", SeverityCritical, "", "", "1 of 3 nodes, which is no majority"},
	{"cache", func(e *Evidence) { e.node(1).Report.Checks["cache"] = "connection refused" }, "cache", SeverityCritical, "node-1", "", "refused"},
	{"clock behind", func(e *Evidence) { e.Gateways["node-2"] = GatewaySeen{Timed: true, Ahead: -time.Minute} }, "clock", SeverityCritical, "node-2", "", "1m0s behind"},
	{"clock ahead a little", func(e *Evidence) { e.Gateways["node-2"] = GatewaySeen{Timed: true, Ahead: 3 * time.Second} }, "clock", SeverityWarning, "node-2", "", "3s ahead of"},
	{"heartbeat of the future", func(e *Evidence) { e.node(3).Heartbeat = e.At.Add(20 * time.Second) }, "clock", SeverityCritical, "node-3", "", "20s ahead"},
	{"clock by its own account", func(e *Evidence) { e.node(3).Report.Checks["clock"] = "not synchronised" }, "clock", SeverityCritical, "node-3", "", "not synchronised"},
	{"version", func(e *Evidence) { e.node(3).Report.Version = "v2" }, "version", SeverityWarning, "", "", "v1 on node-1, node-2; v2 on node-3"},
	{"state file", func(e *Evidence) { e.node(2).Report.State = 6 }, "state", SeverityCritical, "node-2", "", "revision 6, the records are at 7"},
	{"mesh from here", func(e *Evidence) { e.Mesh["node-3"] = "no answer" }, "mesh", SeverityCritical, "node-3", "", "node-1 does not reach it"},
	{"mesh between others", func(e *Evidence) { e.node(2).Report.Checks["mesh"] = "no handshake with node-3" }, "mesh", SeverityCritical, "node-2", "", "node-3"},
	{"firewall", func(e *Evidence) { e.node(2).Report.Checks["firewall"] = "3478/udp is not open" }, "firewall", SeverityCritical, "node-2", "", "3478/udp"},
	{"ports with two owners", func(e *Evidence) {
		twin := *e.instance(2, orama.RoleSFU)
		twin.Namespace = "quiet"
		e.Cluster.Instances = append(e.Cluster.Instances, twin)
	}, "ports", SeverityCritical, "node-2", "quiet", "two owners: quiet, and myapp"},
	{"two nodes on one address", func(e *Evidence) { e.node(2).MeshIP = e.node(1).MeshIP }, "ports", SeverityCritical, "node-2", "myapp", "two owners"},
	{"ports out of range", func(e *Evidence) { e.instance(2, orama.RoleSFU).Ports.Media.First = 19900 }, "ports", SeverityCritical, "node-2", "myapp", "outside of 20000-29999"},
	{"stranger", func(e *Evidence) { e.node(1).Report.Busy = []orama.PortRange{{First: 49200, Count: 1}} }, "ports", SeverityCritical, "node-1", "myapp", "a stranger holds port 49200"},
	{"nobody listens", func(e *Evidence) { e.node(1).Report.Checks["ports"] = "3478/udp: nobody listens" }, "ports", SeverityCritical, "node-1", "", "nobody listens"},
	{"dns by its own account", func(e *Evidence) { e.node(1).Report.Checks["dns"] = "no answer" }, "dns", SeverityCritical, "node-1", "", "no answer"},
	{"name server is silent", func(e *Evidence) {
		e.Names[0] = NameSeen{Server: "192.0.2.1:53", Name: e.Names[0].Name, Problem: "no answer"}
	}, "dns", SeverityCritical, "", "", "no answer"},
	{"nobody knows the name servers", func(e *Evidence) { e.NoServers = "no such host" }, "dns", SeverityCritical, "", "", "who answers for orama.test: no such host"},
	{"an address too many", func(e *Evidence) { e.Names[0].Values = append(e.Names[0].Values, "203.0.113.9") }, "dns", SeverityCritical, "", "", "203.0.113.9"},
	{"an address too few", func(e *Evidence) { e.Names[0].Values = nil }, "dns", SeverityCritical, "", "", "is nothing"},
	{"records behind", func(e *Evidence) { e.instance(1, orama.RoleTURN).Observed.State = orama.StateFailed }, "dns", SeverityWarning, "", "", "not yet"},
	{"no records at all", func(e *Evidence) {
		e.Cluster.DNS = nil
		e.instance(1, orama.RoleTURN).Observed.State = orama.StateStarting
		e.instance(2, orama.RoleTURN).Observed.State = orama.StateStarting
	}, "dns", SeverityCritical, "", "myapp", "in no record"},
	{"no TLS", func(e *Evidence) { e.Certificates[0].Problem = "connection refused" }, "certificate", SeverityCritical, "node-1", "", "refused"},
	{"wrong name", func(e *Evidence) { e.Certificates[0].Untrusted = "x509: certificate is valid for other" }, "certificate", SeverityCritical, "node-1", "", "valid for other"},
	{"certificate over", func(e *Evidence) { e.Certificates[2].NotAfter = e.At.Add(-time.Hour) }, "certificate", SeverityCritical, "node-2", "", "ended 1h0m0s ago"},
	{"certificate nearly over", func(e *Evidence) { e.Certificates[2].NotAfter = e.At.Add(time.Hour) }, "certificate", SeverityCritical, "node-2", "", "ends in 1h0m0s"},
	{"certificate not renewed", func(e *Evidence) { e.Certificates[2].NotBefore = e.At.Add(-600 * 24 * time.Hour) }, "certificate", SeverityWarning, "node-2", "", "60 days and should be renewed"},
	{"certificate of the future", func(e *Evidence) { e.Certificates[2].NotBefore = e.At.Add(time.Hour) }, "certificate", SeverityCritical, "node-2", "", "begins only"},
	{"issuer refuses", func(e *Evidence) { e.node(3).Report.Checks["certificate"] = "acme: rate limited" }, "certificate", SeverityCritical, "node-3", "", "rate limited"},
	{"gateway by its public URL", func(e *Evidence) { e.Gateways["node-2"] = GatewaySeen{Problem: "status 502"} }, "gateway", SeverityCritical, "node-2", "", "https://gw2.orama.test does not serve node-1: status 502"},
	{"gateway by its own account", func(e *Evidence) { e.node(2).Report.Checks["gateway"] = "draining" }, "gateway", SeverityCritical, "node-2", "", "draining"},
	{"an SFU fails", func(e *Evidence) {
		e.instance(2, orama.RoleSFU).Observed.State, e.instance(2, orama.RoleSFU).Observed.Detail = orama.StateFailed, "it crashed"
	}, "sfu", SeverityCritical, "", "myapp", "2 of 3 SFUs serve; node-2 is failed: it crashed"},
	{"an SFU is not heard of", func(e *Evidence) { e.instance(2, orama.RoleSFU).Observed.At = e.At.Add(-time.Minute) }, "sfu", SeverityCritical, "", "myapp", "node-2 is unknown"},
	{"an SFU serves only itself", func(e *Evidence) { e.Served[keyOf(*e.instance(2, orama.RoleSFU))] = "no socket" }, "sfu", SeverityCritical, "", "myapp", "node-2 does not serve node-1: no socket"},
	{"an SFU was never placed", func(e *Evidence) {
		e.Cluster.Instances = slices.DeleteFunc(e.Cluster.Instances, func(i orama.Instance) bool { return i.Node == "node-3" })
	}, "sfu", SeverityCritical, "", "myapp", "2 of 3 SFUs serve, 2 are placed"},
	{"a relay fails", func(e *Evidence) { e.instance(2, orama.RoleTURN).Observed.State = orama.StateStarting }, "turn", SeverityCritical, "", "myapp", "1 of 2 relays serve; node-2 is starting"},
	{"a relay is behind a firewall", func(e *Evidence) { e.Served[keyOf(*e.instance(1, orama.RoleTURN))] = "no allocation" }, "turn", SeverityCritical, "", "myapp", "node-1 does not serve node-1: no allocation"},
	{"relays share a zone", func(e *Evidence) { e.node(2).Zone = "zone-1" }, "turn", SeverityWarning, "", "myapp", "node-1 and node-2 share the zone zone-1"},
	{"relays share an address", func(e *Evidence) { e.node(2).PublicIP = e.node(1).PublicIP }, "turn", SeverityWarning, "", "myapp", "share the address 192.0.2.1"},
	{"records cannot be read", func(e *Evidence) { e.Unread = errors.New("no leader") }, "store", SeverityCritical, "node-1", "", "cannot be read"},
}

func TestEachCheckSeesWhatBreaks(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range breakages {
		seen[b.check] = true
		t.Run(b.name, func(t *testing.T) {
			e := healthy()
			b.harm(&e)
			got := judge(e)
			require.Equal(t, !hasCritical(got), got.OK)
			at := slices.IndexFunc(got.Checks, func(f Finding) bool {
				return f.Name == b.check && f.Severity == b.severity && f.Node == b.node && f.Namespace == b.namespace && strings.Contains(f.Detail, b.detail)
			})
			require.GreaterOrEqual(t, at, 0, "no finding of %s %s about %q in %+v", b.severity, b.check, b.detail, got.Checks)
			require.NotEmpty(t, got.Checks[at].Next, "a finding says what to do next")
		})
	}
	for _, c := range checks {
		require.True(t, seen[c.name], "nothing breaks %s", c.name)
	}
}

func hasCritical(got Inspection) bool {
	return slices.ContainsFunc(got.Checks, func(f Finding) bool { return f.Severity == SeverityCritical })
}

// A part that nobody has configured is no finding.
func TestWhatIsNotConfiguredIsFine(t *testing.T) {
	e := healthy()
	e.Names, e.URLStyle = nil, plan.StyleIP
	for i := range e.Cluster.Nodes {
		for _, part := range []string{partMesh, partFirewall, partPorts, partDNS, partCertificate, partClock} {
			delete(e.Cluster.Nodes[i].Report.Checks, part)
		}
	}
	got := judge(e)
	require.True(t, got.OK)
	for _, f := range got.Checks {
		require.Equal(t, SeverityOK, f.Severity, "%+v", f)
	}
	f, _ := worst(got, "dns")
	require.Contains(t, f.Detail, "none was asked")
}

// One node cannot have two relays: that is a warning, for nothing that is there is broken.
func TestSmallClusterIsWarnedOf(t *testing.T) {
	e := healthy()
	e.Cluster.Nodes = e.Cluster.Nodes[:1]
	e.Cluster.Instances = slices.DeleteFunc(e.Cluster.Instances, func(i orama.Instance) bool { return i.Node != "node-1" })
	e.Cluster.DNS = slices.DeleteFunc(e.Cluster.DNS, func(r orama.DNSRecord) bool { return r.Value != e.node(1).PublicIP })
	e.Names = nil
	got := judge(e)
	require.True(t, got.OK, "%+v", got.Checks)
	f, _ := worst(got, "turn")
	require.Equal(t, SeverityWarning, f.Severity)
	require.Contains(t, f.Detail, "1 of 2 relays serve: the cluster has 1 nodes")
}

// Judging needs nothing of what was not looked at: any part of the evidence may be missing.
func TestJudgeTakesAnyEvidence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := healthy()
		for range rapid.IntRange(0, 6).Draw(t, "breakages") {
			rapid.SampledFrom(breakages).Draw(t, "breakage").harmIfItCan(&e)
		}
		if rapid.Bool().Draw(t, "unlooked") {
			e.Mesh, e.Gateways, e.Served, e.Names, e.Certificates = nil, nil, nil, nil, nil
		}
		got := judge(e)
		if got.OK == hasCritical(got) {
			t.Fatalf("ok is %t with %+v", got.OK, got.Checks)
		}
	})
}

func (b breakage) harmIfItCan(e *Evidence) {
	defer func() { _ = recover() }() // what an earlier breakage took away cannot be broken
	b.harm(e)
}

// looker is Probes that answer as told.
type looker struct {
	meshDown map[orama.NodeID]bool
	servers  []string
	hang     bool
}

func (l *looker) Mesh(ctx context.Context, to orama.Node) error {
	if l.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if l.meshDown[to.ID] {
		return errors.New("no answer")
	}
	return nil
}

func (l *looker) Gateway(context.Context, string) (time.Duration, error) { return 0, nil }

func (l *looker) NameServers(context.Context, orama.Cluster) ([]string, error) { return l.servers, nil }

func (l *looker) Lookup(_ context.Context, _, name string) ([]netip.Addr, error) {
	if strings.HasPrefix(name, "turn-2") {
		return []netip.Addr{netip.MustParseAddr("192.0.2.2")}, nil
	}
	if strings.HasPrefix(name, "turn-1") {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")}, nil
}

func (l *looker) Certificate(context.Context, string, string) (begin, end time.Time, untrusted string, err error) {
	return time.Now().Add(-time.Hour), time.Now().Add(1000 * time.Hour), "", nil
}

func (l *looker) Serves(context.Context, orama.Cluster, orama.Instance) error { return nil }

// still is records that do not change, but whose nodes keep sending heartbeats.
type still struct {
	c     orama.Cluster
	err   error
	reads int
	state func(reads int) int64
}

func (s *still) Cluster(context.Context) (orama.Cluster, error) {
	s.reads++
	c := s.c
	c.Nodes = slices.Clone(c.Nodes)
	for i := range c.Nodes {
		if c.Nodes[i].Heartbeat = time.Now(); s.state != nil {
			c.Nodes[i].Report.State = s.state(s.reads)
		}
	}
	return c, s.err
}

func records() *still {
	s := &still{c: healthy().Cluster}
	for i := range s.c.Instances {
		s.c.Instances[i].Observed.At = time.Now()
	}
	return s
}

func TestInspectLooksAtEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewInspector(InspectorDeps{Node: "node-1", BaseDomain: base, URLStyle: plan.StyleName, Store: records(),
			Probes: &looker{servers: []string{"192.0.2.1:53", "192.0.2.2:53"}}})
		e := i.gather(t.Context())
		require.Equal(t, map[orama.NodeID]string{"node-2": "", "node-3": ""}, e.Mesh)
		require.Len(t, e.Gateways, 3)
		require.Len(t, e.Served, 5)
		require.Len(t, e.Names, 6, "three names at two servers")
		require.Len(t, e.Certificates, 3+4, "each gateway, and each relay for each name that leads to it")
		got, err := i.Inspect(t.Context())
		require.NoError(t, err)
		require.True(t, got.OK, "%+v", got.Checks)
	})
}

func TestInspectSeesAPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewInspector(InspectorDeps{Node: "node-1", BaseDomain: base, Store: records(), Probes: &looker{meshDown: map[orama.NodeID]bool{"node-3": true}}})
		got, err := i.Inspect(t.Context())
		require.NoError(t, err)
		f, _ := worst(got, "mesh")
		require.Equal(t, orama.NodeID("node-3"), f.Node)
		require.False(t, got.OK)
	})
}

// A probe that hangs costs its own time, not everybody's.
func TestInspectIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewInspector(InspectorDeps{Node: "node-1", BaseDomain: base, Store: records(), Probes: &looker{hang: true}})
		began := time.Now()
		got, err := i.Inspect(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), probeWithin)
		require.False(t, got.OK)
	})
}

// A revision takes a heartbeat to be reported: that is no finding. One that is never reported is.
func TestInspectWaitsForHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := records()
		s.state = func(reads int) int64 { return int64(4 + reads) }
		got, err := NewInspector(InspectorDeps{Node: "node-1", Store: s, BaseDomain: base, Probes: &looker{}}).Inspect(t.Context())
		require.NoError(t, err)
		f, _ := worst(got, "state")
		require.Equal(t, SeverityOK, f.Severity)

		s.state = func(int) int64 { return 6 }
		began := time.Now()
		got, err = NewInspector(InspectorDeps{Node: "node-1", Store: s, BaseDomain: base, Probes: &looker{}}).Inspect(t.Context())
		require.NoError(t, err)
		f, _ = worst(got, "state")
		require.Equal(t, SeverityCritical, f.Severity)
		require.GreaterOrEqual(t, time.Since(began), settleWithin)
	})
}

func TestInspectOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewInspector(InspectorDeps{Node: "node-1", Store: records(), BaseDomain: base, Probes: &looker{hang: true}})
		done := make(chan struct{})
		go func() { defer close(done); i.Inspect(context.Background()) }() //nolint:errcheck // it hangs for its time
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := i.Inspect(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-done
	})
}

func TestInspectWithoutRecords(t *testing.T) {
	i := NewInspector(InspectorDeps{Node: "node-1", Store: &still{err: errors.New("no leader")}, Probes: &looker{}})
	srv := httptest.NewServer(i.Handler())
	defer srv.Close()
	c := &Client{http: srv.Client(), socket: srv.URL}
	c.http.Transport = toServer(srv.URL)
	got, err := c.Inspect(t.Context())
	require.NoError(t, err, "that the store is gone is a finding")
	require.False(t, got.OK)
	_, err = c.Report(t.Context())
	require.Error(t, err, "a report is nothing but the records")
}
