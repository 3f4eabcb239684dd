package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
)

// helperEnv makes the test binary a second process on the same records.
const helperEnv = "ORAMA_STORE_TEST"

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

// helper is what a second process does: open the records, and commit or claim n times.
func helper(task, path, name string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{File: path})
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range 25 {
		switch task {
		case "commit":
			err = commitUntilDone(ctx, s, orama.NamespaceID(fmt.Sprintf("%s-%d", name, i)))
		case "claim":
			err = s.ClaimRoom(ctx, orama.Room{Namespace: "demo", ID: orama.RoomID(fmt.Sprint(i)), Node: orama.NodeID(name), Boot: "b", Epoch: 1})
			if errors.Is(err, orama.ErrConflict) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
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

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{File: path})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "orama ?#%20.db") }

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func testNode(i int) orama.Node {
	return orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), PublicIP: netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)}),
		MeshIP: netip.AddrFrom4([4]byte{127, 10, 0, byte(i)}), Zone: "z", GatewayURL: "http://g", Heartbeat: t0}
}

func demo(enabled bool) orama.Namespace {
	n := orama.Namespace{ID: "demo", CreatedAt: t0, AllowedOrigins: []string{"https://a.example"}, ClosedRooms: true}
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
func filled(t *testing.T) *Store {
	s := open(t, temp(t))
	for i := 1; i <= 2; i++ {
		require.NoError(t, s.Heartbeat(t.Context(), testNode(i), t0))
	}
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}, PutInstances: []orama.Instance{turnOn(1, 49152), sfuOn(1)}})
	return s
}

func TestWhatIsCommittedIsRead(t *testing.T) {
	s := filled(t)
	key := orama.APIKey{ID: "k1", Namespace: "demo", Role: "owner", SecretHash: "h", CreatedAt: t0}
	dns := orama.DNSRecord{Name: "turn.ns-demo.orama.test", Value: testNode(1).PublicIP, TTL: 60}
	ev := orama.Event{ID: "e1", At: t0, Kind: "webrtc.enabled", Namespace: "demo", Node: "node-1", Detail: "d"}
	commit(t, s, orama.Change{PutKeys: []orama.APIKey{key}, PutDNS: []orama.DNSRecord{dns}, Events: []orama.Event{ev}})

	c := cluster(t, s)
	require.Equal(t, []orama.Node{testNode(1), testNode(2)}, c.Nodes)
	require.Equal(t, []orama.Namespace{demo(true)}, c.Namespaces)
	require.Equal(t, []orama.Instance{sfuOn(1), turnOn(1, 49152)}, c.Instances)
	require.Equal(t, []orama.DNSRecord{dns}, c.DNS)
	n, err := s.Namespace(t.Context(), "demo")
	require.NoError(t, err)
	require.Equal(t, demo(true), n)
	k, err := s.APIKey(t.Context(), "k1")
	require.NoError(t, err)
	require.Equal(t, key, k)
	evs, err := s.Events(t.Context(), "demo", 10)
	require.NoError(t, err)
	require.Equal(t, []orama.Event{ev}, evs)
	evs, err = s.Events(t.Context(), "other", 10)
	require.NoError(t, err)
	require.Empty(t, evs)
}

func TestLookupsThatFindNothing(t *testing.T) {
	s := open(t, temp(t))
	_, err := s.Namespace(t.Context(), "demo")
	require.ErrorIs(t, err, orama.ErrNotFound)
	_, err = s.APIKey(t.Context(), "k")
	require.ErrorIs(t, err, orama.ErrNotFound)
	_, err = s.Room(t.Context(), "demo", "r")
	require.ErrorIs(t, err, orama.ErrNotFound)
	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "r", 0), orama.ErrNotFound)
}

func TestAStaleBaseIsAConflictAndChangesNothing(t *testing.T) {
	s := filled(t)
	before := cluster(t, s)
	for _, base := range []int64{0, before.Revision - 1, before.Revision + 1} {
		err := s.Commit(t.Context(), orama.Change{Base: base, PutNamespaces: []orama.Namespace{{ID: "other"}}})
		require.ErrorIs(t, err, orama.ErrConflict)
	}
	require.Equal(t, before, cluster(t, s))
}

func TestAnEmptyChangeIsNotWritten(t *testing.T) {
	s := filled(t)
	require.NoError(t, s.Commit(t.Context(), orama.Change{Base: 77}))
}

