package sfu

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Counters are what the process has counted since it started.
type Counters struct {
	PacketsIn         uint64 `json:"packets_in"`         // RTP packets read from publishers
	PacketsOut        uint64 `json:"packets_out"`        // RTP packets written to subscribers, without retransmissions
	Retransmitted     uint64 `json:"retransmitted"`      // RTP packets sent again because a subscriber had lost them
	Padding           uint64 `json:"padding"`            // packets of padding, sent to learn what a path carries
	HeldBack          uint64 `json:"held_back"`          // RTP packets of video not sent because a path would have taken too long
	PacketsFiltered   uint64 `json:"packets_filtered"`   // datagrams dropped because no relay sent them
	PacketsUnsent     uint64 `json:"packets_unsent"`     // datagrams to peers that found no room to wait, or that the kernel did not take
	CandidatesRemoved uint64 `json:"candidates_removed"` // candidates of clients that were not of type relay
	PLISent           uint64 `json:"pli_sent"`           // keyframe requests sent to publishers
	PLICoalesced      uint64 `json:"pli_coalesced"`      // keyframe requests that became part of another
	DataDropped       uint64 `json:"data_dropped"`       // messages of lossy channels dropped for slow receivers
	Joins             uint64 `json:"joins"`              // peers that joined, without resumes
	Resumes           uint64 `json:"resumes"`            // sockets that resumed a peer
	SocketsSlow       uint64 `json:"sockets_slow"`       // sockets closed because they were read too slowly
}

// metrics are counted with plain atomics, because the media path counts every packet; they are
// shown to Prometheus by functions.
type metrics struct {
	packetsIn, packetsOut, candidatesRemoved, pliSent, pliCoalesced atomic.Uint64
	retransmitted, padding, heldBack                                atomic.Uint64
	dataDropped, joins, resumes, socketsSlow                        atomic.Uint64
	peers, tracks                                                   atomic.Int64

	connected prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{connected: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "orama_sfu_join_seconds", Help: "Time from a peer's join to its media connection.",
		Buckets: []float64{.05, .1, .2, .4, .8, 1.6, 3.2, 6.4, 12.8},
	})}
}

func (m *metrics) counters(filtered, unsent uint64) Counters {
	return Counters{
		PacketsIn: m.packetsIn.Load(), PacketsOut: m.packetsOut.Load(), PacketsFiltered: filtered, PacketsUnsent: unsent,
		Retransmitted: m.retransmitted.Load(), Padding: m.padding.Load(), HeldBack: m.heldBack.Load(),
		CandidatesRemoved: m.candidatesRemoved.Load(), PLISent: m.pliSent.Load(), PLICoalesced: m.pliCoalesced.Load(),
		DataDropped: m.dataDropped.Load(), Joins: m.joins.Load(), Resumes: m.resumes.Load(), SocketsSlow: m.socketsSlow.Load(),
	}
}

// register shows the metrics of s; a nil registerer shows them to nobody.
func (s *Server) register(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	counter := func(name, help string, read func(Counters) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "orama_sfu_" + name, Help: help},
			func() float64 { return float64(read(s.counters())) })
	}
	gauge := func(name, help string, read func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "orama_sfu_" + name, Help: help},
			func() float64 { return float64(read()) })
	}
	for _, c := range []prometheus.Collector{
		s.metrics.connected,
		gauge("peers", "Peers in all rooms.", s.metrics.peers.Load),
		gauge("rooms", "Rooms.", func() int64 { return int64(s.roomCount()) }),
		gauge("tracks", "Published tracks.", s.metrics.tracks.Load),
		counter("packets_in_total", "RTP packets read from publishers.", func(c Counters) uint64 { return c.PacketsIn }),
		counter("packets_out_total", "RTP packets written to subscribers.", func(c Counters) uint64 { return c.PacketsOut }),
		counter("retransmitted_total", "RTP packets sent again because a subscriber had lost them.", func(c Counters) uint64 { return c.Retransmitted }),
		counter("padding_total", "Packets of padding, sent to learn what a path carries.", func(c Counters) uint64 { return c.Padding }),
		counter("held_back_total", "RTP packets of video not sent because a path would have taken too long.", func(c Counters) uint64 { return c.HeldBack }),
		counter("packets_filtered_total", "Datagrams dropped because no relay sent them.", func(c Counters) uint64 { return c.PacketsFiltered }),
		counter("packets_unsent_total", "Datagrams to peers that found no room to wait, or that the kernel did not take.", func(c Counters) uint64 { return c.PacketsUnsent }),
		counter("candidates_removed_total", "Client candidates that were not of type relay.", func(c Counters) uint64 { return c.CandidatesRemoved }),
		counter("pli_sent_total", "Keyframe requests sent to publishers.", func(c Counters) uint64 { return c.PLISent }),
		counter("pli_coalesced_total", "Keyframe requests joined with another.", func(c Counters) uint64 { return c.PLICoalesced }),
		counter("data_dropped_total", "Messages of lossy channels dropped.", func(c Counters) uint64 { return c.DataDropped }),
		counter("joins_total", "Peers that joined.", func(c Counters) uint64 { return c.Joins }),
		counter("resumes_total", "Sockets that resumed a peer.", func(c Counters) uint64 { return c.Resumes }),
		counter("sockets_slow_total", "Sockets closed because they were read too slowly.", func(c Counters) uint64 { return c.SocketsSlow }),
	} {
		reg.MustRegister(c)
	}
}
