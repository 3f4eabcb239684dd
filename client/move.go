package client

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// The numbers of a move, which are those of the JavaScript SDK.
const (
	moveSpread   = 400 * time.Millisecond // a draining SFU tells everybody at once
	moveMargin   = 500 * time.Millisecond // before the old place ends, whatever flows at the new one has to do
	lingerFor    = time.Second            // at the old place: whoever is not at the new one yet goes on hearing us
	maxEndpoints = 20
	maxDeadline  = time.Hour
)

// move is a change to another SFU while the old one serves us: the new place is joined first, and the old one is left when everybody is there and
// what came at the old place comes there. The application sees one moment of it, change. The loop owns it.
type move struct {
	to       *place // nil while a socket is opened
	from     orama.PeerID
	endpoint string // "" once it was tried: any gateway leads there
	until    time.Time
	attempts int
	carried  map[orama.TrackID]wish // what the new place was asked for
	next     *signal.ServerDraining // the new place is to be left as well
	nextBy   time.Time              // and when
}

// wish is what was asked for of a track.
type wish struct {
	subscribed, refused bool
	as                  Preference
}

// in tells whether the new place has let us in.
func (m *move) in() bool { return m != nil && m.to != nil && m.to.in() }

// drained is an SFU that asks us to go.
func (r *Room) drained(p *place, d *signal.ServerDraining) {
	within := min(time.Duration(max(d.DeadlineMS, 0))*time.Millisecond, maxDeadline)
	until := time.Now().Add(within)
	if p != r.here {
		r.move.next, r.move.nextBy = d, until
		return
	}
	r.emit(Draining{Reason: d.Reason, Deadline: within})
	if r.move != nil {
		return
	}
	to := ""
	if d.Reconnect != nil {
		to = r.endpointOf(*d.Reconnect)
	}
	if !p.in() {
		r.gateway = max(slices.Index(r.endpoints, to), 0)
		r.startOver("the SFU is draining")
		return
	}
	r.move = &move{from: p.peerID, endpoint: to, until: until, carried: map[orama.TrackID]wish{}}
	r.tick.Reset(watchEvery)
	r.goThere(rand.N(min(moveSpread, within/4) + 1)) //nolint:gosec // jitter
}

// endpointOf makes an endpoint of a gateway's URL that a server has told; "" of one that is not to be used: credentials go there, so what began
// over TLS stays so.
func (r *Room) endpointOf(gateway string) string {
	e, err := r.opts.endpoint(gateway)
	if err != nil || strings.HasPrefix(r.endpoints[0], "wss:") && !strings.HasPrefix(e, "wss:") {
		return ""
	}
	if !slices.Contains(r.endpoints, e) && len(r.endpoints) < maxEndpoints {
		r.endpoints = append(r.endpoints, e)
	}
	return e
}

// learn keeps other gateways of the cluster, for when the one in use is lost.
func (r *Room) learn(gateways []string) {
	for _, g := range gateways[:min(len(gateways), maxEndpoints)] {
		r.endpointOf(g)
	}
}

// goThere opens a socket at the new place after a while.
func (r *Room) goThere(after time.Duration) {
	m := r.move
	to := newPlace(r)
	to.movingFrom = m.from
	endpoint := m.endpoint
	if endpoint == "" {
		endpoint = r.endpoints[(r.gateway+m.attempts)%len(r.endpoints)]
	}
	m.endpoint = ""
	m.attempts++
	join := r.joinFrame(to)
	r.wg.Go(func() {
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		ws, err := r.dial(r.ctx, endpoint, join)
		r.tasks.post(func() { r.arrive(m, to, endpoint, ws, err) })
	})
}

// arrive takes the new place's socket, or the reason why there is none.
func (r *Room) arrive(m *move, to *place, endpoint string, ws *websocket.Conn, err error) {
	stale := r.ctx.Err() != nil || r.move != m || m.to != nil
	switch {
	case err == nil && stale:
		r.wg.Go(func() { abandon(ws) })
	case stale:
	case err == nil:
		m.to = to
		if i := slices.Index(r.endpoints, endpoint); i >= 0 {
			r.gateway = i
		}
		r.attach(to, ws)
	default:
		r.tryAgain(err.Error())
	}
}

// tryAgain gives the new place up and goes there once more, while the old one serves.
func (r *Room) tryAgain(why string) {
	m := r.move
	if m == nil {
		return
	}
	r.opts.Logger.Info("the new place will not do", "why", why)
	r.part(m.to)
	m.to, m.carried = nil, map[orama.TrackID]wish{}
	if time.Now().After(m.until) {
		r.endMove()
		return
	}
	r.goThere(backoff(m.attempts))
}

// endMove gives a move up: the old place serves until it ends, and that is recovered from as any other loss.
func (r *Room) endMove() {
	if r.move == nil {
		return
	}
	to := r.move.to
	r.move = nil
	r.part(to)
}

// part leaves a place for good.
func (r *Room) part(p *place) {
	if p == nil {
		return
	}
	if l := p.sock; l != nil {
		l.send(&signal.Leave{}) //nolint:errcheck // it is left anyway
		l.bye()
	}
	r.retire(p)
}

// circle tells whether a join has led to where we are: the peer that we are here is there.
func (r *Room) circle(m *signal.Joined) bool {
	return slices.ContainsFunc(m.Peers, func(p Peer) bool { return p.PeerID == r.here.peerID })
}

// look changes over when it is time to.
func (r *Room) look() {
	m := r.move
	if m == nil {
		return
	}
	r.carry()
	left := time.Until(m.until)
	if m.in() && r.flowing() && (r.allThere() || left < moveMargin) {
		r.change()
	}
	if left < -moveMargin && m.to == nil {
		r.endMove()
	}
}

