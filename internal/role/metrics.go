package role

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics serves what is counted of this host's agent: its gateway, its name server, and how its parts do. Relays and SFUs
// have theirs on their own control sockets.
func (h *host) metrics() http.Handler {
	reg := newRegistry()
	h.gate.Register(reg)
	reg.MustRegister(&hostMetrics{h})
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// hostMetrics reads what the parts know when somebody asks.
type hostMetrics struct{ *host }

var (
	checkMetric = prometheus.NewDesc("orama_check_ok", "1 when this part of the node served when it was last looked at.", []string{"check"}, nil)
	unitMetric  = prometheus.NewDesc("orama_unit_restarts", "How often a process of this node was started again.", []string{"unit", "namespace"}, nil)
	endMetric   = prometheus.NewDesc("orama_certificate_not_after_seconds", "When the certificate ends, as a Unix time; 0: there is none.", []string{"names"}, nil)
	errorMetric = prometheus.NewDesc("orama_certificate_failed", "1 when the last attempt to get or renew it failed.", []string{"names"}, nil)

	dnsQueriesMetric = prometheus.NewDesc("orama_dns_queries_total", "Messages that the name server received.", nil, nil)
	dnsLimitedMetric = prometheus.NewDesc("orama_dns_limited_total", "Queries that were answered with 'use TCP' or not at all, because their network asked too often.", nil, nil)
	dnsSilentMetric  = prometheus.NewDesc("orama_dns_unanswered_total", "Messages that were no queries.", nil, nil)
	dnsSerialMetric  = prometheus.NewDesc("orama_dns_zone_serial", "Serial of the zone that is served; 0: none yet.", nil, nil)
	dnsPushedMetric  = prometheus.NewDesc("orama_dns_compared_seconds", "When somebody else's zone was last compared with what it should be, as a Unix time.", nil, nil)
)

// Describe sends the metrics that every node has; which others there are depends on the configuration.
func (m *hostMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{checkMetric, unitMetric, endMetric, errorMetric,
		dnsQueriesMetric, dnsLimitedMetric, dnsSilentMetric, dnsSerialMetric, dnsPushedMetric} {
		out <- d
	}
}

// Collect reads them.
func (m *hostMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	for name, why := range m.checks.snapshot() {
		gauge(checkMetric, truth(why == ""), name)
	}
	for _, u := range m.units.Units() {
		gauge(unitMetric, float64(u.Restarts), string(u.Role), string(u.Namespace))
	}
	for _, s := range m.certs.Status() {
		names, end := strings.Join(s.Names, " "), 0.0
		if names == "" {
			names = strings.Join(s.Missing, " ")
		}
		if !s.NotAfter.IsZero() {
			end = float64(s.NotAfter.Unix())
		}
		gauge(endMetric, end, names)
		gauge(errorMetric, truth(s.Error != ""), names)
	}
	if s := m.names.server; s != nil {
		st := s.Stats()
		count(dnsQueriesMetric, st.Queries)
		count(dnsLimitedMetric, st.Limited)
		count(dnsSilentMetric, st.Silent)
		gauge(dnsSerialMetric, float64(s.Serial()))
	}
	if m.names.foreign != nil {
		if at := m.names.compared(); !at.IsZero() {
			gauge(dnsPushedMetric, float64(at.Unix()))
		}
	}
}

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
