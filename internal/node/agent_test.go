package node_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const self = orama.NodeID("node-1")

// world stands in for everything around one agent: the records, the processes, the clients.
type world struct {
	mu      sync.Mutex
	cluster orama.Cluster
	unread  bool // the records cannot be read

	moderated []node.Moderated // as the SFU tells of them
	kicks     []orama.Kick     // recorded
	units     map[string]*process
	boots     int
	broken    error // what a client of any instance runs into
	refuse    error // what applying a configuration gives
	observed  map[string][]orama.State
	last      map[string]orama.Observation
	saved     []manifest.State
	beats     int
	beat      orama.Node // the last
	relays    int
	rooms     []orama.Room
	hand      map[orama.RoomID]int // what the SFU has
	moved     []orama.RoomID
	race      func() // called between the agent's reading of the records and what it does
}

type process struct {
	node.Unit
	boot    string
	turn    *plan.TURNSpec
	sfu     *plan.SFUSpec
	applied int
}

func key(role orama.Role, ns orama.NamespaceID) string { return string(role) + "/" + string(ns) }

func (w *world) Cluster(context.Context) (orama.Cluster, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unread {
		return orama.Cluster{}, errors.New("records cannot be read")
	}
	c := w.cluster
	c.Instances = slices.Clone(c.Instances)
	return c, nil
}

func (w *world) Revision(ctx context.Context) (int64, error) {
	c, err := w.Cluster(ctx)
	return c.Revision, err
}

func (w *world) Heartbeat(_ context.Context, n orama.Node, _ time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beats++
	w.beat = n
	return nil
}

func (w *world) Observe(_ context.Context, seen []orama.Observed) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range seen {
		k := key(o.Role, o.Namespace)
		if states := w.observed[k]; len(states) == 0 || states[len(states)-1] != o.State {
			w.observed[k] = append(states, o.State)
		}
		w.last[k] = o.Observation
	}
	return nil
}

func (w *world) Run(_ context.Context, role orama.Role, ns orama.NamespaceID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.units[key(role, ns)] == nil {
		w.startLocked(role, ns)
	}
	return nil
}

func (w *world) startLocked(role orama.Role, ns orama.NamespaceID) {
	w.boots++
	w.units[key(role, ns)] = &process{Unit: node.Unit{Role: role, Namespace: ns, PID: w.boots, Since: time.Now()}, boot: time.Now().String()}
}

func (w *world) Stop(_ context.Context, role orama.Role, ns orama.NamespaceID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.units, key(role, ns))
	return nil
}

func (w *world) Units() []node.Unit {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []node.Unit
	for _, p := range w.units {
		out = append(out, p.Unit)
	}
	return out
}

func (w *world) status(role orama.Role, ns orama.NamespaceID) (node.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.units[key(role, ns)]
	if p == nil {
		return node.Status{}, errors.New("no such process")
	}
	st := node.Status{Boot: p.boot, Configured: p.applied > 0, Relays: w.relays, Rooms: slices.Collect(maps.Keys(w.hand)), Moderated: w.moderated}
	if p.turn != nil {
		for _, t := range p.turn.Tenants {
			st.Tenants = append(st.Tenants, t.Namespace)
		}
	}
	return st, nil
}

func (w *world) TURN(context.Context) (node.Status, error) { return w.status(orama.RoleTURN, "") }

func (w *world) SFU(_ context.Context, ns orama.NamespaceID) (node.Status, error) {
	return w.status(orama.RoleSFU, ns)
}

func (w *world) ApplyTURN(_ context.Context, spec plan.TURNSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.units[key(orama.RoleTURN, "")]
	if w.refuse != nil {
		return w.refuse
	}
	p.turn = &spec
	p.applied++
	return nil
}

func (w *world) ApplySFU(_ context.Context, spec plan.SFUSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.units[key(orama.RoleSFU, spec.Namespace)]
	if w.refuse != nil {
		return w.refuse
	}
	if p.sfu != nil && (p.sfu.SignalPort != spec.SignalPort || p.sfu.MediaPort != spec.MediaPort) {
		return errors.New("a running SFU does not change its ports")
	}
	p.sfu = &spec
	p.applied++
	return nil
}

