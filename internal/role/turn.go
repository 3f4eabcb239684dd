package role

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama/internal/turn"
)

// TURN is the life of a host's TURN process. It waits on its control socket for its
// configuration, serves until ctx ends, and then keeps living relays for at most drain.
func TURN(ctx context.Context, control string, drain time.Duration, log *slog.Logger) error {
	reg := newRegistry()
	srv := turn.New(log, reg)
	mux := controlMux(srv.Apply, srv.Status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return controlled(ctx, control, mux, func() {
		bounded, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		srv.Drain(bounded)
	}, srv.Close)
}

// controlled serves a control socket until ctx ends. Then it drains, while the socket still
// answers so that the agent sees it draining, closes, and takes the socket away last.
func controlled(ctx context.Context, path string, mux http.Handler, drain func(), closeAll func() error) error {
	l, err := listenUnix(path)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serve(serving, l, mux, time.Second) }()
	select {
	case <-ctx.Done():
	case err := <-served:
		closeAll() //nolint:errcheck // the socket's error is the reason
		return err
	}
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
