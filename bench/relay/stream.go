package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"

	"orama.network/orama/bench/rig"
)

const (
	connections = 50
	tick        = 250 * time.Microsecond // between two looks at what is due: connections need the runtime's poller
	dialWithin  = 5 * time.Second
)

// clientTLS has both servers do the same work: Debian's coturn knows nothing newer than TLS 1.2.
var clientTLS = &tls.Config{ //nolint:gosec // our own certificate, on loopback
	InsecureSkipVerify: true, ServerName: realm,
	MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
}

// streams measures clients who come over TCP and TLS, at a rate that both servers keep up with.
func (b *bench) streams(ctx context.Context) error {
	if err := b.startBoth(ctx); err != nil {
		return err
	}
	for _, secure := range []bool{false, true} {
		var groups [2]*group
		for side, s := range b.servers {
			g, err := b.connect(ctx, s, secure)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			defer g.close()
			groups[side] = g
			if secure {
				b.report.Notes = append(b.report.Notes, s.Name+": "+g.negotiated())
			}
		}
		for round := range b.rounds {
			for _, size := range b.sizes {
				for _, dir := range []direction{up, down} {
					if err := b.streamCell(ctx, round, groups, size, dir); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (b *bench) streamCell(ctx context.Context, round int, groups [2]*group, size int, dir direction) error {
	b.say("round %d: %s, %d bytes %s", round+1, groups[0].transport, size, dir)
	var got [2]reading
	for _, side := range sides(round) {
		r, err := groups[side].measure(ctx, b.gen, load{dir: dir, size: size, burst: 1, rate: lightRate})
		if err != nil {
			return fmt.Errorf("%s: %w", b.servers[side].Name, err)
		}
		got[side] = r
	}
	way := groups[0].transport + " " + string(dir)
	b.report.add(cell{Kind: kindStreams, Clients: connections, Bytes: size, Way: way}, got[sideCoturn], got[sideOurs])
	return nil
}

// group is all connections to one server. A goroutine for each reads until it is closed.
type group struct {
	transport string
	server    *server
	conns     []net.Conn
	flows     []flow
	run       atomic.Uint32 // whose packets the readers count
	arrived   atomic.Uint64
	wg        sync.WaitGroup
}

func (b *bench) connect(ctx context.Context, s *server, secure bool) (*group, error) {
	g := &group{transport: "tcp", server: s}
	port := uint16(portPlain)
	if secure {
		g.transport, port = "tls", portTLS
	}
	for i := range connections {
		d := newDialogue(b.identity.secret, i, peerAddr)
		dialer := net.Dialer{Timeout: dialWithin, LocalAddr: &net.TCPAddr{IP: d.from.AsSlice()}}
		c, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(listenIPs[s.side], port).String())
		if err == nil && secure {
			c = tls.Client(c, clientTLS)
		}
		if err == nil {
			g.conns = append(g.conns, c)
			err = converse(c, d)
		}
		if err != nil {
			g.close()
			return nil, fmt.Errorf("%s: %w", g.transport, err)
		}
		g.flows = append(g.flows, flow{client: d.from, relay: d.relay, channel: d.channel})
		g.wg.Go(func() { g.read(c) })
	}
	return g, nil
}

func (g *group) close() {
	for _, c := range g.conns {
		c.Close()
	}
	g.wg.Wait()
}

func (g *group) negotiated() string {
	c, ok := g.conns[0].(*tls.Conn)
	if !ok {
		return g.transport
	}
	state := c.ConnectionState()
	return tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
}

// converse carries a dialogue over a connection to its end.
func converse(c net.Conn, d *dialogue) error {
	if err := c.SetDeadline(time.Now().Add(dialWithin)); err != nil {
		return err
	}
	for d.next != stepDone {
		text, err := d.request()
		if err != nil {
			return err
		}
		if _, err := c.Write(text); err != nil {
			return err
		}
		m := &stun.Message{Raw: make([]byte, 20)}
		if _, err := io.ReadFull(c, m.Raw); err != nil {
			return err
		}
		m.Raw = append(m.Raw, make([]byte, binary.BigEndian.Uint16(m.Raw[2:]))...)
		if _, err := io.ReadFull(c, m.Raw[20:]); err != nil {
			return err
		}
		if err := m.Decode(); err != nil {
			return err
		}
		if err := d.answer(m); err != nil {
			return err
		}
	}
	return c.SetDeadline(time.Time{})
}

// read counts the packets of one connection.
func (g *group) read(c net.Conn) {
	r := bufio.NewReaderSize(c, 32<<10)
	for {
		head, err := r.Peek(channelHeader + stampRun + 4)
		if err != nil {
			return
		}
		if binary.BigEndian.Uint32(head[channelHeader+stampRun:]) == g.run.Load() {
			g.arrived.Add(1)
		}
		padded := (int(binary.BigEndian.Uint16(head[2:])) + 3) &^ 3 // RFC 8656 section 12.5
		if _, err := r.Discard(channelHeader + padded); err != nil {
			return
		}
	}
}

// measure sends at a rate for a while, up by the connections, or down by the peer.
func (g *group) measure(ctx context.Context, gen *generator, l load) (reading, error) {
	p := gen.pass(g.server, g.flows, l)
	g.run.Store(p.run)
	g.arrived.Store(0)
	if err := g.until(ctx, p, time.Now().Add(gen.settle)); err != nil {
		return nil, err
	}
	before, err := rig.UsageOf(g.server.PID(), g.server.Core)
	if err != nil {
		return nil, err
	}
	start, first := clock(), g.count(p)
	if err := g.until(ctx, p, time.Now().Add(gen.window)); err != nil {
		return nil, err
	}
	after, err := rig.UsageOf(g.server.PID(), g.server.Core)
	if err != nil {
		return nil, err
	}
	span, n := float64(clock()-start), float64(g.count(p)-first)
	p.rate = 0
	if err := g.until(ctx, p, time.Now().Add(2*forgotten)); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("nothing arrives")
	}
	used := after.Since(before)
	return reading{
		keyCPU: float64(used.CPU.Nanoseconds()) / 1e3 / n, keyRate: n / span * 1e9,
		keyLoss: 100 * (1 - float64(g.count(p))/float64(p.total)), keyBusy: 100 * float64(used.CPU) / span, keyTaken: used.Taken(span),
	}, nil
}

func (g *group) count(p *pass) uint64 {
	if p.dir == up {
		return p.relayed
	}
	return g.arrived.Load()
}

// until sends what is due and hears the peer, to a point in time; without a rate it only hears.
func (g *group) until(ctx context.Context, p *pass, end time.Time) error {
	frame := make([]byte, channelHeader+(p.size+3)&^3)
	binary.BigEndian.PutUint16(frame[2:], uint16(p.size))
	binary.BigEndian.PutUint32(frame[channelHeader+stampRun:], p.run)
	for time.Now().Before(end) {
		now := clock()
		p.expire(now)
		if p.dir == down && p.rate > 0 {
			p.send(now)
		}
		for n := p.owed(now); p.dir == up && n > 0; n-- {
			at := p.turn % len(g.conns)
			p.turn++
			binary.BigEndian.PutUint16(frame, g.flows[at].channel)
			if _, err := g.conns[at].Write(frame); err != nil {
				return err
			}
			p.total++
		}
		if p.dir == up {
			if err := p.to.receive(p.arrive); err != nil {
				return err
			}
		}
		if err := errors.Join(p.failed, rig.Pause(ctx, tick)); err != nil {
			return err
		}
	}
	return nil
}
