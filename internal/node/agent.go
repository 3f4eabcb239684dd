// Package node is one machine's agent: it reads the cluster's records, works out what this
// machine must run, and makes it so, over and over. It decides nothing about placement, serves
// nothing, and stops nothing without positive evidence that it is no longer wanted: while the
// records cannot be read, whatever runs keeps running.
package node

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/plan"
)

const (
	// pollEvery is how soon a change made on another node is seen.
	pollEvery = 100 * time.Millisecond
	// passEvery is how often everything is looked at again though nothing changed.
	passEvery = time.Second
)

// Store is what the agent needs of the cluster's records.
type Store interface {
	Cluster(ctx context.Context) (orama.Cluster, error)
	Revision(ctx context.Context) (int64, error)
	Heartbeat(ctx context.Context, n orama.Node, now time.Time) error
	Observe(ctx context.Context, seen []orama.Observed) error
	Rooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error)
	ClaimRoom(ctx context.Context, r orama.Room) error
	DeleteRoom(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, epoch int64) error
	// PutRoomState keeps what admins have made of a room, if it is newer than what is kept.
	PutRoomState(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, revision int64, state string) error
	PutKick(ctx context.Context, k orama.Kick) error
}

// Runner keeps the processes of this machine's units alive.
type Runner interface {
	// Run makes the unit's process exist. It returns at once when it does already.
	Run(ctx context.Context, role orama.Role, ns orama.NamespaceID) error
	// Stop asks the process to drain and returns when it was seen gone.
	Stop(ctx context.Context, role orama.Role, ns orama.NamespaceID) error
	// Units lists the processes that exist, whoever started them.
	Units() []Unit
}

// Unit is one process of this machine. TURN serves all namespaces, so its Namespace is empty.
type Unit struct {
	Role      orama.Role        `json:"kind"`
	Namespace orama.NamespaceID `json:"namespace,omitempty"`
	PID       int               `json:"pid"`
	Since     time.Time         `json:"since"`
	Restarts  int               `json:"restarts"`
	LastExit  string            `json:"last_exit,omitempty"`
}

// Processes speaks to the units' control sockets.
type Processes interface {
	TURN(ctx context.Context) (Status, error)
	ApplyTURN(ctx context.Context, spec plan.TURNSpec) error
	SFU(ctx context.Context, ns orama.NamespaceID) (Status, error)
	ApplySFU(ctx context.Context, spec plan.SFUSpec) error
	// InHand tells how many peers each room of an SFU has.
	InHand(ctx context.Context, ns orama.NamespaceID) (map[orama.RoomID]int, error)
	// MoveRoom asks a room's peers to reconnect, which leads them to the server that its record names.
	MoveRoom(ctx context.Context, ns orama.NamespaceID, room orama.RoomID, why string) error
}

// Status is what a unit says of itself.
type Status struct {
	Boot       string // changes with every start of the process
	Configured bool
	Draining   bool
	Tenants    []orama.NamespaceID // of TURN: who is served
	Relays     int                 // of TURN: allocations in use
	Rooms      []orama.RoomID      // of an SFU: those it has in hand
	Moderated  []Moderated         // of those, the ones that admins have changed
}

// Moderated is what admins have made of a room, for its record.
type Moderated struct {
	Room     orama.RoomID
	Revision int64
	State    string
	Kicks    []orama.Kick
}

// Prober uses an instance as a client would; nil means that it serves.
type Prober interface {
	TURN(ctx context.Context, spec plan.TURNSpec, t plan.TenantSpec) error
	SFU(ctx context.Context, spec plan.SFUSpec, boot string) error
}

// Certificates gives the TURN server's certificate for its names.
type Certificates interface {
	For(namespaces []orama.NamespaceID) (certPEM, keyPEM []byte, err error)
}

// Deps are the agent's mechanisms.
type Deps struct {
	Self         orama.Node
	Local        plan.Local
	Store        Store
	Runner       Runner
	Processes    Processes
	Prober       Prober
	Certificates Certificates
	Save         func(manifest.State) error // cluster_state.json
	Machine      Machine                    // nil: this host is not measured
	// Checks says of this node's parts ("store", "cache", "gateway") whether they serve, as was seen last: "", or why not; one
	// that was not looked at yet is missing. nil: they are parts of this process, and serve while it lives.
	Checks func() map[string]string
	// Walled is the newest revision of the records that this host's firewall follows; nil: it has none of ours.
	Walled func() int64
	Log    *slog.Logger
}

