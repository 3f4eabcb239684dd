package turn

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/turn/wire"
)

func (s *Server) serveTCP(c net.Conn, h *held) { s.serveConn(transportTCP, c, newStream(c), h) }

func (s *Server) serveTLS(c net.Conn, h *held) {
	t := tls.Server(c, s.cert.tlsConfig())
	ctx, cancel := context.WithTimeout(s.ctx, s.limits.Handshake)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		s.metrics.dropped[dropHandshake].Inc()
		return
	}
	s.serveConn(transportTLS, t, newStream(t), h)
}

// maxFrame is the longest message taken from a client, header included, in bytes: what is longer cannot be relayed in one
// datagram.
const maxFrame = 1600

var errFraming = errors.New("turn: neither STUN nor ChannelData")

// frames gives what a client sends: a STUN message or ChannelData each, good until the next call. more says whether another
// one is there already.
type frames interface {
	next() (frame []byte, more bool, err error)
}

// stream frames a TCP or TLS connection (RFC 8656 section 12.5).
type stream struct{ r *bufio.Reader }

// streamBuffer is what a connection may have sent before it is read, in bytes: a burst of video goes to its peer in one
// system call.
const streamBuffer = 8 << 10

func newStream(c io.Reader) *stream { return &stream{bufio.NewReaderSize(c, streamBuffer)} }

// next ends with an error at the first frame that makes no sense: there is no way to find the next one.
func (s *stream) next() ([]byte, bool, error) {
	head, err := s.r.Peek(wire.ChannelSize)
	if err != nil {
		return nil, false, err
	}
	size, padding, ok := wire.FrameSize(head)
	if !ok || size >= maxFrame {
		return nil, false, errFraming
	}
	frame, err := s.r.Peek(size + padding)
	if err != nil {
		return nil, false, err
	}
	s.r.Discard(size + padding) //nolint:errcheck // it was peeked
	return frame[:size], s.whole(), nil
}

// whole reports whether the next frame can be read without waiting.
func (s *stream) whole() bool {
	if s.r.Buffered() < wire.ChannelSize {
		return false
	}
	head, _ := s.r.Peek(wire.ChannelSize) //nolint:errcheck // it is there
	size, padding, ok := wire.FrameSize(head)
	return ok && s.r.Buffered() >= size+padding
}

// conn is a client on a connection of its own: TCP, TLS or DTLS. One goroutine reads it, and another writes what is in out;
// relays are read by a worker, which never waits for either.
type conn struct {
	srv    *Server
	in     frames
	out    *outbox
	worker *worker
	engine engine
	from   netip.AddrPort
	relay  *relay // the reader's, as the next
	round  uint32 // of a sender: hints of an earlier one mean nothing

	living atomic.Pointer[relay] // relay, for whoever looks
	bare   atomic.Int64          // since when there has been no relay, in Unix ns
}

// serveConn serves a connection until it ends.
func (s *Server) serveConn(transport string, c net.Conn, in frames, h *held) {
	k := &conn{
		srv: s, in: in, out: newOutbox(c, transport == transportDTLS), worker: s.someWorker(), from: addrPort(c.RemoteAddr()),
		engine: engine{srv: s, transport: transport, proven: true},
	}
	k.bare.Store(s.now().UnixNano())
	h.attach(k)
	written := make(chan struct{})
	go func() { defer close(written); k.out.run() }()
	k.read()
	if k.relay != nil {
		k.relay.end(endLost)
	}
	k.out.close()
	<-written
	c.Close() //nolint:errcheck // says so to the client, if it is still there
}

// silentSince reports whether no relay has lived here since t.
func (k *conn) silentSince(t time.Time) bool {
	r := k.living.Load()
	if r != nil && !r.over.Load() {
		return false
	}
	return k.bare.Load() < t.UnixNano()
}

// senders are lent to connections while they have something to send on.
var senders = sync.Pool{New: func() any { return batch.NewSender(16) }}

// read serves the client until the connection ends. What has arrived together goes on together, in one system call where it
// is of one size: a frame stays where it is until one has to be waited for.
func (k *conn) read() {
	var s *batch.Sender // lent while something is to be sent
	var now int64
	for {
		b, more, err := k.in.next()
		if err != nil {
			return // nothing is pending: it was sent before the wait
		}
		if len(b) >= wire.ChannelSize && b[0]>>6 == 1 {
			if k.relay != nil {
				if s == nil {
					now, s = k.srv.now().UnixNano(), senders.Get().(*batch.Sender) //nolint:errcheck,forcetypeassert // it holds nothing else
				}
				k.up(s, b, now)
			}
		} else {
			k.flush(s)
			k.control(b)
		}
		if !more && s != nil {
			k.flush(s)
			senders.Put(s)
			s = nil
		}
	}
}

// up relays ChannelData.
func (k *conn) up(s *batch.Sender, b []byte, now int64) {
	c, data := k.relay.onChannel(b, now)
	if c == nil {
		return
	}
	if !s.Add(c.sock.fd, &c.to, &c.hint, k.round, nil, data) {
		k.flush(s)
		s.Add(c.sock.fd, &c.to, &c.hint, k.round, nil, data)
	}
}

// flush sends what is pending, unless the relay has ended: its descriptors may be another's then.
func (k *conn) flush(s *batch.Sender) {
	if s == nil || s.Empty() {
		return
	}
	k.round++
	gone := false
	for _, x := range k.relay.socks {
		x.mu.Lock()
		defer x.mu.Unlock()
		gone = gone || x.gone
	}
	if gone {
		s.Discard()
		return
	}
	s.Flush()
}

// control serves what is no ChannelData.
func (k *conn) control(b []byte) {
	if k.relay != nil && k.relay.over.Load() {
		k.relay = nil
		k.bare.Store(k.srv.now().UnixNano())
	}
	if isSend(b) {
		if k.relay != nil {
			k.indication(b)
		}
		return
	}
	a := asker{from: k.from, relay: k.relay, seat: func(r *relay) { r.worker, r.out = k.worker, k.out }}
	if answer := k.engine.handle(b, &a); answer != nil {
		k.out.put(answer, nil, "")
		k.out.signal()
	}
	if r := a.relay; r != k.relay && r != nil {
		k.relay = r
		k.living.Store(r)
		k.worker.post(func() { k.worker.register(r) })
	}
}

func (k *conn) indication(b []byte) {
	now := k.srv.now().UnixNano()
	x, to, data, unfragmented, ok := k.engine.sendIndication(b, k.relay, now)
	if !ok {
		return
	}
	if !k.relay.affords(len(data), now) {
		k.relay.up.limited.Add(1)
		return
	}
	k.relay.up.add(len(data))
	s := senders.Get().(*batch.Sender) //nolint:errcheck,forcetypeassert // it holds nothing else
	defer senders.Put(s)
	addr := batch.AddrOf(to)
	s.Add(x.fd, &addr, nil, 0, nil, data)
	if unfragmented {
		x.dontFragment(true)
		defer x.dontFragment(false)
	}
	k.flush(s)
}

// dontFragment changes a socket, if it is still the relay's.
func (s *sock) dontFragment(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		batch.DontFragment(s.fd, s.at.Addr().Is6(), yes)
	}
}
