package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"orama.network/orama/bench/rig"
)

// burstSize is how many datagrams a burst has.
const burstSize = 8

const (
	forgotten = 25 * time.Millisecond  // after which a packet no longer counts as under way
	catchUp   = time.Millisecond       // of packets that are sent late after this process was held up; others never are
	heldUp    = 500 * time.Microsecond // between two looks at the clock: something else had this process's core
	epochs    = 32                     // of a millisecond each; more than forgotten has
)

// direction is which way packets go.
type direction string

const (
	up   direction = "up"   // client, server, relay, peer
	down direction = "down" // peer, relay, server, client
)

// Every payload begins with when it was sent and which measurement it belongs to.
const (
	stampTime = 0 // Unix nanoseconds, 8 bytes
	stampRun  = 8 // 4 bytes
	smallest  = 12
	largest   = 1400 // eight of them fit into a message
)

// generator is both ends of every relayed packet: all clients, and the one peer.
type generator struct {
	clients, peer  *wire
	settle, window time.Duration // of load before a measurement, and of one
	runs           uint32
}

// flow is one client with its relay.
type flow struct {
	client  netip.Addr
	relay   netip.AddrPort
	channel uint16
}

// load is what one measurement sends.
type load struct {
	dir    direction
	size   int     // payload bytes
	burst  int     // datagrams of one flow back to back
	rate   float64 // packets a second at even intervals; 0: as fast as inFlight lets
	flight int     // packets under way at most, when there is no rate
}

// sample is one measurement of one server.
type sample struct {
	CPU  float64 `json:"cpu_us"`       // µs of CPU for each packet delivered
	Rate float64 `json:"rate"`         // delivered a second
	P50  float64 `json:"p50_us"`       // µs from end to end; loopback itself is about 2 of them
	P99  float64 `json:"p99_us"`       //
	Loss float64 `json:"loss_percent"` // of what was sent
	Busy float64 `json:"busy_percent"` // of the servers' core, by the server
	// The disturbance: of the servers' core, by anything else; and of the time, that the load was held up.
	Taken float64 `json:"taken_percent"`
	Held  float64 `json:"held_percent"`
}

func clock() int64 { return time.Now().UnixNano() }

func newGenerator(s settings, peer netip.AddrPort) (*generator, error) {
	clients, err := listen(netip.AddrPortFrom(netip.IPv4Unspecified(), clientPort))
	if err != nil {
		return nil, err
	}
	at, err := listen(peer)
	if err != nil {
		return nil, errors.Join(err, clients.close())
	}
	return &generator{clients: clients, peer: at, settle: s.settle, window: s.window}, nil
}

func (g *generator) close() error { return errors.Join(g.clients.close(), g.peer.close()) }

// pass is one measurement under way.
type pass struct {
	load
	flows    []flow
	server   netip.AddrPort
	run      uint32
	from, to *wire
	turn     int   // the flow that sends next
	due      int64 // when the next is to be sent, with a rate
	began    int64 // of epoch 0
	epoch    int64
	sentIn   [epochs]int32 // by epoch, the last ones
	gotOf    [epochs]int32
	underWay int

	measuring bool
	window    [2]int64 // Unix nanoseconds
	sent, got uint64   // that were sent within the window
	arrivals  uint64   // within the window
	latency   rig.Histogram
	held      int64 // nanoseconds of the window
	failed    error
	length    int    // of what arrives
	total     uint64 // sent
	relayed   uint64 // arrived
}

// pass is a new measurement of a server.
func (g *generator) pass(s *server, flows []flow, l load) *pass {
	g.runs++
	p := &pass{load: l, flows: flows, server: s.udp(), run: g.runs, from: g.peer, to: g.clients, length: l.size + channelHeader}
	if l.dir == up {
		p.from, p.to, p.length = g.clients, g.peer, l.size
	}
	p.prepare()
	p.began = clock()
	p.due = p.began
	return p
}

// measure sends one load through a server for a while.
func (g *generator) measure(ctx context.Context, s *server, flows []flow, l load) (sample, error) {
	p := g.pass(s, flows, l)
	if err := p.until(ctx, p.began+int64(g.settle), true); err != nil {
		return sample{}, err
	}
	before, err := rig.UsageOf(s.PID(), s.Core)
	if err != nil {
		return sample{}, err
	}
	start := clock()
	p.window = [2]int64{start, start + int64(g.window)}
	p.measuring = true
	err = p.until(ctx, p.window[1], true)
	after, err2 := rig.UsageOf(s.PID(), s.Core)
	span := float64(clock() - start)
	p.measuring = false
	arrivals := p.arrivals
	// What is still under way belongs to the loss, not to the rate.
	err = errors.Join(err, err2, p.until(ctx, clock()+int64(2*forgotten), false))
	if err != nil {
		return sample{}, err
	}
	if arrivals == 0 {
		return sample{}, fmt.Errorf("%s relays nothing", s.Name)
	}
	used := after.Since(before)
	return sample{
		CPU:   float64(used.CPU.Nanoseconds()) / 1e3 / float64(arrivals),
		Rate:  float64(arrivals) / span * 1e9,
		P50:   float64(p.latency.Percentile(0.50)) / 1e3,
		P99:   float64(p.latency.Percentile(0.99)) / 1e3,
		Loss:  100 * (1 - float64(p.got)/float64(max(p.sent, p.got, 1))),
		Busy:  100 * float64(used.CPU.Nanoseconds()) / span,
		Taken: used.Taken(span), Held: 100 * float64(p.held) / span,
	}, nil
}

