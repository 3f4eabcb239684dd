package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/testnet"
)

// The load on a TURN server: like 20 callers who send audio and a little video, and get as much.
const (
	relays     = 20
	perBurst   = 2
	burstEvery = 5 * time.Millisecond
	datagram   = 160 // bytes, an Opus packet's size with SRTP
	warmUp     = 400 * time.Millisecond
)

func (l *lab) measureTURN(ctx context.Context, s settings) ([]Cost, error) {
	servers := []string{oramaTURN, pionTURN}
	if _, err := exec.LookPath("turnserver"); err == nil {
		servers = append(servers, coturn)
	}
	samples := map[string][]sample{}
	for range s.rounds {
		for _, name := range servers {
			one, err := l.relayWindow(ctx, name, s.window)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			samples[name] = append(samples[name], one)
		}
	}
	return costs(servers, pionTURN, samples), nil
}

// relayWindow sends through one server for a while, to a socket that echoes everything.
func (l *lab) relayWindow(ctx context.Context, name string, window time.Duration) (sample, error) {
	server, err := l.open(name)
	if err != nil {
		return sample{}, err
	}
	var t traffic
	defer t.stop()
	if err := t.listen(l.net.Media(testnet.Alpha, sinkNode)); err != nil {
		return sample{}, err
	}
	username, credential := l.net.Credential(testnet.Alpha, time.Hour)
	for range relays {
		if err := t.relay(ctx, l.net.TURNAddr(turnNodes[name]), username, credential); err != nil {
			return sample{}, err
		}
	}
	t.start()
	return measureWindow(ctx, server, window, func() (sent, arrived uint64) {
		return t.sent.Load() * 2, t.up.Load() + t.down.Load()
	})
}

// measureWindow waits for the load to be steady and then takes the difference over the window.
func measureWindow(ctx context.Context, server *child, window time.Duration, count func() (sent, arrived uint64)) (sample, error) {
	if err := pause(ctx, warmUp); err != nil {
		return sample{}, err
	}
	sent, arrived := count()
	cpu, err := server.cpu()
	if err != nil {
		return sample{}, err
	}
	if err := pause(ctx, window); err != nil {
		return sample{}, err
	}
	after, err := server.cpu()
	if err != nil {
		return sample{}, err
	}
	s, a := count()
	if a == arrived {
		return sample{}, errors.New("nothing arrived")
	}
	return sample{cpu: after - cpu, sent: s - sent, arrived: a - arrived}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// traffic is clients that send through a relay, and where it goes.
type traffic struct {
	sink           *net.UDPConn
	to             netip.AddrPort
	conns          []net.PacketConn
	closers        []func()
	quit           chan struct{}
	wg             sync.WaitGroup
	sent, up, down atomic.Uint64
}

func (t *traffic) listen(at netip.AddrPort) (err error) {
	t.quit, t.to = make(chan struct{}), at
	t.sink, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	return err
}

func (t *traffic) relay(ctx context.Context, server netip.AddrPort, username, credential string) error {
	sock, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: server.String(), STUNServerAddr: server.String(), Conn: sock,
		Username: username, Password: credential, Realm: testnet.Base, LoggerFactory: silent(),
	})
	if err != nil {
		return errors.Join(err, sock.Close())
	}
	t.closers = append(t.closers, func() { c.Close(); sock.Close() })
	if err := c.Listen(); err != nil {
		return err
	}
	conn, err := c.AllocateWithContext(ctx)
	if err != nil {
		return err
	}
	t.closers = append(t.closers, func() { conn.Close() })
	t.conns = append(t.conns, conn)
	_, err = conn.WriteTo(make([]byte, datagram), net.UDPAddrFromAddrPort(t.to)) // binds a channel
	return err
}

func silent() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
}

func (t *traffic) start() {
	t.wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := t.sink.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			t.up.Add(1)
			t.sink.WriteToUDPAddrPort(buf[:n], from) //nolint:errcheck // what does not arrive is counted as such
		}
	})
	for _, conn := range t.conns {
		t.wg.Go(func() {
			buf := make([]byte, 1500)
			for {
				if _, _, err := conn.ReadFrom(buf); err != nil {
					return
				}
				t.down.Add(1)
			}
		})
		t.wg.Go(func() { t.send(conn) })
	}
}

func (t *traffic) send(conn net.PacketConn) {
	payload, to := make([]byte, datagram), net.UDPAddrFromAddrPort(t.to)
	tick := time.NewTicker(burstEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.quit:
			return
		case <-tick.C:
		}
		for range perBurst {
			if _, err := conn.WriteTo(payload, to); err == nil {
				t.sent.Add(1)
			}
		}
	}
}

func (t *traffic) stop() {
	if t.sink == nil {
		return
	}
	close(t.quit)
	t.sink.Close()
	for i := range t.closers {
		t.closers[len(t.closers)-1-i]()
	}
	t.wg.Wait()
}

// stockTURN is pion's server as its examples set it up, for the credentials that ours takes.
func stockTURN(spec plan.TURNSpec) (stop func() error, err error) {
	sock, err := net.ListenPacket("udp4", netip.AddrPortFrom(spec.PublicIP, testnet.Ports.UDP).String())
	if err != nil {
		return nil, err
	}
	block := spec.Tenants[0].Relay
	s, err := turn.NewServer(turn.ServerConfig{
		Realm:         spec.Realm,
		AuthHandler:   turn.LongTermTURNRESTAuthHandler(spec.Tenants[0].Secret, nil),
		LoggerFactory: silent(),
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:        sock,
			PermissionHandler: func(net.Addr, net.IP) bool { return true },
			RelayAddressGenerator: &turn.RelayAddressGeneratorPortRange{
				RelayAddress: net.IP(spec.RelayIP.AsSlice()), Address: spec.RelayIP.String(),
				MinPort: block.First, MaxPort: block.First + block.Count - 1,
			},
		}},
	})
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	return s.Close, nil
}
