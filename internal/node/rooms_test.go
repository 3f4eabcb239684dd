package node_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/node"
)

// The world's rooms, with the compare-and-set of the real store.

func (w *world) Rooms(context.Context, orama.NamespaceID) ([]orama.Room, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unread {
		return nil, errors.New("records cannot be read")
	}
	return slices.Clone(w.rooms), nil
}

func (w *world) record(id orama.RoomID) int {
	return slices.IndexFunc(w.rooms, func(r orama.Room) bool { return r.ID == id })
}

func (w *world) ClaimRoom(_ context.Context, r orama.Room) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.record(r.ID)
	switch {
	case i < 0 && r.Epoch == 1:
		w.rooms = append(w.rooms, r)
	case i >= 0 && w.rooms[i].Epoch == r.Epoch-1:
		w.rooms[i] = r
	default:
		return orama.ErrConflict
	}
	return nil
}

func (w *world) DeleteRoom(_ context.Context, _ orama.NamespaceID, id orama.RoomID, epoch int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.record(id)
	switch {
	case i < 0:
		return orama.ErrNotFound
	case w.rooms[i].Epoch != epoch:
		return orama.ErrConflict
	}
	w.rooms = slices.Delete(w.rooms, i, i+1)
	return nil
}

func (w *world) PutRoomState(_ context.Context, _ orama.NamespaceID, id orama.RoomID, revision int64, state string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.record(id)
	if i < 0 || w.rooms[i].StateRevision >= revision {
		return orama.ErrConflict
	}
	w.rooms[i].State, w.rooms[i].StateRevision = state, revision
	return nil
}

func (w *world) PutKick(_ context.Context, k orama.Kick) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unread {
		return errors.New("records cannot be written")
	}
	w.kicks = append(w.kicks, k)
	return nil
}

func (w *world) InHand(context.Context, orama.NamespaceID) (map[orama.RoomID]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[orama.RoomID]int{}
	for id, n := range w.hand {
		out[id] = n
	}
	if race := w.race; race != nil { // after the agent has read everything
		w.race = nil
		race()
	}
	return out, nil
}

// MoveRoom does what an SFU does: it sends everybody away.
func (w *world) MoveRoom(_ context.Context, _ orama.NamespaceID, room orama.RoomID, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = append(w.moved, room)
	w.hand[room] = 0
	return nil
}

// withRooms is a world with an SFU that has settled; its boot is given to set, which makes the records.
func withRooms(t *testing.T, w *world, set func(boot string, old time.Time), f func(t *testing.T)) {
	t.Helper()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		boot := w.process(orama.RoleSFU, "alpha").boot
		w.mu.Lock()
		set(boot, time.Now().Add(-time.Hour))
		w.mu.Unlock()
		later(30 * time.Second)
		f(t)
	})
}

func (w *world) ids() (out []orama.RoomID) {
	for _, r := range w.rooms {
		out = append(out, r.ID)
	}
	return out
}

func TestRecordsOfEmptyRoomsAreRemoved(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(boot string, old time.Time) {
		w.hand = map[orama.RoomID]int{"busy": 2, "waiting": 0}
		w.rooms = []orama.Room{
			{ID: "busy", Node: self, Boot: boot, Epoch: 1, UpdatedAt: old},
			{ID: "waiting", Node: self, Boot: boot, Epoch: 1, UpdatedAt: old},
			{ID: "empty", Node: self, Boot: boot, Epoch: 1, UpdatedAt: old},
			{ID: "kept", Node: self, Boot: boot, Epoch: 1, UpdatedAt: old, Permanent: true},
			{ID: "elsewhere", Node: "node-2", Epoch: 1, UpdatedAt: old},
			{ID: "new", Node: self, Boot: boot, Epoch: 1, UpdatedAt: time.Now().Add(time.Hour)},
		}
	}, func(t *testing.T) {
		require.Equal(t, []orama.RoomID{"busy", "waiting", "kept", "elsewhere", "new"}, w.ids())
		require.Empty(t, w.moved)
	})
}

