package sfu

import (
	"fmt"
	"slices"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

const (
	// changeBurst and changesPerSecond bound how often a peer may change what all others are told of it.
	changeBurst      = 5
	changesPerSecond = 1
	// maxKicked is how many kicks a room remembers by itself; gateways have the records of all.
	maxKicked = 4096
)

// refusal is why something was not done, in the words of signal.Error.
type refusal struct{ code, message string }

// actor is who asks for a change: a peer, or nil for an owner over REST.
type actor struct{ *peer }

// name is what others are told of who did it.
func (a actor) name() string {
	if a.peer == nil {
		return signal.ByAPI
	}
	return string(a.id)
}

func (a actor) admin() bool { return a.peer == nil || a.granted.Admin }

var errNotAdmin = &refusal{signal.CodeForbidden, "only an admin of the room may do this"}

// act does what a peer or an owner asks of the room, or says why not. Called by the room's loop.
func (r *room) act(by actor, m signal.Message) *refusal {
	if by.peer != nil && r.peers[by.id] != by.peer {
		return nil // it is on its way out
	}
	switch m := m.(type) {
	case *signal.Mute:
		return r.mute(by, m)
	case *signal.SetPeer:
		return r.setPeer(by, m)
	}
	if !by.admin() {
		return errNotAdmin
	}
	switch m := m.(type) {
	case *signal.Kick:
		return r.kick(m)
	case *signal.Permit:
		return r.permit(by, m)
	case *signal.SetRoom:
		if m.MaxParticipants != nil && r.allowed > 0 && *m.MaxParticipants > r.allowed {
			return &refusal{signal.CodeInvalid, fmt.Sprintf("max_participants: the namespace allows at most %d", r.allowed)}
		}
		if r.state.Settings.Set(m) {
			r.changed()
			r.broadcast(&signal.RoomChanged{Settings: r.state.Settings, By: by.name()}, nil)
		}
		return nil
	}
	return &refusal{signal.CodeUnknownType, "clients do not send " + string(m.Type())}
}

// ask hands a frame of p's to its room, whose loop answers.
func (p *peer) ask(m signal.Message) {
	p.room.inbox.post(func() {
		if no := p.room.act(actor{p}, m); no != nil {
			p.post(func() { p.refuse(no.code, no.message) })
		}
	})
}

// changed gives the state another revision, for whoever keeps it.
func (r *room) changed() {
	r.state.Revision++
	r.keep()
}

// keep shows the state and the kicks to the agent, which records them.
func (r *room) keep() {
	k := &kept{state: r.state, kicks: slices.Clone(r.kicks)}
	k.state.Users = slices.Clone(r.state.Users)
	r.kept.Store(k)
}

// kept is what outlives a room's process, as others may read it at any time.
type kept struct {
	state signal.RoomState
	kicks []Kick
}

// adopt takes over a state of a higher revision: the room's, from when another SFU had it, or one that was changed while nobody was here.
func (r *room) adopt(s signal.RoomState) {
	if s.Revision <= r.state.Revision {
		return
	}
	r.state = s
	r.keep()
	r.broadcast(&signal.RoomChanged{Settings: s.Settings, By: signal.ByAPI}, nil)
}

// user is what admins have made of a user's rights.
func (r *room) user(id orama.UserID) signal.UserState {
	for _, u := range r.state.Users {
		if u.UserID == id {
			return u
		}
	}
	return signal.UserState{UserID: id}
}

// setUser replaces that. Beyond signal.MaxRoomUsers the one changed longest ago is forgotten.
func (r *room) setUser(u signal.UserState) {
	users := slices.DeleteFunc(slices.Clone(r.state.Users), func(o signal.UserState) bool { return o.UserID == u.UserID })
	if u.Permissions != nil || len(u.Muted) > 0 {
		users = append(users, u)
	}
	r.state.Users = users[max(0, len(users)-signal.MaxRoomUsers):]
	r.changed()
}

// peersOf are a user's peers, as they joined.
func (r *room) peersOf(user orama.UserID) (out []*peer) {
	for _, id := range r.order {
		if p := r.peers[id]; p.user == user {
			out = append(out, p)
		}
	}
	return out
}

// kick removes a user, and keeps it out until it has a token of later than now.
func (r *room) kick(m *signal.Kick) *refusal {
	user := m.UserID
	if user == "" {
		p := r.peers[m.PeerID]
		if p == nil {
			return &refusal{signal.CodeNotFound, "there is no such peer"}
		}
		user = p.user
	}
	r.kicks = slices.DeleteFunc(r.kicks, func(k Kick) bool { return k.User == user })
	r.kicks = append(r.kicks, Kick{User: user, At: time.Now()})
	r.kicks = r.kicks[max(0, len(r.kicks)-maxKicked):]
	r.keep()
	reason := m.Reason
	if reason == "" {
		reason = "an admin has removed you from the room"
	}
	for _, p := range r.peersOf(user) {
		p.post(func() {
			p.send(&signal.Kicked{Reason: reason})
			p.hangUp(signal.CloseKicked, "kicked")
		})
		r.leave(p, "kicked")
	}
	return nil
}

// keptOut reports whether a user was kicked since its token was issued.
func (r *room) keptOut(user orama.UserID, granted time.Time) bool {
	return slices.ContainsFunc(r.kicks, func(k Kick) bool { return k.User == user && !granted.After(k.At) })
}

// permit replaces a user's rights: of all its peers.
func (r *room) permit(by actor, m *signal.Permit) *refusal {
	target := r.peers[m.PeerID]
	if target == nil {
		return &refusal{signal.CodeNotFound, "there is no such peer"}
	}
	u := r.user(target.user)
	u.Permissions = &m.Permissions
	r.setUser(u)
	for _, p := range r.peersOf(target.user) {
		if p.granted != m.Permissions {
			r.grant(p, m.Permissions, by)
		}
	}
	return nil
}

// grant changes what one peer may do, and tells it and the admins.
func (r *room) grant(p *peer, now signal.Permissions, by actor) {
	was := p.granted
	p.granted = now
	var tracks []*published
	if now.Subscribe && !was.Subscribe {
		tracks = slices.Clone(r.tracks)
	}
	var copies []*dataCopy
	if now.Data && !was.Data {
		copies = r.copies(p)
	}
	for _, c := range slices.Clone(r.channels) {
		if !now.Data && c.owner == p.id {
			r.closeChannel(c)
		}
	}
	p.post(func() { p.permitted(now, tracks, copies) })
	told := &signal.PermissionsChanged{PeerID: p.id, Permissions: now, By: by.name()}
	for _, other := range r.peers {
		if other == p || other.granted.Admin {
			other.post(func() { other.send(told) })
		}
	}
}

// copies makes p a copy of every channel of others.
func (r *room) copies(p *peer) (out []*dataCopy) {
	for _, c := range r.channels {
		if c.reaches(p) {
			out = append(out, c.add())
		}
	}
	return out
}

// setPeer changes how a peer is shown.
func (r *room) setPeer(by actor, m *signal.SetPeer) *refusal {
	target := by.peer
	if m.PeerID != "" {
		target = r.peers[m.PeerID]
	}
	switch {
	case target == nil:
		return &refusal{signal.CodeNotFound, "there is no such peer"}
	case target != by.peer && !by.admin():
		return errNotAdmin
	case by.peer != nil && !by.changes.take(time.Now()):
		return &refusal{signal.CodeLimited, "changes come too often"}
	}
	if m.Name != nil {
		target.name = *m.Name
	}
	target.metadata = signal.Replaced(target.metadata, m.Metadata)
	r.broadcast(&signal.PeerChanged{PeerID: target.id, Name: target.name, Metadata: target.metadata}, nil)
	return nil
}

// allowance is a token bucket of changeBurst and changesPerSecond; the zero value is full.
type allowance struct {
	spent float64
	last  time.Time
}

func (a *allowance) take(now time.Time) bool {
	a.spent = max(0, a.spent-now.Sub(a.last).Seconds()*changesPerSecond)
	a.last = now
	if a.spent+1 > changeBurst {
		return false
	}
	a.spent++
	return true
}

// mute notes what a publisher says of its own track, and does what an admin says of anybody's: what an admin mutes is not forwarded,
// whatever its publisher does, until that is undone by the publisher, or, of a locked one, by an admin.
func (r *room) mute(by actor, m *signal.Mute) *refusal {
	i := slices.IndexFunc(r.tracks, func(t *published) bool { return t.info.TrackID == m.TrackID })
	if i < 0 {
		return &refusal{signal.CodeNotFound, "there is no such track"}
	}
	t := r.tracks[i]
	own := t.owner == by.peer
	switch {
	case !by.admin() && !own:
		return &refusal{signal.CodeForbidden, "the track is another peer's"}
	case !by.admin() && m.Locked:
		return errNotAdmin
	case !by.admin() && t.info.Locked && !m.Muted:
		return &refusal{signal.CodeForbidden, "an admin has muted the track"}
	}
	if by.admin() && (m.Locked || !m.Muted) {
		r.lock(t, m.Locked, by)
	}
	name := by.name()
	if own {
		name = ""
	}
	was := t.info
	t.info.Muted, t.info.Locked = m.Muted, t.info.Locked && m.Muted || m.Locked
	t.up.muted.Store(m.Muted)
	t.up.silence(m.Muted && (t.info.Locked || !own))
	if was.Muted != t.info.Muted || was.Locked != t.info.Locked {
		r.broadcast(&signal.TrackMuted{PeerID: t.owner.id, Track: t.info, By: name}, nil)
	}
	return nil
}

// lock keeps a user's tracks of t's kind muted, or ends that.
func (r *room) lock(t *published, locked bool, by actor) {
	u := r.user(t.owner.user)
	if slices.Contains(u.Muted, t.info.Kind) == locked {
		return
	}
	u.Muted = slices.DeleteFunc(slices.Clone(u.Muted), func(kind string) bool { return kind == t.info.Kind })
	if locked {
		u.Muted = append(u.Muted, t.info.Kind)
	}
	r.setUser(u)
	for _, other := range r.tracks {
		if other == t || other.owner.user != u.UserID || other.info.Kind != t.info.Kind || other.info.Locked == locked {
			continue
		}
		other.info.Locked, other.info.Muted = locked, locked || other.info.Muted
		other.up.muted.Store(other.info.Muted)
		other.up.silence(other.info.Muted)
		r.broadcast(&signal.TrackMuted{PeerID: other.owner.id, Track: other.info, By: by.name()}, nil)
	}
}

// silence stops and resumes the forwarding of a track. A picture begins anew with a keyframe.
func (u *up) silence(silent bool) {
	if u.silenced.Swap(silent) && !silent {
		u.askKeyframe()
	}
}

// Kick is a user that was removed from a room: tokens issued until then are no good for it any more.
type Kick struct {
	User orama.UserID `json:"user"`
	At   time.Time    `json:"at"`
}

// permitted does what a change of the peer's rights means for what it sends and receives. tracks and copies are what it is to receive
// that it did not before.
func (p *peer) permitted(now signal.Permissions, tracks []*published, copies []*dataCopy) {
	was := p.rights
	p.rights = now
	if was.Publish != now.Publish {
		p.letPublish(now.Publish)
	}
	if was.Subscribe && !now.Subscribe {
		p.dropAll()
	}
	for _, t := range tracks {
		if t.owner != p && p.tracks[t.up.id] != nil {
			p.track(t)
		}
	}
	if was.Data && !now.Data {
		p.closeChannels()
	}
	for _, c := range copies {
		p.addCopy(c)
	}
	p.choose()
	p.negotiate()
}

// barred is a track that comes in and is not published, because the peer may not.
type barred struct {
	receiver *webrtc.RTPReceiver
	lifted   bool // it may again: what reads it now is being ended for that
}

// letPublish takes away what is published and goes on reading it, or publishes that again. Whoever reads a track now is woken, and
// what comes next is decided when it has returned.
func (p *peer) letPublish(may bool) {
	if may {
		for t, b := range p.barred {
			b.lifted = true
			t.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a stream that is gone needs no waking
		}
		return
	}
	for _, u := range p.ups {
		p.room.inbox.post(func() { p.room.unpublish(u) })
		u.end()
		p.taken[u] = true
		p.wake(u.mid)
	}
}

// bar goes on reading a track that may not be published, for the day that it may.
func (p *peer) bar(t *webrtc.TrackRemote, r *webrtc.RTPReceiver, rep *reports) {
	b := &barred{receiver: r}
	p.barred[t] = b
	p.reading[t] = ""
	p.readers.Go(func() {
		drain(t)
		p.post(func() {
			delete(p.reading, t)
			delete(p.barred, t)
			if b.lifted {
				p.readAgain(t, r, rep)
			}
		})
	})
}

// readAgain goes on with a track whose reader was woken because the peer's rights have changed.
func (p *peer) readAgain(t *webrtc.TrackRemote, r *webrtc.RTPReceiver, rep *reports) {
	if p.stopped || r.RTPTransceiver() == nil {
		return
	}
	t.SetReadDeadline(time.Time{}) //nolint:errcheck // a stream that is gone says so to who reads it
	if p.rights.Publish {
		p.take(t, r, rep)
	} else {
		p.bar(t, r, rep)
	}
}

// dropAll ends all subscriptions, with one offer.
func (p *peer) dropAll() {
	for _, w := range p.wants {
		w.forget()
		if w.down != nil {
			w.up.detach(w.down)
			w.down.release()
		}
	}
	p.wants = nil
}

// closeChannels ends what the peer has opened and its copies of what others have.
func (p *peer) closeChannels() {
	for dc, c := range p.channels {
		c.start()  // nothing more of it is kept for copies
		dc.Close() //nolint:errcheck // it is going either way
	}
	for c := range p.copies {
		c.close()
		c.of.remove(c)
	}
}
