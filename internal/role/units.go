package role

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/probe"
	"orama.network/orama/internal/sfu"
	"orama.network/orama/internal/supervisor"
	"orama.network/orama/internal/turn"
)

// How long a unit of a child-process cluster may drain. SFUs end first, so that their peers
// hear of it through relays that still work.
const (
	sfuDrain  = 12 * time.Second // long enough to join elsewhere before leaving here; it ends when all have gone
	turnDrain = time.Second
	// killAfter is how much longer than its drain a unit may take to be gone.
	killAfter = 3 * time.Second
)

// Names of the units, the same that systemd would know them by.
const (
	turnUnit      = "orama-turn"
	sfuUnitPrefix = "orama-namespace-sfu@"
)

// processes is what keeps units: supervisor.Children, or supervisor.Systemd.
type processes interface {
	Ensure(ctx context.Context, u supervisor.Unit) error
	Stop(ctx context.Context, name string, grace time.Duration) error
	List() []supervisor.UnitState
}

// units runs this node's processes and speaks to their control sockets. It is the
// agent's Runner and Processes.
type units struct {
	keep    processes
	leases  *leaseKeeper // under systemd alone
	close   func()       // nil: nothing to close
	exe     string
	node    orama.NodeID
	runDir  string
	dataDir string
	renewed sync.Once
}

func unitName(role orama.Role, ns orama.NamespaceID) string {
	if role == orama.RoleTURN {
		return turnUnit
	}
	return sfuUnitPrefix + string(ns)
}

// Run makes the unit's process exist.
func (u *units) Run(ctx context.Context, role orama.Role, ns orama.NamespaceID) error {
	argv := []string{u.exe, "turn", "run", "--control", u.turnSocket(), "--drain", turnDrain.String()}
	if role == orama.RoleSFU {
		argv = []string{u.exe, "sfu", "run", "--namespace", string(ns), "--control", u.sfuSocket(ns), "--drain", sfuDrain.String()}
	}
	name := unitName(role, ns)
	err := u.keep.Ensure(ctx, supervisor.Unit{Name: name, Args: argv, Dir: u.dataDir, Log: u.logFile(name)})
	switch {
	case err != nil || role != orama.RoleTURN:
	case u.leases != nil:
		u.leases.begin(ctx)
	default:
		u.renewed.Do(u.renew)
	}
	return err
}

// renew has a TURN process that this agent found running an earlier program replaced by the present one; it serves its relays to their
// end. Under systemd it is another user's, and the package asks for it.
func (u *units) renew() {
	own, err := os.Stat(u.exe)
	if err != nil {
		return
	}
	for _, s := range u.keep.List() {
		if s.Name != turnUnit || s.PID == 0 {
			continue
		}
		if theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", s.PID)); err == nil && !os.SameFile(own, theirs) {
			syscall.Kill(s.PID, syscall.SIGUSR2) //nolint:errcheck // it has ended just now
		}
	}
}

