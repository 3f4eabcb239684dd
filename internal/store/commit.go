package store

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"orama.network/orama"
)

// The kinds of port blocks in webrtc_port_allocations.
const (
	kindRelay  = "relay"
	kindSignal = "signal"
	kindMedia  = "media"
)

// keptEvents is how many events are kept; the oldest go first.
const keptEvents = 10_000

// Commit makes a change, whole or not at all. orama.ErrConflict: the records are no longer at ch.Base, or a port block
// already has an owner. A change without content is not written.
func (s *Store) Commit(ctx context.Context, ch orama.Change) error {
	batch := changeStatements(ch, time.Now())
	if len(batch) == 0 {
		return nil
	}
	guard := stmt(1, `UPDATE meta SET value = value + 1 WHERE key = 'revision' AND value = ?`, ch.Base)
	return s.write(ctx, append([]statement{guard}, batch...))
}

// changeStatements orders a change so that what is given back can be taken in the same step.
func changeStatements(ch orama.Change, now time.Time) []statement {
	var b []statement
	for _, i := range ch.DeleteInstances {
		b = append(b, deleteInstance(i)...)
	}
	for _, ns := range ch.DeleteRoomsOf {
		b = append(b, stmt(anyRows, `DELETE FROM webrtc_rooms WHERE namespace = ?`, string(ns)),
			stmt(anyRows, `DELETE FROM webrtc_kicks WHERE namespace = ?`, string(ns)))
	}
	for _, ns := range ch.DeleteEventsOf {
		b = append(b, stmt(anyRows, `DELETE FROM events WHERE namespace = ? AND (kind LIKE 'webrtc.%' OR kind LIKE 'instance.%')`, string(ns)))
	}
	for _, r := range ch.DeleteDNS {
		b = append(b, stmt(anyRows, `DELETE FROM dns_records WHERE name = ? AND value = ?`, r.Name, r.Value.String()))
	}
	for _, ns := range ch.DeleteNamespaces {
		b = append(b, deleteNamespace(ns)...)
	}
	for _, n := range ch.PutNamespaces {
		b = append(b, putNamespace(n)...)
	}
	for _, id := range ch.DeleteKeys {
		b = append(b, stmt(anyRows, `DELETE FROM api_keys WHERE id = ?`, id))
	}
	for _, k := range ch.PutKeys {
		b = append(b, stmt(1, `INSERT INTO api_keys (id, namespace, role, secret_hash, created_at) VALUES (?, ?, ?, ?, ?)`,
			k.ID, string(k.Namespace), k.Role, k.SecretHash, micros(k.CreatedAt)))
	}
	for _, i := range ch.PutInstances {
		b = append(b, putInstance(i)...)
	}
	for _, r := range ch.PutDNS {
		b = append(b, stmt(1, `INSERT INTO dns_records (name, value, ttl, namespace) VALUES (?, ?, ?, ?)
			ON CONFLICT (name, value) DO UPDATE SET ttl = excluded.ttl`, r.Name, r.Value.String(), int64(r.TTL), recordOwner(r.Name)))
	}
	return append(b, putEvents(ch.Events, now)...)
}

func putNamespace(n orama.Namespace) []statement {
	origins, _ := json.Marshal(n.AllowedOrigins) // strings always can be
	b := []statement{stmt(1, `INSERT INTO namespaces (id, created_at, allowed_origins, closed_rooms, max_participants) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at, allowed_origins = excluded.allowed_origins,
			closed_rooms = excluded.closed_rooms, max_participants = excluded.max_participants`,
		string(n.ID), micros(n.CreatedAt), string(origins), bit(n.ClosedRooms), int64(n.MaxParticipants))}
	if n.WebRTC == nil {
		return append(b, stmt(anyRows, `DELETE FROM namespace_webrtc_config WHERE namespace = ?`, string(n.ID)))
	}
	w := n.WebRTC
	return append(b, stmt(1, `INSERT INTO namespace_webrtc_config
		(namespace, enabled, turn_secret, credential_ttl, turn_nodes, sfu_nodes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (namespace) DO UPDATE SET enabled = excluded.enabled, turn_secret = excluded.turn_secret,
			credential_ttl = excluded.credential_ttl, turn_nodes = excluded.turn_nodes, sfu_nodes = excluded.sfu_nodes,
			created_at = excluded.created_at`,
		string(n.ID), bit(!w.Disabling), w.SealedSecret, w.CredentialTTL.Microseconds(), int64(w.TURNNodes), int64(w.SFUNodes),
		micros(w.CreatedAt)))
}