// Agent is one machine's agent.
type Agent struct {
	Deps
	wake chan struct{}
	news chan struct{} // a heartbeat is due

	// accessed by Run's goroutine only
	saved       manifest.State
	certTrouble string // of the last asking for TURN's certificate
	unread      bool   // the last reading of the records failed
	keepers     map[unitKey]*keeper
	keepersW    sync.WaitGroup

	mu      sync.Mutex // guards the following fields
	reports map[reportKey]orama.Observed
	vital   vitals
}

type unitKey struct {
	role orama.Role
	ns   orama.NamespaceID
}

type reportKey struct {
	ns   orama.NamespaceID
	role orama.Role
}

// New makes an agent; Run starts it.
func New(d Deps) *Agent {
	return &Agent{
		Deps:    d,
		wake:    make(chan struct{}, 1),
		news:    make(chan struct{}, 1),
		keepers: map[unitKey]*keeper{},
		reports: map[reportKey]orama.Observed{},
		vital:   vitals{used: map[reportKey]time.Time{}},
	}
}

// Wake makes the agent look at the records now.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run keeps this machine as the records want it until ctx ends, and returns when its last
// goroutine has. The units keep running: ending them is the caller's decision.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer a.keepersW.Wait()
	defer cancel()
	a.keepersW.Go(func() { a.beat(ctx) })
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	var revision int64 = -1
	var lastPass time.Time
	for {
		now := time.Now()
		if r, err := a.Store.Revision(ctx); err != nil || r != revision || now.Sub(lastPass) >= passEvery {
			if seen, ok := a.pass(ctx); ok {
				revision = seen
			}
			lastPass = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			revision = -1
		case <-poll.C:
		}
	}
}

// pass reads the records once and hands every unit what is wanted of it.
func (a *Agent) pass(ctx context.Context) (revision int64, ok bool) {
	c, err := a.Store.Cluster(ctx)
	if err != nil {
		if !a.unread && ctx.Err() == nil {
			// Whoever keeps the connection to the records warns, once for this process.
			a.Log.Debug("the records cannot be read; what runs keeps running until they can", "error", err)
		}
		a.unread = true
		a.lost()
		return 0, false
	}
	if a.unread {
		a.Log.Debug("the records can be read again")
	}
	a.unread = false
	a.saveManifest(c)
	a.keep(c)
	a.direct(ctx, c)
	return c.Revision, true
}

func (a *Agent) saveManifest(c orama.Cluster) {
	m := plan.Manifest(c, a.Self.ID)
	if reflect.DeepEqual(m, a.saved) {
		return
	}
	if err := a.Save(m); err != nil {
		a.Log.Error("cluster state not saved; it is tried again", "error", err)
		return
	}
	a.saved = m
}

// direct gives each unit its wanted state, starting a keeper for a unit seen for the first
// time and ending those whose unit is neither wanted nor there.
func (a *Agent) direct(ctx context.Context, c orama.Cluster) {
	want := a.wanted(c)
	for _, u := range a.Runner.Units() {
		k := unitKey{u.Role, u.Namespace}
		if _, ok := want[k]; !ok {
			want[k] = desire{} // it runs, and no record wants it
		}
	}
	for k, d := range want {
		kp := a.keepers[k]
		if kp == nil {
			kp = newKeeper(a, k)
			kp.set(d) // before it runs: a keeper without a wish would stop what it is to adopt
			a.keepers[k] = kp
			a.keepersW.Go(func() { kp.run(ctx) })
			continue
		}
		kp.set(d)
	}
	for k, kp := range a.keepers {
		if _, ok := want[k]; !ok {
			kp.end()
			delete(a.keepers, k)
		}
	}
}

