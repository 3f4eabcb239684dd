package sfu

import (
	"errors"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// session is a socket's conversation: it joins, and then hands the peer one frame at a time.
type session struct {
	srv    *Server
	sock   *socket
	ticket auth.Ticket
	record record // of the room, as the gateway has read it
	limit  signal.Limiter
	peer   *peer // nil until joined
}

// run returns when the socket is over.
func (x *session) run() {
	defer x.sock.wait()
	implied := time.NewTimer(signal.ImpliedJoinAfter)
	defer implied.Stop()
	for {
		select {
		case <-implied.C:
			if x.peer == nil {
				x.join(&signal.Join{}, joinImplied)
			}
		case f, ok := <-x.sock.frames:
			if !ok {
				x.part()
				return
			}
			x.frame(f)
		}
	}
}

// part tells the peer that its socket is gone, and how.
func (x *session) part() {
	if x.peer != nil {
		p, how := x.peer, x.sock.parting()
		p.post(func() { p.socketGone(x.sock, how) })
	}
}

func (x *session) frame(f frame) {
	if x.sock.fate.Load() != nil {
		return // it is closing; what still arrives is not looked at
	}
	if !x.limit.Allow(time.Now()) {
		x.sock.close(signal.CloseTooFast, "frames came too fast")
		return
	}
	if f.kind != websocket.MessageText {
		x.sock.close(signal.CloseMalformed, "a binary frame")
		return
	}
	m, err := signal.Decode(f.data)
	if errors.Is(err, signal.ErrMalformed) {
		x.sock.close(signal.CloseMalformed, "the frame is no message")
		return
	}
	if j, ok := m.(*signal.Join); ok && err == nil && x.peer == nil {
		x.join(j, joinExplicit)
		return
	}
	if x.peer == nil {
		// Any other first frame joins with defaults. The client's own offer is to be answered, not
		// to collide with the SFU's.
		how := joinImplied
		if _, ok := m.(*signal.Offer); ok {
			how = joinExplicit
		}
		if x.join(&signal.Join{}, how); x.peer == nil {
			return
		}
	}
	x.handle(m, err)
}

// handle answers what needs no peer and passes the rest on, waiting until it is done: so a
// socket has never more than one frame under way.
func (x *session) handle(m signal.Message, err error) {
	var unknown *signal.UnknownTypeError
	var invalid *orama.Error
	switch {
	case errors.As(err, &unknown):
		x.refuse(signal.CodeUnknownType, "there is no message type of that name", false)
		return
	case errors.As(err, &invalid):
		x.refuse(signal.CodeInvalid, invalid.Message, false)
		return
	case err != nil:
		x.refuse(signal.CodeInternal, "the frame could not be read", true)
		return
	}
	p, done := x.peer, make(chan struct{})
	posted := p.post(func() {
		defer close(done)
		if p.sock == x.sock { // else another socket has resumed the peer
			p.message(m)
		}
	})
	if posted {
		select {
		case <-done:
		case <-p.done:
		}
	}
}

func (x *session) refuse(code, message string, retryable bool) {
	x.sock.send(&signal.Error{Code: code, Message: message, Retryable: retryable})
}

// joinKind says how the client came to join, which decides who offers first.
type joinKind int

const (
	joinExplicit joinKind = iota // the SFU waits a moment for the client's offer
	joinImplied                  // the SFU offers at once
)

func (x *session) join(j *signal.Join, how joinKind) {
	if j.Room != "" && j.Room != x.ticket.Room {
		x.refuse(signal.CodeForbidden, "the token or the address names another room", false)
		x.sock.close(signal.CloseForbidden, "not allowed in this room")
		return
	}
	x.sock.joined()
	if j.AwaitOffer {
		how = joinImplied
	}
	p, no, err := x.srv.join(joinRequest{sock: x.sock, ticket: x.ticket, record: x.record, join: *j, offerNow: how == joinImplied})
	switch {
	case err != nil:
		x.sock.close(signal.CloseGone, "the server is going away")
	case no != nil:
		x.turnAway(no)
	}
	x.peer = p
}

// turnAway ends a socket whose join the room has refused.
func (x *session) turnAway(no *refusal) {
	code := signal.CloseForbidden
	switch no.code {
	case codeKicked:
		x.sock.send(&signal.Kicked{Reason: no.message})
		x.sock.close(signal.CloseKicked, codeKicked)
		return
	case signal.CodeFull:
		code = signal.CloseFull
	}
	x.refuse(no.code, no.message, no.code == signal.CodeFull)
	x.sock.close(code, no.message)
}
