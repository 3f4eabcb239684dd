package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// The numbers of a recovery. A restart takes two round trips and an allocation, and ends the attempt
// before it, so each is given longer than the last: machines that are slow must not be kept from
// ever getting through.
const (
	watchEvery      = 100 * time.Millisecond // while not connected
	grace           = 300 * time.Millisecond // packets that wait for a late process are not lost
	firstRestart    = 5 * time.Second        // a new connection is given this long before its first ICE restart
	restartFirst    = 2 * time.Second        // from the first restart to the second; then doubled
	restartMost     = 8 * time.Second
	restartsFor     = 15 * time.Second       // then everything is started over
	flowWithin      = 3 * time.Second        // media counts as flowing that long after its last packet
	quietAfter      = time.Second            // a path that stays up so long with nothing to carry is good
	proofWithin     = 8 * time.Second        // and with something to carry, which may have ended unnoticed
	startOverSpread = 100 * time.Millisecond // a draining SFU tells everybody at once
	abandonWithin   = time.Second
	backoffFirst    = 250 * time.Millisecond
	backoffMost     = 5 * time.Second
	lasted          = 5 * time.Second // a join that held so long makes the next loss a new one
)

// outage is the time from a loss to the proof that it is over.
type outage struct {
	since    time.Time
	expect   bool      // media of others flowed before, so it must flow after
	next     time.Time // not before this another ICE restart
	restarts int       // so far
	deadline time.Time // then start over
	watched  time.Time // when the clock was last looked at
}

// lose notes that the socket or the media path is gone.
func (r *Room) lose(what, why string) {
	now := time.Now()
	if r.outage == nil {
		r.opts.Logger.Info("lost", "what", what, "why", why)
		r.outage = &outage{since: now, next: now.Add(grace), deadline: now.Add(restartsFor), watched: now}
		r.outage.expect = now.Sub(r.here.seen()) < flowWithin
		r.tick.Reset(watchEvery)
	}
	r.review()
}

// review decides the state from what is so, not from what happened.
func (r *Room) review() {
	if r.whole(time.Now()) {
		if r.outage != nil {
			r.opts.Logger.Info("connected", "after", time.Since(r.outage.since))
		}
		r.outage = nil
		if r.move == nil {
			r.tick.Stop()
		}
		r.setState(StateConnected, nil)
		return
	}
	if r.State() == StateConnected {
		r.setState(StateRecovering, nil)
	}
}

// whole reports whether socket and media are up and, after an outage, whether packets prove it.
func (r *Room) whole(now time.Time) bool {
	if !r.here.in() || !r.here.sess.up() {
		return false
	}
	o := r.outage
	if o == nil || r.here.seen().After(o.since) {
		return true
	}
	held := now.Sub(r.here.sess.upSince)
	if o.expect && r.here.someTrack() {
		return held > proofWithin
	}
	return held > quietAfter || r.here.sess.packets() > 0
}

func (s *session) up() bool {
	return s.pc.ConnectionState() == webrtc.PeerConnectionStateConnected && !s.upSince.IsZero()
}

// someTrack reports whether anybody else has a track that is not muted.
func (p *place) someTrack() bool {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	for _, o := range p.peers {
		for _, t := range o.Tracks {
			if !t.Muted {
				return true
			}
		}
	}
	return false
}

// watch is the clock of an outage.
func (r *Room) watch() {
	now := time.Now()
	r.review()
	r.look()
	if r.outage == nil {
		return
	}
	r.outage.excuse(now)
	if now.Sub(r.outage.since) > r.opts.GiveUpAfter {
		r.fail(orama.Errorf(orama.KindUnavailable, "gave_up", "the room could not be reached again"))
		return
	}
	r.repair(now)
}

// excuse moves the deadlines by as much as this process itself was late.
func (o *outage) excuse(now time.Time) {
	if late := now.Sub(o.watched) - watchEvery; !o.watched.IsZero() && late > watchEvery {
		o.next, o.deadline = o.next.Add(late), o.deadline.Add(late)
	}
	o.watched = now
}

// repair restarts ICE, again and again, and starts over when that does not help.
func (r *Room) repair(now time.Time) {
	o := r.outage
	if o == nil || !r.here.in() || r.here.sess.up() || now.Before(o.next) {
		return
	}
	if now.After(o.deadline) {
		r.startOver("ICE restarts did not help")
		return
	}
	o.next = now.Add(min(restartFirst<<min(o.restarts, 8), restartMost))
	o.restarts++
	r.opts.Logger.Info("restarting ICE")
	r.here.send(&signal.Negotiate{ICERestart: true})
}

