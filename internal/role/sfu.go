package role

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/sfu"
)

// SFU is the life of one namespace's SFU process. It waits on its control socket for its
// configuration, serves until ctx ends, then asks its peers to reconnect elsewhere and waits for
// them for at most drain.
func SFU(ctx context.Context, ns orama.NamespaceID, control string, drain time.Duration, log *slog.Logger) error {
	reg := newRegistry()
	srv := sfu.New(log, reg)
	mux := controlMux(func(spec plan.SFUSpec) error {
		if spec.Namespace != ns {
			return fmt.Errorf("this process serves namespace %s, not %s", ns, spec.Namespace)
		}
		return srv.Apply(spec)
	}, srv.Status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return controlled(ctx, control, mux, func() {
		bounded, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		srv.Drain(bounded, "the server is shutting down")
	}, srv.Close)
}
