package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

const (
	// lookEvery is how soon a unit that died and came back is configured again.
	lookEvery = 200 * time.Millisecond
	// startingEvery is lookEvery while a unit is on its way up.
	startingEvery = 25 * time.Millisecond
	// probeEvery is how often a ready instance is used as a client would.
	probeEvery   = 10 * time.Second
	probeTimeout = 3 * time.Second
)

// desire is what the records want of one unit. Neither run nor leaving means: it is to go,
// and no record waits to hear of it.
type desire struct {
	run     bool
	turn    *plan.TURNSpec
	sfu     *plan.SFUSpec
	leaving []orama.NamespaceID // instances whose end is to be reported
}

// keeper brings one unit to what is wanted of it. It has a goroutine of its own, so that one
// unit that drains for minutes delays no other.
type keeper struct {
	a    *Agent
	key  unitKey
	news chan struct{} // a desire was set
	quit chan struct{}

	mu   sync.Mutex // guards the following field
	want desire

	// accessed by run's goroutine only
	applied  string // the spec last applied, as JSON
	refused  int    // how often in a row the process refused a spec
	anew     string // the spec for which the process was made anew
	boot     string // to which start of the process
	probed   map[orama.NamespaceID]time.Time
	problems map[orama.NamespaceID]string
	rooms    roomSweep
}

func newKeeper(a *Agent, key unitKey) *keeper {
	return &keeper{a: a, key: key, news: make(chan struct{}, 1), quit: make(chan struct{}),
		probed: map[orama.NamespaceID]time.Time{}, problems: map[orama.NamespaceID]string{}}
}

func (k *keeper) set(d desire) {
	k.mu.Lock()
	k.want = d
	k.mu.Unlock()
	select {
	case k.news <- struct{}{}:
	default:
	}
}

func (k *keeper) end() { close(k.quit) }

func (k *keeper) run(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.quit:
			return
		case <-k.news:
		case <-t.C:
		}
		k.mu.Lock()
		want := k.want
		k.mu.Unlock()
		wait := lookEvery
		if !k.bring(ctx, want) {
			wait = startingEvery
		}
		t.Reset(wait)
	}
}

// bring does the next thing towards want and reports what it saw. It gives false while the
// unit is on its way to being ready.
func (k *keeper) bring(ctx context.Context, want desire) bool {
	if !want.run {
		return k.stop(ctx, want)
	}
	if err := k.a.Runner.Run(ctx, k.key.role, k.key.ns); err != nil {
		k.failed(ctx, want, fmt.Sprintf("the process cannot be started: %v", err))
		return true
	}
	st, err := k.status(ctx)
	if err != nil {
		k.notAnswering(ctx, want, err)
		return false
	}
	spec := specText(want)
	if !st.Configured || st.Boot != k.boot || spec != k.applied {
		if err := k.apply(ctx, want); err != nil {
			k.failed(ctx, want, err.Error())
			return !k.replace(ctx, st, spec)
		}
		k.refused = 0
		if st.Boot != k.boot {
			clear(k.probed)
		}
		k.applied, k.boot = spec, st.Boot
	}
	for _, ns := range want.leaving {
		if !slices.Contains(st.Tenants, ns) {
			k.a.report(ctx, ns, k.key.role, orama.StateGone, "", "")
		}
	}
	if k.key.role == orama.RoleTURN {
		k.a.noteRelays(st.Relays)
	}
	k.sweepRooms(ctx, st)
	return k.observe(ctx, want, st)
}

// refusals is how often in a row a running SFU may refuse what is wanted of it.
const refusals = 3

// replace stops an SFU that serves and will not become what is wanted, so that one is made that can: a running SFU keeps its
// ports, and this node may have been away while they were given to others. It does so once for each spec.
func (k *keeper) replace(ctx context.Context, st Status, spec string) bool {
	k.refused++
	if k.key.role != orama.RoleSFU || !st.Configured || k.refused < refusals || k.anew == spec {
		return false
	}
	k.a.Log.Warn("an SFU refuses what is wanted of it and is made anew", "namespace", k.key.ns)
	k.anew, k.refused = spec, 0
	if err := k.a.Runner.Stop(ctx, k.key.role, k.key.ns); err != nil {
		k.a.Log.Error("a unit does not stop; it is tried again", "role", k.key.role, "namespace", k.key.ns, "error", err)
	}
	return true
}

