package sfu

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

const (
	// forgetAfter is how long an empty room is kept.
	forgetAfter = 60 * time.Second
	// speakersEvery is the time between two looks at the audio levels: at most 5 messages a second.
	speakersEvery = 200 * time.Millisecond
	// probeRoom is where the node's agent joins to see that the SFU serves.
	probeRoom orama.RoomID = "_probe"
)

// published is a track as the room knows it.
type published struct {
	up    *up
	owner *peer
	info  signal.Track // without mid
}

// room owns who is in it and what they publish: its loop alone touches the fields below. It
// never waits for a peer, nor a peer for it.
type room struct {
	id    orama.RoomID
	srv   *Server
	log   *slog.Logger
	inbox *mailbox

	peers    map[orama.PeerID]*peer
	order    []orama.PeerID // as they joined
	tracks   []*published   // as they were published
	channels []*channel
	resume   map[string]*peer // by resume token
	told     speakers
	ended    bool
	going    map[*peer]time.Time // who was asked to move, and until when

	// What others may read at any time.
	count      atomic.Int64
	emptySince atomic.Pointer[time.Time]
}

func newRoom(id orama.RoomID, srv *Server) *room {
	r := &room{
		id: id, srv: srv, log: srv.log.With("room", id), inbox: newMailbox(),
		peers: map[orama.PeerID]*peer{}, resume: map[string]*peer{}, going: map[*peer]time.Time{},
	}
	now := time.Now()
	r.emptySince.Store(&now)
	return r
}

// run is the room's loop. It returns when the server has forgotten the room.
func (r *room) run() {
	tick := time.NewTicker(speakersEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.inbox.wake:
			for _, f := range r.inbox.take() {
				f()
			}
		case now := <-tick.C:
			r.speak()
			r.sendOff(now)
		}
		if r.over() {
			return
		}
	}
}

// over ends the room once it is empty for long enough, or at once when it was ended.
func (r *room) over() bool {
	since := r.emptySince.Load()
	if since == nil {
		return false
	}
	if r.ended || r.id == probeRoom || time.Since(*since) >= forgetAfter {
		return r.srv.forget(r)
	}
	return false
}

// joinRequest is a socket that wants in.
type joinRequest struct {
	sock     *socket
	ticket   auth.Ticket
	join     signal.Join
	offerNow bool
}

// join makes a peer, or gives a socket back to one.
func (r *room) join(q joinRequest) *peer {
	if p := r.resume[q.join.Resume]; p != nil && p.user == q.ticket.User {
		if p.rights == rightsOf(q.ticket) {
			r.srv.metrics.resumes.Add(1)
			m := r.joined(p, true)
			p.post(func() { p.attach(q, m) })
			return p
		}
		r.leave(p, "lost") // what it was allowed has changed: it starts over
	}
	p := newPeer(r, q)
	r.srv.metrics.joins.Add(1)
	r.srv.metrics.peers.Add(1)
	m := r.joined(p, false)
	r.broadcast(&signal.PeerJoined{Peer: r.describe(p)}, nil)
	r.peers[p.id] = p
	r.order = append(r.order, p.id)
	r.counted()
	tracks := slices.Clone(r.tracks)
	var copies []*dataCopy
	for _, c := range r.channels {
		if c.reaches(p) {
			copies = append(copies, c.add())
		}
	}
	r.srv.wg.Go(func() { p.run(q, m, tracks, copies) })
	return p
}

// joined describes the room to p and gives it a new resume token.
func (r *room) joined(p *peer, resumed bool) *signal.Joined {
	for token, owner := range r.resume {
		if owner == p {
			delete(r.resume, token)
		}
	}
	token := newID("r_")
	r.resume[token] = p
	m := &signal.Joined{
		Room: r.id, PeerID: p.id, UserID: p.user, Peers: []signal.Peer{}, Resume: token, Resumed: resumed, Permissions: p.rights,
		Gateways: r.srv.settings.Load().Gateways,
	}
	for _, id := range r.order {
		if other := r.peers[id]; other != p {
			m.Peers = append(m.Peers, r.describe(other))
		}
	}
	return m
}

// describe is p as the others see it.
func (r *room) describe(p *peer) signal.Peer {
	d := signal.Peer{PeerID: p.id, UserID: p.user, Name: p.name, Metadata: p.metadata, Tracks: []signal.Track{}}
	for _, t := range r.tracks {
		if t.owner == p {
			d.Tracks = append(d.Tracks, t.info)
		}
	}
	return d
}

// broadcast sends m to all but one, encoded once.
func (r *room) broadcast(m signal.Message, except *peer) {
	b, err := signal.Encode(m)
	if err != nil {
		r.log.Error("a message could not be encoded", "err", err)
		return
	}
	for _, p := range r.peers {
		if p != except {
			p.post(func() { p.sendFrame(b) })
		}
	}
}

