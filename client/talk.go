package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func (r *Room) joinFrame(p *place) *signal.Join {
	return &signal.Join{Room: orama.RoomID(r.opts.Room), Name: r.opts.Name, Metadata: r.opts.Metadata,
		Resume: p.resume, AutoSubscribe: r.opts.AutoSubscribe, AwaitOffer: true, MovingFrom: p.movingFrom}
}

func (r *Room) dial(ctx context.Context, endpoint string, join *signal.Join) (*websocket.Conn, error) {
	header, err := r.opts.header(ctx)
	if err != nil {
		return nil, err
	}
	return dial(ctx, r.http, endpoint, header, join)
}

// attach begins to listen on a place's new socket.
func (r *Room) attach(p *place, ws *websocket.Conn) {
	l := &link{socket: socket{ws: ws}, gone: make(chan struct{})}
	p.sock = l
	down := func(frame []byte) { // the reader waits, so that a fast server cannot fill the memory
		r.do(r.ctx, func() { //nolint:errcheck // the Room has ended
			if p.sock == l && r.at(p) {
				r.handleFrame(p, l, frame)
			}
		})
	}
	ended := func(code websocket.StatusCode) {
		close(l.gone)
		r.tasks.post(func() {
			if p.sock == l {
				p.sock = nil
				r.socketEnded(p, code)
			}
		})
	}
	l.start(r.ctx, down, ended, &r.wg)
}

func (r *Room) handleFrame(p *place, l *link, frame []byte) {
	m, err := signal.Decode(frame)
	if err != nil {
		var unknown *signal.UnknownTypeError
		if !errors.As(err, &unknown) { // later protocols may add types
			r.opts.Logger.Warn("frame not understood", "err", err)
		}
		return
	}
	switch m := m.(type) {
	case *signal.Joined:
		r.handleJoined(p, l, m)
	case *signal.TURNCredentials:
		r.handleCredentials(p, m.Credentials)
	case *signal.RefreshCredentials:
		r.handleCredentials(p, m.Credentials)
	case *signal.Offer:
		r.handleOffer(p, m)
	case *signal.ICECandidate:
		if p.sess != nil {
			if err := p.sess.addCandidate(m.Candidate); err != nil {
				r.opts.Logger.Debug("candidate", "err", err)
			}
		}
	case *signal.Ping:
		p.send(&signal.Pong{T: m.T})
	case *signal.Pong:
		if p.sess != nil {
			p.sess.taken(int(m.T))
		}
	case *signal.Error:
		r.handleError(p, m)
	case *signal.ServerDraining:
		r.drained(p, m)
	default:
		r.handleNews(p, m)
		r.look()
	}
}

// handleNews keeps the picture of a place; the application is told of where the Room is.
func (r *Room) handleNews(p *place, m signal.Message) {
	switch m := m.(type) {
	case *signal.PeerJoined:
		p.putPeer(m.Peer)
	case *signal.PeerLeft:
		p.dropPeer(m.PeerID, m.Reason)
	case *signal.TrackPublished:
		p.putTrack(m.PeerID, m.Track)
		p.tell(TrackPublished{m.PeerID, m.Track})
	case *signal.TrackMuted:
		p.putTrack(m.PeerID, m.Track)
		p.tell(TrackMuted{m.PeerID, m.Track})
	case *signal.TrackUnpublished:
		p.dropTrack(m.PeerID, m.Track.TrackID)
		p.tell(TrackUnpublished{m.PeerID, m.Track})
	case *signal.Speakers:
		p.tell(Speakers{m.Levels})
	case *signal.Quality:
		p.tell(Quality{m.Peers})
	case *signal.Bandwidth:
		p.tell(Bandwidth{Estimate: m.Estimate, Wanted: m.Wanted})
	case *signal.Kicked:
		r.fail(orama.Errorf(orama.KindForbidden, "kicked", "the peer was removed from the room: %.200s", m.Reason))
	case *signal.RoomClosed:
		r.fail(orama.Errorf(orama.KindNotFound, "room_closed", "the room was closed: %.200s", m.Reason))
	default:
		r.handleModerated(p, m)
	}
}

