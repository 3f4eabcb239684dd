package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func (r *Room) joinFrame() *signal.Join {
	return &signal.Join{Room: orama.RoomID(r.opts.Room), Name: r.opts.Name, Metadata: r.opts.Metadata,
		Resume: r.resume, AutoSubscribe: r.opts.AutoSubscribe, AwaitOffer: true}
}

func (r *Room) dial(ctx context.Context, join *signal.Join) (*websocket.Conn, error) {
	header, err := r.opts.header(ctx)
	if err != nil {
		return nil, err
	}
	return dial(ctx, r.http, r.endpoint, header, join)
}

// attach begins to listen on a new socket.
func (r *Room) attach(ws *websocket.Conn) {
	l := &link{socket: socket{ws: ws}, gone: make(chan struct{})}
	r.sock = l
	down := func(frame []byte) { // the reader waits, so that a fast server cannot fill the memory
		r.do(r.ctx, func() { //nolint:errcheck // the Room has ended
			if r.sock == l {
				r.handleFrame(l, frame)
			}
		})
	}
	ended := func(code websocket.StatusCode) {
		close(l.gone)
		r.tasks.post(func() {
			if r.sock == l {
				r.socketEnded(code)
			}
		})
	}
	l.start(r.ctx, down, ended, &r.wg)
}

// send tells the SFU something, if it can hear. What was not heard is told anew by a new join.
func (r *Room) send(m signal.Message) {
	if r.sock == nil || !r.sock.joined {
		return
	}
	if err := r.sock.send(m); err != nil {
		r.opts.Logger.Debug("frame not sent", "type", string(m.Type()), "err", err)
	}
}

func (r *Room) handleFrame(l *link, frame []byte) {
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
		r.handleJoined(l, m)
	case *signal.TURNCredentials:
		r.handleCredentials(m.Credentials)
	case *signal.RefreshCredentials:
		r.handleCredentials(m.Credentials)
	case *signal.Offer:
		r.handleOffer(m)
	case *signal.ICECandidate:
		if r.sess != nil {
			if err := r.sess.addCandidate(m.Candidate); err != nil {
				r.opts.Logger.Debug("candidate", "err", err)
			}
		}
	case *signal.Ping:
		r.send(&signal.Pong{T: m.T})
	case *signal.Pong:
		if r.sess != nil {
			r.sess.taken(int(m.T))
		}
	case *signal.Error:
		r.handleError(m)
	case *signal.ServerDraining:
		r.emit(Draining{Reason: m.Reason, Deadline: time.Duration(m.DeadlineMS) * time.Millisecond})
		r.startOver("the SFU is draining")
	default:
		r.handleNews(m)
	}
}

// handleNews keeps the picture of the room.
func (r *Room) handleNews(m signal.Message) {
	switch m := m.(type) {
	case *signal.PeerJoined:
		r.putPeer(m.Peer)
	case *signal.PeerLeft:
		r.dropPeer(m.PeerID, m.Reason)
	case *signal.TrackPublished:
		r.putTrack(m.PeerID, m.Track)
		r.emit(TrackPublished{m.PeerID, m.Track})
	case *signal.TrackMuted:
		r.putTrack(m.PeerID, m.Track)
		r.emit(TrackMuted{m.PeerID, m.Track})
	case *signal.TrackUnpublished:
		r.dropTrack(m.PeerID, m.Track.TrackID)
		r.emit(TrackUnpublished{m.PeerID, m.Track})
	case *signal.Speakers:
		r.emit(Speakers{m.Levels})
	case *signal.Quality:
		r.emit(Quality{m.Peers})
	case *signal.Kicked:
		r.fail(orama.Errorf(orama.KindForbidden, "kicked", "the peer was removed from the room: %.200s", m.Reason))
	case *signal.RoomClosed:
		r.fail(orama.Errorf(orama.KindNotFound, "room_closed", "the room was closed: %.200s", m.Reason))
	default:
		r.handleModerated(m)
	}
}

