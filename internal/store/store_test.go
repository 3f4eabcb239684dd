package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
)

// world is somewhere for records to be: each call of open gives another handle on the same ones.
type world struct {
	open  func(*testing.T) *Store
	rooms int // to race for
}

func TestMain(m *testing.M) {
	if task := os.Getenv(helperEnv); task != "" {
		if err := helper(task, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// suite runs the contract, each test on records of its own.
func suite(t *testing.T, fresh func(*testing.T) world) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func commitUntilDone(ctx context.Context, s *Store, ns orama.NamespaceID) error {
	for {
		rev, err := s.Revision(ctx)
		if err != nil {
			return err
		}
		err = s.Commit(ctx, orama.Change{Base: rev, PutNamespaces: []orama.Namespace{{ID: ns, CreatedAt: time.Unix(1, 0)}}})
		if !errors.Is(err, orama.ErrConflict) {
			return err
		}
	}
}

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func testNode(i int) orama.Node {
	return orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), PublicIP: netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)}),
		MeshIP: netip.AddrFrom4([4]byte{127, 10, 0, byte(i)}), Zone: "z", GatewayURL: "http://g", Heartbeat: t0}
}

func demo(enabled bool) orama.Namespace {
	n := orama.Namespace{ID: "demo", CreatedAt: t0, AllowedOrigins: []string{"https://a.example"}, ClosedRooms: true, MaxParticipants: 300}
	if enabled {
		n.WebRTC = &orama.WebRTCConfig{SealedSecret: "sealed", CredentialTTL: 20 * time.Second, TURNNodes: 2, SFUNodes: 3, CreatedAt: t0}
	}
	return n
}

func turnOn(node int, first uint16) orama.Instance {
	return orama.Instance{Namespace: "demo", Node: testNode(node).ID, Role: orama.RoleTURN, Desired: orama.DesiredRun,
		Ports: orama.Ports{Relay: orama.PortRange{First: first, Count: 800}}, Observed: orama.Observation{State: orama.StateUnknown}}
}

func sfuOn(node int) orama.Instance {
	return orama.Instance{Namespace: "demo", Node: testNode(node).ID, Role: orama.RoleSFU, Desired: orama.DesiredRun,
		Ports:    orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}},
		Observed: orama.Observation{State: orama.StateUnknown}}
}

// commit plans from what is there.
func commit(t *testing.T, s *Store, ch orama.Change) {
	t.Helper()
	rev, err := s.Revision(t.Context())
	require.NoError(t, err)
	ch.Base = rev
	require.NoError(t, s.Commit(t.Context(), ch))
	after, err := s.Revision(t.Context())
	require.NoError(t, err)
	require.Equal(t, rev+1, after)
}

func cluster(t *testing.T, s *Store) orama.Cluster {
	t.Helper()
	c, err := s.Cluster(t.Context())
	require.NoError(t, err)
	return c
}

// filled has two nodes and the enabled namespace demo.
func filled(t *testing.T, w world) *Store {
	s := w.open(t)
	for i := 1; i <= 2; i++ {
		require.NoError(t, s.Heartbeat(t.Context(), testNode(i), t0))
	}
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}, PutInstances: []orama.Instance{turnOn(1, 49152), sfuOn(1)}})
	return s
}

func with(i orama.Instance, ns orama.NamespaceID) orama.Instance { i.Namespace = ns; return i }