// leave removes p and all that it published.
func (r *room) leave(p *peer, reason string) {
	if r.peers[p.id] != p {
		return
	}
	delete(r.peers, p.id)
	r.order = slices.DeleteFunc(r.order, func(id orama.PeerID) bool { return id == p.id })
	for token, owner := range r.resume {
		if owner == p {
			delete(r.resume, token)
		}
	}
	for _, t := range slices.Clone(r.tracks) {
		if t.owner == p {
			r.unpublish(t.up)
		}
	}
	for _, c := range slices.Clone(r.channels) {
		if c.owner == p.id {
			r.closeChannel(c)
		}
	}
	r.broadcast(&signal.PeerLeft{PeerID: p.id, Reason: reason}, nil)
	r.srv.metrics.peers.Add(-1)
	p.post(p.stop)
	r.counted()
}

// counted publishes how many are here.
func (r *room) counted() {
	r.count.Store(int64(len(r.peers)))
	if len(r.peers) > 0 {
		r.emptySince.Store(nil)
	} else if r.emptySince.Load() == nil {
		now := time.Now()
		r.emptySince.Store(&now)
	}
}

// publish tells everybody of a new track; its publisher with the section it comes in on.
func (r *room) publish(owner *peer, u *up, info signal.Track) {
	if r.peers[owner.id] != owner {
		return
	}
	t := &published{up: u, owner: owner, info: info}
	r.tracks = append(r.tracks, t)
	r.srv.metrics.tracks.Add(1)
	r.broadcast(&signal.TrackPublished{PeerID: owner.id, Track: info}, owner)
	for _, p := range r.peers {
		if p != owner {
			p.post(func() { p.trackAdded(t) })
		}
	}
	own := info
	own.Mid = u.mid
	owner.post(func() { owner.send(&signal.TrackPublished{PeerID: owner.id, Track: own}) })
}

func (r *room) unpublish(u *up) {
	i := slices.IndexFunc(r.tracks, func(t *published) bool { return t.up == u })
	if i < 0 {
		return
	}
	t := r.tracks[i]
	r.tracks = slices.Delete(r.tracks, i, i+1)
	r.srv.metrics.tracks.Add(-1)
	r.broadcast(&signal.TrackUnpublished{PeerID: t.owner.id, Track: t.info}, nil)
	for _, p := range r.peers {
		if p != t.owner {
			p.post(func() { p.trackRemoved(u.id) })
		}
	}
}

// mute notes what a publisher says of its own track.
func (r *room) mute(p *peer, id orama.TrackID, muted bool) {
	i := slices.IndexFunc(r.tracks, func(t *published) bool { return t.info.TrackID == id })
	switch {
	case i < 0:
		p.post(func() { p.refuse(signal.CodeNotFound, "there is no such track") })
	case r.tracks[i].owner != p:
		p.post(func() { p.refuse(signal.CodeForbidden, "the track is another peer's") })
	case r.tracks[i].info.Muted != muted:
		r.tracks[i].info.Muted = muted
		r.tracks[i].up.muted.Store(muted)
		r.broadcast(&signal.TrackMuted{PeerID: p.id, Track: r.tracks[i].info}, nil)
	}
}

// openChannel makes a copy of c at everybody else.
func (r *room) openChannel(owner *peer, c *channel) {
	if r.peers[owner.id] != owner {
		return
	}
	r.channels = append(r.channels, c)
	for _, p := range r.peers {
		if c.reaches(p) {
			copied := c.add()
			p.post(func() { p.addCopy(copied) })
		}
	}
	c.start()
}

func (r *room) closeChannel(c *channel) {
	r.channels = slices.DeleteFunc(r.channels, func(x *channel) bool { return x == c })
	c.mu.Lock()
	copies := c.copies
	c.copies = nil
	c.mu.Unlock()
	for _, copied := range copies {
		copied.close()
	}
}

// close ends the room for everybody.
func (r *room) close(reason string) {
	r.ended = true
	for _, p := range r.peers {
		p.post(func() {
			p.send(&signal.RoomClosed{Reason: reason})
			p.hangUp(signal.CloseNoRoom, "the room is closed")
		})
		r.leave(p, "room_closed")
	}
}

// shut ends the room because the process ends: peers are to come back elsewhere.
func (r *room) shut() {
	r.ended = true
	for _, p := range r.peers {
		p.post(func() { p.hangUp(signal.CloseGone, "the server is going away") })
		r.leave(p, "lost")
	}
}

// speak tells the room who is loud, when that has changed.
func (r *room) speak() {
	levels := map[orama.PeerID]float64{}
	for _, t := range r.tracks {
		if t.up.kind == webrtc.RTPCodecTypeAudio {
			levels[t.owner.id] = max(levels[t.owner.id], t.up.level())
		}
	}
	if out := r.told.update(levels); out != nil {
		r.broadcast(&signal.Speakers{Levels: out}, nil)
	}
}
