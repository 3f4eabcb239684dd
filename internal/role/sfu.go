package role

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/sfu"
)

// SFU is the life of one namespace's SFU process. It waits on its control socket for its
// configuration, serves until ctx ends, then asks its peers to reconnect elsewhere and waits for
// them for at most the time to drain.
func SFU(ctx context.Context, ns orama.NamespaceID, u Unit) error {
	thrifty(20)
	reg := newRegistry()
	srv := sfu.New(u.Log, reg)
	mux := controlMux(func(spec plan.SFUSpec) error {
		if spec.Namespace != ns {
			return fmt.Errorf("this process serves namespace %s, not %s", ns, spec.Namespace)
		}
		return srv.Apply(spec)
	}, srv.Status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("POST /v1/rooms/{id}/move", serveMove(srv))
	return u.controlled(ctx, mux, func() string { return sfuStatus(srv.Status()) }, func() {
		bounded, cancel := context.WithTimeout(context.Background(), u.Drain)
		defer cancel()
		srv.Drain(bounded, "the server is shutting down")
	}, srv.Close)
}

// sfuStatus words how an SFU is, for systemctl status.
func sfuStatus(s sfu.Status) string {
	if !s.Configured {
		return "waiting for the node's agent"
	}
	peers := 0
	for _, r := range s.Rooms {
		peers += r.Peers
	}
	text := fmt.Sprintf("serving, rooms: %d, peers: %d", len(s.Rooms), peers)
	if s.Draining {
		return "draining; " + text
	}
	return text
}
