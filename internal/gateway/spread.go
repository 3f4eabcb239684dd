package gateway

import (
	"context"
	"maps"
	"sync"
	"time"

	"orama.network/orama"
)

// spread knows about how many rooms each node has, for new ones to be put where there are few. It counts once in countFor
// and adds what this gateway claims in between: a thousand people who open rooms at nine o'clock are counted for once.
type spread struct {
	mu sync.Mutex
	of map[orama.NamespaceID]*counted // guarded by mu; one for each namespace that ever had a room here
}

type counted struct {
	at    time.Time // when it was counted, or somebody began to
	rooms map[orama.NodeID]int
}

// count gives the rooms of each node.
func (g *Gateway) count(ctx context.Context, ns orama.NamespaceID) (map[orama.NodeID]int, error) {
	now := g.now()
	g.spread.mu.Lock()
	if c := g.spread.of[ns]; c != nil {
		if now.Sub(c.at) < g.timing.countFor {
			defer g.spread.mu.Unlock()
			return maps.Clone(c.rooms), nil
		}
		c.at = now // the others go by the old count while this one counts
	}
	g.spread.mu.Unlock()
	rooms, err := g.store.RoomCounts(ctx, ns)
	if err != nil {
		return nil, err
	}
	g.spread.mu.Lock()
	defer g.spread.mu.Unlock()
	g.spread.of[ns] = &counted{now, maps.Clone(rooms)}
	return rooms, nil
}

// claimed counts one more room.
func (g *Gateway) claimed(ns orama.NamespaceID, node orama.NodeID) {
	g.spread.mu.Lock()
	defer g.spread.mu.Unlock()
	if c := g.spread.of[ns]; c != nil {
		c.rooms[node]++
	}
}
