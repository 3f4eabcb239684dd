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
	rated    map[orama.PeerID]opinion
	fresh    []orama.PeerID // whose opinion was not told yet
	rateTold time.Time      // when the room was told of quality
	state    signal.RoomState
	kicks    []Kick
	allowed  int // participants that the namespace allows; 0: any number
	ended    bool
	going    map[*peer]time.Time // who was asked to move, and until when

	// What others may read at any time.
	count      atomic.Int64
	emptySince atomic.Pointer[time.Time]
	kept       atomic.Pointer[kept]           // nil: nothing was changed
	spoke      atomic.Pointer[[]orama.PeerID] // who speaks and who spoke; nil: nobody
}

func newRoom(id orama.RoomID, srv *Server) *room {
	r := &room{
		id: id, srv: srv, log: srv.log.With("room", id), inbox: newMailbox(),
		peers: map[orama.PeerID]*peer{}, rated: map[orama.PeerID]opinion{}, resume: map[string]*peer{}, going: map[*peer]time.Time{},
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
			r.speak(now)
			r.tellQuality(now)
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
	record   record
	offerNow bool
}

// join makes a peer, or gives a socket back to one, or says why not.
func (r *room) join(q joinRequest) (*peer, *refusal) {
	r.adopt(q.record.State)
	r.allowed = q.record.MaxParticipants
	if p := r.resume[q.join.Resume]; p != nil && p.user == q.ticket.User {
		if p.ticket == rightsOf(q.ticket) {
			r.srv.metrics.resumes.Add(1)
			m, rest := r.joined(p, true)
			p.post(func() { p.attach(q, m) })
			p.tell(rest)
			return p, nil
		}
		r.leave(p, "lost") // what its token allows has changed: it starts over
	}
	rights := rightsOf(q.ticket)
	if u := r.user(q.ticket.User); u.Permissions != nil {
		rights = *u.Permissions
	}
	if no := r.mayEnter(q.ticket, rights.Admin || q.ticket.Admin); no != nil {
		return nil, no
	}
	p := newPeer(r, q, rights)
	m, rest := r.enter(p)
	tracks := slices.Clone(r.tracks)
	var copies []*dataCopy
	if rights.Data {
		copies = r.copies(p)
	}
	r.srv.wg.Go(func() { p.run(q, m, tracks, copies) })
	p.tell(rest)
	return p, nil
}

// enter puts a new peer on the list, tells the others, and gives what it is to be told.
func (r *room) enter(p *peer) (m *signal.Joined, rest []signal.Message) {
	r.srv.metrics.joins.Add(1)
	r.srv.metrics.peers.Add(1)
	m, rest = r.joined(p, false)
	r.broadcast(&signal.PeerJoined{Peer: r.describe(p)}, nil)
	r.peers[p.id] = p
	r.order = append(r.order, p.id)
	r.counted()
	return m, rest
}

// mayEnter says why somebody who does not resume may not join.
func (r *room) mayEnter(t auth.Ticket, admin bool) *refusal {
	most := r.state.Settings.MaxParticipants
	if most == 0 || r.allowed > 0 && r.allowed < most { // the namespace's may have become less since
		most = r.allowed
	}
	switch {
	case r.keptOut(t.User, t.Granted):
		return &refusal{codeKicked, "an admin has removed you from the room"}
	case admin:
	case r.state.Settings.Locked:
		return &refusal{signal.CodeLocked, "the room is locked"}
	case most > 0 && len(r.peers) >= most:
		return &refusal{signal.CodeFull, "the room is full"}
	}
	return nil
}

// codeKicked stands for a refusal that is told by signal.Kicked.
const codeKicked = "kicked"

// What one joined frame may hold, in bytes, so that no room is too large for signal.MaxFrame: beyond the first the metadata of
// peers comes after it, beyond the second the peers themselves.
const (
	joinedMetadata = 96 << 10
	joinedPeers    = 192 << 10
)

// joined describes the room to p and gives it a new resume token. What does not fit is to follow.
func (r *room) joined(p *peer, resumed bool) (m *signal.Joined, rest []signal.Message) {
	for token, owner := range r.resume {
		if owner == p {
			delete(r.resume, token)
		}
	}
	token := newID("r_")
	r.resume[token] = p
	m = &signal.Joined{
		Room: r.id, PeerID: p.id, UserID: p.user, Peers: []signal.Peer{}, Resume: token, Resumed: resumed, Permissions: p.granted,
		Settings: r.state.Settings, Gateways: r.srv.settings.Load().Gateways,
	}
	metadata, peers := 0, 0
	for _, id := range r.order {
		other := r.peers[id]
		if other == p {
			continue
		}
		d := r.describe(other)
		if metadata += len(d.Metadata); metadata > joinedMetadata {
			rest = append(rest, &signal.PeerChanged{PeerID: d.PeerID, Name: d.Name, Metadata: d.Metadata})
			d.Metadata = nil
		}
		if peers += sizeOf(d); peers > joinedPeers {
			rest = append(rest, &signal.PeerJoined{Peer: r.describe(other)})
			continue
		}
		m.Peers = append(m.Peers, d)
	}
	if q := r.impaired(); q != nil {
		rest = append(rest, q)
	}
	return m, rest
}

// sizeOf is about what a peer takes of a frame, metadata aside, in bytes.
func sizeOf(d signal.Peer) int {
	n := 128 + len(d.PeerID) + len(d.UserID) + len(d.MovingFrom) + 2*len(d.Name)
	for _, t := range d.Tracks {
		n += 160 + len(t.TrackID) + 2*len(t.Source) + 2*len(t.Name)
	}
	return n
}

// describe is p as the others see it.
func (r *room) describe(p *peer) signal.Peer {
	d := signal.Peer{PeerID: p.id, UserID: p.user, Name: p.name, Metadata: p.metadata, Tracks: []signal.Track{}, MovingFrom: p.movingFrom}
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
	delete(r.rated, p.id)
	r.told.forget(p.id)
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
	if !owner.granted.Publish {
		return // what it may was changed meanwhile
	}
	if slices.Contains(r.user(owner.user).Muted, info.Kind) {
		info.Muted, info.Locked = true, true
		u.muted.Store(true)
		u.silence(true)
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

// openChannel makes a copy of c at everybody else.
func (r *room) openChannel(owner *peer, c *channel) {
	if r.peers[owner.id] != owner || !owner.granted.Data {
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

// recent are those who speak, and then those who spoke, the last in front. Safe for any goroutine.
func (r *room) recent() []orama.PeerID {
	if list := r.spoke.Load(); list != nil {
		return *list
	}
	return nil
}

// speak tells the room who speaks, when that has changed.
func (r *room) speak(now time.Time) {
	levels := map[orama.PeerID]float64{}
	for _, t := range r.tracks {
		if t.up.kind == webrtc.RTPCodecTypeAudio {
			levels[t.owner.id] = max(levels[t.owner.id], t.up.level())
		}
	}
	tell, turned := r.told.update(levels, now)
	if tell != nil {
		r.broadcast(&signal.Speakers{Levels: tell}, nil)
	}
	if turned {
		recent := slices.Clone(r.told.recent)
		r.spoke.Store(&recent)
		for _, p := range r.peers {
			p.post(p.choose)
		}
	}
}
