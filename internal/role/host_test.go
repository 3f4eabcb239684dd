package role

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/supervisor"
)

// fakeKeeper keeps units in name only.
type fakeKeeper struct {
	mu    sync.Mutex // guards the following fields
	runs  map[string]bool
	fails map[string]error
	calls []string
}

func (f *fakeKeeper) Ensure(_ context.Context, u supervisor.Unit) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails[u.Name]; err != nil {
		return err
	}
	if !f.runs[u.Name] {
		f.calls = append(f.calls, "start "+u.Name)
	}
	f.runs[u.Name] = true
	return nil
}

func (f *fakeKeeper) Stop(_ context.Context, name string, _ time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.runs[name] {
		f.calls = append(f.calls, "stop "+name)
	}
	delete(f.runs, name)
	return nil
}

func (f *fakeKeeper) List() (out []supervisor.UnitState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.runs)) {
		out = append(out, supervisor.UnitState{Name: name, PID: 7})
	}
	return out
}

// did gives the calls since it was last asked, sorted: what happens at once has no order.
func (f *fakeKeeper) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	slices.Sort(out)
	return out
}

func tenants(names ...orama.NamespaceID) (s plan.TURNSpec) {
	for _, n := range names {
		s.Tenants = append(s.Tenants, plan.TenantSpec{Namespace: n})
	}
	return s
}

func TestLeasesFollowTheConfiguration(t *testing.T) {
	f := &fakeKeeper{runs: map[string]bool{}, fails: map[string]error{}}
	l := &leaseKeeper{keep: f}
	configured := 0
	configure := func() error { configured++; return nil }

	require.NoError(t, l.apply(t.Context(), tenants("one", "two"), configure))
	require.Equal(t, []string{"start orama-namespace-turn@one", "start orama-namespace-turn@two"}, f.did())
	require.NoError(t, f.Stop(t.Context(), "orama-namespace-turn@one", 0)) // by hand
	f.did()
	l.begin(t.Context())
	require.Equal(t, []string{"start orama-namespace-turn@one"}, f.did())

	ended := false
	require.NoError(t, l.apply(t.Context(), tenants("two", "three"), func() error { ended = !f.runs["orama-namespace-turn@one"]; return nil }))
	require.True(t, ended, "a lease ends before the server forgets its namespace")
	require.Equal(t, []string{"start orama-namespace-turn@three", "stop orama-namespace-turn@one"}, f.did())

	// One that does not start is its own namespace's trouble.
	f.fails["orama-namespace-turn@four"] = errors.New("it is masked")
	require.NoError(t, l.apply(t.Context(), tenants("four", "five"), configure))
	require.ErrorContains(t, l.problem("four"), "masked")
	require.NoError(t, l.problem("five"))
	delete(f.fails, "orama-namespace-turn@four")
	l.begin(t.Context())
	require.NoError(t, l.problem("four"))

	f.did()
	require.Error(t, l.apply(t.Context(), tenants("six"), func() error { return errors.New("no server") }))
	require.NotContains(t, f.did(), "start orama-namespace-turn@six", "nothing to lease from")
	require.Equal(t, 2, configured)
}

func TestUnitsUnderSystemd(t *testing.T) {
	u := newUnits(config.Node{ID: "node-1", Supervisor: "systemd"}, "/usr/bin/orama", "/run/orama", slog.New(slog.DiscardHandler))
	u.close()
	f := &fakeKeeper{runs: map[string]bool{}, fails: map[string]error{}}
	u.keep, u.leases.keep = f, f
	require.Equal(t, "/run/orama-turn/control.sock", u.turnSocket())
	require.Equal(t, "/run/orama-sfu/myapp/control.sock", u.sfuSocket("myapp"))
	require.NotEqual(t, u.sfuSocket("myapp"), newUnits(config.Node{ID: "node-1"}, "", "/run/orama", slog.New(slog.DiscardHandler)).sfuSocket("myapp"))

	require.NoError(t, u.Run(t.Context(), orama.RoleTURN, ""))
	require.NoError(t, u.Run(t.Context(), orama.RoleSFU, "myapp"))
	require.NoError(t, u.leases.apply(t.Context(), tenants("myapp"), func() error { return nil }))
	f.runs["orama-mesh@orama0"] = true
	require.Equal(t, []node.Unit{{Role: orama.RoleTURN, PID: 7}, {Role: orama.RoleSFU, Namespace: "myapp", PID: 7}}, u.Units())

	// The server is gone and a lease is left, of an agent before us: somebody must end it.
	require.NoError(t, f.Stop(t.Context(), turnUnit, 0))
	require.Contains(t, u.Units(), node.Unit{Role: orama.RoleTURN})
	f.did()
	require.NoError(t, u.Stop(t.Context(), orama.RoleTURN, ""))
	require.Equal(t, []string{"stop orama-namespace-turn@myapp"}, f.did())
	require.NotContains(t, u.Units(), node.Unit{Role: orama.RoleTURN})
	require.NoError(t, u.Run(t.Context(), orama.RoleTURN, ""))
	require.Equal(t, []string{"start orama-turn"}, f.did(), "no lease is wanted any more")
	require.NoError(t, u.Stop(t.Context(), orama.RoleSFU, "myapp"))
	require.True(t, f.runs["orama-mesh@orama0"])
}
