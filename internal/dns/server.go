package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"

	"orama.network/orama"
)

const (
	// udpWorkers read and answer on each socket; an answer takes microseconds and waits for nothing.
	udpWorkers = 4
	// maxQuery is the longest datagram looked at: a question with its OPT and a signature is below 1 KiB.
	maxQuery = 2048
	// maxConns and maxConnsOf bound the TCP connections, all and those of one network.
	maxConns   = 256
	maxConnsOf = 16
	// connQueries and connIdle end a connection (RFC 7766 section 6.2.3).
	connQueries = 128
	connIdle    = 8 * time.Second
	// bindTries is how often another port is tried when port 0 was asked for and TCP's of the same number is taken.
	bindTries = 10
)

// Options are what a server needs. The zero value of a field is named with it.
type Options struct {
	Listen             []string     // host:port, each for UDP and TCP; a port of 0 picks one
	Log                *slog.Logger // nil: the default one
	ResponsesPerSecond int          // UDP answers a second for one source network (/24, /56); 0: 100
}

// Server is an authoritative name server for one zone. Its methods may be called from any goroutine.
type Server struct {
	opt   Options
	limit *limiter
	zone  atomic.Pointer[zone]
	stats counters

	mu      sync.Mutex // guards the following fields
	sockets []socket
	conns   map[netip.Prefix]int // open TCP connections of each network
	open    map[net.Conn]struct{}
}

// socket is one address, both ways.
type socket struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

type counters struct{ queries, limited, silent atomic.Uint64 }

// Stats are counts since the server was made.
type Stats struct {
	Queries uint64 // messages received
	Limited uint64 // answered with "use TCP", or not at all, because their source asked too often
	Silent  uint64 // not answered: they were no queries
}

// NewServer makes a server that knows no zone yet: until Set it answers SERVFAIL.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.ResponsesPerSecond <= 0 {
		o.ResponsesPerSecond = defaultRate
	}
	return &Server{opt: o, limit: newLimiter(o.ResponsesPerSecond), conns: map[netip.Prefix]int{}, open: map[net.Conn]struct{}{}}
}

// Set replaces the zone, whole, between two answers. When its content differs from what is served, the serial
// rises, though z.Serial may not. Records that cannot be served are left out and named in the error; when
// there is no zone to be made of z, the old one stays.
func (s *Server) Set(z Zone) error {
	next, err := compile(z)
	if next == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.zone.Load(); old != nil && int32(next.serial-old.serial) <= 0 { //nolint:gosec // serial number arithmetic, RFC 1982
		if next.same(old) {
			return err
		}
		next = next.withSerial(old.serial + 1)
	}
	s.zone.Store(next)
	return err
}

// Serial is the served zone's serial, 0 before there is a zone.
func (s *Server) Serial() uint32 {
	if z := s.zone.Load(); z != nil {
		return z.serial
	}
	return 0
}

// Stats counts what came in.
func (s *Server) Stats() Stats {
	return Stats{Queries: s.stats.queries.Load(), Limited: s.stats.limited.Load(), Silent: s.stats.silent.Load()}
}

// Listen binds every address, or none: the error says who holds the one that is taken. Bound already, it does nothing.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) > 0 {
		return nil
	}
	var bound []socket
	for _, addr := range s.opt.Listen {
		b, err := bind(addr)
		if err != nil {
			for _, b := range bound {
				b.close()
			}
			return err
		}
		bound = append(bound, b)
	}
	if len(bound) == 0 {
		return fmt.Errorf("dns: no address to listen on")
	}
	s.sockets = bound
	return nil
}

// Addrs are the addresses that are bound.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.AddrPort
	for _, b := range s.sockets {
		out = append(out, addrOf(b.udp.LocalAddr()))
	}
	return out
}

func bind(addr string) (socket, error) {
	want, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return socket{}, fmt.Errorf("dns: listen on %q: %w", addr, err)
	}
	for try := 1; ; try++ {
		b, network, err := bindBoth(want)
		if err == nil {
			return b, nil
		}
		if want.Port != 0 || try == bindTries {
			return socket{}, bindError(network, want.AddrPort(), err)
		}
	}
}

func bindBoth(want *net.UDPAddr) (socket, string, error) {
	u, err := net.ListenUDP("udp", want)
	if err != nil {
		return socket{}, "udp", err
	}
	// Where all addresses are listened on, the answer must come from the one that was asked.
	four := ipv4.NewPacketConn(u).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	six := ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	if four != nil && six != nil {
		u.Close()
		return socket{}, "udp", errors.Join(four, six)
	}
	t, err := net.ListenTCP("tcp", &net.TCPAddr{IP: want.IP, Port: u.LocalAddr().(*net.UDPAddr).Port, Zone: want.Zone})
	if err != nil {
		u.Close()
		return socket{}, "tcp", err
	}
	return socket{udp: u, tcp: t}, "", nil
}

func (b socket) close() {
	b.udp.Close()
	b.tcp.Close()
}

