package operator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "orama.test"

// world is the records and the machines: a store that keeps its rules, and one agent per node that plays processes.
type world struct {
	mu      sync.Mutex
	c       orama.Cluster
	keys    []orama.APIKey
	events  []orama.Event
	commits int

	// broken says how an instance's process fails; "" is not at all. Guarded by mu, as the following.
	broken   map[string]string
	stuck    map[orama.NodeID]bool              // agents that are heard and start nothing
	silent   map[orama.NodeID]bool              // agents that do nothing
	checks   map[orama.NodeID]map[string]string // what agents say of their parts; nil: all serve
	diskless orama.NodeID                       // it cannot save its state file any more
	before   func(orama.Change) error
	unread   error

	stop func()
	done sync.WaitGroup
	tick time.Duration
}

// newWorld starts n agents that look at the records every tick, and take that long to start or stop a process.
func newWorld(t *testing.T, n int, tick time.Duration) *world {
	w := &world{c: orama.Cluster{Revision: 1}, broken: map[string]string{}, silent: map[orama.NodeID]bool{}, stuck: map[orama.NodeID]bool{},
		checks: map[orama.NodeID]map[string]string{}, tick: tick}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = sync.OnceFunc(func() { cancel(); w.done.Wait() })
	for i := 1; i <= n; i++ {
		id := orama.NodeID(fmt.Sprintf("node-%d", i))
		w.c.Nodes = append(w.c.Nodes, orama.Node{ID: id, PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			MeshIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Heartbeat: time.Now()})
	}
	for _, node := range w.c.Nodes {
		w.done.Go(func() { w.agent(ctx, node.ID) })
	}
	t.Cleanup(w.stop)
	return w
}

func (w *world) operator() *Operator { return w.operatorOn(w) }

func (w *world) operatorOn(s Store) *Operator {
	return New(Deps{Store: s, Keys: auth.NewKeys([32]byte{1}), BaseDomain: base})
}

func (w *world) Cluster(ctx context.Context) (orama.Cluster, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return orama.Cluster{}, ctx.Err()
	}
	if w.unread != nil {
		return orama.Cluster{}, w.unread
	}
	return w.copyLocked(), nil
}

func (w *world) copyLocked() orama.Cluster {
	c := w.c
	c.Nodes, c.Namespaces, c.Instances, c.DNS = slices.Clone(c.Nodes), slices.Clone(c.Namespaces), slices.Clone(c.Instances), slices.Clone(c.DNS)
	return c
}

func (w *world) look(t require.TestingT) orama.Cluster {
	c, err := w.Cluster(context.Background())
	require.NoError(t, err)
	return c
}

func (w *world) Commit(ctx context.Context, ch orama.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.before != nil {
		if err := w.before(ch); err != nil {
			return err
		}
	}
	if ch.Base != w.c.Revision {
		return orama.ErrConflict
	}
	c := w.copyLocked()
	for _, d := range ch.DeleteInstances {
		c.Instances = slices.DeleteFunc(c.Instances, func(i orama.Instance) bool { return same(i, d) })
	}
	for _, d := range ch.DeleteDNS {
		c.DNS = slices.DeleteFunc(c.DNS, func(r orama.DNSRecord) bool { return r.Name == d.Name && r.Value == d.Value })
	}
	for _, ns := range ch.DeleteNamespaces {
		c.Namespaces = slices.DeleteFunc(c.Namespaces, func(n orama.Namespace) bool { return n.ID == ns })
		w.keys = slices.DeleteFunc(w.keys, func(k orama.APIKey) bool { return k.Namespace == ns })
	}
	for _, n := range ch.PutNamespaces {
		if i := slices.IndexFunc(c.Namespaces, func(x orama.Namespace) bool { return x.ID == n.ID }); i >= 0 {
			c.Namespaces[i] = n
		} else {
			c.Namespaces = append(c.Namespaces, n)
		}
	}
	for _, p := range ch.PutInstances {
		if i := slices.IndexFunc(c.Instances, func(x orama.Instance) bool { return same(x, p) }); i >= 0 {
			if in := &c.Instances[i]; in.Desired != p.Desired && in.Observed.State == orama.StateGone {
				in.Observed.State = orama.StateUnknown
			}
			c.Instances[i].Desired = p.Desired
		} else if slices.ContainsFunc(c.Instances, func(x orama.Instance) bool { return x.Node == p.Node && x.Role == p.Role && x.Ports == p.Ports }) {
			return orama.ErrConflict // a port has one owner
		} else {
			c.Instances = append(c.Instances, p)
		}
	}
	c.DNS = append(c.DNS, ch.PutDNS...)
	w.keys = append(w.keys, ch.PutKeys...)
	w.events = slices.DeleteFunc(w.events, func(e orama.Event) bool {
		return slices.Contains(ch.DeleteEventsOf, e.Namespace) && strings.HasPrefix(e.Kind, "webrtc.")
	})
	w.events = append(w.events, ch.Events...)
	c.Revision++
	w.c = c
	w.commits++
	return nil
}

