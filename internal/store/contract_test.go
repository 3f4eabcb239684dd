package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// contract is what the records mean, whatever keeps them.
var contract = []struct {
	name string
	test func(*testing.T, world)
}{
	{"WhatIsCommittedIsRead", whatIsCommittedIsRead},
	{"LookupsThatFindNothing", lookupsThatFindNothing},
	{"AStaleBaseIsAConflictAndChangesNothing", aStaleBaseIsAConflictAndChangesNothing},
	{"AnEmptyChangeIsNotWritten", anEmptyChangeIsNotWritten},
	{"AChangeIsWholeOrNothing", aChangeIsWholeOrNothing},
	{"ABlockCanBeGivenBackAndTakenInOneChange", aBlockCanBeGivenBackAndTakenInOneChange},
	{"NodesThatShareAnAddressShareItsPorts", nodesThatShareAnAddressShareItsPorts},
	{"DeletingANamespaceLeavesNothingOfIt", deletingANamespaceLeavesNothingOfIt},
	{"AWishKeepsTheObservationExceptAnOldGone", aWishKeepsTheObservationExceptAnOldGone},
	{"ObserveReadsBeforeItWritesAndIsNoRevision", observeReadsBeforeItWritesAndIsNoRevision},
	{"AHeartbeatIsNoRevisionUntilSomethingChanges", aHeartbeatIsNoRevisionUntilSomethingChanges},
	{"Rooms", rooms},
	{"WhatAdminsMadeOfARoomIsKept", whatAdminsMadeOfARoomIsKept},
	{"KicksAreKept", kicksAreKept},
	{"NoRoomIsClaimedWhereWebRTCIsNotEnabled", noRoomIsClaimedWhereWebRTCIsNotEnabled},
	{"AThousandRacesForARoomGiveOneOwnerEach", aThousandRacesForARoomGiveOneOwnerEach},
	{"ACallEndsWithItsContext", aCallEndsWithItsContext},
	{"OldEventsGo", oldEventsGo},
	{"TextAndNumbersAreKeptAsTheyAre", textAndNumbersAreKeptAsTheyAre},
	{"SeveralQueriesSeeOneMoment", severalQueriesSeeOneMoment},
	{"ChallengesComeAndGo", challengesComeAndGo},
	{"FilesAreKept", filesAreKept},
	{"ALockHasOneHolder", aLockHasOneHolder},
	{"AnInvitationAdmitsOneNode", anInvitationAdmitsOneNode},
}

func whatIsCommittedIsRead(t *testing.T, w world) {
	s := filled(t, w)
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

func lookupsThatFindNothing(t *testing.T, w world) {
	s := w.open(t)
	_, err := s.Namespace(t.Context(), "demo")
	require.ErrorIs(t, err, orama.ErrNotFound)
	_, err = s.APIKey(t.Context(), "k")
	require.ErrorIs(t, err, orama.ErrNotFound)
	_, err = s.Room(t.Context(), "demo", "r")
	require.ErrorIs(t, err, orama.ErrNotFound)
	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "r", 0), orama.ErrNotFound)
}

func aStaleBaseIsAConflictAndChangesNothing(t *testing.T, w world) {
	s := filled(t, w)
	before := cluster(t, s)
	for _, base := range []int64{0, before.Revision - 1, before.Revision + 1} {
		err := s.Commit(t.Context(), orama.Change{Base: base, PutNamespaces: []orama.Namespace{{ID: "other"}}})
		require.ErrorIs(t, err, orama.ErrConflict)
	}
	require.Equal(t, before, cluster(t, s))
}

func anEmptyChangeIsNotWritten(t *testing.T, w world) {
	s := filled(t, w)
	require.NoError(t, s.Commit(t.Context(), orama.Change{Base: 77}))
}

// A change that fails at any of its statements leaves nothing of itself.
func aChangeIsWholeOrNothing(t *testing.T, w world) {
	s := filled(t, w)
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

func aBlockCanBeGivenBackAndTakenInOneChange(t *testing.T, w world) {
	s := filled(t, w)
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{{ID: "other"}},
		DeleteInstances: []orama.Instance{turnOn(1, 49152)}, PutInstances: []orama.Instance{with(turnOn(1, 49152), "other")}})
	require.Equal(t, []orama.Instance{sfuOn(1), with(turnOn(1, 49152), "other")}, cluster(t, s).Instances)
}

