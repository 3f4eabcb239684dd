package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama/internal/turn"
)

// Unit is what every process that an agent configures is told at its start.
type Unit struct {
	Control string        // path of its Unix socket
	Shared  bool          // the process's group may use the socket too: the agent is another user
	Drain   time.Duration // how long it may take to end
	Log     *slog.Logger
}

// TURN is the life of a host's TURN process. It waits on its control socket for its
// configuration, serves until ctx ends, and then keeps living relays for at most the time to drain. With leases
// it serves those namespaces alone of which somebody holds a lease.
func TURN(ctx context.Context, u Unit, leases bool) error {
	thrifty()
	reg := newRegistry()
	srv := turn.New(u.Log, reg)
	mux := controlMux(srv.Apply, srv.Status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	relayRoutes(mux, srv)
	if leases {
		srv.UseLeases()
		leaseRoutes(mux, srv)
	}
	return u.controlled(ctx, mux, func() string { return turnStatus(srv.Status()) }, func() {
		bounded, cancel := context.WithTimeout(context.Background(), u.Drain)
		defer cancel()
		srv.Drain(bounded)
	}, srv.Close)
}

// thrifty has the collector keep the heap within half of what lives, instead of the same again. A relay lives for
// hours and its packets allocate nothing, so that costs little and makes an idle allocation a quarter smaller. GOGC overrules it.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
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
	mode := os.FileMode(0o600)
	if u.Shared {
		mode = 0o660
	}
	l, err := listenUnix(u.Control, mode)
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
