package gateway

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/store"
)

// onDisk puts the world's cluster into a real database and gives each of two gateways, on two nodes, its own connection to it.
func onDisk(t *testing.T, w *world) (db *store.Store, gs [2]*edge) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "affinity") // the claims are raced, not the disk
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "cluster.db")
	open := func() *store.Store {
		s, err := store.Open(t.Context(), store.Options{File: path})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	db = open()
	var seen []orama.Observed
	for _, n := range w.store.cluster.Nodes {
		require.NoError(t, db.Heartbeat(t.Context(), n, time.Now()))
	}
	c, err := db.Cluster(t.Context())
	require.NoError(t, err)
	require.NoError(t, db.Commit(t.Context(), orama.Change{Base: c.Revision, PutNamespaces: w.store.cluster.Namespaces[:1], PutInstances: w.store.cluster.Instances}))
	for _, in := range w.store.cluster.Instances {
		seen = append(seen, orama.Observed{Namespace: in.Namespace, Node: in.Node, Role: in.Role, Observation: in.Observed})
	}
	require.NoError(t, db.Observe(t.Context(), seen))
	for i := range gs {
		own := open()
		gs[i] = w.gateway(func(c *Config, d *Deps, tm *timing) {
			c.Node, d.Store = orama.NodeID(fmt.Sprintf("node-%d", i+1)), own
			tm.viewFor, tm.countFor = defaultTiming.viewFor, defaultTiming.countFor
			tm.storeWithin, tm.joinWithin, tm.dialWithin = time.Minute, time.Minute, time.Minute // a busy machine loses no race
		})
	}
	return db, gs
}

// letGo ends every socket of the SFUs as soon as it is there: what counts is that it was let in.
func (w *world) letGo() {
	for _, f := range w.sfus {
		stop, done := make(chan struct{}), make(chan struct{})
		w.t.Cleanup(func() { close(stop); <-done })
		go func() {
			defer close(done)
			for {
				select {
				case j := <-f.joins:
					close(j.done)
				case <-stop:
					return
				}
			}
		}()
	}
}

// landed takes from all SFUs who was let in where since the last time: rooms, their nodes, and how many there.
func (w *world) landed() map[orama.RoomID]map[orama.NodeID]int {
	out := map[orama.RoomID]map[orama.NodeID]int{}
	for _, f := range w.sfus {
		f.mu.Lock()
		for _, t := range f.tickets {
			if out[t.Room] == nil {
				out[t.Room] = map[orama.NodeID]int{}
			}
			out[t.Room][t.Node]++
		}
		f.tickets = nil
		f.mu.Unlock()
	}
	return out
}

// race has both gateways join every room at the same moment, a few rooms at a time.
func race(t *testing.T, w *world, gs [2]*edge, rooms []orama.RoomID) {
	t.Helper()
	patient := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, room := range rooms {
		slots <- struct{}{}
		start := make(chan struct{})
		var both sync.WaitGroup
		for i, g := range gs {
			token := w.token(func(t *auth.Token) { t.User = orama.UserID(fmt.Sprintf("%s-%d", room, i)) })
			both.Go(func() {
				<-start
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c, _, err := websocket.Dial(ctx, g.url+signalPath+"?room="+string(room), &websocket.DialOptions{
					HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}, HTTPClient: patient})
				if err != nil {
					t.Errorf("join of %s at gateway %d: %v", room, i, err)
					return
				}
				c.CloseNow() //nolint:errcheck // it is ended anyway
			})
		}
		close(start)
		wg.Go(func() { both.Wait(); <-slots })
	}
	wg.Wait()
}

// A thousand rooms, each joined first at two gateways at once: one owner each, and both joins land on it. Then an owner dies:
// its rooms have one owner each again, and the others stay where they are.
func TestAThousandRacesHaveOneWinnerEach(t *testing.T) {
	w := newWorld(t, 3)
	db, gs := onDisk(t, w)
	w.letGo()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.logs.String()) // why a room was moved
		}
	})
	rooms := make([]orama.RoomID, 1000)
	for i := range rooms {
		rooms[i] = orama.RoomID(fmt.Sprintf("race-%d", i))
	}
	began := time.Now()
	race(t, w, gs, rooms)
	t.Logf("%d joins took %s", 2*len(rooms), time.Since(began).Round(time.Millisecond))
	owner, count := map[orama.RoomID]orama.NodeID{}, map[orama.NodeID]int{}
	where := w.landed()
	for _, room := range rooms {
		row, err := db.Room(t.Context(), ns, room)
		require.NoError(t, err)
		require.EqualValues(t, 1, row.Epoch, "%s was claimed once", room)
		require.Equal(t, map[orama.NodeID]int{row.Node: 2}, where[room], "%s: both joins land on its owner", room)
		owner[room] = row.Node
		count[row.Node]++
	}
	require.Len(t, count, 3, "they are spread: %v", count)

	w.sfus[0].srv.Close() //nolint:errcheck // it dies
	some := rooms[:150]
	race(t, w, gs, some)
	where = w.landed()
	moved := 0
	for _, room := range some {
		row, err := db.Room(t.Context(), ns, room)
		require.NoError(t, err)
		require.Equal(t, map[orama.NodeID]int{row.Node: 2}, where[room], "%s: both joins land on its owner", room)
		if owner[room] != "node-1" {
			require.Equal(t, owner[room], row.Node, "%s had no reason to move", room)
			require.EqualValues(t, 1, row.Epoch)
			continue
		}
		moved++
		require.NotEqual(t, orama.NodeID("node-1"), row.Node)
		require.EqualValues(t, 2, row.Epoch, "%s was moved once", room)
	}
	require.Positive(t, moved)
}