func deleteNamespace(ns orama.NamespaceID) []statement {
	b := []statement{stmt(1, `DELETE FROM namespaces WHERE id = ?`, string(ns))}
	for _, table := range []string{"namespace_webrtc_config", "api_keys", "webrtc_rooms", "webrtc_kicks", "webrtc_instances",
		"webrtc_port_allocations", "dns_records"} {
		b = append(b, stmt(anyRows, `DELETE FROM `+table+` WHERE namespace = ?`, string(ns)))
	}
	return b
}

// putInstance writes what is wanted and takes the ports. An observation belongs to its agent: it is written with a
// new row only. When the wish changes, an old sight of "gone" no longer counts: only a sight after the wish does.
func putInstance(i orama.Instance) []statement {
	b := []statement{stmt(1, `INSERT INTO webrtc_instances (namespace, node, role, desired, state, since, at, detail, boot)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (namespace, node, role) DO UPDATE SET
			state = CASE WHEN desired <> excluded.desired AND state = 'gone' THEN 'unknown' ELSE state END,
			desired = excluded.desired`,
		string(i.Namespace), string(i.Node), string(i.Role), string(i.Desired), string(orDefault(i.Observed.State, orama.StateUnknown)),
		micros(i.Observed.Since), micros(i.Observed.At), i.Observed.Detail, i.Observed.Boot)}
	for _, p := range []struct {
		kind  string
		block orama.PortRange
	}{{kindRelay, i.Ports.Relay}, {kindSignal, i.Ports.Signal}, {kindMedia, i.Ports.Media}} {
		if p.block.Count > 0 {
			b = append(b, takePorts(i, p.kind, p.block))
		}
	}
	return b
}

// takePorts expects one row: none means that the node is unknown or that somebody else has a port of the block on
// the node's address.
func takePorts(i orama.Instance, kind string, p orama.PortRange) statement {
	ns, node, role, first, count := string(i.Namespace), string(i.Node), string(i.Role), int64(p.First), int64(p.Count)
	return stmt(1, `INSERT INTO webrtc_port_allocations (namespace, node, role, kind, address, first_port, port_count)
		SELECT ?, n.id, ?, ?, n.mesh_ip, ?, ? FROM nodes n WHERE n.id = ? AND NOT EXISTS (
			SELECT 1 FROM webrtc_port_allocations o WHERE o.address = n.mesh_ip
				AND o.first_port < ? AND o.first_port + o.port_count > ?
				AND NOT (o.namespace = ? AND o.node = n.id AND o.role = ? AND o.kind = ?))
		ON CONFLICT (namespace, node, role, kind) DO UPDATE SET
			address = excluded.address, first_port = excluded.first_port, port_count = excluded.port_count`,
		ns, role, kind, first, count, node, first+count, first, ns, role, kind)
}

func deleteInstance(i orama.Instance) []statement {
	key := []any{string(i.Namespace), string(i.Node), string(i.Role)}
	const where = ` WHERE namespace = ? AND node = ? AND role = ?`
	return []statement{
		stmt(1, `DELETE FROM webrtc_instances`+where, key...),
		stmt(anyRows, `DELETE FROM webrtc_port_allocations`+where, key...),
	}
}

// recordOwner finds the namespace in a name such as turn-1.ns-NAME.BASE, so that its records go when it does.
func recordOwner(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	label, _, _ := strings.Cut(rest, ".")
	ns, ok := strings.CutPrefix(label, "ns-")
	if !ok {
		return ""
	}
	return ns
}

func putEvents(events []orama.Event, now time.Time) []statement {
	var b []statement
	for _, e := range events {
		if e.At.IsZero() {
			e.At = now
		}
		b = append(b, stmt(anyRows, `INSERT INTO events (id, at, kind, namespace, node, detail) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO NOTHING`, e.ID, micros(e.At), e.Kind, string(e.Namespace), string(e.Node), clip(e.Detail)))
	}
	if len(b) > 0 {
		b = append(b, stmt(anyRows, `DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?)`,
			int64(keptEvents)))
	}
	return b
}

// clip bounds free text, in bytes.
func clip(s string) string {
	const most = 1024
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

func orDefault[T ~string](v, def T) T {
	if v == "" {
		return def
	}
	return v
}