func (r *Room) handleJoined(p *place, l *link, m *signal.Joined) {
	if p != r.here && r.circle(m) {
		r.tryAgain("the new place is the old one")
		return
	}
	l.joined = true
	p.resume, p.movingFrom = m.Resume, ""
	r.learn(m.Gateways)
	r.mu.Lock()
	before := p.peers
	p.peerID, p.userID, p.perms = m.PeerID, m.UserID, m.Permissions
	p.peers = map[orama.PeerID]*Peer{}
	for _, o := range m.Peers {
		p.peers[o.PeerID] = &o
	}
	r.mu.Unlock()
	if !m.Resumed && r.lastN != nil {
		p.send(r.lastN)
	}
	if p != r.here {
		return
	}
	r.since, r.tokens = time.Now(), 0
	select {
	case <-r.joined:
		r.tellDifference(before, m.Peers)
	default:
		close(r.joined)
	}
	switch {
	case !m.Resumed:
		r.retire(p)
		p.fresh = true
	case p.sess != nil:
		p.sess.asked = false // who knows what was heard before the socket broke
		if len(p.sess.freed) > 0 {
			p.sess.asked = true
			p.send(&signal.Negotiate{})
		}
		p.sess.confirm()
		r.wantSlots(p)
	case !p.fresh: // the SFU would go on with a connection that is gone
		r.startOver("the connection is gone")
	}
	r.review()
}

// tellDifference makes events of what happened while nobody listened.
func (r *Room) tellDifference(before map[orama.PeerID]*Peer, now []Peer) {
	here := map[orama.PeerID]bool{}
	for _, p := range now {
		here[p.PeerID] = true
		if before[p.PeerID] == nil {
			r.emit(PeerJoined{Peer: p})
		}
	}
	for id := range before {
		if !here[id] {
			r.emit(PeerLeft{PeerID: id, Reason: "lost"})
		}
	}
}

func (r *Room) handleCredentials(p *place, c Credentials) {
	if len(c.URLs) == 0 {
		c.URLs = c.URIs
	}
	r.mu.Lock()
	p.creds = c
	r.mu.Unlock()
	r.relays.learn(c.URLs)
	if !p.fresh {
		if p.sess != nil {
			if err := p.sess.setServers(c); err != nil {
				r.opts.Logger.Warn("new credentials", "err", err)
			}
		}
		return
	}
	s, err := newSession(p, c)
	if err != nil {
		r.fail(&orama.Error{Kind: orama.KindInternal, Code: "peer_connection", Message: "no connection can be made", Err: err})
		return
	}
	p.fresh, p.sess = false, s
	if o := r.outage; o != nil && p == r.here {
		o.next, o.deadline = time.Now().Add(firstRestart), time.Now().Add(restartsFor)
	}
	r.resubscribe(p)
}

// resubscribe repeats what was asked for of tracks that are still there.
func (r *Room) resubscribe(p *place) {
	for _, o := range p.others() {
		for _, t := range o.Tracks {
			if want, ok := r.wanted[t.TrackID]; ok {
				p.subscribe(t.TrackID, want)
			}
		}
	}
}

func (r *Room) handleOffer(p *place, m *signal.Offer) {
	if p.sess == nil {
		r.opts.Logger.Warn("an offer came before credentials")
		return
	}
	a, err := p.sess.answer(m)
	if err != nil {
		r.opts.Logger.Warn("an offer could not be answered", "err", err)
		if p == r.here {
			r.startOver("an offer could not be answered")
		} else {
			r.tryAgain("an offer could not be answered")
		}
		return
	}
	p.send(a)
	p.sess.confirm()
	r.wantSlots(p)
}