// After a partition two SFUs have the same room. The record names one; the other lets it go.
func TestWhatAdminsDidIsRecorded(t *testing.T) {
	w := newWorld()
	kick := orama.Kick{User: "bob", At: time.Unix(1000, 0).UTC()}
	withRooms(t, w, func(boot string, old time.Time) {
		w.rooms = []orama.Room{{Namespace: "alpha", ID: "daily", Node: "node-1", Boot: boot, Epoch: 1, UpdatedAt: old}}
		w.hand = map[orama.RoomID]int{"daily": 2}
		w.moderated = []node.Moderated{{Room: "daily", Revision: 2, State: "two", Kicks: []orama.Kick{kick}}}
		w.unread = true
	}, func(t *testing.T) {
		w.mu.Lock()
		require.Empty(t, w.kicks)
		w.unread = false
		w.mu.Unlock()
		later(10 * time.Second)
		w.mu.Lock()
		require.Equal(t, "two", w.rooms[0].State)
		require.EqualValues(t, 2, w.rooms[0].StateRevision)
		kick.Namespace, kick.Room = "alpha", "daily"
		require.Equal(t, []orama.Kick{kick}, w.kicks, "once, however often the SFU tells of it")
		w.rooms[0].StateRevision, w.rooms[0].State = 5, "an owner's"
		w.mu.Unlock()
		later(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Equal(t, "an owner's", w.rooms[0].State, "the newer one stays")
	})
}

func TestARoomThatMovedMeanwhileIsLetGo(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(boot string, old time.Time) {
		w.hand = map[orama.RoomID]int{"split": 3, "mine": 1, "left": 0}
		w.rooms = []orama.Room{
			{ID: "split", Node: "node-2", Boot: "b2", Epoch: 2, UpdatedAt: old},
			{ID: "mine", Node: self, Boot: boot, Epoch: 4, UpdatedAt: old},
			{ID: "left", Node: "node-2", Boot: "b2", Epoch: 2, UpdatedAt: old},
		}
	}, func(t *testing.T) {
		require.Equal(t, []orama.RoomID{"split"}, w.moved, "once: then nobody is left in it")
		require.Equal(t, []orama.RoomID{"split", "mine", "left"}, w.ids())
		require.EqualValues(t, 2, w.rooms[0].Epoch, "its record is the other's to change")
	})
}

// One look at a record may be older than the room: what it says must be seen twice.
func TestARecordThatChangesBackMovesNobody(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(boot string, old time.Time) {
		w.hand = map[orama.RoomID]int{"daily": 3}
		w.rooms = []orama.Room{{ID: "daily", Node: "node-2", Boot: "b2", Epoch: 2, UpdatedAt: old}}
		w.race = func() { w.rooms[0] = orama.Room{ID: "daily", Node: self, Boot: boot, Epoch: 3, UpdatedAt: old} }
	}, func(t *testing.T) {
		require.Empty(t, w.moved)
		require.EqualValues(t, 3, w.rooms[0].Epoch)
	})
}

func TestUnreadableRecordsMoveNobody(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(_ string, old time.Time) {
		w.hand = map[orama.RoomID]int{"split": 3, "unknown": 1}
		w.rooms = []orama.Room{{ID: "split", Node: "node-2", Boot: "b2", Epoch: 2, UpdatedAt: old}}
		w.unread = true
	}, func(t *testing.T) {
		require.Empty(t, w.moved)
		require.Len(t, w.rooms, 1)
	})
}

