package store

import (
	"context"
	"database/sql"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/store/rqlitetest"
)

// Whatever is done, both engines say the same of it, and hold the same afterwards; whatever becomes of RQLite's answers.
func TestBothEnginesMeanTheSame(t *testing.T) {
	c := standIn(t, 1)
	one, two := open(t, temp(t)), openRQLite(t, c.URLs())
	rapid.Check(t, func(rt *rapid.T) {
		require.NoError(rt, empty(one))
		require.NoError(rt, empty(two))
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.IntRange(0, 3).Draw(rt, "fault") == 0 {
				c.Next(rapid.SampledFrom([]rqlitetest.Fault{rqlitetest.LoseRequest, rqlitetest.LoseAnswer, rqlitetest.CutAnswer,
					rqlitetest.Top("leadership lost")}).Draw(rt, "which"))
			}
			do := step(rt)
			require.Equal(rt, orama.KindOf(do(one)), orama.KindOf(do(two)))
			want, err := one.Cluster(t.Context())
			require.NoError(rt, err)
			got, err := two.Cluster(t.Context())
			require.NoError(rt, err)
			require.Equal(rt, want, got)
			rooms1, err := one.Rooms(t.Context(), "a")
			require.NoError(rt, err)
			rooms2, err := two.Rooms(t.Context(), "a")
			require.NoError(rt, err)
			require.Equal(rt, rooms1, rooms2)
		}
	})
}

// empty makes records as they were at first.
func empty(s *Store) error {
	batch := []statement{stmt(1, `UPDATE meta SET value = 1 WHERE key = 'revision'`)}
	for _, table := range []string{"nodes", "namespaces", "namespace_webrtc_config", "webrtc_instances", "webrtc_port_allocations", "webrtc_rooms",
		"dns_records"} {
		batch = append(batch, stmt(anyRows, `DELETE FROM `+table))
	}
	return s.write(context.Background(), batch)
}

// step draws something to do to the records. Few names and ports, so that they meet.
func step(rt *rapid.T) func(*Store) error {
	ctx := rt.Context()
	text := rapid.OneOf(rapid.StringN(0, 8, 40), rapid.SampledFrom([]string{"x'6869'", "", "'"}))
	ns := rapid.SampledFrom([]orama.NamespaceID{"a", "b", "c"})
	nodeID := rapid.IntRange(1, 3)
	at := rapid.Map(rapid.Int64Range(1, 1<<52), func(us int64) time.Time { return time.UnixMicro(us).UTC() })
	instance := rapid.Custom(func(rt *rapid.T) orama.Instance {
		return orama.Instance{Namespace: ns.Draw(rt, "ns"), Node: testNode(nodeID.Draw(rt, "node")).ID,
			Role:    rapid.SampledFrom([]orama.Role{orama.RoleSFU, orama.RoleTURN}).Draw(rt, "role"),
			Desired: rapid.SampledFrom([]orama.Desired{orama.DesiredRun, orama.DesiredStop}).Draw(rt, "desired"),
			Ports: orama.Ports{Relay: orama.PortRange{First: rapid.Uint16Range(49152, 49160).Draw(rt, "first"),
				Count: rapid.Uint16Range(0, 4).Draw(rt, "count")}},
			Observed: orama.Observation{State: orama.StateGone, Since: at.Draw(rt, "since"), Detail: text.Draw(rt, "detail")}}
	})
	namespace := rapid.Custom(func(rt *rapid.T) orama.Namespace {
		n := orama.Namespace{ID: ns.Draw(rt, "ns"), CreatedAt: at.Draw(rt, "at"), AllowedOrigins: rapid.SliceOfN(text, 0, 2).Draw(rt, "origins"),
			ClosedRooms: rapid.Bool().Draw(rt, "closed"), MaxParticipants: rapid.IntRange(0, 10_000).Draw(rt, "participants")}
		if rapid.Bool().Draw(rt, "webrtc") {
			n.WebRTC = &orama.WebRTCConfig{SealedSecret: text.Draw(rt, "secret"), TURNNodes: 2, Disabling: rapid.Bool().Draw(rt, "disabling"), CreatedAt: t0}
		}
		return n
	})
	switch rapid.SampledFrom([]string{"commit", "commit", "heartbeat", "observe", "claim", "delete room"}).Draw(rt, "do") {
	case "heartbeat":
		n, now := testNode(nodeID.Draw(rt, "node")), at.Draw(rt, "now")
		n.Zone = text.Draw(rt, "zone")
		n.MeshIP = testNode(nodeID.Draw(rt, "address")).MeshIP
		return func(s *Store) error { return s.Heartbeat(ctx, n, now) }
	case "observe":
		i := instance.Draw(rt, "instance")
		o := orama.Observed{Namespace: i.Namespace, Node: i.Node, Role: i.Role, Observation: i.Observed}
		o.At = at.Draw(rt, "at")
		return func(s *Store) error { return s.Observe(ctx, []orama.Observed{o, o}) }
	case "claim":
		r := orama.Room{Namespace: "a", ID: "r", Node: "node-1", Boot: text.Draw(rt, "boot"), Epoch: rapid.Int64Range(1, 3).Draw(rt, "epoch"), UpdatedAt: t0}
		return func(s *Store) error { return s.ClaimRoom(ctx, r) }
	case "delete room":
		epoch := rapid.Int64Range(0, 3).Draw(rt, "epoch")
		return func(s *Store) error { return s.DeleteRoom(ctx, "a", "r", epoch) }
	}
	ch := orama.Change{
		PutNamespaces:    rapid.SliceOfN(namespace, 0, 2).Draw(rt, "put namespaces"),
		PutInstances:     rapid.SliceOfN(instance, 0, 3).Draw(rt, "put instances"),
		DeleteInstances:  rapid.SliceOfN(instance, 0, 1).Draw(rt, "delete instances"),
		DeleteNamespaces: rapid.SliceOfN(ns, 0, 1).Draw(rt, "delete namespaces"),
		PutDNS: rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) orama.DNSRecord {
			return orama.DNSRecord{Name: "turn.ns-" + string(ns.Draw(rt, "ns")) + ".orama.test",
				Value: netip.AddrFrom4([4]byte{127, 0, 0, rapid.Byte().Draw(rt, "ip")}), TTL: rapid.IntRange(1, 3600).Draw(rt, "ttl")}
		}), 0, 2).Draw(rt, "put dns"),
	}
	stale := rapid.IntRange(0, 9).Draw(rt, "stale") == 0
	return func(s *Store) error {
		rev, err := s.Revision(ctx)
		if err != nil {
			return err
		}
		if ch.Base = rev; stale {
			ch.Base--
		}
		return s.Commit(ctx, ch)
	}
}