// startOver leaves the peer behind and joins as a new one. A new place that has let us in already is as good as that.
func (r *Room) startOver(why string) {
	if r.leaving {
		return
	}
	if r.move.in() {
		r.change()
		return
	}
	r.endMove()
	r.opts.Logger.Info("starting over", "why", why)
	p := r.here
	if l := p.sock; l != nil {
		l.send(&signal.Leave{}) //nolint:errcheck // it is left anyway
		l.bye()
		p.sock = nil
	}
	p.resume = ""
	r.generation++ // a dial on its way would resume the peer that is left here
	r.lose("room", why)
	r.retire(p)
	r.redial(rand.N(startOverSpread)) //nolint:gosec // jitter
}

// retire ends the session of a place. pion takes its time, which the loop does not wait for.
func (r *Room) retire(p *place) {
	s := p.sess
	if s == nil {
		return
	}
	p.sess = nil
	for _, d := range s.down {
		d.replace(nil)
	}
	for _, t := range r.locals {
		s.detach(t)
		if p == r.here {
			t.setID("")
		}
	}
	if p == r.here {
		for _, d := range r.channels {
			d.detach()
		}
	}
	r.wg.Go(s.close)
}

// socketEnded decides what follows by the table of close codes.
func (r *Room) socketEnded(p *place, code websocket.StatusCode) {
	v := afterClose(code)
	switch {
	case !r.at(p): // left
	case p != r.here:
		r.opts.Logger.Info("socket at the new place ended", "code", int(code))
		r.tryAgain("its socket ended")
	case v.stop == nil && r.move.in():
		r.change()
	default:
		r.endMove()
		r.opts.Logger.Info("socket ended", "code", int(code))
		r.follow(v, "socket")
	}
}

// dialed takes a new socket, or the reason why there is none.
func (r *Room) dialed(generation int, ws *websocket.Conn, err error) {
	stale := r.ctx.Err() != nil || r.here.sock != nil || generation != r.generation
	switch {
	case err == nil && stale:
		r.wg.Go(func() { abandon(ws) })
	case stale:
	case err == nil:
		r.attach(r.here, ws)
	default:
		r.opts.Logger.Info("no socket", "err", err)
		r.gateway++
		r.follow(afterRefusal(err), "socket")
	}
}

// abandon takes back a join that is not wanted any more: without a word the others would see a
// ghost until the SFU gives it up.
func abandon(ws *websocket.Conn) {
	defer ws.CloseNow() //nolint:errcheck // closed by then, if all went well
	ctx, cancel := context.WithTimeout(context.Background(), abandonWithin)
	defer cancel()
	frame, err := signal.Encode(&signal.Leave{})
	if err == nil {
		err = ws.Write(ctx, websocket.MessageText, frame)
	}
	for err == nil { // the SFU closes when it has read that
		_, _, err = ws.Read(ctx)
	}
}

func (r *Room) follow(v verdict, what string) {
	switch {
	case r.ctx.Err() != nil:
	case r.leaving:
		r.fail(nil)
	case v.stop != nil:
		r.fail(v.stop)
	case v.token && (r.opts.TokenFunc == nil || r.tokens >= 3):
		r.fail(orama.Errorf(orama.KindUnauthenticated, "token", "the token is no longer good"))
	default:
		if v.token {
			r.tokens++
		}
		r.lose(what, "")
		r.redial(v.after)
	}
}

// redial tries again: at once after a join that lasted, then ever more slowly, with jitter.
func (r *Room) redial(after time.Duration) {
	if !r.since.IsZero() && time.Since(r.since) > lasted {
		r.attempts = 0
	}
	r.since = time.Time{}
	delay := max(after, backoff(r.attempts))
	r.attempts++
	join, generation, endpoint := r.joinFrame(r.here), r.generation, r.endpoints[r.gateway%len(r.endpoints)]
	r.wg.Go(func() {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		ws, err := r.dial(r.ctx, endpoint, join)
		r.tasks.post(func() { r.dialed(generation, ws, err) })
	})
}

func backoff(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	most := min(backoffFirst<<min(attempt-1, 10), backoffMost)
	return most/2 + rand.N(most/2) //nolint:gosec // jitter
}