// flowing tells whether media comes at the new place, or none is to be expected.
func (r *Room) flowing() bool {
	to := r.move.to
	if !to.sess.up() {
		return false
	}
	if time.Since(r.here.seen()) < flowWithin && to.someTrack() {
		return !to.seen().IsZero()
	}
	return to.sess.packets() > 0 || time.Since(to.sess.upSince) > quietAfter
}

// allThere tells whether everybody is at the new place, and all that comes at the old one comes there.
func (r *Room) allThere() bool {
	for _, was := range r.here.others() {
		is, ok := r.counterpart(was)
		if !ok {
			return false
		}
		for _, d := range r.here.sess.down {
			t := d.track()
			if t == nil || t.PeerID() != was.PeerID || time.Since(time.Unix(0, t.last.Load())) > flowWithin {
				continue
			}
			if same := sameTrack(was, t.ID(), is); same != "" && !r.move.to.sess.receives(same) {
				return false
			}
		}
	}
	return true
}

// counterpart finds who somebody of the old place is at the new one. Only the servers' word for the user counts.
func (r *Room) counterpart(was Peer) (Peer, bool) {
	for _, is := range r.move.to.others() {
		if is.MovingFrom == was.PeerID && is.UserID == was.UserID {
			return is, true
		}
	}
	return Peer{}, false
}

// sameTrack finds what a track of somebody's is called at the new place; "" when it is not known here, and so expected nowhere. One that has not
// been published there yet is "-", which nobody receives.
func sameTrack(was Peer, id orama.TrackID, is Peer) orama.TrackID {
	i := slices.IndexFunc(was.Tracks, func(t Track) bool { return t.TrackID == id })
	if i < 0 {
		return ""
	}
	for _, t := range is.Tracks {
		if o := was.Tracks[i]; t.Kind == o.Kind && t.Source == o.Source && t.Name == o.Name {
			return t.TrackID
		}
	}
	return "-"
}

// receives tells whether packets of a track have come.
func (s *session) receives(id orama.TrackID) bool {
	for _, d := range s.down {
		if t := d.track(); t != nil && t.ID() == id && t.Packets() > 0 {
			return true
		}
	}
	return false
}

// seen is when the latest packet of any track came.
func (p *place) seen() time.Time {
	if p.sess == nil || p.sess.seen.Load() == 0 {
		return time.Time{}
	}
	return time.Unix(0, p.sess.seen.Load())
}

// carry asks of tracks at the new place what was asked of them at the old one.
func (r *Room) carry() {
	m := r.move
	if !m.in() {
		return
	}
	for _, was := range r.here.others() {
		is, ok := r.counterpart(was)
		if !ok {
			continue
		}
		for _, t := range was.Tracks {
			want, asked := r.wanted[t.TrackID]
			w := wish{subscribed: asked && want, refused: asked && !want, as: r.prefs[t.TrackID]}
			id := sameTrack(was, t.TrackID, is)
			if id == "-" || m.carried[id] == w {
				continue
			}
			if before := m.carried[id]; asked && (before.subscribed != w.subscribed || before.refused != w.refused) {
				r.wanted[id] = want
				m.to.subscribe(id, want)
			}
			if m.carried[id].as != w.as {
				r.prefs[id] = w.as
				m.to.prefer(id, w.as)
			}
			m.carried[id] = w
		}
	}
}

// change goes over to the new place. The old one is left a little later.
func (r *Room) change() {
	m, was := r.move, r.here
	to := m.to
	r.move = nil
	r.mu.Lock()
	r.here = to
	r.mu.Unlock()
	r.since, r.tokens, r.attempts = time.Now(), 0, 0
	r.generation++
	for _, p := range to.others() {
		r.emit(PeerJoined{Peer: p})
	}
	for _, d := range to.sess.inOrder() {
		if t := d.track(); t != nil {
			r.announce(t)
		}
	}
	if was.sess != nil {
		for _, d := range was.sess.down {
			d.replace(nil)
		}
	}
	for _, p := range was.others() {
		r.emit(PeerLeft{PeerID: p.PeerID, Reason: "moved"})
	}
	for _, t := range r.locals {
		id := orama.TrackID("")
		if at := to.sess.sending[t]; at != nil {
			id = at.id
		}
		t.setID(id)
	}
	if err := r.openChannels(to.sess.pc); err != nil {
		r.opts.Logger.Warn("data channels at the new place", "err", err)
	}
	r.opts.Logger.Info("moved", "peer", to.peerID)
	if to.sess.up() && (!to.someTrack() || !to.seen().IsZero()) {
		r.emit(Moved{From: m.from, To: to.peerID})
	} else { // the old place has ended first: that is a loss like any other, until packets come
		r.lose("room", "the old place ended before media came at the new one")
	}
	r.linger(was)
	r.review()
	if m.next != nil {
		m.next.DeadlineMS = int(max(time.Until(m.nextBy), 0).Milliseconds())
		r.drained(to, m.next)
	}
}

// inOrder gives the downlinks by their sections.
func (s *session) inOrder() []*downlink {
	var all []*downlink
	for _, d := range s.down {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *downlink) int { return strings.Compare(a.mid, b.mid) })
	return all
}

// linger leaves the old place after a while.
func (r *Room) linger(p *place) {
	if p.sock == nil {
		r.retire(p)
		return
	}
	r.left = append(r.left, p)
	r.wg.Go(func() {
		t := time.NewTimer(lingerFor)
		defer t.Stop()
		select {
		case <-r.ctx.Done():
		case <-t.C:
		}
		r.tasks.post(func() {
			r.left = slices.DeleteFunc(r.left, func(o *place) bool { return o == p })
			r.part(p)
		})
	})
}