const channelHeader = 4

// prepare lays out the messages that are sent over and over.
func (p *pass) prepare() {
	one := p.size
	if p.dir == up {
		one += channelHeader
	}
	if p.burst > 1 {
		p.from.shape(one)
	} else {
		p.from.shapeWhole()
	}
	for i := range batch {
		m := p.from.message(i)
		clear(m)
		for k := range p.burst {
			d := m[k*one : (k+1)*one]
			if p.dir == up {
				binary.BigEndian.PutUint16(d[2:], uint16(p.size))
				d = d[channelHeader:]
			}
			binary.BigEndian.PutUint32(d[stampRun:], p.run)
		}
	}
}

// until sends and receives to a point in time. Without sending it ends when nothing is under way any more.
func (p *pass) until(ctx context.Context, end int64, sending bool) error {
	for turns, last := 0, clock(); ; turns++ {
		now := clock()
		if gap := now - last; gap > int64(heldUp) && p.measuring {
			p.held += gap
		}
		last = now
		p.expire(now)
		switch {
		case now >= end, p.failed != nil, !sending && p.underWay == 0:
			return p.failed
		case turns%256 == 0 && ctx.Err() != nil:
			return ctx.Err()
		}
		if sending {
			p.send(now)
		}
		if err := p.to.receive(p.arrive); err != nil {
			return err
		}
	}
}

// expire moves on to the current epoch and writes off what was sent in those that are too old.
func (p *pass) expire(now int64) {
	for current := (now - p.began) / int64(time.Millisecond); p.epoch < current; {
		p.epoch++
		if old := p.epoch - int64(forgotten/time.Millisecond) - 1; old >= 0 {
			p.underWay -= int(p.sentIn[old%epochs] - p.gotOf[old%epochs])
		}
		p.sentIn[p.epoch%epochs], p.gotOf[p.epoch%epochs] = 0, 0
	}
}

// send sends what is due now: by the rate, or what the window has room for.
func (p *pass) send(now int64) {
	n := p.owed(now)
	if p.rate == 0 {
		n = min((p.flight-p.underWay)/p.burst, batch)
	}
	if n <= 0 {
		return
	}
	for i := range n {
		p.fill(i, now)
	}
	k, err := p.from.send(n)
	if err != nil {
		p.failed = err
	}
	p.turn = (p.turn + n) % len(p.flows)
	packets := k * p.burst
	p.underWay += packets
	p.total += uint64(packets)
	p.sentIn[p.epoch%epochs] += int32(packets)
	if p.inWindow(now) {
		p.sent += uint64(packets)
	}
}

// owed is how many messages are due by the rate.
func (p *pass) owed(now int64) (n int) {
	if p.rate == 0 {
		return 0
	}
	step := int64(float64(time.Second) / p.rate * float64(p.burst))
	for ; p.due <= now && n < batch; n++ {
		p.due += step
	}
	p.due = max(p.due, now-int64(catchUp))
	return n
}

// fill makes message i of the batch the next flow's.
func (p *pass) fill(i int, now int64) {
	f := &p.flows[(p.turn+i)%len(p.flows)]
	one, at := p.size, stampTime
	if p.dir == up {
		one, at = one+channelHeader, at+channelHeader
	}
	m := p.from.message(i)
	for k := range p.burst {
		d := m[k*one:]
		if p.dir == up {
			binary.BigEndian.PutUint16(d, f.channel)
		}
		binary.BigEndian.PutUint64(d[at:], uint64(now))
	}
	if p.dir == up {
		p.from.address(i, p.server, f.client, one*p.burst)
	} else {
		p.from.address(i, f.relay, netip.Addr{}, one*p.burst)
	}
}

// arrive counts one relayed packet.
func (p *pass) arrive(b []byte, at int64) {
	if len(b) != p.length {
		return
	}
	if p.dir == down {
		if binary.BigEndian.Uint16(b[2:]) != uint16(p.size) {
			return
		}
		b = b[channelHeader:]
	}
	if binary.BigEndian.Uint32(b[stampRun:]) != p.run {
		return // of an earlier measurement
	}
	p.relayed++
	sent := int64(binary.BigEndian.Uint64(b))
	if e := (sent - p.began) / int64(time.Millisecond); e >= 0 && e <= p.epoch && p.epoch-e <= int64(forgotten/time.Millisecond) {
		p.gotOf[e%epochs]++
		p.underWay--
	}
	if p.inWindow(sent) {
		p.got++
	}
	if p.measuring {
		p.arrivals++
		p.latency.Add(at - sent)
	}
}

func (p *pass) inWindow(t int64) bool { return t >= p.window[0] && t < p.window[1] }
