package store

import (
	"context"
	"time"

	"orama.network/orama"
)

// refreshAfter is how old an observation may get in the records before the same sight is written again. Readers
// take one older than 15 s for unknown.
const refreshAfter = 5 * time.Second

// Heartbeat says that a node's agent is alive, and records the node where it is new or changed. Only the latter
// is a new revision.
func (s *Store) Heartbeat(ctx context.Context, n orama.Node, now time.Time) error {
	old, err := one(ctx, s.f, node, stmt(anyRows,
		`SELECT id, public_ip, mesh_ip, zone, gateway_url, heartbeat FROM nodes WHERE id = ?`, string(n.ID)))
	if err != nil && orama.KindOf(err) != orama.KindNotFound {
		return err
	}
	n.Heartbeat = old.Heartbeat
	if err == nil && n == old {
		return s.f.write(ctx, []statement{stmt(1, `UPDATE nodes SET heartbeat = ? WHERE id = ?`, micros(now), string(n.ID))})
	}
	return s.f.write(ctx, []statement{
		stmt(1, `UPDATE meta SET value = value + 1 WHERE key = 'revision'`),
		stmt(1, `INSERT INTO nodes (id, public_ip, mesh_ip, zone, gateway_url, heartbeat) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET public_ip = excluded.public_ip, mesh_ip = excluded.mesh_ip, zone = excluded.zone,
				gateway_url = excluded.gateway_url, heartbeat = excluded.heartbeat`,
			string(n.ID), n.PublicIP.String(), n.MeshIP.String(), n.Zone, n.GatewayURL, micros(now)),
		stmt(anyRows, `UPDATE webrtc_port_allocations SET address = ? WHERE node = ? AND address <> ?`,
			n.MeshIP.String(), string(n.ID), n.MeshIP.String()),
	})
}

// Observe records what an agent saw. It is no new revision, and costs a write only when something is new or what is
// recorded grows old. Instances that are not in the records are passed over.
func (s *Store) Observe(ctx context.Context, seen []orama.Observed) error {
	if len(seen) == 0 {
		return nil
	}
	queries := make([]statement, len(seen))
	for i, o := range seen {
		queries[i] = stmt(anyRows, `SELECT state, since, at, detail, boot FROM webrtc_instances
			WHERE namespace = ? AND node = ? AND role = ?`, string(o.Namespace), string(o.Node), string(o.Role))
	}
	got, err := s.f.read(ctx, queries...)
	if err != nil {
		return err
	}
	var batch []statement
	for i, o := range seen {
		o.Detail = clip(o.Detail)
		if len(got[i]) == 1 && worthWriting(got[i][0], o.Observation) {
			batch = append(batch, stmt(anyRows, `UPDATE webrtc_instances SET state = ?, since = ?, at = ?, detail = ?, boot = ?
				WHERE namespace = ? AND node = ? AND role = ?`, string(o.State), micros(o.Since), micros(o.At), o.Detail, o.Boot,
				string(o.Namespace), string(o.Node), string(o.Role)))
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return s.f.write(ctx, batch)
}

func worthWriting(old row, o orama.Observation) bool {
	same := old.str(0) == string(o.State) && old.int(1) == micros(o.Since) && old.str(3) == o.Detail && old.str(4) == o.Boot
	return !same || o.At.Sub(old.time(2)) >= refreshAfter
}
