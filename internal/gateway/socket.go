package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
)

// socket is a WebSocket with the connection under it. The library's Close reads the rest of an unfinished
// frame without any bound, so that a client could hold it for ever; closing the connection ends that.
type socket struct {
	*websocket.Conn
	under net.Conn
}

// end closes with a close frame and waits for its answer, but not longer than within. Code 0 closes
// without one.
func (s *socket) end(code int, reason string, within time.Duration) {
	if code == 0 {
		s.CloseNow() //nolint:errcheck // it ends either way
		return
	}
	force := time.AfterFunc(within, func() { s.under.Close() })
	defer force.Stop()
	s.Close(websocket.StatusCode(code), clip(reason)) //nolint:errcheck // likewise
}

// clip bounds a close reason to what a control frame holds: 125 bytes with the code (RFC 6455 section 5.5).
func clip(reason string) string { return reason[:min(len(reason), 120)] }

// accept answers the upgrade: with the scheme as subprotocol where the credential came that way, never with
// the secret. The origin was checked by authenticate. Frames are small and hold secrets: no compression.
func accept(w http.ResponseWriter, r *http.Request, c *caller) (*socket, error) {
	opts := &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled}
	if c.scheme != "" {
		opts.Subprotocols = []string{c.scheme}
	}
	hw := &hijacked{ResponseWriter: w}
	conn, err := websocket.Accept(hw, r, opts)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1) // readFrame bounds frames, so that a close code gets through
	return &socket{conn, hw.conn}, nil
}

// hijacked remembers the connection that was taken over.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacked) Hijack() (conn net.Conn, rw *bufio.ReadWriter, err error) {
	conn, rw, err = http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, rw, err
}

// dialSocket is websocket.Dial, remembering the connection.
func dialSocket(ctx context.Context, url string, opts *websocket.DialOptions) (*socket, *http.Response, error) {
	var under net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { under = i.Conn }})
	conn, resp, err := websocket.Dial(ctx, url, opts)
	if err != nil {
		return nil, resp, err
	}
	conn.SetReadLimit(-1)
	return &socket{conn, under}, resp, nil
}

var errTooLarge = orama.Errorf(orama.KindInvalid, "too_large", "the frame is too large")

// readFrame reads one whole frame of at most limit bytes.
func readFrame(ctx context.Context, s *socket, limit int64) (websocket.MessageType, []byte, error) {
	kind, r, err := s.Reader(ctx)
	if err != nil {
		return 0, nil, err
	}
	frame, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(frame)) > limit {
		err = errTooLarge
	}
	return kind, frame, err
}

// discard reads until reading fails.
func discard(ctx context.Context, s *socket) error {
	for {
		_, r, err := s.Reader(ctx)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
}

// keepAlive returns when a side was silent for every + within, or ctx is done.
func keepAlive(ctx context.Context, s *socket, every, within time.Duration) {
	tick := time.NewTimer(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pingCtx, cancel := context.WithTimeout(ctx, within)
		err := s.Ping(pingCtx)
		cancel()
		if err != nil {
			return
		}
		tick.Reset(every)
	}
}