func same(a, b orama.Instance) bool {
	return a.Namespace == b.Namespace && a.Node == b.Node && a.Role == b.Role
}

// agent brings a node's instances one state further at each tick.
func (w *world) agent(ctx context.Context, id orama.NodeID) {
	t := time.NewTicker(w.tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.mu.Lock()
			w.beatLocked(id)
			for i := range w.c.Instances {
				if in := &w.c.Instances[i]; in.Node == id && !w.silent[id] && !w.stuck[id] {
					w.advanceLocked(in)
				}
			}
			w.mu.Unlock()
		}
	}
}

// beatLocked is a heartbeat: what the agent has saved and how its parts do.
func (w *world) beatLocked(id orama.NodeID) {
	w.c.Nodes = slices.Clone(w.c.Nodes)
	for i := range w.c.Nodes {
		n := &w.c.Nodes[i]
		if n.ID != id || w.silent[id] {
			continue
		}
		n.Heartbeat, n.Report.Checks = time.Now(), w.checks[id]
		if w.diskless != id {
			n.Report.State = w.c.Revision
		}
		if n.Report.Checks == nil {
			n.Report.Checks = map[string]string{"store": "", "cache": "", "gateway": ""}
		}
	}
}

func (w *world) advanceLocked(in *orama.Instance) {
	state, detail := orama.StateReady, ""
	switch {
	case in.Desired == orama.DesiredStop && in.Observed.State == orama.StateDraining, in.Observed.State == orama.StateGone:
		state = orama.StateGone
	case in.Desired == orama.DesiredStop:
		state = orama.StateDraining
	case w.broken[key(in.Node, in.Role)] != "":
		state, detail = orama.StateFailed, w.broken[key(in.Node, in.Role)]
	case in.Observed.State == orama.StateUnknown:
		state = orama.StateStarting
	}
	if in.Observed.State != state {
		in.Observed.Since = time.Now()
	}
	in.Observed.State, in.Observed.Detail, in.Observed.At = state, detail, time.Now()
}

func key(n orama.NodeID, r orama.Role) string { return string(n) + "/" + string(r) }

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// shape is what counts of a cluster: who runs what with which ports, and which names there are.
func shape(c orama.Cluster) []string {
	var out []string
	for _, n := range c.Namespaces {
		out = append(out, fmt.Sprintf("%s webrtc=%t", n.ID, enabled(n)))
	}
	for _, i := range c.Instances {
		out = append(out, fmt.Sprintf("%s %s %s %s %v %s", i.Namespace, i.Node, i.Role, i.Desired, i.Ports, i.Observed.State))
	}
	for _, r := range c.DNS {
		out = append(out, fmt.Sprintf("%s %s", r.Name, r.Value))
	}
	slices.Sort(out)
	return out
}
