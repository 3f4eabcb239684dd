package role

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/supervisor"
)

// The units of a host that systemd runs, and where their files (deploy/systemd) put the sockets.
const (
	leaseUnitPrefix = "orama-namespace-turn@"
	hostRunDir      = "/run/orama"
	hostTURNSocket  = "/run/orama-turn/control.sock"
	hostSFUSockets  = "/run/orama-sfu"
)

// How long such a unit may take to be gone, which is longer than the TimeoutStopSec of its file.
const (
	hostSFUGrace   = 30 * time.Second
	hostTURNGrace  = 20 * time.Second
	hostLeaseGrace = 15 * time.Second
)

// bySystemd says who keeps a node's processes.
func bySystemd(cfg config.Node) bool { return cfg.Supervisor == "systemd" }

// newUnits makes the keeper of a node's units. Under systemd they are its units, and outlive this process; else they are
// children.
func newUnits(cfg config.Node, exe, runDir string, log *slog.Logger) *units {
	u := &units{exe: exe, node: cfg.ID, runDir: runDir, dataDir: cfg.DataDir}
	if bySystemd(cfg) {
		s := supervisor.NewSystemd(log, turnUnit, sfuUnitPrefix+"*", leaseUnitPrefix+"*", meshUnitPrefix+"*")
		u.keep, u.leases, u.close = s, &leaseKeeper{keep: s}, s.Close
		return u
	}
	u.keep = supervisor.New(filepath.Join(cfg.DataDir, "units"), log)
	return u
}

func (u *units) turnSocket() string {
	if u.leases != nil {
		return hostTURNSocket
	}
	return turnSocket(u.runDir, u.node)
}

func (u *units) sfuSocket(ns orama.NamespaceID) string {
	if u.leases != nil {
		return filepath.Join(hostSFUSockets, string(ns), "control.sock")
	}
	return sfuSocket(u.runDir, u.node, ns)
}

// leaseKeeper keeps the leases of this host's TURN server, one for each namespace that it is to serve.
type leaseKeeper struct {
	keep processes

	mu       sync.Mutex // guards the following fields
	wanted   []orama.NamespaceID
	problems map[orama.NamespaceID]error // why a wanted one does not run
}

// apply makes the leases those of the spec's tenants: it ends the others, hands over the configuration, and has those begin.
func (l *leaseKeeper) apply(ctx context.Context, spec plan.TURNSpec, configure func() error) error {
	var wanted []orama.NamespaceID
	for _, t := range spec.Tenants {
		wanted = append(wanted, t.Namespace)
	}
	l.mu.Lock()
	l.wanted = wanted
	l.mu.Unlock()
	if err := l.end(ctx, wanted); err != nil {
		return err
	}
	if err := configure(); err != nil {
		return err
	}
	l.begin(ctx)
	return nil
}

// begin has every wanted lease run, one that somebody stopped by hand included. What keeps one from running is its own
// namespace's trouble alone; problem gives it.
func (l *leaseKeeper) begin(ctx context.Context) {
	l.mu.Lock()
	wanted := slices.Clone(l.wanted)
	l.mu.Unlock()
	var mu sync.Mutex
	problems := map[orama.NamespaceID]error{}
	_ = atOnce(wanted, func(ns orama.NamespaceID) error {
		if err := l.keep.Ensure(ctx, supervisor.Unit{Name: leaseUnitPrefix + string(ns)}); err != nil {
			mu.Lock()
			defer mu.Unlock()
			problems[ns] = err
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = problems
}

// problem is why a namespace's lease does not run, if that is known.
func (l *leaseKeeper) problem(ns orama.NamespaceID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problems[ns]
}

// end ends every lease but those kept, and returns when they were seen gone.
func (l *leaseKeeper) end(ctx context.Context, but []orama.NamespaceID) error {
	var names []string
	for _, s := range l.keep.List() {
		if ns, ok := strings.CutPrefix(s.Name, leaseUnitPrefix); ok && !slices.Contains(but, orama.NamespaceID(ns)) {
			names = append(names, s.Name)
		}
	}
	return atOnce(names, func(name string) error { return l.keep.Stop(ctx, name, hostLeaseGrace) })
}

// atOnce does the same with each of several, and waits for all.
func atOnce[T any](of []T, do func(T) error) error {
	errs := make([]error, len(of))
	var all sync.WaitGroup
	for i, x := range of {
		all.Go(func() { errs[i] = do(x) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// forget wants no lease any more.
func (l *leaseKeeper) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = nil
}

// grace is how long a unit may take to be gone once it is asked to end.
func (u *units) grace(role orama.Role) time.Duration {
	byRole := map[orama.Role]time.Duration{orama.RoleSFU: sfuDrain + killAfter, orama.RoleTURN: turnDrain + killAfter}
	if u.leases != nil {
		byRole = map[orama.Role]time.Duration{orama.RoleSFU: hostSFUGrace, orama.RoleTURN: hostTURNGrace}
	}
	return cmp.Or(byRole[role], killAfter)
}