func (k *keeper) stop(ctx context.Context, want desire) bool {
	for _, ns := range want.leaving {
		if k.exists() {
			k.a.report(ctx, ns, k.key.role, orama.StateDraining, k.boot, "")
		}
	}
	if err := k.a.Runner.Stop(ctx, k.key.role, k.key.ns); err != nil {
		k.a.Log.Error("a unit does not stop; it is tried again", "role", k.key.role, "namespace", k.key.ns, "error", err)
		return true
	}
	k.applied, k.boot = "", ""
	if k.key.role == orama.RoleTURN {
		k.a.noteRelays(0)
	}
	for _, ns := range want.leaving {
		k.a.report(ctx, ns, k.key.role, orama.StateGone, "", "")
	}
	return true
}

func (k *keeper) exists() bool {
	return slices.ContainsFunc(k.a.Runner.Units(), func(u Unit) bool {
		return u.Role == k.key.role && u.Namespace == k.key.ns && u.PID > 0
	})
}

func (k *keeper) status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if k.key.role == orama.RoleTURN {
		return k.a.Processes.TURN(ctx)
	}
	return k.a.Processes.SFU(ctx, k.key.ns)
}

func (k *keeper) apply(ctx context.Context, want desire) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if want.turn != nil {
		return k.a.Processes.ApplyTURN(ctx, *want.turn)
	}
	return k.a.Processes.ApplySFU(ctx, *want.sfu)
}

// observe uses each instance as a client would, unless it did so lately, and reports.
func (k *keeper) observe(ctx context.Context, want desire, st Status) bool {
	all := true
	for _, ns := range want.namespaces() {
		switch {
		case st.Draining:
			k.a.report(ctx, ns, k.key.role, orama.StateDraining, st.Boot, "")
			continue
		case time.Since(k.probed[ns]) >= probeEvery:
			k.probe(ctx, want, ns, st.Boot)
		}
		if p := k.problems[ns]; p != "" {
			all = false
			k.a.report(ctx, ns, k.key.role, orama.StateStarting, st.Boot, p)
			continue
		}
		k.a.report(ctx, ns, k.key.role, orama.StateReady, st.Boot, "")
	}
	return all
}

func (k *keeper) probe(ctx context.Context, want desire, ns orama.NamespaceID, boot string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var err error
	if want.sfu != nil {
		err = k.a.Prober.SFU(ctx, *want.sfu, boot)
	} else {
		i := slices.IndexFunc(want.turn.Tenants, func(t plan.TenantSpec) bool { return t.Namespace == ns })
		err = k.a.Prober.TURN(ctx, *want.turn, want.turn.Tenants[i])
	}
	if err != nil {
		k.problems[ns] = err.Error()
		delete(k.probed, ns)
		return
	}
	delete(k.problems, ns)
	k.probed[ns] = time.Now()
	k.a.noteUsed(ns, k.key.role, k.probed[ns])
}

// notAnswering reports a unit whose control socket does not answer: on its way up, or failing.
func (k *keeper) notAnswering(ctx context.Context, want desire, err error) {
	clear(k.probed)
	for _, u := range k.a.Runner.Units() {
		if u.Role == k.key.role && u.Namespace == k.key.ns && u.Restarts >= 3 && time.Since(u.Since) < 10*time.Second {
			k.failed(ctx, want, fmt.Sprintf("restarted %d times; last: %s", u.Restarts, u.LastExit))
			return
		}
	}
	for _, ns := range want.namespaces() {
		k.a.report(ctx, ns, k.key.role, orama.StateStarting, "", "the process does not answer yet")
	}
	k.a.Log.Debug("a unit does not answer yet", "role", k.key.role, "namespace", k.key.ns, "error", err)
}

func (k *keeper) failed(ctx context.Context, want desire, detail string) {
	for _, ns := range want.namespaces() {
		k.a.report(ctx, ns, k.key.role, orama.StateFailed, k.boot, detail)
	}
}

// namespaces are those that the unit is to serve.
func (d desire) namespaces() []orama.NamespaceID {
	var out []orama.NamespaceID
	if d.sfu != nil {
		out = append(out, d.sfu.Namespace)
	}
	if d.turn != nil {
		for _, t := range d.turn.Tenants {
			out = append(out, t.Namespace)
		}
	}
	return out
}

func specText(d desire) string {
	text, err := json.Marshal(struct {
		T *plan.TURNSpec
		S *plan.SFUSpec
	}{d.turn, d.sfu})
	if err != nil {
		return ""
	}
	return string(text)
}