// Stop drains the unit's process and returns when it was seen gone.
func (u *units) Stop(ctx context.Context, role orama.Role, ns orama.NamespaceID) error {
	if err := u.end(ctx, role, ns); err != nil {
		return err
	}
	if role == orama.RoleSFU && u.leases == nil { // under systemd the journal has its own rules
		// Nobody wants it any more, and nothing on this host is to bear its name.
		if err := os.Remove(u.logFile(unitName(role, ns))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (u *units) logFile(name string) string { return filepath.Join(u.dataDir, "log", name+".log") }

// end drains the unit's process and returns when it was seen gone; what it has written stays.
func (u *units) end(ctx context.Context, role orama.Role, ns orama.NamespaceID) error {
	if u.leases != nil && role == orama.RoleTURN {
		u.leases.forget()
		if err := u.leases.end(ctx, nil); err != nil {
			return err
		}
	}
	return u.keep.Stop(ctx, unitName(role, ns), u.grace(role))
}

// Units lists the processes that exist. A TURN server that is gone but has leases left is among them, so that
// somebody ends those.
func (u *units) Units() []node.Unit {
	var out []node.Unit
	server, leases := false, false
	for _, s := range u.keep.List() {
		n := node.Unit{Role: orama.RoleTURN, PID: s.PID, Since: s.Since, Restarts: s.Restarts, LastExit: s.LastExit}
		ns, isSFU := strings.CutPrefix(s.Name, sfuUnitPrefix)
		switch {
		case isSFU:
			n.Role, n.Namespace = orama.RoleSFU, orama.NamespaceID(ns)
		case s.Name == turnUnit:
			server = true
		default:
			leases = leases || strings.HasPrefix(s.Name, leaseUnitPrefix)
			continue
		}
		out = append(out, n)
	}
	if leases && !server {
		out = append(out, node.Unit{Role: orama.RoleTURN})
	}
	slices.SortFunc(out, func(a, b node.Unit) int {
		return strings.Compare(string(b.Role)+string(b.Namespace), string(a.Role)+string(a.Namespace))
	})
	return out
}

// stopAll ends every unit, the SFUs before TURN.
func (u *units) stopAll(ctx context.Context, log *slog.Logger) {
	stop := func(role orama.Role) {
		done := make(chan struct{})
		var n int
		for _, x := range u.Units() {
			if x.Role != role {
				continue
			}
			n++
			go func() {
				defer func() { done <- struct{}{} }()
				if err := u.end(ctx, x.Role, x.Namespace); err != nil {
					log.Error("a unit did not stop", "role", x.Role, "namespace", x.Namespace, "error", err)
				}
			}()
		}
		for range n {
			<-done
		}
	}
	stop(orama.RoleSFU)
	stop(orama.RoleTURN)
}

// TURN asks the TURN process for its status.
func (u *units) TURN(ctx context.Context) (node.Status, error) {
	var s turn.Status
	if err := dialUnit(u.turnSocket()).status(ctx, &s); err != nil {
		return node.Status{}, err
	}
	out := node.Status{Boot: s.Boot, Configured: s.Configured, Draining: s.Draining}
	for _, t := range s.Tenants {
		out.Tenants = append(out.Tenants, t.Namespace)
		out.Relays += t.Allocations
	}
	return out, nil
}

// ApplyTURN hands the TURN process its configuration.
func (u *units) ApplyTURN(ctx context.Context, spec plan.TURNSpec) error {
	configure := func() error { return dialUnit(u.turnSocket()).apply(ctx, spec) }
	if u.leases != nil {
		return u.leases.apply(ctx, spec, configure)
	}
	return configure()
}

// SFU asks a namespace's SFU for its status.
func (u *units) SFU(ctx context.Context, ns orama.NamespaceID) (node.Status, error) {
	var s sfu.Status
	if err := dialUnit(u.sfuSocket(ns)).status(ctx, &s); err != nil {
		return node.Status{}, err
	}
	out := node.Status{Boot: s.Boot, Configured: s.Configured, Draining: s.Draining}
	for _, r := range s.Rooms {
		out.Rooms = append(out.Rooms, r.ID)
		if m, changed := moderated(r); changed {
			out.Moderated = append(out.Moderated, m)
		}
	}
	return out, nil
}

// ApplySFU hands an SFU its configuration.
func (u *units) ApplySFU(ctx context.Context, spec plan.SFUSpec) error {
	return dialUnit(u.sfuSocket(spec.Namespace)).apply(ctx, spec)
}

// prober observes readiness as a client would.
type prober struct {
	keys   *auth.Keys
	opened func(orama.Role, orama.NamespaceID) bool // this host's firewall lets the instance be reached; nil: it does
	leases *leaseKeeper                             // nil: there are none
}

// errWalled is why an instance that serves is not ready.
var errWalled = errors.New("the firewall does not let it be reached yet")

// TURN makes a real allocation with a fresh credential.
func (p prober) TURN(ctx context.Context, spec plan.TURNSpec, t plan.TenantSpec) error {
	if p.opened != nil && !p.opened(orama.RoleTURN, t.Namespace) {
		return errWalled
	}
	if p.leases != nil {
		if err := p.leases.problem(t.Namespace); err != nil {
			return err
		}
	}
	user, credential := auth.MintTURN(t.Secret, t.Namespace, time.Now().Add(time.Minute))
	return probe.TURN(ctx, netip.AddrPortFrom(spec.PublicIP, 3478), spec.Realm, user, credential)
}

// SFU joins a room that no client can name.
func (p prober) SFU(ctx context.Context, spec plan.SFUSpec, boot string) error {
	if p.opened != nil && !p.opened(orama.RoleSFU, spec.Namespace) {
		return errWalled
	}
	ticket, err := p.keys.MintTicket(auth.Ticket{Namespace: spec.Namespace, Node: spec.Node, Boot: boot,
		Room: "_probe", User: "orama", Admin: true})
	if err != nil {
		return fmt.Errorf("sfu probe: %w", err)
	}
	return probe.SFU(ctx, spec.MeshIP, netip.AddrPortFrom(spec.MeshIP, spec.SignalPort), ticket)
}