func TestARoomWithPeopleAndNoRecordIsClaimed(t *testing.T) {
	w := newWorld()
	var boot string
	withRooms(t, w, func(b string, _ time.Time) {
		boot, w.hand = b, map[orama.RoomID]int{"lost": 3, "empty": 0, "_probe": 1}
	}, func(t *testing.T) {
		require.Equal(t, []orama.RoomID{"lost"}, w.ids())
		r := w.rooms[0]
		require.Equal(t, orama.Room{Namespace: "alpha", ID: "lost", Node: self, Boot: boot, Epoch: 1, CreatedAt: r.CreatedAt, UpdatedAt: r.CreatedAt}, r)
		require.False(t, r.CreatedAt.IsZero())
		require.Empty(t, w.moved)
	})
}

// Somebody else may have made the room anew meanwhile: then it is theirs.
func TestAClaimThatComesSecondLetsTheRoomGo(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(_ string, old time.Time) {
		w.hand = map[orama.RoomID]int{"lost": 3}
		w.race = func() { w.rooms = []orama.Room{{ID: "lost", Node: "node-2", Boot: "b2", Epoch: 1, UpdatedAt: old}} }
	}, func(t *testing.T) {
		require.Equal(t, orama.NodeID("node-2"), w.rooms[0].Node)
		require.Equal(t, []orama.RoomID{"lost"}, w.moved)
	})
}

func TestARecordOfAnEarlierProcessIsPutRight(t *testing.T) {
	w := newWorld()
	var boot string
	withRooms(t, w, func(b string, old time.Time) {
		boot, w.hand = b, map[orama.RoomID]int{"daily": 3}
		w.rooms = []orama.Room{{ID: "daily", Node: self, Boot: "before", Epoch: 7, Permanent: true, UpdatedAt: old}}
	}, func(t *testing.T) {
		require.Equal(t, boot, w.rooms[0].Boot)
		require.EqualValues(t, 8, w.rooms[0].Epoch)
		require.True(t, w.rooms[0].Permanent)
		require.Empty(t, w.moved)
	})
}

// Where only owners make rooms, one without a record was closed by its owner.
func TestAClosedRoomIsNotMadeAnewByItsSFU(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(string, time.Time) {
		w.hand = map[orama.RoomID]int{"closed": 3}
		w.cluster.Namespaces[0].ClosedRooms = true
	}, func(t *testing.T) {
		require.Empty(t, w.rooms)
		require.Equal(t, []orama.RoomID{"closed"}, w.moved)
	})
}

// The record of an empty room is removed at the very moment when somebody joins it. A join leaves the epoch as
// it is, so it is removed all the same; the next look, before any gateway acts on it, claims it for who is there.
func TestAJoinWhileItsRecordIsRemovedKeepsTheRoom(t *testing.T) {
	w := newWorld()
	var boot string
	withRooms(t, w, func(b string, old time.Time) {
		boot = b
		w.rooms = []orama.Room{{ID: "daily", Node: self, Boot: boot, Epoch: 5, UpdatedAt: old}}
		w.race = func() { w.hand["daily"] = 1 }
	}, func(t *testing.T) {
		require.Equal(t, []orama.RoomID{"daily"}, w.ids())
		require.Equal(t, boot, w.rooms[0].Boot)
		require.EqualValues(t, 1, w.rooms[0].Epoch, "it was removed and claimed again")
		require.Empty(t, w.moved, "nobody has noticed")
	})
}

// A claim that comes while the record is about to be removed changes the epoch, and the record stays.
func TestAClaimWhileItsRecordIsRemovedWins(t *testing.T) {
	w := newWorld()
	withRooms(t, w, func(boot string, old time.Time) {
		w.rooms = []orama.Room{{ID: "daily", Node: self, Boot: boot, Epoch: 5, UpdatedAt: old}}
		w.race = func() {
			w.rooms[0].Epoch, w.rooms[0].UpdatedAt, w.rooms[0].Node = 6, time.Now(), "node-2"
		}
	}, func(t *testing.T) {
		require.Len(t, w.rooms, 1)
		require.EqualValues(t, 6, w.rooms[0].Epoch)
	})
}
