package node

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"orama.network/orama"
)

// heartbeatEvery is far below the 15 s after which a node is called silent and the 10 minutes after which it loses its roles.
const heartbeatEvery = 2 * time.Second

// maxBusy bounds the ranges of a report.
const maxBusy = 256

// Machine measures this host.
type Machine interface {
	// Report measures now. Busy holds every port of our ranges that a socket has which the mesh address cannot share, ours
	// included. State, Relays, Checks and Used are left to the agent.
	Report(ctx context.Context) orama.NodeReport
}

// vitals are what a heartbeat says beside the measures. The passes and the keepers write them.
type vitals struct {
	reads  bool                    // the last reading of the records succeeded
	state  int64                   // revision of the saved state file
	owned  []orama.PortRange       // blocks that the records give to instances on this mesh address
	serves map[reportKey]bool      // instances of this node that are to run
	used   map[reportKey]time.Time // when a probe last succeeded
	relays int                     // TURN allocations in use
}

// keep notes what a reading of the records means for the heartbeat.
func (a *Agent) keep(c orama.Cluster) {
	mesh := map[orama.NodeID]bool{a.Self.ID: true}
	for _, n := range c.Nodes {
		mesh[n.ID] = mesh[n.ID] || n.MeshIP == a.Self.MeshIP
	}
	var owned []orama.PortRange
	serves := map[reportKey]bool{}
	for _, i := range c.Instances {
		if mesh[i.Node] {
			owned = append(owned, i.Ports.Relay, i.Ports.Signal, i.Ports.Media)
		}
		if i.Node == a.Self.ID && i.Desired == orama.DesiredRun {
			serves[reportKey{i.Namespace, i.Role}] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	news := !a.vital.reads || a.vital.state != a.saved.Revision
	a.vital.reads, a.vital.state, a.vital.owned, a.vital.serves = true, a.saved.Revision, owned, serves
	maps.DeleteFunc(a.vital.used, func(k reportKey, _ time.Time) bool { return !serves[k] })
	if news {
		a.beatSoon()
	}
}

// lost notes that the records cannot be read.
func (a *Agent) lost() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vital.reads = false
}

// Beat has a heartbeat sent now: something that it tells has changed.
func (a *Agent) Beat() { a.beatSoon() }

// beatSoon has a heartbeat sent now.
func (a *Agent) beatSoon() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

func (a *Agent) noteUsed(ns orama.NamespaceID, role orama.Role, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vital.used[reportKey{ns, role}] = at
}

func (a *Agent) noteRelays(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vital.relays = n
}

// beat sends heartbeats until ctx ends: at once when the records can be read again or the state file was saved,
// so that whoever waits for it need not wait long. While the records cannot be read there is none: a node that
// does not know what it is to do must not look as if it did. And after such a time the first one is made from a new
// reading, so that what still runs though its record is gone is told as a stranger's.
func (a *Agent) beat(ctx context.Context) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.news:
		case <-t.C:
		}
		n, ok := a.measured(ctx)
		if !ok {
			continue
		}
		err := a.Store.Heartbeat(ctx, n, time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			level := slog.LevelWarn
			if orama.KindOf(err) == orama.KindUnavailable {
				level = slog.LevelDebug // told already, by whoever keeps the connection to the records
			}
			a.Log.Log(ctx, level, "heartbeats are not recorded; trying on", "error", err)
		}
		failing = err != nil
	}
}

// measured is this node as it is now.
func (a *Agent) measured(ctx context.Context) (orama.Node, bool) {
	n := a.Self
	if a.Machine != nil {
		version := n.Report.Version
		n.Report = a.Machine.Report(ctx)
		if n.Report.Version == "" {
			n.Report.Version = version
		}
	}
	n.Report.Checks = map[string]string{"store": "", "cache": "", "gateway": ""}
	if a.Checks != nil {
		n.Report.Checks = a.Checks()
		if n.Report.Checks == nil {
			n.Report.Checks = map[string]string{}
		}
		if _, said := n.Report.Checks["store"]; !said {
			n.Report.Checks["store"] = "" // the records take this heartbeat, or nobody hears of it
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v := &a.vital
	n.Report.State, n.Report.Relays = v.state, v.relays
	if a.Walled != nil {
		n.Report.State = min(n.Report.State, a.Walled())
	}
	n.Report.Busy = bounded(without(n.Report.Busy, v.owned))
	n.Report.Used = map[string]time.Time{}
	for k, at := range v.used {
		if !v.serves[k] {
			continue // it was used while it left
		}
		n.Report.Used[string(k.role)+"/"+string(k.ns)] = at
	}
	return n, v.reads
}

// without takes the owned ports out of ranges.
func without(ranges, owned []orama.PortRange) []orama.PortRange {
	for _, o := range owned {
		var left []orama.PortRange
		first, end := int(o.First), int(o.First)+int(o.Count)
		for _, r := range ranges {
			from, to := int(r.First), int(r.First)+int(r.Count)
			left = add(left, from, min(to, first))
			left = add(left, max(from, end), to)
			if o.Count == 0 || to <= first || from >= end { // they do not meet
				left = append(left[:len(left)-1], r)
			}
		}
		ranges = left
	}
	return ranges
}

// add appends the ports from..to-1, if there are any.
func add(out []orama.PortRange, from, to int) []orama.PortRange {
	if from >= to {
		return out
	}
	return append(out, orama.PortRange{First: uint16(from), Count: uint16(to - from)}) //nolint:gosec // parts of a range of ports
}

// bounded joins ranges over ever wider gaps until there are few enough; more is called busy then than is.
func bounded(ranges []orama.PortRange) []orama.PortRange {
	slices.SortFunc(ranges, func(x, y orama.PortRange) int { return int(x.First) - int(y.First) })
	for gap := 1; len(ranges) > maxBusy; gap *= 2 {
		joined := ranges[:1]
		for _, r := range ranges[1:] {
			last := &joined[len(joined)-1]
			end := int(last.First) + int(last.Count)
			if int(r.First)-end <= gap {
				last.Count = uint16(max(end, int(r.First)+int(r.Count)) - int(last.First)) //nolint:gosec // both ends are ports
				continue
			}
			joined = append(joined, r)
		}
		ranges = joined
	}
	return ranges
}