// clients of the instances; a type of its own because the methods share names with world's.
type clients struct{ *world }

func (c clients) TURN(context.Context, plan.TURNSpec, plan.TenantSpec) error { return c.problem() }
func (c clients) SFU(context.Context, plan.SFUSpec, string) error            { return c.problem() }

func (c clients) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

type noCertificates struct{}

func (noCertificates) For([]orama.NamespaceID) (certPEM, keyPEM []byte, err error) {
	return nil, nil, nil
}

func newWorld() *world {
	w := &world{units: map[string]*process{}, observed: map[string][]orama.State{}, last: map[string]orama.Observation{}, hand: map[orama.RoomID]int{}}
	w.cluster.Revision = 1
	w.cluster.Nodes = []orama.Node{{ID: self, PublicIP: netip.MustParseAddr("127.0.0.11"), MeshIP: netip.MustParseAddr("127.10.0.1")}}
	return w
}

// enable writes what `enable` plans for one namespace on this one node.
func (w *world) enable(ns orama.NamespaceID) {
	w.change(func(c *orama.Cluster) {
		c.Namespaces = append(c.Namespaces, orama.Namespace{ID: ns, WebRTC: &orama.WebRTCConfig{
			SealedSecret: "secret", CredentialTTL: time.Minute, TURNNodes: 1, SFUNodes: 1}})
		n := uint16(len(c.Namespaces))
		c.Instances = append(c.Instances,
			orama.Instance{Namespace: ns, Node: self, Role: orama.RoleTURN, Desired: orama.DesiredRun,
				Ports: orama.Ports{Relay: orama.PortRange{First: 49152 + 800*n, Count: 800}}},
			orama.Instance{Namespace: ns, Node: self, Role: orama.RoleSFU, Desired: orama.DesiredRun,
				Ports: orama.Ports{Signal: orama.PortRange{First: 30000 + n, Count: 1}, Media: orama.PortRange{First: 20000 + 500*n, Count: 500}}})
	})
}

func (w *world) change(f func(*orama.Cluster)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cluster.Instances = slices.Clone(w.cluster.Instances)
	f(&w.cluster)
	w.cluster.Revision++
}

func (w *world) stopInstances(ns orama.NamespaceID) {
	w.change(func(c *orama.Cluster) {
		for i := range c.Instances {
			if c.Instances[i].Namespace == ns {
				c.Instances[i].Desired = orama.DesiredStop
			}
		}
	})
}

// states gives what was observed of an instance, in order, without repeats.
func (w *world) states(role orama.Role, ns orama.NamespaceID) []orama.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.observed[key(role, ns)])
}

func (w *world) process(role orama.Role, ns orama.NamespaceID) process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.units[key(role, ns)]; p != nil {
		return *p
	}
	return process{}
}

// within runs an agent on w in a bubble of its own clock.
func within(t *testing.T, w *world, f func(t *testing.T, a *node.Agent)) {
	t.Helper()
	withDeps(t, w, w.deps(), f)
}

// deps is everything an agent on w needs.
func (w *world) deps() node.Deps {
	return node.Deps{
		Self:  w.cluster.Nodes[0],
		Local: plan.Local{BaseDomain: "orama.test", URLStyle: "ip", MeshCIDR: netip.MustParsePrefix("127.10.0.0/24"), Open: func(s, _ string) (string, error) { return s, nil }},
		Store: w, Runner: w, Processes: w, Prober: clients{w}, Certificates: noCertificates{},
		Save: func(m manifest.State) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.saved = append(w.saved, m)
			return nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func withDeps(t *testing.T, w *world, d node.Deps, f func(t *testing.T, a *node.Agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := node.New(d)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		f(t, a)
		cancel()
		require.NoError(t, <-done)
	})
}

// later lets the agent act for d of its own time.
func later(d time.Duration) {
	time.Sleep(d) // the bubble's clock, not a real one
	synctest.Wait()
}

func TestEnabledNamespaceBecomesReadyAndIsSaved(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		later(time.Second)
		w.enable("alpha")
		later(time.Second)
		require.Equal(t, []orama.State{orama.StateReady}, w.states(orama.RoleTURN, "alpha"))
		require.Equal(t, []orama.State{orama.StateReady}, w.states(orama.RoleSFU, "alpha"))
		require.Len(t, w.process(orama.RoleTURN, "").turn.Tenants, 1)
		require.Positive(t, w.beats)
		m := w.saved[len(w.saved)-1]
		require.Len(t, m.Namespaces, 1)
		require.True(t, m.Namespaces[0].HasSFU && m.Namespaces[0].HasTURN)
	})
}

