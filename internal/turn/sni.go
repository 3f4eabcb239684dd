package turn

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

// serveShared serves one connection to 443/tcp: TURN for names whose first label is turn or begins
// with turn-, and the HTTPS backend, with every byte as it came, for all others.
func (s *Server) serveShared(c net.Conn, h *held) {
	c.SetReadDeadline(time.Now().Add(s.limits.Handshake)) //nolint:errcheck // a TCP socket
	name, read, ok := clientHello(c)
	c.SetReadDeadline(time.Time{}) //nolint:errcheck // a TCP socket
	if !ok {
		s.metrics.dropped[dropHello].Inc()
		return
	}
	if forTURN(name) {
		s.serveTLS(&unread{Conn: c, r: io.MultiReader(bytes.NewReader(read), c)}, h)
		return
	}
	s.splice(c, read)
}

func forTURN(name string) bool {
	first, _, _ := strings.Cut(strings.ToLower(name), ".")
	return first == "turn" || strings.HasPrefix(first, "turn-")
}

// maxHello bounds what is kept of a ClientHello, in bytes. Browsers with post-quantum keys and
// Encrypted ClientHello send about 2 kB.
const maxHello = 16 << 10

// errPeeked stops the handshake once the name is known.
var errPeeked = errors.New("turn: peeked")

// clientHello reads up to the end of a ClientHello and gives the server name in it, and all that was
// read. ok is false if there was none.
func clientHello(c net.Conn) (name string, read []byte, ok bool) {
	var kept bytes.Buffer
	peek := tls.Server(&unread{Conn: mute{c}, r: io.TeeReader(io.LimitReader(c, maxHello), &kept)}, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = h.ServerName, true
			return nil, errPeeked
		},
	})
	peek.Handshake() //nolint:errcheck // always fails; ok says what matters
	return name, kept.Bytes(), ok
}

// unread is a connection some of whose bytes have been read before.
type unread struct {
	net.Conn
	r io.Reader
}

func (u *unread) Read(p []byte) (int, error) { return u.r.Read(p) }

// mute swallows what the peeking handshake would say.
type mute struct{ net.Conn }

func (mute) Write(p []byte) (int, error) { return len(p), nil }
func (mute) Close() error                { return nil }

// halfClosed is how long one direction may go on after the other has ended.
const halfClosed = 2 * time.Minute

// splice connects c to the HTTPS backend until both directions have ended.
func (s *Server) splice(c net.Conn, read []byte) {
	b, err := s.dialBackend()
	if err != nil {
		s.metrics.dropped[dropBackend].Inc()
		return
	}
	defer b.Close()
	defer context.AfterFunc(s.ctx, func() { b.Close() })()
	if s.backend.Load().proxy {
		head := proxyproto.HeaderProxyFromAddrs(2, c.RemoteAddr(), c.LocalAddr())
		if _, err := head.WriteTo(b); err != nil {
			return
		}
	}
	if _, err := b.Write(read); err != nil {
		return
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		pump(b, c)
	}()
	pump(c, b)
	<-up
}

// pump copies until from ends, tells to so, and leaves from's other direction a while to end as well.
func pump(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok {
		w.CloseWrite() //nolint:errcheck // it may have gone
	}
	if err != nil {
		to.Close()
	}
	to.SetReadDeadline(time.Now().Add(halfClosed)) //nolint:errcheck // it may have gone
}

// httpsBackend is where the rest of 443/tcp goes.
type httpsBackend struct {
	addr  string
	proxy bool
}

func (s *Server) dialBackend() (net.Conn, error) {
	backend := s.backend.Load().addr
	if backend == "" {
		return nil, errRefused
	}
	d := net.Dialer{Timeout: s.limits.Handshake}
	return d.DialContext(s.ctx, "tcp", backend)
}
