package store

import (
	"context"
	"time"

	"orama.network/orama"
)

const selectRooms = `SELECT namespace, room_id, sfu_node, boot, epoch, permanent, created_at, updated_at, state, state_revision FROM webrtc_rooms WHERE namespace = ?`

func room(r row) orama.Room {
	return orama.Room{Namespace: orama.NamespaceID(r.str(0)), ID: orama.RoomID(r.str(1)), Node: orama.NodeID(r.str(2)), Boot: r.str(3),
		Epoch: r.int(4), Permanent: r.bool(5), CreatedAt: r.time(6), UpdatedAt: r.time(7),
		State: r.str(8), StateRevision: r.int(9)}
}

// Room reads who owns a room.
func (s *Store) Room(ctx context.Context, ns orama.NamespaceID, id orama.RoomID) (orama.Room, error) {
	return one(ctx, s, room, stmt(anyRows, selectRooms+` AND room_id = ?`, string(ns), string(id)))
}

// Rooms lists a namespace's rooms by name.
func (s *Store) Rooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error) {
	got, err := s.read(ctx, stmt(anyRows, selectRooms+` ORDER BY room_id`, string(ns)))
	if err != nil {
		return nil, err
	}
	return each(got[0], room), nil
}

// RoomCounts tells how many of a namespace's rooms each node has; nodes without any are missing.
func (s *Store) RoomCounts(ctx context.Context, ns orama.NamespaceID) (map[orama.NodeID]int, error) {
	got, err := s.read(ctx, stmt(anyRows, `SELECT sfu_node, COUNT(*) FROM webrtc_rooms WHERE namespace = ? GROUP BY sfu_node`, string(ns)))
	if err != nil {
		return nil, err
	}
	counts := make(map[orama.NodeID]int, len(got[0]))
	for _, r := range got[0] {
		counts[orama.NodeID(r.str(0))] = int(r.int(1))
	}
	return counts, nil
}

// ClaimRoom makes r.Node the owner of a room: of a new one with epoch 1, else of one whose epoch is r.Epoch-1. Whoever
// comes second gets orama.ErrConflict and reads who was first. CreatedAt of the first claim stays. In a namespace
// without WebRTC there is no room to claim: "webrtc_not_enabled".
func (s *Store) ClaimRoom(ctx context.Context, r orama.Room) error {
	err := s.write(ctx, []statement{claim(r)})
	if orama.KindOf(err) != orama.KindConflict {
		return err
	}
	n, readErr := s.Namespace(ctx, r.Namespace)
	if orama.KindOf(readErr) == orama.KindNotFound || readErr == nil && (n.WebRTC == nil || n.WebRTC.Disabling) {
		return orama.Errorf(orama.KindNotFound, "webrtc_not_enabled", "WebRTC is not enabled for %s", r.Namespace)
	}
	return err
}

func claim(r orama.Room) statement {
	ns, id := string(r.Namespace), string(r.ID)
	const enabled = `EXISTS (SELECT 1 FROM namespace_webrtc_config w WHERE w.namespace = ? AND w.enabled = 1)`
	if r.Epoch == 1 {
		return stmt(1, `INSERT INTO webrtc_rooms (namespace, room_id, sfu_node, boot, epoch, permanent, created_at, updated_at)
			SELECT ?, ?, ?, ?, 1, ?, ?, ? WHERE `+enabled+` ON CONFLICT (namespace, room_id) DO NOTHING`,
			ns, id, string(r.Node), r.Boot, bit(r.Permanent), micros(r.CreatedAt), micros(r.UpdatedAt), ns)
	}
	return stmt(1, `UPDATE webrtc_rooms SET sfu_node = ?, boot = ?, epoch = ?, permanent = ?, updated_at = ?
		WHERE namespace = ? AND room_id = ? AND epoch = ? AND `+enabled,
		string(r.Node), r.Boot, r.Epoch, bit(r.Permanent), micros(r.UpdatedAt), ns, id, r.Epoch-1, ns)
}

// DeleteRoom forgets a room if its epoch is still the given one, or whatever it is for 0. orama.ErrNotFound: it was not there.
// orama.ErrConflict: it has another epoch.
func (s *Store) DeleteRoom(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, epoch int64) error {
	err := s.write(ctx, []statement{stmt(1, `DELETE FROM webrtc_rooms WHERE namespace = ? AND room_id = ? AND (? = 0 OR epoch = ?)`,
		string(ns), string(id), epoch, epoch)})
	if orama.KindOf(err) != orama.KindConflict {
		return err
	}
	if _, readErr := s.Room(ctx, ns, id); readErr != nil {
		return readErr
	}
	return err
}

// PutRoomState keeps what admins have made of a room, if it is newer than what is kept. orama.ErrConflict: it is not, or there is no such room.
func (s *Store) PutRoomState(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, revision int64, state string) error {
	return s.write(ctx, []statement{stmt(1, `UPDATE webrtc_rooms SET state = ?, state_revision = ?
		WHERE namespace = ? AND room_id = ? AND state_revision < ?`, state, revision, string(ns), string(id), revision)})
}

// keptKick is how long a kick is kept: no token from the API or the command line lives longer.
const keptKick = 24 * time.Hour

// PutKick keeps a kick, and lets go of those that have outlived every token. Of two of the same user the later one counts.
func (s *Store) PutKick(ctx context.Context, k orama.Kick) error {
	return s.write(ctx, []statement{
		stmt(anyRows, `DELETE FROM webrtc_kicks WHERE at < ?`, micros(k.At.Add(-keptKick))),
		stmt(anyRows, `INSERT INTO webrtc_kicks (namespace, room_id, user_id, at) VALUES (?, ?, ?, ?)
			ON CONFLICT (namespace, room_id, user_id) DO UPDATE SET at = max(at, excluded.at)`,
			string(k.Namespace), string(k.Room), string(k.User), micros(k.At)),
	})
}

// Kicked tells when a user was last kicked from a room; orama.ErrNotFound: not in the time that counts. The read is weak.
func (s *Store) Kicked(ctx context.Context, ns orama.NamespaceID, room orama.RoomID, user orama.UserID) (time.Time, error) {
	return one(ctx, s, func(r row) time.Time { return r.time(0) },
		weak(`SELECT at FROM webrtc_kicks WHERE namespace = ? AND room_id = ? AND user_id = ?`, string(ns), string(room), string(user)))
}
