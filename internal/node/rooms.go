package node

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"time"

	"orama.network/orama"
)

const (
	// sweepEvery is how often an SFU's rooms are compared with their records: a room without a record is claimed again
	// before gateways, who look every 2 s and want to miss it three times, cut its people off.
	sweepEvery = 2 * time.Second
	// idleSweepEvery is sweepEvery of an SFU without rooms.
	idleSweepEvery = 10 * time.Second
	// roomSettles is how long a claimed room may take to have its first peer.
	roomSettles = time.Minute
)

// roomSweep is what one sweep leaves for the next.
type roomSweep struct {
	at     time.Time
	strays map[orama.RoomID]int64 // rooms in hand whose record names another node: the record's epoch
	kicks  map[orama.Kick]bool    // those recorded, as the SFU tells of them
}

// sweepRooms makes the SFU's rooms and their records agree. The record decides, unless nobody else can have the room:
//
//	record                      SFU            what is done
//	names this node             not in hand    removed by its epoch, if a join made it and nobody came for a minute
//	names an earlier process    has peers      claimed for this one: that one is gone
//	of this node
//	names another node          has peers      when seen twice with the same epoch, the peers are sent there
//	none                        has peers      claimed; where joins make no rooms, it was closed, and the peers are sent away
//
// Records are read before the SFU is asked: a room that is closed in between is not in hand any more. Every write
// names the epoch that was read, so a gateway that was faster wins. What cannot be read changes nothing.
func (k *keeper) sweepRooms(ctx context.Context, st Status) {
	every := sweepEvery
	if len(st.Rooms) == 0 {
		every = idleSweepEvery
	}
	if k.key.role != orama.RoleSFU || st.Draining || time.Since(k.rooms.at) < every {
		return
	}
	k.rooms.at = time.Now()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	records, err := k.a.Store.Rooms(ctx, k.key.ns)
	if err != nil {
		return // the next sweep sees to it
	}
	inHand, err := k.a.Processes.InHand(ctx, k.key.ns)
	if err != nil {
		return
	}
	k.record(ctx, records, st.Moderated)
	strays := map[orama.RoomID]int64{}
	for _, r := range records {
		peers, here := inHand[r.ID]
		delete(inHand, r.ID)
		switch {
		case peers == 0 && !here:
			k.tidy(ctx, r)
		case peers == 0 || r.Node == k.a.Self.ID && r.Boot == st.Boot:
		case r.Node == k.a.Self.ID:
			r.Boot, r.UpdatedAt = st.Boot, recordTime()
			r.Epoch++
			k.claim(ctx, r, "it named an earlier process")
		case k.rooms.strays[r.ID] == r.Epoch:
			k.move(ctx, r.ID, "the room has moved to another server")
		default:
			strays[r.ID] = r.Epoch
		}
	}
	k.rooms.strays = strays
	k.adopt(ctx, st.Boot, inHand)
}

// record keeps what admins have done through the SFU, so that other gateways and the room's next SFU know. What cannot be written
// now is written by a later sweep.
func (k *keeper) record(ctx context.Context, records []orama.Room, moderated []Moderated) {
	kept := map[orama.RoomID]int64{}
	for _, r := range records {
		kept[r.ID] = r.StateRevision
	}
	kicks := map[orama.Kick]bool{}
	for _, m := range moderated {
		if revision, known := kept[m.Room]; known && m.Revision > revision {
			if err := k.a.Store.PutRoomState(ctx, k.key.ns, m.Room, m.Revision, m.State); err != nil && !expected(err) {
				k.a.Log.Warn("a room's state is not recorded; it is tried again", "namespace", k.key.ns, "room", m.Room, "error", err)
			}
		}
		for _, kick := range m.Kicks {
			kick.Namespace, kick.Room = k.key.ns, m.Room
			if !k.rooms.kicks[kick] {
				if err := k.a.Store.PutKick(ctx, kick); err != nil {
					k.a.Log.Warn("a kick is not recorded; it is tried again", "namespace", k.key.ns, "room", m.Room, "error", err)
					continue
				}
			}
			kicks[kick] = true
		}
	}
	k.rooms.kicks = kicks
}

// tidy removes the record of a room that a join made and that this node's SFU no longer has. A room that a
// later claim moved meanwhile has another epoch and stays.
func (k *keeper) tidy(ctx context.Context, r orama.Room) {
	if r.Permanent || r.Node != k.a.Self.ID || time.Since(r.UpdatedAt) < roomSettles {
		return
	}
	if err := k.a.Store.DeleteRoom(ctx, k.key.ns, r.ID, r.Epoch); err != nil && !expected(err) {
		k.a.Log.Warn("an empty room's record is not removed", "namespace", k.key.ns, "error", err)
	}
}

// adopt deals with rooms that have people and no record. A join may have come while the empty room's record was
// removed: then the room is claimed again, and nobody notices.
func (k *keeper) adopt(ctx context.Context, boot string, inHand map[orama.RoomID]int) {
	maps.DeleteFunc(inHand, func(id orama.RoomID, peers int) bool {
		return peers == 0 || strings.HasPrefix(string(id), "_") // such as the room of the agent's own probe
	})
	if len(inHand) == 0 {
		return
	}
	c, err := k.a.Store.Cluster(ctx)
	if err != nil {
		return
	}
	for id := range inHand {
		if closedRooms(c, k.key.ns) {
			k.move(ctx, id, "the room was closed")
			continue
		}
		at := recordTime()
		k.claim(ctx, orama.Room{Namespace: k.key.ns, ID: id, Node: k.a.Self.ID, Boot: boot, Epoch: 1, CreatedAt: at, UpdatedAt: at}, "it had none")
	}
}

func closedRooms(c orama.Cluster, ns orama.NamespaceID) bool {
	for _, n := range c.Namespaces {
		if n.ID == ns {
			return n.ClosedRooms
		}
	}
	return false
}

func (k *keeper) claim(ctx context.Context, r orama.Room, why string) {
	err := k.a.Store.ClaimRoom(ctx, r)
	switch {
	case err == nil:
		k.a.Log.Info("a room's record is put right", "namespace", r.Namespace, "room", r.ID, "why", why)
	case !expected(err):
		k.a.Log.Warn("a room's record is not put right; it is tried again", "namespace", r.Namespace, "room", r.ID, "error", err)
	}
}

func (k *keeper) move(ctx context.Context, room orama.RoomID, why string) {
	level := slog.LevelInfo
	err := k.a.Processes.MoveRoom(ctx, k.key.ns, room, why)
	if err != nil {
		level = slog.LevelWarn
	}
	k.a.Log.Log(ctx, level, "a room is sent away", "namespace", k.key.ns, "room", room, "why", why, "error", err)
}

// expected tells that somebody else was faster: the record has another epoch, or is gone, or the namespace is disabled.
func expected(err error) bool {
	kind := orama.KindOf(err)
	return kind == orama.KindConflict || kind == orama.KindNotFound
}

// recordTime is now, as fine as records are kept.
func recordTime() time.Time { return time.Now().Truncate(time.Microsecond) }
