package turn

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/transport/v4/packetio"

	"orama.network/orama/internal/batch"
)

// dtlsDemux gives each DTLS client on one UDP socket a connection of its own. The library's
// listener does that without a bound: it keeps state for every address that sends a handshake
// record, and queues what a stalled connection does not read.
type dtlsDemux struct {
	srv    *Server
	socket *net.UDPConn
	before net.Conn     // what the process before this one passes on, until it ends; nil: there is none
	pass   atomic.Int32 // where goes what is of nobody here, to the process after this one; -1: it is ours
	half   tally        // handshakes under way, by network

	mu       sync.RWMutex // guards sessions; read-locked by the one reader for each datagram
	sessions map[netip.AddrPort]*dtlsSession
}

func (s *Server) openDTLS(l *listener, at netip.AddrPort) error {
	d := &dtlsDemux{srv: s, sessions: map[netip.AddrPort]*dtlsSession{}}
	d.pass.Store(-1)
	var err error
	if left := s.inherited(l); len(left) > 0 {
		d.socket, d.before, err = left[0].udp()
	} else {
		d.socket, err = listenUDP(at)
	}
	if err != nil {
		return err
	}
	l.close = d.close
	l.run = d.read
	l.leave = func() ([]bequest, error) {
		fd, err := descriptor(d.socket)
		if err != nil {
			return nil, err
		}
		b, ours, err := pairedWith(l.name(), fd)
		batch.Close(fd)
		b.take = func() { d.pass.Store(int32(ours)) } //nolint:gosec // a descriptor
		return []bequest{b}, err
	}
	return nil
}

func (d *dtlsDemux) close() error {
	if d.before != nil {
		d.before.Close() //nolint:errcheck // nothing could be done
	}
	return d.socket.Close()
}

