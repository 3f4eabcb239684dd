package node_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/plan"
)

// life is that of an agent which is killed at one of the things it does: before it is done, or after it was done and before
// the agent hears of it. From then on it does nothing.
type life struct {
	left int // things it still does; negative: it lives for ever
	late bool
	kill context.CancelFunc

	mu   sync.Mutex // guards the following field
	dead bool
}

var errDead = errors.New("this agent is dead")

// do does one thing, unless the agent is dead.
func do[T any](l *life, what func() (T, error)) (T, error) {
	l.mu.Lock()
	last := l.left == 0
	dead := l.dead
	l.left--
	if last {
		l.dead = true
		l.kill()
	}
	l.mu.Unlock()
	if dead || last && !l.late {
		var zero T
		return zero, errDead
	}
	v, err := what()
	if last {
		err = errDead
	}
	return v, err
}

func doOnly(l *life, what func() error) error {
	_, err := do(l, func() (struct{}, error) { return struct{}{}, what() })
	return err
}

// mortal is everything that an agent does, as one that may die does it.
type mortal struct {
	*world
	l *life
}

func (m mortal) Cluster(ctx context.Context) (orama.Cluster, error) {
	return do(m.l, func() (orama.Cluster, error) { return m.world.Cluster(ctx) })
}

func (m mortal) Revision(ctx context.Context) (int64, error) {
	return do(m.l, func() (int64, error) { return m.world.Revision(ctx) })
}

func (m mortal) Heartbeat(ctx context.Context, n orama.Node, now time.Time) error {
	return doOnly(m.l, func() error { return m.world.Heartbeat(ctx, n, now) })
}

func (m mortal) Observe(ctx context.Context, seen []orama.Observed) error {
	return doOnly(m.l, func() error { return m.world.Observe(ctx, seen) })
}

func (m mortal) Rooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error) {
	return do(m.l, func() ([]orama.Room, error) { return m.world.Rooms(ctx, ns) })
}

func (m mortal) Run(ctx context.Context, role orama.Role, ns orama.NamespaceID) error {
	return doOnly(m.l, func() error { return m.world.Run(ctx, role, ns) })
}

func (m mortal) Stop(ctx context.Context, role orama.Role, ns orama.NamespaceID) error {
	return doOnly(m.l, func() error { return m.world.Stop(ctx, role, ns) })
}

func (m mortal) TURN(ctx context.Context) (node.Status, error) {
	return do(m.l, func() (node.Status, error) { return m.world.TURN(ctx) })
}

func (m mortal) SFU(ctx context.Context, ns orama.NamespaceID) (node.Status, error) {
	return do(m.l, func() (node.Status, error) { return m.world.SFU(ctx, ns) })
}

func (m mortal) ApplyTURN(ctx context.Context, spec plan.TURNSpec) error {
	return doOnly(m.l, func() error { return m.world.ApplyTURN(ctx, spec) })
}

func (m mortal) ApplySFU(ctx context.Context, spec plan.SFUSpec) error {
	return doOnly(m.l, func() error { return m.world.ApplySFU(ctx, spec) })
}

// mortalClients are the probes of one that may die.
type mortalClients struct{ mortal }

func (m mortalClients) TURN(context.Context, plan.TURNSpec, plan.TenantSpec) error {
	return doOnly(m.l, clients{m.world}.problem)
}

func (m mortalClients) SFU(context.Context, plan.SFUSpec, string) error {
	return doOnly(m.l, clients{m.world}.problem)
}

func (w *world) mortalDeps(l *life) node.Deps {
	d, m := w.deps(), mortal{w, l}
	save := d.Save
	d.Store, d.Runner, d.Processes, d.Prober = m, m, m, mortalClients{m}
	d.Save = func(s manifest.State) error { return doOnly(l, func() error { return save(s) }) }
	return d
}