// A change that fails at any of its statements leaves nothing of itself.
func TestAChangeIsWholeOrNothing(t *testing.T) {
	s := filled(t)
	before := cluster(t, s)
	bad := map[string]orama.Change{
		"a block that overlaps another's":   {PutInstances: []orama.Instance{with(turnOn(1, 49153), "other")}},
		"a block on an unknown node":        {PutInstances: []orama.Instance{turnOn(9, 49152)}},
		"a namespace that is not there":     {DeleteNamespaces: []orama.NamespaceID{"nobody"}},
		"an instance that is not there":     {DeleteInstances: []orama.Instance{turnOn(2, 49152)}},
		"the same key twice":                {PutKeys: []orama.APIKey{{ID: "k"}, {ID: "k"}}},
		"two owners of a block in one step": {PutInstances: []orama.Instance{with(turnOn(2, 49152), "a0"), with(turnOn(2, 49152), "b0")}},
	}
	for name, ch := range bad {
		t.Run(name, func(t *testing.T) {
			ch.Base = before.Revision
			ch.PutNamespaces = []orama.Namespace{{ID: "other"}}
			ch.Events = []orama.Event{{ID: "e", Kind: "k"}}
			require.ErrorIs(t, s.Commit(t.Context(), ch), orama.ErrConflict)
			require.Equal(t, before, cluster(t, s))
		})
	}
}

func with(i orama.Instance, ns orama.NamespaceID) orama.Instance { i.Namespace = ns; return i }

func TestABlockCanBeGivenBackAndTakenInOneChange(t *testing.T) {
	s := filled(t)
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{{ID: "other"}},
		DeleteInstances: []orama.Instance{turnOn(1, 49152)}, PutInstances: []orama.Instance{with(turnOn(1, 49152), "other")}})
	require.Equal(t, []orama.Instance{sfuOn(1), with(turnOn(1, 49152), "other")}, cluster(t, s).Instances)
}

// The address owns the ports, not the node's name; and moving a node to a taken address is refused.
func TestNodesThatShareAnAddressShareItsPorts(t *testing.T) {
	s := filled(t)
	twin := testNode(2)
	twin.MeshIP = testNode(1).MeshIP
	require.NoError(t, s.Heartbeat(t.Context(), twin, t0))
	err := s.Commit(t.Context(), orama.Change{Base: cluster(t, s).Revision, PutInstances: []orama.Instance{turnOn(2, 49152)}})
	require.ErrorIs(t, err, orama.ErrConflict)

	require.NoError(t, s.Heartbeat(t.Context(), testNode(2), t0))
	commit(t, s, orama.Change{PutInstances: []orama.Instance{turnOn(2, 49152)}})
	require.ErrorIs(t, s.Heartbeat(t.Context(), twin, t0), orama.ErrConflict)
}

func TestDeletingANamespaceLeavesNothingOfIt(t *testing.T) {
	s := filled(t)
	require.NoError(t, s.ClaimRoom(t.Context(), orama.Room{Namespace: "demo", ID: "r", Node: "node-1", Epoch: 1}))
	commit(t, s, orama.Change{PutKeys: []orama.APIKey{{ID: "k", Namespace: "demo"}},
		PutDNS: []orama.DNSRecord{{Name: "turn-1.ns-demo.orama.test", Value: testNode(1).PublicIP, TTL: 60}}})
	commit(t, s, orama.Change{DeleteNamespaces: []orama.NamespaceID{"demo"}})

	for _, table := range []string{"namespaces", "namespace_webrtc_config", "webrtc_instances", "webrtc_port_allocations", "webrtc_rooms", "api_keys", "dns_records"} {
		got, err := s.read(t.Context(), stmt(anyRows, `SELECT count(*) FROM `+table))
		require.NoError(t, err)
		require.Zero(t, got[0][0].int(0), table)
	}
}