// handleError fails the Publish calls that an error must be about: it names no frame.
func (r *Room) handleError(p *place, m *signal.Error) {
	r.opts.Logger.Debug("refused", "code", m.Code, "message", m.Message)
	p.tell(Refused{Code: m.Code, Message: m.Message, Retryable: m.Retryable})
	if p.sess == nil || !p.sess.asked || m.Code != signal.CodeForbidden && m.Code != signal.CodeLimited {
		return
	}
	kind := orama.KindForbidden
	if m.Code == signal.CodeLimited {
		kind = orama.KindLimited
	}
	p.sess.asked = false
	if p != r.here {
		return // where we are it is sent
	}
	for _, t := range slices.Clone(r.locals) {
		if p.sess.sending[t] == nil {
			t.settle(orama.Errorf(kind, m.Code, "%.200s", m.Message))
			r.forget(t)
		}
	}
}

// addLocal gives a new track a section as soon as there is one.
func (r *Room) addLocal(t *LocalTrack) {
	r.locals = append(r.locals, t)
	for _, p := range r.places() {
		r.wantSlots(p)
	}
}

// wantSlots has the SFU offer when there are tracks without a section, with as many more sections
// as those that are free do not suffice for. The SFU's first offer comes unasked and has one of
// each kind, so nothing is asked before it.
func (r *Room) wantSlots(p *place) {
	s := p.sess
	if s == nil || s.offers == 0 || s.asked || p.sock == nil || !p.sock.joined {
		return
	}
	need := map[string]int{}
	for _, t := range r.locals {
		if s.sending[t] == nil {
			need[t.opts.Kind]++
		}
	}
	if len(need) == 0 {
		return
	}
	more := func(kind string) int { return min(max(need[kind]-s.free(kind), 0), signal.MaxSlots) }
	s.asked = true
	p.send(&signal.Negotiate{Audio: more("audio"), Video: more("video")})
}

// unpublish stops sending and has the SFU make an offer, which the answer then tells it by.
func (r *Room) unpublish(t *LocalTrack) {
	if !slices.Contains(r.locals, t) {
		return
	}
	for _, p := range r.places() {
		s := p.sess
		if s == nil || s.sending[t] == nil {
			continue
		}
		at := s.sending[t]
		if err := s.pc.RemoveTrack(at.sender); err != nil {
			r.opts.Logger.Debug("unpublish", "err", err)
		}
		s.freed[at.mid], s.asked = true, true
		p.send(&signal.Negotiate{})
	}
	r.forget(t)
}

// forget drops a track for good.
func (r *Room) forget(t *LocalTrack) {
	for _, p := range r.places() {
		if p.sess != nil {
			p.sess.detach(t)
		}
	}
	t.setID("")
	t.settle(errClosed)
	r.locals = slices.DeleteFunc(slices.Clone(r.locals), func(o *LocalTrack) bool { return o == t })
}

func (r *Room) tellMuted(t *LocalTrack) {
	for _, p := range r.places() {
		if p.sess == nil {
			continue
		}
		if at := p.sess.sending[t]; at != nil && at.id != "" {
			p.send(&signal.Mute{TrackID: at.id, Muted: t.Muted()})
		}
	}
}

// openChannels opens our data channels on another connection.
func (r *Room) openChannels(pc *webrtc.PeerConnection) error {
	for _, d := range r.channels {
		if err := d.attach(pc); err != nil {
			return err
		}
	}
	return nil
}

func (r *Room) closeData(d *DataChannel) {
	r.channels = slices.DeleteFunc(r.channels, func(o *DataChannel) bool { return o == d })
	d.mu.Lock()
	dc := d.dc
	d.mu.Unlock()
	d.detach()
	if dc != nil {
		dc.Close() //nolint:errcheck // the connection may be gone
	}
}

// named lists what the session sends, in the order of publication.
func (s *session) named() []signal.TrackRef {
	var out []signal.TrackRef
	for _, t := range s.room.locals {
		if at := s.sending[t]; at != nil {
			out = append(out, t.ref(at.mid))
		}
	}
	return out
}
