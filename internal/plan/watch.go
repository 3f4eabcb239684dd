package plan

import (
	"time"

	"orama.network/orama"
)

// Watch measures for how long each node's heartbeat stands still, by the watcher's own clock alone: a heartbeat carries
// the time of its node's clock, and either clock may jump. So a watcher that has just started has to watch for ten
// minutes before it calls a node lost, which also leaves the nodes of a cluster that was without power the time to
// start. The zero value is ready to use, by one goroutine at a time.
type Watch struct {
	seen   map[orama.NodeID]sighting
	looked time.Time
}

// sighting is a heartbeat, and since when it is that one.
type sighting struct {
	beat  time.Time
	since time.Time
}

// Silence is for how long each node's heartbeat was seen to stand still.
type Silence map[orama.NodeID]time.Duration

// Look takes the nodes as they were read at now. After a time without a look nothing is known of what the nodes did
// in it, so that counting begins anew. While most nodes are silent at once nothing is counted against any of
// them: the records may not have taken their heartbeats, and they come back one after the other.
func (w *Watch) Look(nodes []orama.Node, now time.Time) Silence {
	if gap := now.Sub(w.looked); gap < 0 || gap > aliveFor {
		w.seen = nil
	}
	w.looked = now
	seen, s := map[orama.NodeID]sighting{}, Silence{}
	for _, n := range nodes {
		at, known := w.seen[n.ID]
		if !known || !at.beat.Equal(n.Heartbeat) {
			at = sighting{n.Heartbeat, now}
		}
		seen[n.ID], s[n.ID] = at, now.Sub(at.since)
	}
	if s.most(nodes) {
		for id, at := range seen {
			if s[id] > aliveFor {
				s[id] = aliveFor + 1
				at.since = now.Add(-s[id])
				seen[id] = at
			}
		}
	}
	w.seen = seen
	return s
}

// most reports whether the greater part of the nodes is silent. Then it is more likely our clock or our records than they.
func (s Silence) most(nodes []orama.Node) bool {
	quiet := 0
	for _, n := range nodes {
		if s[n.ID] > aliveFor {
			quiet++
		}
	}
	return 2*quiet > len(nodes)
}

// lost reports whether a node was silent for so long that its roles go to others, or is no longer in the cluster.
func (s Silence) lost(c orama.Cluster, id orama.NodeID) bool {
	if s.most(c.Nodes) {
		return false
	}
	_, known := nodeOf(c, id)
	return !known || s[id] >= presentFor
}