func TestAWishKeepsTheObservationExceptAnOldGone(t *testing.T) {
	s := filled(t)
	seen := orama.Observation{State: orama.StateReady, Since: t0, At: t0, Detail: "d", Boot: "b"}
	see := func(o orama.Observation) {
		require.NoError(t, s.Observe(t.Context(), []orama.Observed{{Namespace: "demo", Node: "node-1", Role: orama.RoleTURN, Observation: o}}))
	}
	observed := func() orama.Observation { return cluster(t, s).Instances[1].Observed }
	see(seen)
	stop := turnOn(1, 49152)
	stop.Desired = orama.DesiredStop
	commit(t, s, orama.Change{PutInstances: []orama.Instance{stop}})
	require.Equal(t, seen, observed())

	gone := orama.Observation{State: orama.StateGone, Since: t0, At: t0}
	see(gone)
	commit(t, s, orama.Change{PutInstances: []orama.Instance{stop}})
	require.Equal(t, gone, observed(), "the wish is the same, so what was seen counts")
	commit(t, s, orama.Change{PutInstances: []orama.Instance{turnOn(1, 49152)}})
	require.Equal(t, orama.StateUnknown, observed().State)
}

func TestObserveReadsBeforeItWritesAndIsNoRevision(t *testing.T) {
	s := filled(t)
	before := cluster(t, s).Revision
	o := orama.Observed{Namespace: "demo", Node: "node-1", Role: orama.RoleSFU,
		Observation: orama.Observation{State: orama.StateReady, Since: t0, At: t0, Boot: "b"}}
	at := func() time.Time { return cluster(t, s).Instances[0].Observed.At }

	require.NoError(t, s.Observe(t.Context(), []orama.Observed{o}))
	require.Equal(t, t0, at())
	o.At = t0.Add(time.Second)
	require.NoError(t, s.Observe(t.Context(), []orama.Observed{o}))
	require.Equal(t, t0, at(), "the same sight soon after costs no write")
	o.At = t0.Add(refreshAfter)
	require.NoError(t, s.Observe(t.Context(), []orama.Observed{o}))
	require.Equal(t, o.At, at())
	o.At, o.Detail = o.At.Add(time.Millisecond), strings.Repeat("é", 2000)
	require.NoError(t, s.Observe(t.Context(), []orama.Observed{o, {Namespace: "nobody"}}))
	require.Equal(t, o.At, at())
	require.Len(t, cluster(t, s).Instances[0].Observed.Detail, 1024)
	require.Equal(t, before, cluster(t, s).Revision)
}

func TestAHeartbeatIsNoRevisionUntilSomethingChanges(t *testing.T) {
	s := filled(t)
	before := cluster(t, s).Revision
	later := t0.Add(time.Minute)
	require.NoError(t, s.Heartbeat(t.Context(), testNode(1), later))
	c := cluster(t, s)
	require.Equal(t, before, c.Revision)
	require.Equal(t, later, c.Nodes[0].Heartbeat)

	moved := testNode(1)
	moved.GatewayURL = "http://elsewhere"
	require.NoError(t, s.Heartbeat(t.Context(), moved, later))
	require.Equal(t, before+1, cluster(t, s).Revision)
	require.Equal(t, "http://elsewhere", cluster(t, s).Nodes[0].GatewayURL)
}

func TestRooms(t *testing.T) {
	s := filled(t)
	r := orama.Room{Namespace: "demo", ID: "daily", Node: "node-1", Boot: "b1", Epoch: 1, CreatedAt: t0, UpdatedAt: t0}
	require.NoError(t, s.ClaimRoom(t.Context(), r))
	require.ErrorIs(t, s.ClaimRoom(t.Context(), r), orama.ErrConflict, "a new room is claimed once")

	moved := r
	moved.Node, moved.Boot, moved.Epoch, moved.UpdatedAt = "node-2", "b2", 2, t0.Add(time.Second)
	require.NoError(t, s.ClaimRoom(t.Context(), moved))
	require.ErrorIs(t, s.ClaimRoom(t.Context(), moved), orama.ErrConflict, "an epoch is claimed once")
	got, err := s.Room(t.Context(), "demo", "daily")
	require.NoError(t, err)
	require.Equal(t, moved, got)
	all, err := s.Rooms(t.Context(), "demo")
	require.NoError(t, err)
	require.Equal(t, []orama.Room{moved}, all)

	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "daily", 1), orama.ErrConflict)
	require.NoError(t, s.DeleteRoom(t.Context(), "demo", "daily", 2))
	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "daily", 2), orama.ErrNotFound)
}

func TestNoRoomIsClaimedWhereWebRTCIsNotEnabled(t *testing.T) {
	s := filled(t)
	disabling := demo(true)
	disabling.WebRTC.Disabling = true
	for _, n := range []orama.Namespace{disabling, demo(false)} {
		commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{n}})
		for epoch := range int64(2) {
			err := s.ClaimRoom(t.Context(), orama.Room{Namespace: "demo", ID: "r", Epoch: epoch + 1})
			require.Equal(t, orama.KindNotFound, orama.KindOf(err), "%v", err)
		}
	}
}

