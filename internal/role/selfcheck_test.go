package role

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/probe"
)

func TestPortsCheck(t *testing.T) {
	self := orama.Node{ID: "node-1", PublicIP: netip.MustParseAddr("192.0.2.1"), MeshIP: netip.MustParseAddr("10.0.0.1")}
	ready := orama.Observation{State: orama.StateReady}
	c := orama.Cluster{Instances: []orama.Instance{
		{Namespace: "myapp", Node: "node-1", Role: orama.RoleSFU, Desired: orama.DesiredRun, Observed: ready,
			Ports: orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}},
		{Namespace: "myapp", Node: "node-1", Role: orama.RoleTURN, Desired: orama.DesiredRun, Observed: ready},
		{Namespace: "myapp", Node: "node-2", Role: orama.RoleSFU, Desired: orama.DesiredRun, Observed: ready,
			Ports: orama.Ports{Signal: orama.PortRange{First: 30007, Count: 1}}},
		{Namespace: "new", Node: "node-1", Role: orama.RoleSFU, Desired: orama.DesiredRun, Observed: orama.Observation{State: orama.StateStarting},
			Ports: orama.Ports{Signal: orama.PortRange{First: 30001, Count: 1}}},
	}}
	units := []node.Unit{{Role: orama.RoleTURN, PID: 10}, {Role: orama.RoleSFU, Namespace: "myapp", PID: 11}}
	good := []probe.Listener{
		{Network: "udp", Address: netip.MustParseAddrPort("192.0.2.1:3478"), PID: 10},
		{Network: "tcp", Address: netip.MustParseAddrPort("0.0.0.0:3478"), PID: 10},
		{Network: "tcp", Address: netip.MustParseAddrPort("[::]:5349"), PID: 0},
		{Network: "tcp", Address: netip.MustParseAddrPort("10.0.0.1:30000"), PID: 11},
		{Network: "udp", Address: netip.MustParseAddrPort("10.0.0.1:20000"), PID: 11},
	}
	read := func(context.Context) (orama.Cluster, error) { return c, nil }
	look := func(have []probe.Listener, err error) error {
		return portsCheck(self, read, func() []node.Unit { return units }, func() ([]probe.Listener, error) { return have, err })(t.Context())
	}
	require.NoError(t, look(good, nil))
	for i, l := range good {
		require.ErrorContains(t, look(slices.Delete(slices.Clone(good), i, i+1), nil), "nobody listens", "%v", l)
	}
	stolen := slices.Clone(good)
	stolen[4].PID = 99
	require.ErrorContains(t, look(stolen, nil), "10.0.0.1:20000/udp of the SFU of myapp: process 99 has it")
	elsewhere := slices.Clone(good)
	elsewhere[3].Address = netip.MustParseAddrPort("10.0.0.2:30000")
	require.ErrorContains(t, look(elsewhere, nil), "nobody listens")
	require.ErrorContains(t, look(nil, errors.New("no /proc")), "no /proc")
}

func TestMeshCheck(t *testing.T) {
	now := time.Now()
	c := orama.Cluster{Nodes: []orama.Node{
		{ID: "node-1", Heartbeat: now}, {ID: "node-2", Heartbeat: now, MeshIP: netip.MustParseAddr("10.0.0.2")},
		{ID: "node-3", Heartbeat: now.Add(-time.Minute)}, {ID: "node-4", Heartbeat: now},
	}}
	down := map[orama.NodeID]bool{}
	check := meshCheck("node-1", func(context.Context) (orama.Cluster, error) { return c, nil }, func(_ context.Context, n orama.Node) error {
		require.NotEqual(t, orama.NodeID("node-1"), n.ID, "we need not reach ourselves")
		require.NotEqual(t, orama.NodeID("node-3"), n.ID, "nor a node that is down")
		if down[n.ID] {
			return errors.New("no answer:\nicmp echo")
		}
		return nil
	})
	require.NoError(t, check(t.Context()))
	down["node-2"] = true
	require.EqualError(t, check(t.Context()), "node-2 does not answer on 10.0.0.2: no answer:, icmp echo")
	gone := meshCheck("node-1", func(context.Context) (orama.Cluster, error) { return c, errors.New("no leader") }, nil)
	require.NoError(t, gone(t.Context()), "that the records are gone is another check's finding")
}
