package store

import (
	"context"
	"time"

	"orama.network/orama"
)

// keptInvitation is how long a used or expired invitation is kept, so that whoever tries it is told why it does not work.
const keptInvitation = 7 * 24 * time.Hour

// Nodes reads the cluster's hosts, by id.
func (s *Store) Nodes(ctx context.Context) ([]orama.Node, error) {
	got, err := s.read(ctx, stmt(anyRows, selectNodes+` ORDER BY id`))
	if err != nil {
		return nil, err
	}
	return each(got[0], node), nil
}

// PutInvitation records an invitation. One that is there already stays as it is.
func (s *Store) PutInvitation(ctx context.Context, i orama.Invitation) error {
	return s.write(ctx, []statement{
		stmt(anyRows, `DELETE FROM join_tokens WHERE expires < ?`, micros(i.CreatedAt.Add(-keptInvitation))),
		stmt(anyRows, `INSERT INTO join_tokens (hash, created_at, expires, used_at, used_by) VALUES (?, ?, ?, 0, '')
			ON CONFLICT (hash) DO NOTHING`, i.Hash, micros(i.CreatedAt), micros(i.Expires)),
	})
}

// Invitation reads an invitation by the hash of its token's secret.
func (s *Store) Invitation(ctx context.Context, hash string) (orama.Invitation, error) {
	return one(ctx, s, func(r row) orama.Invitation {
		return orama.Invitation{Hash: r.str(0), CreatedAt: r.time(1), Expires: r.time(2), UsedAt: r.time(3), UsedBy: orama.NodeID(r.str(4))}
	}, stmt(anyRows, `SELECT hash, created_at, expires, used_at, used_by FROM join_tokens WHERE hash = ?`, hash))
}

// Admit uses an invitation up and records the node that joined by it, in one step. A node with n's id must not be there,
// or, with was, be as was says. orama.ErrConflict: the invitation cannot be used now, or another node has the id, or the
// mesh address, or was has been heard of since; read them again.
func (s *Store) Admit(ctx context.Context, hash string, n orama.Node, was *orama.Node, now time.Time) error {
	batch := []statement{
		stmt(1, `UPDATE join_tokens SET used_at = ?, used_by = ? WHERE hash = ? AND used_at = 0 AND expires > ?`,
			micros(now), string(n.ID), hash, micros(now)),
		stmt(1, `UPDATE meta SET value = value + 1 WHERE key = 'revision'`),
	}
	if was != nil {
		batch = append(batch, stmt(1, `DELETE FROM nodes WHERE id = ? AND heartbeat = ?`, string(was.ID), micros(was.Heartbeat)))
	}
	return s.write(ctx, append(batch,
		stmt(1, `INSERT INTO nodes (id, public_ip, mesh_ip, zone, gateway_url, heartbeat, mesh_key, mesh_endpoint, report)
			SELECT ?, ?, ?, ?, ?, 0, ?, ?, '{}' WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE id = ? OR mesh_ip = ?)`,
			string(n.ID), n.PublicIP.String(), n.MeshIP.String(), n.Zone, n.GatewayURL, n.MeshKey, n.MeshEndpoint,
			string(n.ID), n.MeshIP.String())))
}
