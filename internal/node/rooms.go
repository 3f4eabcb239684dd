package node

import (
	"context"
	"slices"
	"time"

	"orama.network/orama"
)

const (
	sweepEvery = 10 * time.Second
	// roomSettles is how long a claimed room may take to have its first peer.
	roomSettles = time.Minute
)

// sweepRooms removes the records of rooms that joins made and that this node's SFU no longer has.
// A room that a later claim moved meanwhile has another epoch and stays.
func (k *keeper) sweepRooms(ctx context.Context, st Status) {
	if k.key.role != orama.RoleSFU || time.Since(k.swept) < sweepEvery {
		return
	}
	k.swept = time.Now()
	rooms, err := k.a.Store.Rooms(ctx, k.key.ns)
	if err != nil {
		return // the next sweep sees to it
	}
	for _, r := range rooms {
		if r.Permanent || r.Node != k.a.Self.ID || time.Since(r.UpdatedAt) < roomSettles || slices.Contains(st.Rooms, r.ID) {
			continue
		}
		if err := k.a.Store.DeleteRoom(ctx, k.key.ns, r.ID, r.Epoch); err != nil && orama.KindOf(err) != orama.KindConflict {
			k.a.Log.Warn("an empty room's record is not removed", "namespace", k.key.ns, "error", err)
		}
	}
}
