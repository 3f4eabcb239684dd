package turn

import "github.com/prometheus/client_golang/prometheus"

// Why a datagram or connection was dropped without an answer.
const (
	dropMalformed   = "malformed"
	dropUnexpected  = "unexpected_method"
	dropLimited     = "answer_limit"
	dropConns       = "connection_limit"
	dropHandshake   = "handshake_failed"
	dropHello       = "no_client_hello"
	dropSilent      = "silent"
	dropBackend     = "no_https_backend"
	dropDTLSBacklog = "dtls_limit"
	dropGuessing    = "credential_limit"
	dropSocket      = "socket_full" // the kernel took no more
)

// metrics are the server's own counters. What relays move is counted in them and collected when
// somebody asks, so that no packet touches a shared counter.
type metrics struct {
	refused *prometheus.CounterVec
	dropped map[string]prometheus.Counter
	all     *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orama_turn_refusals_total", Help: "Requests refused, by the namespace they named if it exists.",
		}, []string{"namespace", "reason"}),
		all: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orama_turn_dropped_total", Help: "Datagrams and connections dropped without an answer.",
		}, []string{"reason"}),
		dropped: map[string]prometheus.Counter{},
	}
	for _, why := range []string{
		dropMalformed, dropUnexpected, dropLimited, dropConns, dropHandshake, dropHello, dropSilent, dropBackend, dropDTLSBacklog, dropGuessing, dropSocket,
	} {
		m.dropped[why] = m.all.WithLabelValues(why)
	}
	return m
}

// collector gives a Server's numbers to prometheus.
type collector struct{ srv *Server }

var (
	byFlow          = []string{"namespace", "transport", "direction"}
	descBytes       = prometheus.NewDesc("orama_turn_relayed_bytes_total", "Payload bytes relayed; up is from the client.", byFlow, nil)
	descPackets     = prometheus.NewDesc("orama_turn_relayed_packets_total", "Packets relayed; up is from the client.", byFlow, nil)
	descFence       = prometheus.NewDesc("orama_turn_fence_dropped_packets_total", "Packets to (up) or from (down) a peer outside the fence.", byFlow, nil)
	descUnpermitted = prometheus.NewDesc("orama_turn_unpermitted_packets_total", "Packets without a permission or channel.", byFlow, nil)
	descLimited     = prometheus.NewDesc("orama_turn_limited_packets_total", "Packets over a quota, or more than a slow client takes.", byFlow, nil)
	descEnded       = prometheus.NewDesc("orama_turn_allocations_total", "Relays ever opened.", byFlow[:2], nil)
	descLiving      = prometheus.NewDesc("orama_turn_allocations", "Relays living.", byFlow[:2], nil)
	descPorts       = prometheus.NewDesc("orama_turn_relay_ports", "Size of the namespace's relay block.", byFlow[:1], nil)
	descConns       = prometheus.NewDesc("orama_turn_connections", "TCP, TLS and DTLS connections open.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBytes, descPackets, descFence, descUnpermitted, descLimited, descEnded, descLiving, descPorts, descConns} {
		ch <- d
	}
	c.srv.metrics.refused.Describe(ch)
	c.srv.metrics.all.Describe(ch)
}

// Collect is part of prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.srv.tenants() {
		c.collectTenant(ch, t)
	}
	ch <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(c.srv.conns.count()))
	c.srv.metrics.refused.Collect(ch)
	c.srv.metrics.all.Collect(ch)
}

func (c collector) collectTenant(ch chan<- prometheus.Metric, t *tenant) {
	sums, living, ports := t.reading()
	ns := string(t.id)
	ch <- prometheus.MustNewConstMetric(descPorts, prometheus.GaugeValue, float64(ports), ns)
	for transport, s := range sums {
		counter := func(d *prometheus.Desc, up, down uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(up), ns, transport, "up")
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(down), ns, transport, "down")
		}
		counter(descBytes, s.upBytes, s.downBytes)
		counter(descPackets, s.upPackets, s.downPackets)
		counter(descFence, s.fencedUp, s.fencedDown)
		counter(descUnpermitted, s.unpermittedUp, s.unpermittedDown)
		counter(descLimited, s.limitedUp, s.limitedDown)
		ch <- prometheus.MustNewConstMetric(descEnded, prometheus.CounterValue, float64(s.relays), ns, transport)
		ch <- prometheus.MustNewConstMetric(descLiving, prometheus.GaugeValue, float64(living[transport]), ns, transport)
	}
}

// reading sums ended and living relays by transport, at one moment: counters never go back.
func (t *tenant) reading() (sums map[string]totals, living map[string]int, ports int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums, living = make(map[string]totals, len(t.past)), map[string]int{}
	for transport, moved := range t.past {
		sums[transport] = moved
	}
	for r := range t.living {
		sums[r.transport] = sums[r.transport].plus(r.totals())
		living[r.transport]++
	}
	return sums, living, int(t.block.Count)
}