func listenUDP(at netip.AddrPort) (*net.UDPConn, error) {
	c, err := net.ListenUDP(network("udp", at.Addr()), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	c.SetReadBuffer(socketBuffer)  //nolint:errcheck // works with less
	c.SetWriteBuffer(socketBuffer) //nolint:errcheck // works with less
	return c, nil
}

// maxReadErrors in a row end the listener: it has then no socket worth asking.
const maxReadErrors = 1000

// maxDatagram is the longest datagram taken on the DTLS socket, in bytes: the library's buffer.
const maxDatagram = 8192

func (d *dtlsDemux) read() {
	defer func() {
		if fd := d.pass.Load(); fd >= 0 {
			batch.Close(int(fd))
		}
	}()
	roomy := make([]byte, batch.PassHead+maxDatagram)
	p := roomy[batch.PassHead:]
	d.readPassed(roomy)
	for failed := 0; ; {
		n, from, err := d.socket.ReadFromUDPAddrPort(p)
		if err != nil {
			if failed++; d.srv.ctx.Err() == nil && failed < maxReadErrors {
				continue
			}
			if d.srv.ctx.Err() == nil {
				d.srv.log.Error("turn: the DTLS listener has ended", "err", err)
			}
			return
		}
		failed = 0
		if n == len(p) {
			continue // cut short
		}
		if next := d.pass.Load(); next >= 0 && d.find(from) == nil {
			addr := batch.AddrOf(from)
			batch.PassFrom(int(next), &addr, 0, roomy[:batch.PassHead+n])
			continue
		}
		d.take(from, p[:n])
	}
}

// readPassed serves what the process before this one has no session for, until that ends.
func (d *dtlsDemux) readPassed(b []byte) {
	if d.before == nil {
		return
	}
	for {
		n, err := d.before.Read(b)
		if err != nil {
			return
		}
		if from, _, data, ok := batch.ReadPass(b[:n]); ok && len(data) < maxDatagram {
			d.take(from.AddrPort(), data)
		}
	}
}

// take gives a datagram to its session, or begins one.
func (d *dtlsDemux) take(from netip.AddrPort, b []byte) {
	session := d.find(from)
	if session == nil && isClientHello(b) {
		session = d.open(from)
	}
	if session != nil {
		session.queue.Write(b) //nolint:errcheck // full: the datagram is lost, as datagrams may be
	}
}

// isClientHello looks at a record (RFC 6347 section 4.1): type handshake, version DTLS, epoch 0,
// and in it a ClientHello.
func isClientHello(b []byte) bool {
	return len(b) > 25 && b[0] == 22 && b[1] == 254 && b[3] == 0 && b[4] == 0 && b[13] == 1
}

func (d *dtlsDemux) find(from netip.AddrPort) *dtlsSession {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.sessions[from]
}

// maxQueued bounds what a session that does not read may hold, in bytes.
const maxQueued = 256 << 10

func (d *dtlsDemux) open(from netip.AddrPort) *dtlsSession {
	network := networkOf(from.Addr().Unmap())
	each := d.srv.limits.ClientHalfOpenDTLS
	if from.Addr().Unmap().IsLoopback() {
		each = 0
	}
	if !d.half.take(network, each, d.srv.limits.HalfOpenDTLS) {
		d.srv.metrics.dropped[dropDTLSBacklog].Inc()
		return nil
	}
	session := &dtlsSession{demux: d, from: from, addr: net.UDPAddrFromAddrPort(from), queue: packetio.NewBuffer()}
	session.queue.SetLimitSize(maxQueued)
	d.mu.Lock()
	d.sessions[from] = session
	d.mu.Unlock()
	if !d.srv.handle(session, session.addr, func(h *held) { d.serve(session, h, network) }) {
		d.half.give(network)
		return nil
	}
	return session
}

func (d *dtlsDemux) serve(session *dtlsSession, h *held, network netip.Prefix) {
	conn, err := d.handshake(session)
	d.half.give(network)
	if err != nil {
		d.srv.metrics.dropped[dropHandshake].Inc()
		return
	}
	d.srv.serveConn(transportDTLS, conn, &records{conn: conn, buf: make([]byte, maxDatagram)}, h)
}

func (d *dtlsDemux) handshake(session *dtlsSession) (*dtls.Conn, error) {
	conn, err := dtls.ServerWithOptions(session, session.addr, d.srv.cert.dtlsOptions()...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(d.srv.ctx, d.srv.limits.Handshake)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close() //nolint:errcheck // the handshake's error is the reason
		return nil, err
	}
	return conn, nil
}

// dtlsSession is one client's part of the socket, below DTLS, as the library wants it.
type dtlsSession struct {
	demux *dtlsDemux
	from  netip.AddrPort
	addr  *net.UDPAddr
	queue *packetio.Buffer
	once  sync.Once
}

func (c *dtlsSession) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.queue.Read(p)
	return n, c.addr, err
}

func (c *dtlsSession) WriteTo(p []byte, _ net.Addr) (int, error) {
	return c.demux.socket.WriteToUDPAddrPort(p, c.from)
}

// Close lets the address begin anew.
func (c *dtlsSession) Close() error {
	c.once.Do(func() {
		c.demux.mu.Lock()
		delete(c.demux.sessions, c.from)
		c.demux.mu.Unlock()
		c.queue.Close() //nolint:errcheck // memory
	})
	return nil
}

func (c *dtlsSession) LocalAddr() net.Addr               { return c.demux.socket.LocalAddr() }
func (c *dtlsSession) SetDeadline(t time.Time) error     { return c.queue.SetReadDeadline(t) }
func (c *dtlsSession) SetReadDeadline(t time.Time) error { return c.queue.SetReadDeadline(t) }
func (c *dtlsSession) SetWriteDeadline(time.Time) error  { return nil }

// records gives what a client sends above DTLS. A record is one message, of any length: the library's own use of DTLS as a
// stream ends with the first length that is no multiple of 4.
type records struct {
	conn *dtls.Conn
	buf  []byte // a read into less than the record is an error that would end the session
}

func (r *records) next() ([]byte, bool, error) {
	for {
		n, err := r.conn.Read(r.buf)
		if err != nil {
			return nil, false, err
		}
		if n <= maxFrame {
			return r.buf[:n], false, nil
		}
	}
}