// wanted works out, for this node, every unit that has a record.
func (a *Agent) wanted(c orama.Cluster) map[unitKey]desire {
	want := map[unitKey]desire{}
	turn := desire{run: a.Local.Edge}
	for _, in := range c.Instances {
		if in.Node != a.Self.ID {
			continue
		}
		switch {
		case in.Role == orama.RoleTURN && in.Desired == orama.DesiredRun:
			turn.run = true
		case in.Role == orama.RoleTURN:
			turn.leaving = append(turn.leaving, in.Namespace)
		case in.Desired == orama.DesiredStop:
			want[unitKey{in.Role, in.Namespace}] = desire{leaving: []orama.NamespaceID{in.Namespace}}
		default:
			if spec, ok := plan.SFU(c, a.Self.ID, in.Namespace, a.Local); ok {
				want[unitKey{in.Role, in.Namespace}] = desire{run: true, sfu: &spec}
			} else {
				a.Log.Error("an SFU is wanted but its configuration cannot be made", "namespace", in.Namespace)
			}
		}
	}
	if turn.run {
		turn.turn = a.turnSpec(c)
		turn.run = turn.turn != nil
	}
	if turn.run || len(turn.leaving) > 0 {
		want[unitKey{role: orama.RoleTURN}] = turn
	}
	return want
}

func (a *Agent) turnSpec(c orama.Cluster) *plan.TURNSpec {
	spec, ok := plan.TURN(c, a.Self.ID, a.Local)
	if !ok {
		a.Log.Error("TURN is wanted but its configuration cannot be made")
		return nil
	}
	var names []orama.NamespaceID
	for _, t := range spec.Tenants {
		names = append(names, t.Namespace)
	}
	slices.Sort(names)
	certPEM, keyPEM, err := a.Certificates.For(names)
	said := ""
	if err != nil {
		if said = err.Error(); said != a.certTrouble {
			a.Log.Warn("no certificate for TURN now; TLS is left out until there is one", "error", err)
		}
	}
	a.certTrouble = said
	spec.CertPEM, spec.KeyPEM = string(certPEM), string(keyPEM)
	return &spec
}

// reportEvery is how often an unchanged observation is written again, well within the 15 s
// after which a reader calls it unknown.
const reportEvery = 5 * time.Second

// report records what was seen of an instance, when it is news or old enough to confirm.
func (a *Agent) report(ctx context.Context, ns orama.NamespaceID, role orama.Role, state orama.State, boot, detail string) {
	now := time.Now()
	k := reportKey{ns, role}
	a.mu.Lock()
	last, known := a.reports[k]
	same := known && last.State == state && last.Boot == boot && last.Detail == detail
	fresh := same && now.Sub(last.At) < reportEvery
	a.mu.Unlock()
	if fresh {
		return
	}
	o := orama.Observed{Namespace: ns, Node: a.Self.ID, Role: role,
		Observation: orama.Observation{State: state, Since: now, At: now, Boot: boot, Detail: detail}}
	if known && last.State == state && last.Boot == boot { // another boot means that there was a break
		o.Since = last.Since
	}
	if err := a.Store.Observe(ctx, []orama.Observed{o}); err != nil {
		return // tried again with the next look at the unit
	}
	if !same {
		a.Log.Info("instance", "namespace", ns, "role", role, "state", state, "detail", detail)
	}
	a.mu.Lock()
	a.reports[k] = o
	maps.DeleteFunc(a.reports, func(_ reportKey, o orama.Observed) bool {
		return o.State == orama.StateGone && now.Sub(o.At) > time.Minute
	})
	a.mu.Unlock()
}

// ReportGone records that this machine's instances are gone because it shuts down, so that
// nobody waits 15 s to learn it. It is called after Run returned and the units were stopped.
func (a *Agent) ReportGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	now := time.Now()
	var gone []orama.Observed
	a.mu.Lock()
	for k, o := range a.reports {
		if o.State != orama.StateGone {
			gone = append(gone, orama.Observed{Namespace: k.ns, Node: a.Self.ID, Role: k.role,
				Observation: orama.Observation{State: orama.StateGone, Since: now, At: now, Detail: "the node was shut down"}})
		}
	}
	a.mu.Unlock()
	if err := a.Store.Observe(ctx, gone); err != nil {
		a.Log.Warn("the end of this node's instances is not recorded", "error", err)
	}
}