func (r *Room) handleJoined(l *link, m *signal.Joined) {
	l.joined = true
	r.resume, r.since, r.tokens = m.Resume, time.Now(), 0
	r.mu.Lock()
	before := r.peers
	r.peerID, r.userID, r.perms = m.PeerID, m.UserID, m.Permissions
	r.peers = map[orama.PeerID]*Peer{}
	for _, p := range m.Peers {
		r.peers[p.PeerID] = &p
	}
	r.mu.Unlock()
	select {
	case <-r.joined:
		r.tellDifference(before, m.Peers)
	default:
		close(r.joined)
	}
	switch {
	case !m.Resumed:
		r.retire()
		r.fresh = true
	case r.sess != nil:
		r.sess.asked = false // who knows what was heard before the socket broke
		if len(r.sess.freed) > 0 {
			r.sess.asked = true
			r.send(&signal.Negotiate{})
		}
		r.sess.confirm()
		r.wantSlots()
	case !r.fresh: // the SFU would go on with a connection that is gone
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

func (r *Room) handleCredentials(c Credentials) {
	if len(c.URLs) == 0 {
		c.URLs = c.URIs
	}
	r.mu.Lock()
	r.creds = c
	r.mu.Unlock()
	r.relays.learn(c.URLs)
	if !r.fresh {
		if r.sess != nil {
			if err := r.sess.setServers(c); err != nil {
				r.opts.Logger.Warn("new credentials", "err", err)
			}
		}
		return
	}
	s, err := newSession(r, c)
	if err != nil {
		r.fail(&orama.Error{Kind: orama.KindInternal, Code: "peer_connection", Message: "no connection can be made", Err: err})
		return
	}
	r.fresh, r.sess = false, s
	if o := r.outage; o != nil {
		o.next, o.deadline = time.Now().Add(firstRestart), time.Now().Add(restartsFor)
	}
	r.resubscribe()
}

// resubscribe repeats what was asked for of tracks that are still there.
func (r *Room) resubscribe() {
	for _, p := range r.Peers() {
		for _, t := range p.Tracks {
			if want, ok := r.wanted[t.TrackID]; ok && want {
				r.send(&signal.Subscribe{TrackID: t.TrackID})
			} else if ok {
				r.send(&signal.Unsubscribe{TrackID: t.TrackID})
			}
		}
	}
}

func (r *Room) handleOffer(m *signal.Offer) {
	if r.sess == nil {
		r.opts.Logger.Warn("an offer came before credentials")
		return
	}
	a, err := r.sess.answer(m)
	if err != nil {
		r.opts.Logger.Warn("an offer could not be answered", "err", err)
		r.startOver("an offer could not be answered")
		return
	}
	r.send(a)
	r.sess.confirm()
	r.wantSlots()
}

// handleError fails the Publish calls that an error must be about: it names no frame.
func (r *Room) handleError(m *signal.Error) {
	r.opts.Logger.Debug("refused", "code", m.Code, "message", m.Message)
	r.emit(Refused{Code: m.Code, Message: m.Message, Retryable: m.Retryable})
	if r.sess == nil || !r.sess.asked || m.Code != signal.CodeForbidden && m.Code != signal.CodeLimited {
		return
	}
	kind := orama.KindForbidden
	if m.Code == signal.CodeLimited {
		kind = orama.KindLimited
	}
	r.sess.asked = false
	for _, t := range slices.Clone(r.locals) {
		if r.sess.sending[t] == nil {
			t.settle(orama.Errorf(kind, m.Code, "%.200s", m.Message))
			r.forget(t)
		}
	}
}

// addLocal gives a new track a section as soon as there is one.
func (r *Room) addLocal(t *LocalTrack) {
	r.locals = append(r.locals, t)
	r.wantSlots()
}

// wantSlots has the SFU offer when there are tracks without a section, with as many more sections
// as those that are free do not suffice for. The SFU's first offer comes unasked and has one of
// each kind, so nothing is asked before it.
func (r *Room) wantSlots() {
	if r.sess == nil || r.sess.offers == 0 || r.sess.asked || r.sock == nil || !r.sock.joined {
		return
	}
	need := map[string]int{}
	for _, t := range r.locals {
		if r.sess.sending[t] == nil {
			need[t.opts.Kind]++
		}
	}
	if len(need) == 0 {
		return
	}
	more := func(kind string) int { return min(max(need[kind]-r.sess.free(kind), 0), signal.MaxSlots) }
	r.sess.asked = true
	r.send(&signal.Negotiate{Audio: more("audio"), Video: more("video")})
}

// unpublish stops sending and has the SFU make an offer, which the answer then tells it by.
func (r *Room) unpublish(t *LocalTrack) {
	if !slices.Contains(r.locals, t) {
		return
	}
	if s := r.sess; s != nil && s.sending[t] != nil {
		at := s.sending[t]
		if err := s.pc.RemoveTrack(at.sender); err != nil {
			r.opts.Logger.Debug("unpublish", "err", err)
		}
		s.freed[at.mid], s.asked = true, true
		r.send(&signal.Negotiate{})
	}
	r.forget(t)
}

// forget drops a track for good.
func (r *Room) forget(t *LocalTrack) {
	if r.sess != nil {
		r.sess.detach(t)
	}
	t.setID("")
	t.settle(errClosed)
	r.locals = slices.DeleteFunc(slices.Clone(r.locals), func(o *LocalTrack) bool { return o == t })
}

func (r *Room) tellMuted(t *LocalTrack) {
	if id := t.ID(); id != "" {
		r.send(&signal.Mute{TrackID: id, Muted: t.Muted()})
	}
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

func (r *Room) putPeer(p Peer) {
	r.mu.Lock()
	r.peers[p.PeerID] = &p
	r.mu.Unlock()
	r.emit(PeerJoined{Peer: p})
}

func (r *Room) dropPeer(id orama.PeerID, reason string) {
	r.mu.Lock()
	_, known := r.peers[id]
	delete(r.peers, id)
	r.mu.Unlock()
	if known {
		r.emit(PeerLeft{PeerID: id, Reason: reason})
	}
}

// putTrack notes a track; one of our own learns its id by the section it is sent on.
func (r *Room) putTrack(peer orama.PeerID, t Track) {
	if peer == r.PeerID() {
		if r.sess == nil {
			return
		}
		for l, at := range r.sess.sending {
			if at.mid == t.Mid && l.ID() != t.TrackID {
				l.setID(t.TrackID)
				if l.Muted() != t.Muted && !t.Locked {
					r.tellMuted(l)
				}
			}
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[peer]
	if p == nil {
		return
	}
	if i := slices.IndexFunc(p.Tracks, func(o Track) bool { return o.TrackID == t.TrackID }); i >= 0 {
		p.Tracks[i] = t
	} else {
		p.Tracks = append(p.Tracks, t)
	}
}

func (r *Room) dropTrack(peer orama.PeerID, id orama.TrackID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[peer]; p != nil {
		p.Tracks = slices.DeleteFunc(p.Tracks, func(t Track) bool { return t.TrackID == id })
	}
}

// describe finds what is known of a track.
func (r *Room) describe(peer orama.PeerID, id orama.TrackID, kind string) Track {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[peer]; p != nil {
		for _, t := range p.Tracks {
			if t.TrackID == id {
				return t
			}
		}
	}
	return Track{TrackID: id, Kind: kind}
}
