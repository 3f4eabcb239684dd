package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

const (
	dialWithin   = 5 * time.Second
	writeWithin  = 5 * time.Second
	pingEvery    = 10 * time.Second
	maxDownFrame = 4 << 20 // a joined lists every peer of the room
	upQueue      = 256     // frames
	upBurst      = 30      // of the 40 that the protocol allows
	upInterval   = time.Second / 8
)

// socket is one WebSocket: frames up through a paced queue, frames down through the callback.
type socket struct {
	ws   *websocket.Conn
	up   chan []byte // never closed; a nil frame ends the socket with CloseLeft
	stop context.CancelFunc
}

// dial opens a socket and says join.
func dial(ctx context.Context, client *http.Client, url string, header http.Header, join *signal.Join) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err != nil {
		return nil, refusal(resp, err)
	}
	ws.SetReadLimit(maxDownFrame)
	frame, err := signal.Encode(join)
	if err == nil {
		err = ws.Write(ctx, websocket.MessageText, frame)
	}
	if err != nil {
		ws.CloseNow() //nolint:errcheck // it is of no use any more
		return nil, &orama.Error{Kind: orama.KindUnavailable, Code: "unreachable", Message: "the socket broke", Err: err}
	}
	return ws, nil
}

// refusal reads what little of a problem+json may be shown.
func refusal(resp *http.Response, err error) error {
	if resp == nil {
		return &orama.Error{Kind: orama.KindUnavailable, Code: "unreachable", Message: "the gateway cannot be reached", Err: err}
	}
	var problem struct{ Code, Detail string }
	if resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		json.Unmarshal(body, &problem) //nolint:errcheck // no problem+json: the status has to do
	}
	e := orama.Errorf(kindOfStatus(resp.StatusCode), "refused", "the gateway refused the socket with status %d", resp.StatusCode)
	if problem.Code != "" {
		e.Code = problem.Code
	}
	if problem.Detail != "" {
		e.Message = strings.ToValidUTF8(problem.Detail, "")
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 && s < 3600 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// start lets the socket run until it ends. down is called for each frame, one at a time, and
// ended exactly once after it, with the close code or -1.
func (s *socket) start(ctx context.Context, down func([]byte), ended func(websocket.StatusCode), wg *sync.WaitGroup) {
	ctx, s.stop = context.WithCancel(ctx)
	s.up = make(chan []byte, upQueue)
	wg.Go(func() { s.write(ctx) })
	wg.Go(func() { s.ping(ctx) })
	wg.Go(func() {
		code := s.read(ctx, down)
		s.stop()
		s.ws.CloseNow() //nolint:errcheck // already ended
		ended(code)
	})
}

func (s *socket) read(ctx context.Context, down func([]byte)) websocket.StatusCode {
	for {
		kind, frame, err := s.ws.Read(ctx)
		if err != nil {
			return websocket.CloseStatus(err)
		}
		if kind == websocket.MessageText {
			down(frame)
		}
	}
}

// write paces the frames below the protocol's rate.
func (s *socket) write(ctx context.Context) {
	var p pacer
	for {
		select {
		case <-ctx.Done():
			return
		case frame := <-s.up:
			if frame == nil {
				s.ws.Close(signal.CloseLeft, "") //nolint:errcheck // best effort
				s.stop()
				return
			}
			if !p.wait(ctx) {
				return
			}
			wctx, cancel := context.WithTimeout(ctx, writeWithin)
			err := s.ws.Write(wctx, websocket.MessageText, frame)
			cancel()
			if err != nil {
				s.stop()
				return
			}
		}
	}
}

// ping finds a half-open socket: the server answers at the WebSocket level.
func (s *socket) ping(ctx context.Context) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			pctx, cancel := context.WithTimeout(ctx, pingEvery)
			err := s.ws.Ping(pctx)
			cancel()
			if err != nil {
				s.stop()
				return
			}
		}
	}
}

// send queues a frame; a queue that is full ends the socket, as it moves no more.
func (s *socket) send(m signal.Message) error {
	frame, err := signal.Encode(m)
	if err != nil {
		return err
	}
	select {
	case s.up <- frame:
		return nil
	default:
		s.stop()
		return errors.New("client: the socket is stuck")
	}
}

// bye ends the socket in good order after what is queued.
func (s *socket) bye() {
	select {
	case s.up <- nil:
	default:
		s.stop()
	}
}

// pacer is a token bucket: upBurst frames at once, then one per upInterval.
type pacer struct{ debt time.Time } // when the bucket is full again

func (p *pacer) wait(ctx context.Context) bool {
	now := time.Now()
	if p.debt.Before(now) {
		p.debt = now
	}
	p.debt = p.debt.Add(upInterval)
	over := p.debt.Sub(now) - upBurst*upInterval
	if over <= 0 {
		return true
	}
	t := time.NewTimer(over)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
