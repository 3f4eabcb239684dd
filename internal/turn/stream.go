package turn

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

func (s *Server) serveTCP(c net.Conn, h *held) { s.serveLink(transportTCP, newStream(c), h) }

func (s *Server) serveTLS(c net.Conn, h *held) {
	t := tls.Server(c, s.cert.tlsConfig())
	ctx, cancel := context.WithTimeout(s.ctx, s.limits.Handshake)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		s.metrics.dropped[dropHandshake].Inc()
		return
	}
	s.serveLink(transportTLS, newStream(t), h)
}

// maxFrame is the longest message taken from a client, header included, in bytes. The engine's
// own limit is 1600; what is longer cannot be relayed in one datagram anyway.
const maxFrame = 1600

var errFraming = errors.New("turn: a stream that is neither STUN nor ChannelData")

// stream frames a TCP or TLS connection: one STUN message, or one ChannelData without its
// padding, for each read (RFC 8656 section 12.5). The library's own framing waits for nine bytes, which a
// short ChannelData never has.
type stream struct {
	net.Conn
	r      *bufio.Reader
	remote net.Addr
}

func newStream(c net.Conn) *stream {
	return &stream{Conn: c, r: bufio.NewReaderSize(c, 4096), remote: c.RemoteAddr()}
}

// ReadFrom ends with an error at the first frame that makes no sense: there is no way to find
// the next one.
func (s *stream) ReadFrom(p []byte) (int, net.Addr, error) {
	head, err := s.r.Peek(4)
	if err != nil {
		return 0, nil, err
	}
	size, padding, err := frame(head)
	if err != nil {
		return 0, nil, err
	}
	if size > len(p) {
		return 0, nil, errFraming
	}
	if _, err := io.ReadFull(s.r, p[:size]); err != nil {
		return 0, nil, err
	}
	if _, err := s.r.Discard(padding); err != nil {
		return 0, nil, err
	}
	return size, s.remote, nil
}

// frame reads the length of a frame from its first four bytes, and how many padding bytes follow.
func frame(head []byte) (size, padding int, err error) {
	length := int(binary.BigEndian.Uint16(head[2:]))
	switch head[0] >> 6 {
	case 0: // STUN: a 20 byte header, attributes padded already (RFC 8489 section 5)
		size = stunHeader + length
		if length%4 != 0 {
			return 0, 0, errFraming
		}
	case 1:
		size, padding = 4+length, -length&3
	default:
		return 0, 0, errFraming
	}
	if size >= maxFrame {
		return 0, 0, errFraming
	}
	return size, padding, nil
}

// WriteTo sends to the one client.
func (s *stream) WriteTo(p []byte, _ net.Addr) (int, error) { return s.Conn.Write(p) }