func TestReadyIsWhatAClientSaw(t *testing.T) {
	w := newWorld()
	w.broken = errors.New("no allocation")
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(2 * time.Second)
		require.NotContains(t, w.states(orama.RoleTURN, "alpha"), orama.StateReady)
		require.Equal(t, "no allocation", w.last["turn/alpha"].Detail)
		w.mu.Lock()
		w.broken = nil
		w.mu.Unlock()
		later(time.Second)
		require.Equal(t, orama.StateReady, w.last["turn/alpha"].State)
		require.Equal(t, orama.StateReady, w.last["sfu/alpha"].State)
	})
}

func TestSecondNamespaceSharesTURNWithoutARestart(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		before := w.process(orama.RoleTURN, "")
		w.enable("beta")
		later(time.Second)
		after := w.process(orama.RoleTURN, "")
		require.Equal(t, before.PID, after.PID)
		require.Len(t, after.turn.Tenants, 2)
		require.Equal(t, orama.StateReady, w.last["turn/beta"].State)
	})
}

func TestDisabledNamespaceIsSeenGone(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		w.enable("beta")
		later(time.Second)
		w.stopInstances("alpha")
		later(time.Second)
		require.Equal(t, orama.StateGone, w.last["turn/alpha"].State)
		require.Equal(t, orama.StateGone, w.last["sfu/alpha"].State)
		require.Zero(t, w.process(orama.RoleSFU, "alpha").PID)
		require.Len(t, w.process(orama.RoleTURN, "").turn.Tenants, 1, "beta still has its relay")
		w.stopInstances("beta")
		later(time.Second)
		require.Zero(t, w.process(orama.RoleTURN, "").PID, "nobody is served any more")
		require.Equal(t, orama.StateGone, w.last["turn/beta"].State)
	})
}

func TestRestartedProcessIsConfiguredAgain(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		w.mu.Lock()
		w.startLocked(orama.RoleSFU, "alpha")
		w.mu.Unlock()
		later(time.Second)
		p := w.process(orama.RoleSFU, "alpha")
		require.Equal(t, 1, p.applied)
		require.Equal(t, p.boot, w.last["sfu/alpha"].Boot)
		require.Less(t, time.Since(w.last["sfu/alpha"].Since), time.Second, "the break is seen")
	})
}

func TestUnreadableRecordsStopNothing(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		turn, sfu := w.process(orama.RoleTURN, ""), w.process(orama.RoleSFU, "alpha")
		w.mu.Lock()
		w.unread = true
		w.mu.Unlock()
		later(time.Hour)
		require.Equal(t, turn.PID, w.process(orama.RoleTURN, "").PID)
		require.Equal(t, sfu.PID, w.process(orama.RoleSFU, "alpha").PID)
	})
}

func TestProcessWithoutARecordIsStopped(t *testing.T) {
	w := newWorld()
	w.startLocked(orama.RoleSFU, "forgotten")
	within(t, w, func(t *testing.T, _ *node.Agent) {
		later(2 * time.Second)
		require.Zero(t, w.process(orama.RoleSFU, "forgotten").PID)
	})
}

func TestRefusedConfigurationIsReportedWithItsReason(t *testing.T) {
	w := newWorld()
	w.refuse = errors.New("127.0.0.11:3478 is in use")
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		require.Equal(t, orama.StateFailed, w.last["turn/alpha"].State)
		require.Contains(t, w.last["turn/alpha"].Detail, "in use")
	})
}

func TestOrderlyEndIsRecorded(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, a *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		a.ReportGone(t.Context())
		require.Equal(t, orama.StateGone, w.last["sfu/alpha"].State)
	})
}