// schema1 is what the first version made, of what later ones change.
const schema1 = `CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE nodes (id TEXT NOT NULL PRIMARY KEY, public_ip TEXT NOT NULL, mesh_ip TEXT NOT NULL, zone TEXT NOT NULL,
	gateway_url TEXT NOT NULL, heartbeat INTEGER NOT NULL);
CREATE TABLE webrtc_rooms (namespace TEXT NOT NULL, room_id TEXT NOT NULL, sfu_node TEXT NOT NULL, boot TEXT NOT NULL, epoch INTEGER NOT NULL,
	permanent INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, PRIMARY KEY (namespace, room_id));
CREATE TABLE namespaces (id TEXT NOT NULL PRIMARY KEY, created_at INTEGER NOT NULL, allowed_origins TEXT NOT NULL, closed_rooms INTEGER NOT NULL);
INSERT INTO namespaces VALUES ('demo', 4000000, '[]', 1);
INSERT INTO webrtc_rooms VALUES ('demo', 'daily', 'node-1', 'b', 3, 1, 5000000, 6000000);
INSERT INTO meta (key, value) VALUES ('revision', 41), ('schema', 1);
INSERT INTO nodes VALUES ('node-1', '127.0.0.11', '127.10.0.1', 'z', 'http://g', 7000000)`

func TestRecordsOfTheFirstVersionAreMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orama.db")
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), schema1)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	migrated(t, func(t *testing.T) *Store { return open(t, path) })
}

func TestRecordsOfTheFirstVersionAreMigratedInRQLite(t *testing.T) {
	c := standIn(t, 3)
	raw, err := newRQLite(Options{URLs: c.URLs()})
	require.NoError(t, err)
	defer raw.close()
	got, err := raw.persist(t.Context(), execution([]statement{stmt(anyRows, schema1)}))
	require.NoError(t, err)
	require.Empty(t, got[0].Error)
	migrated(t, func(t *testing.T) *Store { return openRQLite(t, c.URLs()) })
}

// migrated opens twice at once: whoever comes second finds it done.
func migrated(t *testing.T, open func(*testing.T) *Store) {
	want := testNode(1)
	want.Heartbeat = time.Unix(7, 0).UTC()
	a, b := open(t), open(t)
	done := make(chan error)
	go func() {
		_, err := a.Cluster(t.Context())
		done <- err
	}()
	got := cluster(t, b)
	require.NoError(t, <-done)
	require.EqualValues(t, 41, got.Revision)
	require.Equal(t, []orama.Node{want}, got.Nodes)
	require.Equal(t, []orama.Namespace{{ID: "demo", CreatedAt: time.Unix(4, 0).UTC(), AllowedOrigins: []string{}, ClosedRooms: true}}, got.Namespaces)
	want.MeshKey = "k"
	require.NoError(t, a.Heartbeat(t.Context(), want, want.Heartbeat))
	require.Equal(t, []orama.Node{want}, cluster(t, b).Nodes)
	room, err := b.Room(t.Context(), "demo", "daily")
	require.NoError(t, err)
	require.EqualValues(t, 3, room.Epoch)
	require.Empty(t, room.State)
	v, err := readVersion(t.Context(), b.engine)
	require.NoError(t, err)
	require.EqualValues(t, schemaVersion, v)
}