// The address owns the ports, not the node's name; and moving a node to a taken address is refused.
func nodesThatShareAnAddressShareItsPorts(t *testing.T, w world) {
	s := filled(t, w)
	twin := testNode(2)
	twin.MeshIP = testNode(1).MeshIP
	require.NoError(t, s.Heartbeat(t.Context(), twin, t0))
	err := s.Commit(t.Context(), orama.Change{Base: cluster(t, s).Revision, PutInstances: []orama.Instance{turnOn(2, 49152)}})
	require.ErrorIs(t, err, orama.ErrConflict)

	require.NoError(t, s.Heartbeat(t.Context(), testNode(2), t0))
	commit(t, s, orama.Change{PutInstances: []orama.Instance{turnOn(2, 49152)}})
	require.ErrorIs(t, s.Heartbeat(t.Context(), twin, t0), orama.ErrConflict)
}

func deletingANamespaceLeavesNothingOfIt(t *testing.T, w world) {
	s := filled(t, w)
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

func aWishKeepsTheObservationExceptAnOldGone(t *testing.T, w world) {
	s := filled(t, w)
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

func observeReadsBeforeItWritesAndIsNoRevision(t *testing.T, w world) {
	s := filled(t, w)
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

func aHeartbeatIsNoRevisionUntilSomethingChanges(t *testing.T, w world) {
	s := filled(t, w)
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

func rooms(t *testing.T, w world) {
	s := filled(t, w)
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
	other := orama.Room{Namespace: "demo", ID: "weekly", Node: "node-1", Boot: "b1", Epoch: 1, CreatedAt: t0, UpdatedAt: t0}
	require.NoError(t, s.ClaimRoom(t.Context(), other))
	counts, err := s.RoomCounts(t.Context(), "demo")
	require.NoError(t, err)
	require.Equal(t, map[orama.NodeID]int{"node-1": 1, "node-2": 1}, counts)

	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "daily", 1), orama.ErrConflict)
	require.NoError(t, s.DeleteRoom(t.Context(), "demo", "daily", 2))
	require.ErrorIs(t, s.DeleteRoom(t.Context(), "demo", "daily", 2), orama.ErrNotFound)
}

func whatAdminsMadeOfARoomIsKept(t *testing.T, w world) {
	s := filled(t, w)
	require.ErrorIs(t, s.PutRoomState(t.Context(), "demo", "daily", 1, "x"), orama.ErrConflict, "there is no such room")
	r := orama.Room{Namespace: "demo", ID: "daily", Node: "node-1", Boot: "b1", Epoch: 1, CreatedAt: t0, UpdatedAt: t0}
	require.NoError(t, s.ClaimRoom(t.Context(), r))
	require.NoError(t, s.PutRoomState(t.Context(), "demo", "daily", 2, `{"a":1}`))
	require.ErrorIs(t, s.PutRoomState(t.Context(), "demo", "daily", 2, "other"), orama.ErrConflict)
	require.ErrorIs(t, s.PutRoomState(t.Context(), "demo", "daily", 1, "older"), orama.ErrConflict)
	r.Node, r.Epoch = "node-2", 2
	require.NoError(t, s.ClaimRoom(t.Context(), r))
	got, err := s.Room(t.Context(), "demo", "daily")
	require.NoError(t, err)
	require.Equal(t, `{"a":1}`, got.State, "it moves with the room")
	require.EqualValues(t, 2, got.StateRevision)
	require.NoError(t, s.DeleteRoom(t.Context(), "demo", "daily", 2))
	r.Epoch = 1
	require.NoError(t, s.ClaimRoom(t.Context(), r))
	got, err = s.Room(t.Context(), "demo", "daily")
	require.NoError(t, err)
	require.Empty(t, got.State, "and ends with its record")
}

func kicksAreKept(t *testing.T, w world) {
	s := filled(t, w)
	_, err := s.Kicked(t.Context(), "demo", "daily", "bob")
	require.ErrorIs(t, err, orama.ErrNotFound)
	k := orama.Kick{Namespace: "demo", Room: "daily", User: "bob", At: t0}
	require.NoError(t, s.PutKick(t.Context(), k))
	k.At = t0.Add(-time.Minute)
	require.NoError(t, s.PutKick(t.Context(), k))
	at, err := s.Kicked(t.Context(), "demo", "daily", "bob")
	require.NoError(t, err)
	require.Equal(t, t0, at, "the later one counts")
	_, err = s.Kicked(t.Context(), "demo", "weekly", "bob")
	require.ErrorIs(t, err, orama.ErrNotFound)
	require.NoError(t, s.PutKick(t.Context(), orama.Kick{Namespace: "demo", Room: "x", User: "y", At: t0.Add(keptKick + time.Second)}))
	_, err = s.Kicked(t.Context(), "demo", "daily", "bob")
	require.ErrorIs(t, err, orama.ErrNotFound, "it has outlived every token")
}

func noRoomIsClaimedWhereWebRTCIsNotEnabled(t *testing.T, w world) {
	s := filled(t, w)
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

func aThousandRacesForARoomGiveOneOwnerEach(t *testing.T, w world) {
	handles := []*Store{w.open(t), w.open(t), w.open(t)}
	commit(t, handles[0], orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	rooms := w.rooms
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

func aCallEndsWithItsContext(t *testing.T, w world) {
	s := filled(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Cluster(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Heartbeat(ctx, testNode(3), t0), context.Canceled)
	require.Len(t, cluster(t, s).Nodes, 2, "the handle still works")
}

func oldEventsGo(t *testing.T, w world) {
	s := filled(t, w)
	require.NoError(t, s.write(t.Context(), []statement{stmt(keptEvents, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		INSERT INTO events (id, at, kind, namespace, node, detail) SELECT 'old' || i, i, 'k', '', '', '' FROM n`, int64(keptEvents))}))
	commit(t, s, orama.Change{Events: []orama.Event{{ID: "a", At: t0, Kind: "k"}, {ID: "b", At: t0, Kind: "k"}}})
	got, err := s.read(t.Context(), stmt(anyRows, `SELECT count(*), min(at) FROM events`))
	require.NoError(t, err)
	require.EqualValues(t, keptEvents, got[0][0].int(0))
	require.EqualValues(t, 3, got[0][0].int(1))
}

// Text from outside may look like anything: like a BLOB, which RQLite makes of it, or like SQL.
func textAndNumbersAreKeptAsTheyAre(t *testing.T, w world) {
	s := w.open(t)
	texts := []string{"x'6869'", " X'00ff' ", "x''", "x'6'", "x'zz'", "", " ", "'; DROP TABLE nodes; --", "?", "x'3f'?", "\"\\", "é\u2028<&>", "🙂",
		"a\nb\tc", "null", "1", "1e3", "true", "{}", "[]", "random()", "datetime('now')", "CURRENT_TIMESTAMP"}
	n := demo(true)
	n.AllowedOrigins = texts
	numbers := []int64{1, 2_000_000, 1<<53 - 1}
	for i, number := range numbers {
		n.ID = orama.NamespaceID(fmt.Sprint("n", i))
		n.WebRTC.CreatedAt = time.UnixMicro(number).UTC()
		commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{n}})
		got, err := s.Namespace(t.Context(), n.ID)
		require.NoError(t, err)
		require.Equal(t, n, got)
		n.MaxParticipants, n.ClosedRooms = 7, false // and what is changed later
		commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{n}})
		got, err = s.Namespace(t.Context(), n.ID)
		require.NoError(t, err)
		require.Equal(t, n, got)
		n.MaxParticipants, n.ClosedRooms = 300, true
	}
	for i, text := range texts {
		at := t0.Add(time.Duration(i) * time.Second)
		commit(t, s, orama.Change{Events: []orama.Event{{ID: "e" + text, At: at, Kind: text, Node: orama.NodeID(text), Detail: text}}})
		got, err := s.Events(t.Context(), "", 1)
		require.NoError(t, err)
		require.Equal(t, []orama.Event{{ID: "e" + text, At: at, Kind: text, Node: orama.NodeID(text), Detail: text}}, got)
	}
	commit(t, s, orama.Change{Events: []orama.Event{{ID: "bad", At: t0.Add(time.Hour), Kind: "k", Detail: "a\xff\xc3"}}})
	got, err := s.Events(t.Context(), "", 1)
	require.NoError(t, err)
	require.Equal(t, "a\uFFFD", got[0].Detail)
}

// Two records that only change together are never read apart.
func severalQueriesSeeOneMoment(t *testing.T, w world) {
	reader, writer := w.open(t), w.open(t)
	ctx := context.Background()
	require.NoError(t, writer.Heartbeat(ctx, testNode(1), t0))
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 60 {
			n := demo(true)
			n.WebRTC.TURNNodes = i
			ch := orama.Change{Base: int64(i) + 2, PutNamespaces: []orama.Namespace{n}, // created with revision 1, and one for the node
				PutDNS: []orama.DNSRecord{{Name: "turn.ns-demo.orama.test", Value: testNode(1).PublicIP, TTL: 100 + i}}}
			if err := writer.Commit(ctx, ch); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		c := cluster(t, reader)
		if len(c.Namespaces) == 0 {
			require.Empty(t, c.DNS)
			continue
		}
		require.Equal(t, 100+c.Namespaces[0].WebRTC.TURNNodes, c.DNS[0].TTL)
		require.EqualValues(t, 3+c.Namespaces[0].WebRTC.TURNNodes, c.Revision)
	}
	wg.Wait()
}
