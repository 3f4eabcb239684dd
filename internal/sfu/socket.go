package sfu

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama/internal/signal"
)

const (
	// maxQueued is how many frames may wait for one socket: three hundred people who leave and join again at once are
	// six hundred frames, and their tracks some more.
	maxQueued = 1024
	// writeWithin bounds one frame's way into the connection.
	writeWithin = 10 * time.Second
	pingEvery   = 10 * time.Second
	// pongWithin and pingEvery together are the 25 s after which a silent socket is closed.
	pongWithin = 15 * time.Second
)

// closing is how a socket is to end.
type closing struct {
	code   int
	reason string
}

// socket is one WebSocket. Its reader and writer are goroutines of its own, and a ping while its answer is awaited; none of
// them outlives wait.
type socket struct {
	conn   *websocket.Conn
	frames chan frame    // from the reader; closed when it ends
	out    frameQueue    // to the writer
	end    chan closing  // to the writer; holds the first close
	gone   chan struct{} // closed when the reader has ended
	slow   func()        // called when the queue was full
	cancel context.CancelFunc
	pinger pinger
	wg     sync.WaitGroup

	fate    atomic.Pointer[closing] // how we closed it; nil while we did not
	readErr error                   // why the reader ended; valid once gone is closed
}

type frame struct {
	kind websocket.MessageType
	data []byte
}

// newSocket starts a socket's goroutines.
func newSocket(conn *websocket.Conn, slow func()) *socket {
	conn.SetReadLimit(signal.MaxFirstFrame)
	ctx, cancel := context.WithCancel(context.Background())
	s := &socket{
		conn: conn, slow: slow, cancel: cancel,
		frames: make(chan frame), out: frameQueue{wake: make(chan struct{}, 1)}, end: make(chan closing, 1), gone: make(chan struct{}),
	}
	s.wg.Go(func() { s.read(ctx) })
	s.wg.Go(func() { s.write(ctx) })
	s.pinger.after(func() { s.ping(ctx) })
	return s
}

// joined ends the limit for the first frame.
func (s *socket) joined() { s.conn.SetReadLimit(signal.MaxFrame) }

// send queues m and never blocks: a socket whose queue is full is closed.
func (s *socket) send(m signal.Message) {
	if b, err := signal.Encode(m); err == nil {
		s.sendFrame(b)
	}
}

func (s *socket) sendFrame(b []byte) {
	if !s.out.push(b) {
		if s.close(signal.CloseTooFast, "frames were read too slowly") {
			s.slow()
		}
	}
}

// close asks the writer to send what is queued, and then the code. The first close counts.
func (s *socket) close(code int, reason string) bool {
	c := closing{code, reason}
	if !s.fate.CompareAndSwap(nil, &c) {
		return false
	}
	s.end <- c
	return true
}

// wait returns when no goroutine of the socket is left. Something must have ended it.
func (s *socket) wait() {
	s.wg.Wait()
	s.cancel()
	s.pinger.stop()
}

func (s *socket) read(ctx context.Context) {
	defer close(s.gone)
	defer close(s.frames)
	for {
		kind, data, err := s.conn.Read(ctx)
		if err != nil {
			s.readErr = err
			return
		}
		s.joined() // before the next frame is begun: a client need not wait for our answer
		select {
		case s.frames <- frame{kind, data}:
		case <-ctx.Done():
			s.readErr = ctx.Err()
			return
		}
	}
}

func (s *socket) write(ctx context.Context) {
	defer s.cancel()
	for {
		select {
		case <-s.out.wake:
			if !s.flush(ctx) {
				s.conn.CloseNow() //nolint:errcheck // it is broken
				return
			}
		case c := <-s.end:
			if c.code != signal.CloseTooFast {
				s.flush(ctx)
			}
			s.conn.Close(websocket.StatusCode(c.code), c.reason) //nolint:errcheck // told or not, it ends here
			return
		case <-s.gone:
			s.conn.CloseNow() //nolint:errcheck // the other side has ended it
			return
		}
	}
}

func (s *socket) writeFrame(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, b)
}

// flush writes what is queued. It reports false when the connection is broken, and stops early when the socket is to end without the rest.
func (s *socket) flush(ctx context.Context) bool {
	for b := s.out.pop(); b != nil; b = s.out.pop() {
		if s.writeFrame(ctx, b) != nil {
			return false
		}
		if c := s.fate.Load(); c != nil && c.code == signal.CloseTooFast {
			return true
		}
	}
	return true
}

// frameQueue holds what waits for the writer: seldom more than a few, so that a socket costs little. push never waits.
type frameQueue struct {
	wake chan struct{} // holds a token while list may be non-empty

	mu   sync.Mutex
	list [][]byte // guarded by mu
}

func (q *frameQueue) push(b []byte) bool {
	q.mu.Lock()
	ok := len(q.list) < maxQueued
	if ok {
		q.list = append(q.list, b)
	}
	q.mu.Unlock()
	if ok {
		signalOnce(q.wake)
	}
	return ok
}

// pop gives the oldest; nil: there is none.
func (q *frameQueue) pop() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return nil
	}
	b := q.list[0]
	q.list[0] = nil
	if q.list = q.list[1:]; len(q.list) == 0 {
		q.list = nil // and its memory
	}
	return b
}

// ping finds connections that are open at this end alone. The reader must run for it.
func (s *socket) ping(ctx context.Context) {
	pong, cancel := context.WithTimeout(ctx, pongWithin)
	defer cancel()
	if s.conn.Ping(pong) != nil {
		s.conn.CloseNow() //nolint:errcheck // it is broken
		return
	}
	s.pinger.after(func() { s.ping(ctx) })
}

// pinger is the time until the next ping. It is a timer and no goroutine, of which each costs a stack.
type pinger struct {
	mu      sync.Mutex
	timer   *time.Timer // guarded by mu, as all below
	stopped bool
	running sync.WaitGroup
}

// after calls f in pingEvery, unless it is stopped.
func (p *pinger) after(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.running.Add(1)
	p.timer = time.AfterFunc(pingEvery, func() {
		defer p.running.Done()
		f()
	})
}

// stop ends it, and waits for a call that has begun.
func (p *pinger) stop() {
	p.mu.Lock()
	p.stopped = true
	if p.timer.Stop() {
		p.running.Done()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// parting says how the socket ended, for its peer.
type parting int

const (
	partLost parting = iota // may resume
	partLeft                // the client ended it on purpose
	partOver                // we ended it, or the client broke the protocol
)

// parting is valid once the socket has ended.
func (s *socket) parting() parting {
	if c := s.fate.Load(); c != nil {
		if c.code == signal.CloseTooFast {
			return partLost
		}
		return partOver
	}
	if errors.Is(s.readErr, websocket.ErrMessageTooBig) {
		return partOver
	}
	switch websocket.CloseStatus(s.readErr) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway: // a page that closes or navigates away
		return partLeft
	case websocket.StatusMessageTooBig:
		return partOver
	}
	return partLost
}
