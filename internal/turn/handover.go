package turn

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/plan"
)

// Estate is what a process leaves to the one that takes its place.
type Estate []Bequest

// Bequest is a socket that two processes share. The one that had it goes on serving its own clients.
type Bequest struct {
	Name   string `json:"name"`   // what it is, such as "udp 203.0.113.5:3478"
	FD     int    `json:"fd"`     // the socket
	Passed int    `json:"passed"` // a UDP socket's: where the process before passes on what it has no client for, until it ends; else -1
}

// Close gives the descriptors back.
func (e *Estate) Close() {
	for _, b := range *e {
		b.close()
	}
	*e = nil
}

func (b Bequest) close() {
	batch.Close(b.FD)
	if b.Passed >= 0 {
		batch.Close(b.Passed)
	}
}

// Take gives what has a name, and leaves the rest.
func (e *Estate) Take(name string) (taken []Bequest) {
	var rest Estate
	for _, b := range *e {
		if b.Name == name {
			taken = append(taken, b)
		} else {
			rest = append(rest, b)
		}
	}
	*e = rest
	return taken
}

// Listener makes a stream socket a listener; the descriptor belongs to that afterwards.
func (b Bequest) Listener() (net.Listener, error) {
	f := os.NewFile(uintptr(b.FD), b.Name) //nolint:gosec // a descriptor
	defer f.Close()
	return net.FileListener(f)
}

// udp makes Go's sockets of a UDP one.
func (b Bequest) udp() (*net.UDPConn, net.Conn, error) {
	f, p := os.NewFile(uintptr(b.FD), b.Name), os.NewFile(uintptr(b.Passed), "passed") //nolint:gosec // descriptors
	defer f.Close()
	defer p.Close()
	socket, err := net.FilePacketConn(f)
	if err != nil {
		return nil, nil, err
	}
	before, err := net.FileConn(p)
	if err != nil {
		socket.Close() //nolint:errcheck // the error that led here is told
		return nil, nil, err
	}
	udp, ok := socket.(*net.UDPConn)
	if !ok {
		return nil, nil, fmt.Errorf("turn: %s was left as a %T", b.Name, socket)
	}
	return udp, before, nil
}

// BequestOf shares a listening stream socket.
func BequestOf(name string, l net.Listener) (Bequest, error) {
	b, err := bequeath(name, l)
	return b.Bequest, err
}

// bequest is a Bequest on its way.
type bequest struct {
	Bequest
	take   func() // the successor serves
	giveUp func() // there is none
}

func bequeath(name string, l any) (b bequest, err error) {
	fd, err := descriptor(l)
	return bequest{Bequest: Bequest{Name: name, FD: fd, Passed: -1}, giveUp: func() {}}, err
}

// pairedWith shares a UDP socket, with a way for what is passed on; ours is its beginning.
func pairedWith(name string, socket int) (b bequest, ours int, err error) {
	fd, err := batch.Dup(socket)
	if err != nil {
		return b, -1, err
	}
	ours, theirs, err := batch.Pair(socketBuffer)
	if err != nil {
		batch.Close(fd)
		return b, -1, err
	}
	return bequest{Bequest: Bequest{Name: name, FD: fd, Passed: theirs}, giveUp: func() { batch.Close(ours) }}, ours, nil
}

// descriptor gives another descriptor of one of Go's sockets, whose mode stays as it is.
func descriptor(socket any) (fd int, err error) {
	c, ok := socket.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("turn: a %T has no descriptor", socket)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if inner := raw.Control(func(own uintptr) { fd, err = batch.Dup(int(own)) }); inner != nil { //nolint:gosec // a descriptor
		return -1, inner
	}
	return fd, err
}

func (l *listener) name() string { return l.transport + " " + l.addr }

// inherited is what of a listener the process before left.
func (s *Server) inherited(l *listener) []Bequest { return s.Estate.Take(l.name()) }

// HandOver leaves the listening sockets to another server. start is given them, to be closed when it returns, and says once
// that server listens; until then, and with an error for good, nothing changes here, but that leases whose holders vanish are kept
// meanwhile. Afterwards clients that have no relay here, and no connection, are the other's, and so are the holders of leases: see
// ServeOut and Follow.
func (s *Server) HandOver(start func(Estate) error) (err error) {
	s.mu.Lock()
	listeners, ready := s.listeners, s.configured && !s.closed && !s.handed.Load()
	s.mu.Unlock()
	if !ready {
		return orama.Errorf(orama.KindConflict, "not_serving", "this TURN server has nothing to hand over")
	}
	var left []bequest
	var estate Estate
	s.leases.freeze()
	defer func() {
		if err != nil {
			s.leases.thaw()
		} else {
			s.leases.leave()
		}
		estate.Close()
		for _, b := range left {
			if err != nil {
				b.giveUp()
			} else {
				b.take()
			}
		}
	}()
	for _, l := range listeners {
		if l.err != nil {
			continue
		}
		more, err := l.leave()
		if err != nil {
			for _, b := range more {
				b.close()
				b.giveUp()
			}
			return err
		}
		for _, b := range more {
			estate = append(estate, b.Bequest)
		}
		left = append(left, more...)
	}
	if err := start(estate); err != nil {
		return err
	}
	s.handed.Store(true)
	return nil
}

// haveDone returns when a worker has done something, or the server is closed.
func (s *Server) haveDone(w *worker, task func()) {
	done := make(chan struct{})
	w.post(func() { task(); close(done) })
	select {
	case <-done:
	case <-s.ctx.Done():
	}
}

// Follow serves those tenants from now on that the other server does, after HandOver: relays of a tenant that is gone there,
// or has another secret, have ended when it returns. A list that cannot be served whole is refused and changes nothing.
func (s *Server) Follow(tenants []plan.TenantSpec) error {
	if err := checkTenants(tenants); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.handed.Load() {
		return orama.Errorf(orama.KindConflict, "not_handed_over", "this TURN server follows no other")
	}
	s.wanted = slices.Clone(tenants)
	s.setTenants(s.wanted, endRemoved)
	return nil
}

// serveOutEvery is how often ServeOut looks whether connections are left.
const serveOutEvery = 250 * time.Millisecond

// ServeOut returns when there is neither a relay nor a connection any more, or ctx has ended. It is for a server that has handed over.
func (s *Server) ServeOut(ctx context.Context) {
	tick := time.NewTicker(serveOutEvery)
	defer tick.Stop()
	for {
		s.relays.wait(ctx)
		if s.conns.count() == 0 && s.relays.none() || ctx.Err() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
