package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the gateway is asked. Labels are bounded: a path counts as the pattern that it matched.
type metrics struct {
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
}

func newMetrics() metrics {
	return metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orama_gateway_requests_total", Help: "Requests by route and status; 101 is a socket that was joined to its room.",
		}, []string{"route", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "orama_gateway_request_seconds", Help: "Time until a request was answered; of sockets, until they were joined.",
			Buckets: []float64{.001, .004, .016, .064, .25, 1, 4},
		}, []string{"route"}),
	}
}

// Register shows the gateway's metrics.
func (g *Gateway) Register(reg prometheus.Registerer) {
	reg.MustRegister(g.metrics.requests, g.metrics.took,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "orama_gateway_sockets", Help: "Clients' sockets, those that are being joined included."},
			func() float64 {
				g.mu.Lock()
				defer g.mu.Unlock()
				return float64(g.sockets)
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "orama_gateway_pipes", Help: "Sockets that are joined to an SFU."},
			func() float64 {
				g.mu.Lock()
				defer g.mu.Unlock()
				return float64(len(g.pipes))
			}))
}

// measured counts requests. The route is looked up as the mux does it.
func (g *Gateway) measured(mux *recorder, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, route := mux.Handler(r)
		if route == "" {
			route = "none"
		}
		if r.Method == http.MethodOptions {
			route = http.MethodOptions
		}
		m := &measuredWriter{ResponseWriter: w}
		begun := time.Now()
		m.first = func(status int) {
			g.metrics.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
			g.metrics.took.WithLabelValues(route).Observe(time.Since(begun).Seconds())
		}
		next.ServeHTTP(m, r)
		m.say(http.StatusOK) // nothing was written
	})
}

// measuredWriter tells of the status once, when it is known. What else the writer beneath can do is reached by Unwrap.
type measuredWriter struct {
	http.ResponseWriter
	first func(status int) // nil: it was told
}

func (w *measuredWriter) say(status int) {
	if w.first != nil && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.first(status)
		w.first = nil
	}
}

func (w *measuredWriter) WriteHeader(status int) {
	w.say(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *measuredWriter) Write(b []byte) (int, error) {
	w.say(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController, and for the upgrade to a WebSocket.
func (w *measuredWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
