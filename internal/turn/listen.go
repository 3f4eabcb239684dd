package turn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/batch"
)

// How a client reaches the server, in Status, logs and metrics.
const (
	transportUDP  = "udp"
	transportTCP  = "tcp"
	transportTLS  = "tls"
	transportDTLS = "dtls"
)

// listener is one bound address, or one that may not be bound.
type listener struct {
	transport string
	addr      string
	err       error // why it does not serve; the functions are nil then
	run       func()
	close     func() error
	leave     func() ([]bequest, error) // what the next process is left; also what came before an error
}

// bind opens all listeners or none. One that this user may not bind is left out.
func (s *Server) bind(p Ports, noTCP443 bool) ([]*listener, error) {
	https := s.serveShared
	if p.Unshared {
		https = s.serveTLS
	}
	var bound []*listener
	for _, ip := range s.addresses.listen() {
		for _, w := range []struct {
			transport, proto string
			port             uint16
			off              bool
			open             func(*listener, netip.AddrPort) error
		}{
			{transportUDP, "udp", p.UDP, p.NoUDP, s.openUDP},
			{transportTCP, "tcp", p.TCP, p.NoTCP, s.opener(s.serveTCP)},
			{transportTLS, "tcp", p.TLS, p.NoTLS, s.opener(s.serveTLS)},
			{transportDTLS, "udp", p.HTTPS, p.NoDTLS, s.openDTLS},
			{transportTLS, "tcp", p.HTTPS, p.NoHTTPS || noTCP443, s.opener(https)},
		} {
			if w.off {
				continue
			}
			at := netip.AddrPortFrom(ip, w.port)
			l := &listener{transport: w.transport, addr: at.String()}
			if l.err = w.open(l, at); l.err != nil && !errors.Is(l.err, syscall.EACCES) {
				closeBound(bound)
				return nil, &orama.Error{
					Kind: orama.KindUnavailable, Code: "listen_failed",
					Message: fmt.Sprintf("TURN cannot listen on %s/%s", at, w.proto), Err: l.err,
				}
			}
			bound = append(bound, l)
		}
	}
	if slices.ContainsFunc(bound, func(l *listener) bool { return l.err == nil }) {
		return bound, nil
	}
	if len(bound) == 0 {
		return nil, bad("every listener is left out")
	}
	return nil, &orama.Error{
		Kind: orama.KindUnavailable, Code: "listen_failed", Message: fmt.Sprintf("TURN may not listen on any port of %s", s.addresses.public), Err: bound[0].err,
	}
}

func closeBound(bound []*listener) {
	for _, l := range bound {
		if l.err == nil {
			l.close() //nolint:errcheck // the error that led here is told
		}
	}
}

// opener makes a TCP listener whose connections serve handles; they are closed when it returns.
func (s *Server) opener(serve func(net.Conn, *held)) func(*listener, netip.AddrPort) error {
	return func(l *listener, at netip.AddrPort) error {
		tcp, err := s.listenTCP(l, at)
		if err != nil {
			return err
		}
		l.close = sync.OnceValue(tcp.Close)
		l.run = func() { s.accept(tcp, serve) }
		l.leave = func() ([]bequest, error) {
			b, err := bequeath(l.name(), tcp)
			b.take = func() { l.close() } //nolint:errcheck // it lives on where it went
			return []bequest{b}, err
		}
		return nil
	}
}

func (s *Server) listenTCP(l *listener, at netip.AddrPort) (net.Listener, error) {
	if left := s.inherited(l); len(left) > 0 {
		return left[0].Listener()
	}
	return net.ListenTCP(network("tcp", at.Addr()), net.TCPAddrFromAddrPort(at))
}

// Waits after a failed Accept, such as for want of descriptors.
const (
	acceptWait    = 5 * time.Millisecond
	acceptWaitMax = time.Second
)

func (s *Server) accept(l net.Listener, serve func(net.Conn, *held)) {
	wait := acceptWait
	for {
		c, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("turn: accept failed", "addr", l.Addr(), "err", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, acceptWaitMax)
			continue
		}
		wait = acceptWait
		s.handle(c, c.RemoteAddr(), func(h *held) { serve(c, h) })
	}
}

// handle registers a connection and serves it in its own goroutine; unless there are too many, when it
// closes it and reports false.
func (s *Server) handle(c closer, from net.Addr, serve func(*held)) bool {
	who := addrPort(from).Addr()
	limit := s.limits.ClientConns
	if who.IsLoopback() {
		limit = 0 // as for relays
	}
	h := s.conns.hold(c, clientOf(who), limit, s.limits.Conns)
	if h == nil {
		s.metrics.dropped[dropConns].Inc()
		c.Close() //nolint:errcheck // refused
		return false
	}
	s.wg.Go(func() {
		defer s.conns.release(h)
		serve(h)
	})
	return true
}

// openUDP has every worker listen on the address: the kernel spreads the clients over them.
func (s *Server) openUDP(l *listener, at netip.AddrPort) error {
	doors, err := s.udpDoors(l, at)
	if err != nil {
		return err
	}
	workers := make([]*worker, len(doors))
	for i, d := range doors {
		workers[i] = s.workers[i%len(s.workers)]
		if err := workers[i].open(d); err != nil {
			for _, d := range doors[i+1:] { // the workers close those that they have
				d.close()
			}
			return err
		}
	}
	l.close = func() error { return nil } // the workers close them
	l.run = func() {}
	l.leave = func() ([]bequest, error) {
		var out []bequest
		for i, d := range doors {
			b, ours, err := pairedWith(l.name(), d.fd)
			if err != nil {
				return out, err
			}
			b.take = func() { s.haveDone(workers[i], func() { d.pass = ours }) }
			out = append(out, b)
		}
		return out, nil
	}
	return nil
}

// udpDoors gives the sockets that the process before left, or new ones.
func (s *Server) udpDoors(l *listener, at netip.AddrPort) (doors []*door, err error) {
	for _, left := range s.inherited(l) {
		doors = append(doors, &door{fd: left.FD, in: left.Passed, pass: -1})
	}
	if len(doors) > 0 {
		return doors, nil
	}
	// Without SO_REUSEPORT first: with it, another server on the same port would share our clients unseen.
	probe, err := batch.Open(at, batch.Options{})
	if err != nil {
		return nil, err
	}
	batch.Close(probe)
	for range s.workers {
		fd, err := batch.Open(at, batch.Options{ReusePort: true, Buffer: socketBuffer})
		if err != nil {
			for _, d := range doors {
				d.close()
			}
			return nil, err
		}
		doors = append(doors, newDoor(fd))
	}
	return doors, nil
}