// killedAtEach has an agent do something, kills it at the first, second.. thing that it does until one lives to the end
// of act, starts another from nothing but the records and what runs, and checks where that leads.
func killedAtEach(t *testing.T, prepare func(*world), act func(*world), check func(t *testing.T, w *world, began int)) {
	t.Helper()
	if raceDetector {
		t.Skip("after some hundred bubbles of synctest the race detector of Go 1.26 crashes in a timer (runtime.(*timer).maybeRunChan); make unit runs this without it")
	}
	for _, late := range []bool{false, true} {
		died, n := true, 0
		for ; died; n++ {
			require.Less(t, n, 1000)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				prepare(w)
				if len(w.cluster.Namespaces) > 0 { // what is prepared is brought about first
					lives(t, w, &life{left: -1}, func() { later(2 * time.Second) })
				}
				began := w.boots
				l := &life{left: n, late: late}
				lives(t, w, l, func() { act(w); later(2 * time.Second) })
				died = l.dead
				lives(t, w, &life{left: -1}, func() { later(15 * time.Second) })
				check(t, w, began)
			})
			if t.Failed() {
				t.Fatalf("late=%t, killed at thing %d", late, n)
			}
		}
		require.Greater(t, n, 30, "an agent does more than that")
		t.Logf("killed at each of %d things, late=%t", n-1, late)
	}
}

// lives runs an agent during f, or until it is killed.
func lives(t *testing.T, w *world, l *life, f func()) {
	ctx, cancel := context.WithCancel(t.Context())
	l.kill = cancel
	a := node.New(w.mortalDeps(l))
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	f()
	cancel()
	require.NoError(t, <-done)
}

func TestKilledAtEachThingOfEnabling(t *testing.T) {
	killedAtEach(t, func(*world) {}, func(w *world) { w.enable("alpha") }, func(t *testing.T, w *world, _ int) {
		require.Len(t, w.units, 2)
		require.Equal(t, 2, w.boots, "each process was started once")
		require.Len(t, w.process(orama.RoleTURN, "").turn.Tenants, 1)
		for _, k := range []string{"turn/alpha", "sfu/alpha"} {
			require.Equal(t, orama.StateReady, w.last[k].State, k)
		}
		last := w.saved[len(w.saved)-1]
		require.Equal(t, w.cluster.Revision, last.Revision)
		require.Len(t, last.Namespaces, 1)
		require.Equal(t, w.cluster.Revision, w.beat.Report.State)
	})
}

func TestKilledAtEachThingOfDisabling(t *testing.T) {
	prepare := func(w *world) {
		w.enable("alpha")
		w.enable("beta")
	}
	killedAtEach(t, prepare, func(w *world) { w.stopInstances("alpha") }, func(t *testing.T, w *world, began int) {
		require.Len(t, w.units, 2, "beta's SFU and TURN")
		require.Zero(t, w.process(orama.RoleSFU, "alpha").PID)
		require.Equal(t, began, w.boots, "nothing was started, beta's was left alone")
		require.Len(t, w.process(orama.RoleTURN, "").turn.Tenants, 1)
		for k, want := range map[string]orama.State{"turn/alpha": orama.StateGone, "sfu/alpha": orama.StateGone, "turn/beta": orama.StateReady, "sfu/beta": orama.StateReady} {
			require.Equal(t, want, w.last[k].State, k)
		}
		require.Len(t, w.saved[len(w.saved)-1].Namespaces, 1)
		require.NotContains(t, w.beat.Report.Used, "sfu/alpha")
	})
}

// The namespace was disabled, and its rows are gone, while the agent was dead: what still runs is stopped all the same.
func TestKilledAndForgotten(t *testing.T) {
	killedAtEach(t, func(w *world) { w.enable("alpha") }, func(w *world) {
		w.change(func(c *orama.Cluster) { c.Instances, c.Namespaces[0].WebRTC = nil, nil })
	}, func(t *testing.T, w *world, _ int) {
		require.Empty(t, w.units)
		require.Empty(t, w.saved[len(w.saved)-1].Namespaces)
	})
}
