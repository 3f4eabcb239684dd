package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

const (
	resend = 250 * time.Millisecond // before a request is sent again
	resent = 8                      // times at most
)

// asked is a request on its way.
type asked struct {
	d     *dialogue
	text  []byte
	sent  int64 // Unix nanoseconds, the last time
	times int
}

// talk carries dialogues over UDP with one server, some of them at a time.
type talk struct {
	gen     *generator
	to      netip.AddrPort
	pending map[[stun.TransactionIDSize]byte]*asked
	done    int // dialogues that ended well
	failed  error
}

// run has next begin dialogues until it gives nil, and carries them to their ends, inFlight at a time.
func (t *talk) run(ctx context.Context, inFlight int, next func() *dialogue) error {
	t.pending = map[[stun.TransactionIDSize]byte]*asked{}
	t.gen.clients.shape(0)
	swept := clock()
	for more := true; more || len(t.pending) > 0; {
		for more && len(t.pending) < inFlight && t.failed == nil {
			d := next()
			if more = d != nil; more {
				t.ask(d)
			}
		}
		if err := t.gen.clients.receive(t.hear); err != nil {
			return err
		}
		if now := clock(); now-swept > int64(10*time.Millisecond) {
			swept = now
			t.again(now)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if t.failed != nil {
			return t.failed
		}
	}
	return nil
}

func (t *talk) ask(d *dialogue) {
	text, err := d.request()
	if err != nil {
		t.failed = err
		return
	}
	a := &asked{d: d, text: text}
	t.pending[d.id] = a
	t.put(a)
}

func (t *talk) put(a *asked) {
	a.sent = clock()
	a.times++
	w := t.gen.clients
	n := copy(w.message(0), a.text)
	w.address(0, t.to, a.d.from, n)
	if _, err := w.send(1); err != nil {
		t.failed = err
	}
}

// hear takes a datagram if it answers a request.
func (t *talk) hear(b []byte, _ int64) {
	if len(b) < 20 || b[0]>>6 != 0 {
		return // media that was late
	}
	m := &stun.Message{Raw: b}
	if m.Decode() != nil {
		return
	}
	a := t.pending[m.TransactionID]
	if a == nil {
		return
	}
	delete(t.pending, m.TransactionID)
	if err := a.d.answer(m); err != nil {
		t.failed = errors.Join(t.failed, err)
	} else if a.d.next == stepDone {
		t.done++
	} else {
		t.ask(a.d)
	}
}

// again repeats what was not answered.
func (t *talk) again(now int64) {
	for _, a := range t.pending {
		if now-a.sent < int64(resend) {
			continue
		}
		if a.times > resent {
			t.failed = fmt.Errorf("%s does not answer step %d", t.to, a.d.next)
			return
		}
		t.put(a)
	}
}
