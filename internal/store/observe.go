package store

import (
	"context"
	"encoding/json"
	"time"

	"orama.network/orama"
)

// refreshAfter is how old an observation may get in the records before the same sight is written again. Readers
// take one older than 15 s for unknown.
const refreshAfter = 5 * time.Second

// Heartbeat says that a node's agent is alive and what it reports, and records the node where it is new or changed.
// Only the latter is a new revision.
func (s *Store) Heartbeat(ctx context.Context, n orama.Node, now time.Time) error {
	old, err := one(ctx, s, node, stmt(anyRows, selectNodes+` WHERE id = ?`, string(n.ID)))
	if err != nil && orama.KindOf(err) != orama.KindNotFound {
		return err
	}
	report, err2 := json.Marshal(n.Report)
	if err2 != nil {
		return orama.Errorf(orama.KindInvalid, "invalid_report", "the node's report cannot be written: %v", err2)
	}
	if err == nil && identity(n) == identity(old) {
		return s.write(ctx, []statement{stmt(1, `UPDATE nodes SET heartbeat = ?, report = ? WHERE id = ?`, micros(now), string(report), string(n.ID))})
	}
	return s.write(ctx, []statement{
		stmt(1, `UPDATE meta SET value = value + 1 WHERE key = 'revision'`),
		stmt(1, `INSERT INTO nodes (id, public_ip, mesh_ip, zone, gateway_url, heartbeat, mesh_key, mesh_endpoint, report)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET public_ip = excluded.public_ip, mesh_ip = excluded.mesh_ip, zone = excluded.zone,
				gateway_url = excluded.gateway_url, heartbeat = excluded.heartbeat, mesh_key = excluded.mesh_key,
				mesh_endpoint = excluded.mesh_endpoint, report = excluded.report`,
			string(n.ID), n.PublicIP.String(), n.MeshIP.String(), n.Zone, n.GatewayURL, micros(now), n.MeshKey, n.MeshEndpoint, string(report)),
		stmt(anyRows, `UPDATE webrtc_port_allocations SET address = ? WHERE node = ? AND address <> ?`,
			n.MeshIP.String(), string(n.ID), n.MeshIP.String()),
	})
}

// identity is what makes a node another one when it changes.
func identity(n orama.Node) [7]string {
	return [7]string{string(n.ID), n.PublicIP.String(), n.MeshIP.String(), n.Zone, n.GatewayURL, n.MeshKey, n.MeshEndpoint}
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
	got, err := s.read(ctx, queries...)
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
	return s.write(ctx, batch)
}

func worthWriting(old row, o orama.Observation) bool {
	same := old.str(0) == string(o.State) && old.int(1) == micros(o.Since) && old.str(3) == o.Detail && old.str(4) == o.Boot
	return !same || o.At.Sub(old.time(2)) >= refreshAfter
}
