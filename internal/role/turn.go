package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/turn"
)

// Unit is what every process that an agent configures is told at its start.
type Unit struct {
	Control string        // path of its Unix socket
	Shared  bool          // the process's group may use the socket too: the agent is another user
	Drain   time.Duration // how long it may take to end
	Log     *slog.Logger
}

// mode is that of the control socket.
func (u Unit) mode() os.FileMode {
	if u.Shared {
		return 0o660
	}
	return 0o600
}

// TURN is the life of a host's TURN process. It waits on its control socket for its
// configuration, serves until ctx ends, and then keeps living relays for at most the time to drain. With leases
// it serves those namespaces alone of which somebody holds a lease. A value of upgrade has the program, as it is now, take
// the place of this process, which then serves what it has to its end.
func TURN(ctx context.Context, u Unit, leases bool, upgrade <-chan os.Signal) error {
	thrifty(50)
	program, err := ownProgram()
	if err != nil {
		return err
	}
	left, err := inherit()
	if err != nil {
		return err
	}
	reg := newRegistry()
	t := &turnProcess{Unit: u, upgrades: upgrade, succession: succession{srv: turn.New(u.Log, reg), log: u.Log, program: program, left: left}}
	defer t.srv.Close() //nolint:errcheck // Close after a Close is nothing; the first one's error is told
	var held []orama.NamespaceID
	if left != nil {
		t.srv.Estate, held = left.Estate, left.Leases
		t.teller = newTeller(left)
		t.srv.Told = t.teller.tell
	}
	mux := controlMux(t.srv.Apply, t.srv.Status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	relayRoutes(mux, t.srv)
	if leases {
		t.srv.UseLeases(held...)
		leaseRoutes(mux, t.srv)
	}
	if t.control, err = listenControl(u.Control, u.mode(), left != nil); err != nil {
		return err
	}
	return t.run(ctx, mux)
}

// turnProcess is a TURN process that an agent configures.
type turnProcess struct {
	Unit
	succession
	upgrades <-chan os.Signal
	teller   *teller   // nil: there was no process before
	told     *notifier // nil while the process before speaks for the unit
}

// run serves the control socket until there is nothing left to serve.
func (t *turnProcess) run(ctx context.Context, mux http.Handler) error {
	serving, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	served := make(chan error, 1)
	wg.Go(func() { served <- serve(serving, t.control, mux, time.Second) })
	if t.teller != nil {
		wg.Go(func() {
			if err := t.teller.run(serving); err != nil {
				t.Log.Info("turn: the process before hears no more of the tenants here", "before", t.left.Parent, "reason", err)
			}
		})
	}
	if t.teller == nil {
		t.told = notify(t.status)
	}
	drain, err := t.follow(ctx, served)
	if err == nil && drain {
		t.told.ending()
		bounded, cancel := context.WithTimeout(context.Background(), t.Drain)
		t.srv.Drain(bounded)
		cancel()
	}
	err = errors.Join(err, t.srv.Close())
	stop()
	wg.Wait()
	t.told.close()
	t.control.remove()
	return err
}

func (t *turnProcess) status() string { return turnStatus(t.srv.Status()) }

// follow waits, and does what it is asked, until this process is to end: with a drain, or because nothing is left to serve.
func (t *turnProcess) follow(ctx context.Context, served <-chan error) (drain bool, err error) {
	var next *heir // nil until this process has handed over
	var ended <-chan *os.ProcessState
	var servedOut, ready <-chan struct{}
	var lists <-chan []plan.TenantSpec
	if t.teller != nil {
		ready = t.teller.ready
	}
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case err := <-served:
			return false, err
		case <-ready: // the unit is this process from now on
			ready, t.told = nil, notify(t.status)
			t.Log.Info("turn: serving in place of a process before, which serves its relays to their end", "before", t.left.Parent)
		case <-servedOut:
			return false, nil
		case state := <-ended:
			if ctx.Err() != nil {
				return true, nil
			}
			err := t.orphaned(next, state)
			return err == nil, err
		case list := <-lists:
			if err := t.srv.Follow(list); err != nil {
				t.Log.Error("turn: what the next process says of its tenants is refused", "error", err)
			}
		case <-t.upgrades:
			if next != nil {
				continue
			}
			if next = t.handOver(ctx); next != nil {
				t.told.close() // the next one speaks for the unit
				defer next.says.Close()
				leaving, cancel := context.WithTimeout(ctx, serveOutMost)
				defer cancel()
				ended, servedOut, lists = next.ended, servesOut(leaving, t.srv), next.lists(leaving.Done(), t.Log)
			}
		}
	}
}

// thrifty has the collector keep the heap within so many percent more than what lives, instead of twice that. A relay and a peer of an SFU live for
// hours and their packets allocate next to nothing, so that costs little and makes each of them a quarter smaller. GOGC overrules it.
func thrifty(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// turnStatus words how a TURN process is, for systemctl status.
func turnStatus(s turn.Status) string {
	if !s.Configured {
		return "waiting for the node's agent"
	}
	relays := 0
	for _, t := range s.Tenants {
		relays += t.Allocations
	}
	text := fmt.Sprintf("serving, namespaces: %d, relays: %d", len(s.Tenants), relays)
	if n := len(s.Unleased); n > 0 {
		text += fmt.Sprintf(", without a lease: %d", n)
	}
	for _, l := range s.Listeners {
		if l.Error != "" {
			text += fmt.Sprintf("; no %s on %s: %s", l.Transport, l.Addr, l.Error)
		}
	}
	if s.Draining {
		return "draining; " + text
	}
	return text
}

// controlled serves a control socket until ctx ends. Then it drains, while the socket still
// answers so that the agent sees it draining, closes, and takes the socket away last.
func (u Unit) controlled(ctx context.Context, mux http.Handler, status func() string, drain func(), closeAll func() error) error {
	l, err := listenUnix(u.Control, u.mode())
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serve(serving, l, mux, time.Second) }()
	told := notify(status)
	defer told.close()
	select {
	case <-ctx.Done():
	case err := <-served:
		closeAll() //nolint:errcheck // the socket's error is the reason
		return err
	}
	told.ending()
	drain()
	err = closeAll()
	stop()
	return errors.Join(err, <-served)
}

func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