func TestAThousandRacesForARoomGiveOneOwnerEach(t *testing.T) {
	path := temp(t)
	handles := []*Store{open(t, path), open(t, path), open(t, path)}
	commit(t, handles[0], orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	const rooms = 1000
	won := make([][]int, rooms) // who was told that it owns the room
	var mu sync.Mutex
	var wg sync.WaitGroup
	for h, s := range handles {
		wg.Go(func() {
			for i := range rooms {
				r := orama.Room{Namespace: "demo", ID: orama.RoomID(fmt.Sprint(i)), Node: orama.NodeID(fmt.Sprint(h)), Epoch: 1}
				err := s.ClaimRoom(context.Background(), r)
				if err == nil {
					mu.Lock()
					won[i] = append(won[i], h)
					mu.Unlock()
				} else if !errors.Is(err, orama.ErrConflict) {
					t.Errorf("room %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	owners, err := handles[0].Rooms(t.Context(), "demo")
	require.NoError(t, err)
	require.Len(t, owners, rooms)
	for _, r := range owners {
		var i int
		_, err := fmt.Sscan(string(r.ID), &i)
		require.NoError(t, err)
		require.Len(t, won[i], 1, "room %d", i)
		require.Equal(t, fmt.Sprint(won[i][0]), string(r.Node))
	}
}

// Processes that create the records at the same moment and then race for every revision: none fails, and every
// change of each is there.
func TestProcessesRaceFromTheFirstMoment(t *testing.T) {
	path := temp(t)
	const processes = 4
	runHelpers(t, "commit", path, processes)
	s := open(t, path)
	c := cluster(t, s)
	require.Len(t, c.Namespaces, processes*25)
	require.EqualValues(t, 1+processes*25, c.Revision)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestProcessesRaceForRooms(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	runHelpers(t, "claim", path, 3)
	rooms, err := s.Rooms(t.Context(), "demo")
	require.NoError(t, err)
	require.Len(t, rooms, 25)
}

func runHelpers(t *testing.T, task, path string, n int) {
	t.Helper()
	var cmds []*exec.Cmd
	var outs []*strings.Builder
	for i := range n {
		out := &strings.Builder{}
		cmd := exec.CommandContext(t.Context(), os.Args[0], path, fmt.Sprintf("p%d", i))
		cmd.Env = append(os.Environ(), helperEnv+"="+task)
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait(), outs[i].String())
	}
}

func TestManyHandlesOpenAtOnce(t *testing.T) {
	path := temp(t)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			s, err := Open(context.Background(), Options{File: path})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Cluster(context.Background()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestWhatCannotBeOpenedIsUnavailable(t *testing.T) {
	damaged := temp(t)
	require.NoError(t, os.WriteFile(damaged, []byte(strings.Repeat("not a database ", 100)), 0o600))
	_, err := Open(t.Context(), Options{File: damaged})
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	text, err := os.ReadFile(damaged)
	require.NoError(t, err)
	require.Contains(t, string(text), "not a database", "damage is kept")

	later := temp(t)
	s := open(t, later)
	require.NoError(t, s.write(t.Context(), []statement{stmt(1, `UPDATE meta SET value = 99 WHERE key = 'schema'`)}))
	_, err = Open(t.Context(), Options{File: later})
	require.ErrorContains(t, err, "schema 99")
}

func TestACallEndsWithItsContext(t *testing.T) {
	s := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Cluster(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Heartbeat(ctx, testNode(3), t0), context.Canceled)
	require.Len(t, cluster(t, s).Nodes, 2, "the handle still works")
}

func TestOldEventsGo(t *testing.T) {
	s := filled(t)
	var evs []orama.Event
	for i := range keptEvents + 7 {
		evs = append(evs, orama.Event{ID: fmt.Sprint(i), At: t0.Add(time.Duration(i) * time.Second), Kind: "k"})
	}
	commit(t, s, orama.Change{Events: evs})
	got, err := s.read(t.Context(), stmt(anyRows, `SELECT count(*), min(at) FROM events`))
	require.NoError(t, err)
	require.EqualValues(t, keptEvents, got[0][0].int(0))
	require.Equal(t, t0.Add(7*time.Second), got[0][0].time(1))
}