func bindError(network string, addr netip.AddrPort, err error) error {
	e := &orama.Error{Kind: orama.KindUnavailable, Code: "dns_bind", Err: err,
		Message: fmt.Sprintf("the name server cannot listen on %s (%s)", addr, network)}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e.Message += ": " + whoHolds(network, addr)
	case errors.Is(err, syscall.EACCES):
		e.Message += ": ports below 1024 need CAP_NET_BIND_SERVICE; run the agent from its systemd unit, or as root"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Message += ": this host does not have that address; see dns.listen in the node's configuration"
	}
	return e
}

// Run serves until ctx ends, binding first where Listen was not called, and returns when its last goroutine has.
// It cannot be run again.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	sockets := slices.Clone(s.sockets)
	s.mu.Unlock()
	g, serving := errgroup.WithContext(ctx)
	for _, b := range sockets {
		for range udpWorkers {
			g.Go(func() error { return ended(serving, s.serveUDP(b.udp)) })
		}
		g.Go(func() error { return ended(serving, s.serveTCP(serving, b.tcp)) })
	}
	g.Go(func() error {
		<-serving.Done()
		for _, b := range sockets {
			b.close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.open {
			c.Close()
		}
		return nil
	})
	s.opt.Log.Info("the name server is up", "addresses", s.Addrs())
	return g.Wait()
}

// ended tells a socket that was closed at the end from one that failed.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) serveUDP(c *net.UDPConn) error {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := dns.ReadFromSessionUDP(c, buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // an ICMP error of an answer sent earlier; it says nothing of this socket
		}
		if out := s.handleUDP(buf[:n], addrOf(from.RemoteAddr()).Addr()); out != nil {
			_, _ = dns.WriteToSessionUDP(c, out, from) // a client that cannot be reached asks again
		}
	}
}

// handleUDP answers one datagram, or gives nil.
func (s *Server) handleUDP(query []byte, from netip.Addr) []byte {
	s.stats.queries.Add(1)
	v := s.limit.judge(from)
	if v != pass {
		s.stats.limited.Add(1)
	}
	if v == drop {
		return nil
	}
	out := s.zone.Load().reply(query, true, v == slip)
	if out == nil {
		s.stats.silent.Add(1)
	}
	return out
}

func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of descriptors, or gone before it was taken
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		from := network(addrOf(c.RemoteAddr()).Addr())
		if !s.admit(ctx, c, from) {
			c.Close()
			continue
		}
		conns.Go(func() {
			defer s.dismiss(c, from)
			s.serveConn(c)
		})
	}
}

func (s *Server) admit(ctx context.Context, c net.Conn, from netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || len(s.open) >= maxConns || s.conns[from] >= maxConnsOf {
		return false
	}
	s.open[c] = struct{}{}
	s.conns[from]++
	return true
}

func (s *Server) dismiss(c net.Conn, from netip.Prefix) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if s.conns[from]--; s.conns[from] == 0 {
		delete(s.conns, from)
	}
}

// serveConn answers the queries of one connection in order (RFC 7766).
func (s *Server) serveConn(c net.Conn) {
	var size [2]byte
	for range connQueries {
		if c.SetDeadline(time.Now().Add(connIdle)) != nil {
			return
		}
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint16(size[:])
		if n > maxQuery {
			return
		}
		query := make([]byte, n)
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		s.stats.queries.Add(1)
		out := s.zone.Load().reply(query, false, false)
		if out == nil {
			s.stats.silent.Add(1)
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil { //nolint:gosec // below 64 KiB
			return
		}
	}
}

func addrOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	case *net.TCPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// Check asks each bound address, over UDP and TCP, for the zone's SOA as a resolver would.
func (s *Server) Check(ctx context.Context) error {
	z := s.zone.Load()
	addrs := s.Addrs()
	switch {
	case len(addrs) == 0:
		return fmt.Errorf("dns: the name server is not listening")
	case z == nil:
		return fmt.Errorf("dns: the name server has no zone yet")
	}
	for _, addr := range addrs {
		if addr.Addr().IsUnspecified() {
			loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			addr = netip.AddrPortFrom(loopback, addr.Port())
		}
		for _, network := range []string{"udp", "tcp"} {
			if err := askSOA(ctx, network, addr, z.apex); err != nil {
				return fmt.Errorf("dns: %s over %s: %w", addr, network, err)
			}
		}
	}
	return nil
}

func askSOA(ctx context.Context, network string, addr netip.AddrPort, zone string) error {
	q := new(dns.Msg)
	q.SetQuestion(zone, dns.TypeSOA)
	q.RecursionDesired = false
	c := &dns.Client{Net: network, Timeout: 2 * time.Second}
	m, _, err := c.ExchangeContext(ctx, q, addr.String())
	switch {
	case err != nil:
		return err
	case m.Truncated:
		return nil // it lives; it was asked too often
	case m.Rcode != dns.RcodeSuccess:
		return fmt.Errorf("%s answers %s", zone, dns.RcodeToString[m.Rcode])
	case !m.Authoritative || len(m.Answer) != 1:
		return fmt.Errorf("%s is not answered with authority", zone)
	}
	return nil
}
