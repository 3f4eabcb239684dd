package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// pipe carries one client's frames to its SFU and back.
//
//	client ──▶ pump up ──▶ SFU      each pump reports how its reader ended; the first report
//	client ◀── pump down ◀─ SFU     decides how the other side is ended
//
// Frames are whole and, but for server-draining, unread. A slow reader stalls its pump and, by TCP, the writer behind it:
// nothing queues here but one frame each way.
type pipe struct {
	client  *socket
	sfu     *socket
	process process
	room    orama.RoomID
	first   []byte // a frame that was read before the SFU was known

	moved  chan struct{} // closed by the sweep: the room is not there any more
	spared atomic.Int64  // until then, in ns since 1970, the sweep leaves the pipe to its SFU, which said that it ends it
	absent int           // sweeps in a row that found no record of the room; used by the sweep only
}

// ending is how a pipe ends. A code of 0 closes that side's connection without a close frame: for an
// SFU that is a lost socket, whose peer it keeps for a resume.
type ending struct {
	toClient, toSFU int
	reason          string
}

// run moves frames until a side ends, the room moves, or the gateway stops.
func (g *Gateway) run(p *pipe) {
	p.moved = make(chan struct{})
	g.mu.Lock()
	g.pipes[p] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.pipes, p)
		g.mu.Unlock()
	}()

	ctx, cancel := context.WithCancel(context.Background())
	ends := make(chan ending, 4) // one per goroutine, so that none waits
	var wg sync.WaitGroup
	wg.Go(func() { ends <- clientEnd(g.pump(ctx, p.client, p.sfu, p.first, nil)) })
	wg.Go(func() { ends <- sfuEnd(g.pump(ctx, p.sfu, p.client, nil, p)) })
	wg.Go(func() {
		keepAlive(ctx, p.client, g.timing.pingEvery, g.timing.pongWithin)
		ends <- ending{}
	})
	wg.Go(func() {
		keepAlive(ctx, p.sfu, g.timing.sfuEvery, g.timing.sfuWithin)
		ends <- ending{toClient: signal.CloseGone, reason: "the SFU went away"}
	})
	var e ending
	select {
	case e = <-ends:
	case <-p.moved:
		e = ending{toClient: signal.CloseGone, reason: "the room has moved"}
	case <-g.stopped.Done():
		e = ending{toClient: signal.CloseGone, reason: "the gateway is going away"}
	}
	p.finish(e, g.timing.closeWithin)
	cancel()
	wg.Wait()
}

// finish ends both sides. The pumps still read meanwhile, and so see the answering close frames.
func (p *pipe) finish(e ending, within time.Duration) {
	var wg sync.WaitGroup
	wg.Go(func() { p.sfu.end(e.toSFU, e.reason, within) })
	wg.Go(func() { p.client.end(e.toClient, e.reason, within) })
	wg.Wait()
}

// pump moves frames until reading fails, and says how; those of an SFU as rewrite gives them for the pipe down. When writing fails it reads on and throws away: the
// reader of the other connection knows better why that one ended, for example by a close frame.
func (g *Gateway) pump(ctx context.Context, from, to *socket, first []byte, down *pipe) error {
	if first != nil && g.write(ctx, to, websocket.MessageText, first) != nil {
		return discard(ctx, from)
	}
	for {
		kind, frame, err := readFrame(ctx, from, signal.MaxFrame)
		if err != nil {
			return err
		}
		if down != nil {
			frame = g.rewrite(ctx, down, frame)
		}
		if g.write(ctx, to, kind, frame) != nil {
			return discard(ctx, from)
		}
	}
}

// write gives up on a side that does not read, which closes its connection.
func (g *Gateway) write(ctx context.Context, c *socket, kind websocket.MessageType, frame []byte) error {
	ctx, cancel := context.WithTimeout(ctx, g.timing.writeWithin)
	defer cancel()
	return c.Write(ctx, kind, frame)
}

// clientEnd: a client that goes, by whatever close frame, without having said leave has lost its socket;
// its SFU keeps the peer for a resume. Only codes of the application's own are passed on.
func clientEnd(err error) ending {
	if errors.Is(err, errTooLarge) {
		return ending{toClient: signal.CloseTooLarge, reason: "a frame is at most 256 KiB"}
	}
	var ce websocket.CloseError
	if errors.As(err, &ce) && ce.Code >= 3000 {
		return ending{toSFU: int(ce.Code), reason: ce.Reason}
	}
	return ending{}
}

// sfuEnd passes the SFU's close code on. Without one, or with one that only says that its
// process is ending, the client is to come again.
func sfuEnd(err error) ending {
	gone := ending{toClient: signal.CloseGone, reason: "the SFU went away"}
	var ce websocket.CloseError
	if !errors.As(err, &ce) {
		return gone
	}
	switch ce.Code {
	case websocket.StatusGoingAway, websocket.StatusNoStatusRcvd, websocket.StatusServiceRestart, websocket.StatusTryAgainLater:
		return gone
	case websocket.StatusInternalError:
		return ending{toClient: signal.CloseInternal, reason: ce.Reason}
	default:
		return ending{toClient: int(ce.Code), reason: ce.Reason}
	}
}
