package store

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"orama.network/orama"
)

const selectRevision = `SELECT value FROM meta WHERE key = 'revision'`

// Revision is the number of the last committed change: of nodes, namespaces, instances, ports and names, not
// of heartbeats, observations or rooms.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	got, err := s.read(ctx, stmt(anyRows, selectRevision))
	if err != nil {
		return 0, err
	}
	return got[0][0].int(0), nil
}

const selectNamespaces = `SELECT n.id, n.created_at, n.allowed_origins, n.closed_rooms,
	w.turn_secret, w.credential_ttl, w.turn_nodes, w.sfu_nodes, w.enabled, w.created_at, w.namespace IS NOT NULL, n.max_participants
	FROM namespaces n LEFT JOIN namespace_webrtc_config w ON w.namespace = n.id`

// Cluster reads everything that placement needs, from one moment. Lists are ordered by their keys.
func (s *Store) Cluster(ctx context.Context) (orama.Cluster, error) {
	got, err := s.read(ctx,
		stmt(anyRows, selectRevision),
		stmt(anyRows, selectNodes+` ORDER BY id`),
		stmt(anyRows, selectNamespaces+` ORDER BY n.id`),
		stmt(anyRows, `SELECT namespace, node, role, desired, state, since, at, detail, boot FROM webrtc_instances
			ORDER BY namespace, node, role`),
		stmt(anyRows, `SELECT namespace, node, role, kind, first_port, port_count FROM webrtc_port_allocations`),
		stmt(anyRows, `SELECT name, value, ttl FROM dns_records ORDER BY name, value`),
	)
	if err != nil {
		return orama.Cluster{}, err
	}
	return orama.Cluster{
		Revision:   got[0][0].int(0),
		Nodes:      each(got[1], node),
		Namespaces: each(got[2], namespace),
		Instances:  instances(got[3], got[4]),
		DNS:        each(got[5], record),
	}, nil
}

func each[T any](rows []row, read func(row) T) []T {
	out := make([]T, len(rows))
	for i, r := range rows {
		out[i] = read(r)
	}
	return out
}

// address reads an address that this package wrote. An empty one was invalid then, too.
func address(text string) netip.Addr {
	a, _ := netip.ParseAddr(text)
	return a
}

const selectNodes = `SELECT id, public_ip, mesh_ip, zone, gateway_url, heartbeat, mesh_key, mesh_endpoint, report FROM nodes`

func node(r row) orama.Node {
	n := orama.Node{ID: orama.NodeID(r.str(0)), PublicIP: address(r.str(1)), MeshIP: address(r.str(2)), Zone: r.str(3),
		GatewayURL: r.str(4), Heartbeat: r.time(5), MeshKey: r.str(6), MeshEndpoint: r.str(7)}
	_ = json.Unmarshal([]byte(r.str(8)), &n.Report) // written by Heartbeat; anything else reports nothing
	return n
}

func namespace(r row) orama.Namespace {
	n := orama.Namespace{ID: orama.NamespaceID(r.str(0)), CreatedAt: r.time(1), ClosedRooms: r.bool(3), MaxParticipants: int(r.int(11))}
	_ = json.Unmarshal([]byte(r.str(2)), &n.AllowedOrigins) // written by putNamespace; anything else allows no origin
	if r.bool(10) {
		n.WebRTC = &orama.WebRTCConfig{SealedSecret: r.str(4), CredentialTTL: time.Duration(r.int(5)) * time.Microsecond,
			TURNNodes: int(r.int(6)), SFUNodes: int(r.int(7)), Disabling: !r.bool(8), CreatedAt: r.time(9)}
	}
	return n
}

func record(r row) orama.DNSRecord {
	return orama.DNSRecord{Name: r.str(0), Value: address(r.str(1)), TTL: int(r.int(2))}
}

// instanceKey is the key of an instance and of its ports.
type instanceKey struct{ namespace, node, role string }

func keyOf(r row) instanceKey { return instanceKey{r.str(0), r.str(1), r.str(2)} }

func instances(rows, ports []row) []orama.Instance {
	blocks := map[instanceKey]orama.Ports{}
	for _, r := range ports {
		p := blocks[keyOf(r)]
		b := orama.PortRange{First: uint16(r.int(4)), Count: uint16(r.int(5))}
		switch r.str(3) {
		case kindRelay:
			p.Relay = b
		case kindSignal:
			p.Signal = b
		case kindMedia:
			p.Media = b
		}
		blocks[keyOf(r)] = p
	}
	return each(rows, func(r row) orama.Instance {
		return orama.Instance{Namespace: orama.NamespaceID(r.str(0)), Node: orama.NodeID(r.str(1)), Role: orama.Role(r.str(2)),
			Desired: orama.Desired(r.str(3)), Ports: blocks[keyOf(r)],
			Observed: orama.Observation{State: orama.State(r.str(4)), Since: r.time(5), At: r.time(6), Detail: r.str(7), Boot: r.str(8)}}
	})
}

// Namespace reads one tenant.
func (s *Store) Namespace(ctx context.Context, id orama.NamespaceID) (orama.Namespace, error) {
	return one(ctx, s, namespace, stmt(anyRows, selectNamespaces+` WHERE n.id = ?`, string(id)))
}

// APIKey reads a key by the id that its holder shows. The read is weak: a key that went works for a second longer at worst.
func (s *Store) APIKey(ctx context.Context, id string) (orama.APIKey, error) {
	return one(ctx, s, func(r row) orama.APIKey {
		return orama.APIKey{ID: r.str(0), Namespace: orama.NamespaceID(r.str(1)), Role: r.str(2), SecretHash: r.str(3), CreatedAt: r.time(4)}
	}, weak(`SELECT id, namespace, role, secret_hash, created_at FROM api_keys WHERE id = ?`, id))
}

// Events lists the newest events of a namespace, or of all for "", newest first. The limit is at most 1000. The read is weak.
func (s *Store) Events(ctx context.Context, ns orama.NamespaceID, limit int) ([]orama.Event, error) {
	got, err := s.read(ctx, weak(`SELECT id, at, kind, namespace, node, detail FROM events
		WHERE ? = '' OR namespace = ? ORDER BY at DESC, id DESC LIMIT ?`, string(ns), string(ns), int64(min(max(limit, 0), 1000))))
	if err != nil {
		return nil, err
	}
	return each(got[0], func(r row) orama.Event {
		return orama.Event{ID: r.str(0), At: r.time(1), Kind: r.str(2), Namespace: orama.NamespaceID(r.str(3)),
			Node: orama.NodeID(r.str(4)), Detail: r.str(5)}
	}), nil
}

// one reads a single record, or gives orama.ErrNotFound.
func one[T any](ctx context.Context, s *Store, read func(row) T, q statement) (T, error) {
	var zero T
	got, err := s.read(ctx, q)
	if err != nil {
		return zero, err
	}
	if len(got[0]) == 0 {
		return zero, orama.ErrNotFound
	}
	return read(got[0][0]), nil
}
