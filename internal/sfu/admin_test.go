package sfu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// as is whose ticket a socket comes with.
func as(user string, admin bool) func(*auth.Ticket) {
	return func(t *auth.Ticket) {
		t.User, t.Admin, t.Granted = orama.UserID(user), admin, time.Now().Add(-time.Hour)
	}
}

// enter joins without media.
func (w *world) enter(user string, admin bool) (*wire, *signal.Joined) {
	w.t.Helper()
	c := w.dial(as(user, admin))
	c.send(&signal.Join{Name: user})
	return c, await[*signal.Joined](c)
}

// post asks as a gateway does for an owner.
func (w *world) post(room string, m signal.Message) (int, []byte) {
	w.t.Helper()
	b, err := signal.Encode(m)
	require.NoError(w.t, err)
	return w.postRaw(room, b)
}

func (w *world) postRaw(room string, b []byte) (int, []byte) {
	w.t.Helper()
	return w.request(http.MethodPost, room, w.ticket(func(t *auth.Ticket) { t.Admin, t.Room = true, "" }), b)
}

// request makes one on a connection of its own, and reads all of the answer.
func (w *world) request(method, room, ticket string, b []byte) (int, []byte) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.url("/v1/rooms/"+room), bytes.NewReader(b))
	require.NoError(w.t, err)
	req.Header.Set("Authorization", "Ticket "+ticket)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	var out bytes.Buffer
	_, err = out.ReadFrom(resp.Body)
	require.NoError(w.t, err)
	return resp.StatusCode, out.Bytes()
}

func TestWhatNeedsAnAdmin(t *testing.T) {
	w := newWorld(t)
	alice, a := w.enter("alice", false)
	bob, b := w.enter("bob", false)
	yes := true
	for _, m := range []signal.Message{
		&signal.Kick{PeerID: b.PeerID}, &signal.Kick{UserID: "bob"}, &signal.Permit{PeerID: a.PeerID, Permissions: signal.Permissions{Admin: true}},
		&signal.SetRoom{Locked: &yes}, &signal.SetPeer{PeerID: b.PeerID, Name: new(string)},
	} {
		n := len(errorsOf(alice))
		alice.send(m)
		alice.until("a refusal", func(signal.Message) bool { return len(alice.got) > 0 && countErrors(alice.got) > n })
	}
	for _, e := range errorsOf(alice) {
		require.Equal(t, signal.CodeForbidden, e.Code)
	}
	admin, _ := w.enter("carol", true)
	for _, m := range []signal.Message{
		&signal.Kick{PeerID: "p_nobody"}, &signal.Permit{PeerID: "p_nobody"}, &signal.SetPeer{PeerID: "p_nobody"}, &signal.Mute{TrackID: "t_none", Muted: true},
	} {
		n := len(errorsOf(admin))
		admin.send(m)
		admin.until("a refusal", func(signal.Message) bool { return countErrors(admin.got) > n })
	}
	for _, e := range errorsOf(admin) {
		require.Equal(t, signal.CodeNotFound, e.Code)
	}
	require.NotContains(t, bob.types(), signal.TypeKicked)
}

func errorsOf(c *wire) (out []*signal.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if e, ok := m.(*signal.Error); ok {
			out = append(out, e)
		}
	}
	return out
}

// countErrors is for until, which holds the lock.
func countErrors(got []signal.Message) (n int) {
	for _, m := range got {
		if m.Type() == signal.TypeError {
			n++
		}
	}
	return n
}

func TestAKickRemovesTheUserAndEndsItsTokens(t *testing.T) {
	w := newWorld(t)
	admin, _ := w.enter("carol", true)
	one, b := w.enter("bob", false)
	two, _ := w.enter("bob", false)
	alice, _ := w.enter("alice", false)
	admin.send(&signal.Kick{PeerID: b.PeerID, Reason: "spam"})
	for _, c := range []*wire{one, two} {
		require.Equal(t, "spam", await[*signal.Kicked](c).Reason)
		require.Equal(t, signal.CloseKicked, c.closeCode())
	}
	require.Equal(t, "kicked", await(alice, func(m *signal.PeerLeft) bool { return m.PeerID == b.PeerID }).Reason)

	again := w.dial(as("bob", false))
	again.send(&signal.Join{Resume: b.Resume})
	await[*signal.Kicked](again)
	require.Equal(t, signal.CloseKicked, again.closeCode())
	later := w.dial(func(t *auth.Ticket) { t.User, t.Granted = "bob", time.Now().Add(2*time.Second) })
	later.send(&signal.Join{})
	await[*signal.Joined](later)

	rooms := w.srv.Status().Rooms
	require.Len(t, rooms, 1)
	require.Len(t, rooms[0].Kicks, 1, "the agent learns of it")
	require.Equal(t, "bob", string(rooms[0].Kicks[0].User))
	require.WithinDuration(t, time.Now(), rooms[0].Kicks[0].At, time.Minute)
}

func TestALockedRoomAndAFullOne(t *testing.T) {
	w := newWorld(t)
	admin, _ := w.enter("carol", true)
	bob, b := w.enter("bob", false)
	yes, no, two := true, false, 2
	refused := func(code string, close int) {
		t.Helper()
		c := w.dial(as("dave", false))
		c.send(&signal.Join{})
		require.Equal(t, code, await[*signal.Error](c).Code)
		require.Equal(t, close, c.closeCode())
	}
	admin.send(&signal.SetRoom{Locked: &yes, Metadata: json.RawMessage(`{"topic":"x"}`)})
	told := await[*signal.RoomChanged](bob)
	require.True(t, told.Settings.Locked)
	require.JSONEq(t, `{"topic":"x"}`, string(told.Settings.Metadata))
	refused(signal.CodeLocked, signal.CloseForbidden)
	other, j := w.enter("erin", true)
	require.True(t, j.Settings.Locked, "an admin joins all the same, and is told")
	other.send(&signal.Leave{})
	require.Equal(t, signal.CloseLeft, other.closeCode())
	bob.ws.CloseNow()
	<-bob.done
	bob = w.dial(as("bob", false))
	bob.send(&signal.Join{Resume: b.Resume})
	require.True(t, await[*signal.Joined](bob).Resumed, "who resumes does not join")

	admin.send(&signal.SetRoom{Locked: &no, MaxParticipants: &two, Metadata: json.RawMessage(`null`)})
	told = await(bob, func(m *signal.RoomChanged) bool { return !m.Settings.Locked })
	require.Empty(t, told.Settings.Metadata)
	refused(signal.CodeFull, signal.CloseFull)
}

// What admins made of a room comes along when another SFU takes it over, and the newer of two states counts.
func TestARoomsStateMovesWithIt(t *testing.T) {
	w := newWorld(t)
	w.record = signal.RoomRecord{MaxParticipants: 3, State: signal.RoomState{Revision: 7, Settings: signal.RoomSettings{Metadata: json.RawMessage(`"m"`)},
		Users: []signal.UserState{{UserID: "bob", Permissions: &signal.Permissions{Subscribe: true}}}}}
	admin, a := w.enter("carol", true)
	require.JSONEq(t, `"m"`, string(a.Settings.Metadata))
	_, b := w.enter("bob", false)
	require.Equal(t, signal.Permissions{Subscribe: true}, b.Permissions, "not what the token says")
	yes := true
	admin.send(&signal.SetRoom{Locked: &yes})
	require.True(t, await[*signal.RoomChanged](admin).Settings.Locked)
	require.EqualValues(t, 8, w.srv.Status().Rooms[0].State.Revision)
	other, o := w.enter("erin", true) // its gateway has read the record before that was written
	require.True(t, o.Settings.Locked, "the newer state stays")
	other.send(&signal.Leave{})
	require.Equal(t, signal.CloseLeft, other.closeCode())
	w.record.State = signal.RoomState{Revision: 9}
	_, d := w.enter("dave", false)
	require.False(t, d.Settings.Locked)
	require.False(t, await(admin, func(m *signal.RoomChanged) bool { return m.By == signal.ByAPI }).Settings.Locked)
	full := w.dial(as("frank", false))
	full.send(&signal.Join{})
	require.Equal(t, signal.CodeFull, await[*signal.Error](full).Code, "the namespace allows three")
}

// What a namespace allows bounds a room, whose admins may ask for less and not for more.
func TestTheNamespaceBoundsARoom(t *testing.T) {
	one, two, three, none := 1, 2, 3, 0
	for _, x := range []struct {
		name         string
		kept, allows int  // the room's own limit, as its record has it, and the namespace's
		asks         *int // what an admin asks for
		refused      bool
		fits         int // members that are let in beside the admin
	}{
		{"nothing is limited", 0, 0, nil, false, 4},
		{"the namespace's", 0, 3, nil, false, 2},
		{"the room's own", 3, 0, nil, false, 2},
		{"less than the namespace's", 2, 3, nil, false, 1},
		{"more than the namespace's, from before", 5, 3, nil, false, 2},
		{"an admin asks for less", 0, 3, &two, false, 1},
		{"an admin asks for as much", 0, 3, &three, false, 2},
		{"an admin asks for more", 1, 2, &three, true, 0},
		{"an admin goes back", 1, 3, &none, false, 2},
		{"an admin asks for what he likes", 0, 0, &one, false, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld(t)
			w.record = signal.RoomRecord{MaxParticipants: x.allows, State: signal.RoomState{Revision: 1, Settings: signal.RoomSettings{MaxParticipants: x.kept}}}
			admin, _ := w.enter("carol", true)
			if x.asks != nil {
				admin.send(&signal.SetRoom{MaxParticipants: x.asks})
				if x.refused {
					require.Equal(t, signal.CodeInvalid, await[*signal.Error](admin).Code)
				} else {
					require.Equal(t, *x.asks, await[*signal.RoomChanged](admin).Settings.MaxParticipants)
				}
			}
			for i := range x.fits {
				w.enter(fmt.Sprint("user-", i), false)
			}
			if x.fits < 4 {
				c := w.dial(as("frank", false))
				c.send(&signal.Join{})
				require.Equal(t, signal.CodeFull, await[*signal.Error](c).Code)
			}
			w.enter("erin", true)
		})
	}
}

func TestAnAdminMutes(t *testing.T) {
	w := newWorld(t)
	admin := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("carol", true)}})
	alice := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("alice", false)}, setUp: func(c *client) { c.addTrack(t, opus) }})
	track := await[*signal.TrackPublished](alice.wire).Track.TrackID
	x := admin.hear()
	x.packet(t)
	told := func(muted, locked bool) *signal.TrackMuted {
		t.Helper()
		return await(alice.wire, func(m *signal.TrackMuted) bool { return m.Track.Muted == muted && m.Track.Locked == locked })
	}
	admin.send(&signal.Mute{TrackID: track, Muted: true})
	require.Equal(t, string(admin.id), told(true, false).By)
	quiet(t, x)
	alice.send(&signal.Mute{TrackID: track})
	require.Empty(t, told(false, false).By, "its publisher has unmuted it")
	last := x.last
	require.Equal(t, last+1, x.packet(t).SequenceNumber, "nothing is missing, and nobody asks for it again")

	admin.send(&signal.Mute{TrackID: track, Muted: true, Locked: true})
	told(true, true)
	quiet(t, x)
	alice.send(&signal.Mute{TrackID: track})
	require.Equal(t, signal.CodeForbidden, await[*signal.Error](alice.wire).Code)
	quiet(t, x)
	alice.lock.Lock()
	alice.addTrack(t, opus)
	alice.lock.Unlock()
	alice.send(&signal.Negotiate{Audio: 1})
	second := await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID != track }).Track
	require.True(t, second.Muted && second.Locked, "another track is no way out")
	require.Equal(t, []string{"audio"}, w.srv.Status().Rooms[0].State.Users[0].Muted)

	admin.send(&signal.Mute{TrackID: track})
	await(alice.wire, func(m *signal.TrackMuted) bool { return m.Track.TrackID == second.TrackID && !m.Track.Locked })
	x.packet(t)
	require.Empty(t, w.srv.Status().Rooms[0].State.Users)
}

func TestPermissionsChangeALiveCall(t *testing.T) {
	w := newWorld(t)
	admin := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("carol", true)}, setUp: func(c *client) { c.addTrack(t, opus) }})
	alice := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("alice", false)}, setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("bob", false)}})
	first := await(alice.wire, func(m *signal.TrackPublished) bool { return m.PeerID == alice.id }).Track.TrackID
	alice.hear().packet(t)
	permit := func(p signal.Permissions) {
		t.Helper()
		admin.send(&signal.Permit{PeerID: alice.id, Permissions: p})
		for _, c := range []*client{admin, alice} {
			got := await(c.wire, func(m *signal.PermissionsChanged) bool { return m.Permissions == p })
			require.Equal(t, string(admin.id), got.By)
		}
	}
	permit(signal.Permissions{Data: true})
	require.Equal(t, first, await[*signal.TrackUnpublished](bob.wire).Track.TrackID)
	await(alice.wire, func(m *signal.Offer) bool { return len(m.Tracks) == 0 })
	require.NotContains(t, bob.types(), signal.TypePermissionsChanged, "it is no business of others")

	permit(signal.Permissions{Data: true, Subscribe: true, Publish: true})
	again := await(bob.wire, func(m *signal.TrackPublished) bool { return m.PeerID == alice.id && m.Track.TrackID != first })
	require.Equal(t, "video", again.Track.Kind)
	for { // bob may have heard something of the first
		x := bob.hear()
		if _, id := x.stream(); id == again.Track.TrackID {
			x.packet(t)
			break
		}
	}
	await(alice.wire, func(m *signal.Offer) bool { return len(m.Tracks) == 1 })

	_, j := w.enter("alice", false)
	require.True(t, j.Permissions.Publish)
	permit(signal.Permissions{Subscribe: true})
	_, j = w.enter("alice", false)
	require.Equal(t, signal.Permissions{Subscribe: true}, j.Permissions, "joining again is no way out")
}

func TestWithoutDataChannelsEnd(t *testing.T) {
	w := newWorld(t)
	admin, _ := w.enter("carol", true)
	var sent *webrtc.DataChannel
	alice := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("alice", false)}, setUp: func(c *client) {
		var err error
		sent, err = c.pc.CreateDataChannel("chat", nil)
		require.NoError(t, err)
	}})
	bob := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){as("bob", false)}})
	var copied *copyOf
	select {
	case copied = <-bob.chans:
	case <-time.After(patience):
		require.FailNow(t, "no channel")
	}
	gone := make(chan struct{}, 2)
	copied.OnClose(func() { gone <- struct{}{} })
	sent.OnClose(func() { gone <- struct{}{} })
	require.Eventually(t, func() bool { return sent.ReadyState() == webrtc.DataChannelStateOpen }, patience, 5*time.Millisecond)
	admin.send(&signal.Permit{PeerID: alice.id, Permissions: signal.Permissions{Publish: true, Subscribe: true}})
	for range 2 {
		select {
		case <-gone:
		case <-time.After(patience):
			require.FailNow(t, "a channel stays")
		}
	}
}

func TestNamesAndMetadataChange(t *testing.T) {
	w := newWorld(t)
	alice, a := w.enter("alice", false)
	bob, b := w.enter("bob", false)
	name := "Bobby"
	bob.send(&signal.SetPeer{Name: &name, Metadata: json.RawMessage(`{"hand":true}`)})
	got := await[*signal.PeerChanged](alice)
	require.Equal(t, &signal.PeerChanged{PeerID: b.PeerID, Name: "Bobby", Metadata: json.RawMessage(`{"hand":true}`)}, got)
	bob.send(&signal.SetPeer{Metadata: json.RawMessage(`null`)})
	await(alice, func(m *signal.PeerChanged) bool { return m.Name == "Bobby" && m.Metadata == nil })
	for range changeBurst {
		bob.send(&signal.SetPeer{Name: &name})
	}
	require.Equal(t, signal.CodeLimited, await[*signal.Error](bob).Code)
	admin, j := w.enter("carol", true)
	require.Equal(t, "Bobby", j.Peers[1].Name)
	admin.send(&signal.SetPeer{PeerID: a.PeerID, Name: &name})
	await(bob, func(m *signal.PeerChanged) bool { return m.PeerID == a.PeerID })
}

func TestLastN(t *testing.T) {
	w := newWorld(t)
	var voice *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	first := await[*signal.TrackPublished](alice.wire).Track.TrackID
	dave := w.joinClient(clientOptions{join: &signal.Join{}, setUp: func(c *client) {
		c.addTrack(t, vp8)
		voice = c.addTrack(t, opus)
	}})
	dave.offer()
	second := await(dave.wire, func(m *signal.TrackPublished) bool { return m.PeerID == dave.id && m.Track.Kind == "video" }).Track.TrackID
	bob := w.joinClient(clientOptions{})
	heard := map[orama.TrackID]*remote{}
	for len(heard) < 3 {
		x := bob.hear()
		_, id := x.stream()
		heard[id] = x
		x.packet(t)
	}
	one := 1
	bob.send(&signal.LastN{Videos: &one})
	require.Equal(t, []orama.TrackID{second}, await[*signal.Held](bob.wire).TrackIDs)
	quiet(t, heard[second])
	heard[first].packet(t)
	voice.level.Store(20)
	await(bob.wire, func(m *signal.Held) bool { return len(m.TrackIDs) == 1 && m.TrackIDs[0] == first })
	quiet(t, heard[first])
	heard[second].packet(t)
	bob.send(&signal.Prefer{TrackID: first, Priority: 5})
	await(bob.wire, func(m *signal.Held) bool { return len(m.TrackIDs) == 1 && m.TrackIDs[0] == second })
	heard[first].packet(t)
	bob.send(&signal.LastN{})
	await(bob.wire, func(m *signal.Held) bool { return len(m.TrackIDs) == 0 })
	heard[second].packet(t)
}

func TestLossOnTheWayUpIsTold(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes two measurements")
	}
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus).gaps.Store(true) }})
	bob, _ := w.enter("bob", false)
	got := await(bob, func(m *signal.Quality) bool { return m.Peers[0].PeerID == alice.id })
	require.Equal(t, signal.PeerQuality{PeerID: alice.id, Quality: qualityPoor, Cause: causeUpLoss}, got.Peers[0])
	late, _ := w.enter("dave", false)
	require.Equal(t, got.Peers, await[*signal.Quality](late).Peers, "who comes later is told")
}

func TestOwnersActOverHTTP(t *testing.T) {
	w := newWorld(t)
	bob, b := w.enter("bob", false)
	yes := true
	status, body := w.post("daily", &signal.SetRoom{Locked: &yes})
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"revision":1,"settings":{"locked":true,"max_participants":0}}`, string(body))
	require.Equal(t, signal.ByAPI, await[*signal.RoomChanged](bob).By)
	status, body = w.post("daily", &signal.Permit{PeerID: b.PeerID, Permissions: signal.Permissions{Subscribe: true}})
	require.Equal(t, http.StatusOK, status, "%s", body)
	require.Equal(t, signal.ByAPI, await[*signal.PermissionsChanged](bob).By)

	_, body = w.request(http.MethodGet, "daily", w.ticket(func(t *auth.Ticket) { t.Admin, t.Room = true, "" }), nil)
	v := decode[signal.RoomView](t, bytes.NewReader(body))
	require.True(t, v.State.Settings.Locked)
	require.Len(t, v.Peers, 1)
	require.Equal(t, signal.Permissions{Subscribe: true}, v.Peers[0].Permissions)
	require.Equal(t, "bob", v.Peers[0].Name)

	for name, c := range map[string]struct {
		room, body string
		status     int
		code       string
	}{
		"no such room":   {"nowhere", `{"type":"set-room"}`, 404, "not_found"},
		"the probe's":    {string(probeRoom), `{"type":"set-room"}`, 404, "not_found"},
		"no such peer":   {"daily", `{"type":"kick","peer_id":"p"}`, 422, signal.CodeNotFound},
		"no such track":  {"daily", `{"type":"mute","track_id":"t","muted":true}`, 422, signal.CodeNotFound},
		"out of bounds":  {"daily", `{"type":"set-room","max_participants":-1}`, 422, signal.CodeInvalid},
		"no JSON":        {"daily", `{`, 422, signal.CodeInvalid},
		"too large":      {"daily", `{"type":"kick","user_id":"` + strings.Repeat("x", 9<<10) + `"}`, 422, signal.CodeInvalid},
		"not for owners": {"daily", `{"type":"leave"}`, 422, signal.CodeUnknownType},
		"without a peer": {"daily", `{"type":"set-peer","name":"x"}`, 422, signal.CodeNotFound},
	} {
		status, body := w.postRaw(c.room, []byte(c.body))
		require.Equal(t, c.status, status, name)
		var e signal.Error
		require.NoError(t, json.Unmarshal(body, &e), name)
		require.Equal(t, c.code, e.Code, name)
	}
	status, _ = w.request(http.MethodGet, "daily", w.ticket(), nil)
	require.Equal(t, http.StatusForbidden, status, "a peer's ticket is not an owner's")
	status, _ = w.post("daily", &signal.Kick{UserID: "bob"})
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, signal.CloseKicked, bob.closeCode())
}

func TestAJoinWithABrokenRecordIsRefused(t *testing.T) {
	w := newWorld(t)
	for name, header := range map[string]string{"no base64": "%", "no JSON": "AAAA", "too long": strings.Repeat("A", 20<<10)} {
		req, err := http.NewRequest(http.MethodGet, w.url("/v1/signal"), nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Ticket "+w.ticket())
		req.Header.Set(signal.HeaderRoom, header)
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.GreaterOrEqual(t, resp.StatusCode, 400, name)
	}
}

// crowd is a room whose loop is the test, of peers without media whose sockets only queue.
type crowd struct {
	*room
	peers []*peer
	got   map[*peer][]string // frames
}

func (c *crowd) join() {
	i := len(c.peers)
	q := joinRequest{ticket: auth.Ticket{User: orama.UserID(fmt.Sprintf("user-%d", i))}, join: signal.Join{Name: "x", Metadata: json.RawMessage(`{"hand":true}`)}}
	p := newPeer(c.room, q, signal.Permissions{Subscribe: true})
	p.sock = &socket{out: frameQueue{wake: make(chan struct{}, 1)}, end: make(chan closing, 1), slow: func() {}}
	m, rest := c.enter(p)
	p.post(func() { p.send(m) })
	p.tell(rest)
	c.peers = append(c.peers, p)
}

// settle has every peer handle what was posted. A socket is read only now: everything before came in one burst.
func (c *crowd) settle() {
	for _, p := range c.peers {
		for _, f := range p.inbox.take() {
			f()
		}
		for b := p.sock.out.pop(); b != nil; b = p.sock.out.pop() {
			c.got[p] = append(c.got[p], string(b))
		}
	}
}

// count is how many frames of a type a peer got, and how many bytes all frames have.
func (c *crowd) count(p *peer, typ signal.Type) (n, bytes int) {
	for _, f := range c.got[p] {
		bytes += len(f)
		if strings.HasPrefix(f, `{"type":"`+string(typ)+`"`) {
			n++
		}
	}
	return n, bytes
}

// Three hundred people join in one burst and ten of them publish; everybody learns of everybody, and no socket's queue is too short. Then
// all but ten leave and come back in one burst.
func TestARoomOfThreeHundred(t *testing.T) {
	const n, tracks = 300, 10
	w := newWorld(t)
	c := &crowd{room: newRoom("large", w.srv), got: map[*peer][]string{}}
	for range n {
		c.join()
	}
	for i, p := range c.peers[:tracks] {
		p.granted.Publish = true
		u := &up{id: orama.TrackID(fmt.Sprintf("t_%d", i)), owner: p.id, kind: webrtc.RTPCodecTypeAudio, codec: opus, metrics: w.srv.metrics}
		u.subs.Store(&[]*down{})
		u.note([]byte{20})
		c.publish(p, u, signal.Track{TrackID: u.id, Kind: "audio", Layers: []signal.Layer{}})
	}
	for look := range 50 { // all ten speak at once for ten seconds
		c.speak(start.Add(time.Duration(look) * speakersEvery))
		for i, track := range c.tracks {
			track.up.note([]byte{byte(10 + (look*7+i)%30)})
		}
		for _, p := range c.peers {
			c.rate(p, opinion{qualityPoor, causeRTT})
		}
		c.tellQuality(start.Add(time.Duration(look) * speakersEvery))
	}
	c.settle()
	for i, p := range c.peers {
		require.Nil(t, p.sock.fate.Load(), "nobody is read too slowly")
		met, total := c.count(p, signal.TypePeerJoined)
		require.Equal(t, n-1-i, met)
		require.Less(t, total, 1<<20)
		require.Equal(t, i, strings.Count(c.got[p][0], `"user_id"`)-1, "joined names who was there")
		for typ, most := range map[signal.Type]int{signal.TypeTrackPublished: tracks, signal.TypeSpeakers: 12, signal.TypeQuality: 5} {
			got, _ := c.count(p, typ)
			require.LessOrEqual(t, got, most, typ)
			require.NotZero(t, got, typ)
		}
	}
	clear(c.got)
	for _, p := range slices.Clone(c.peers[tracks:]) {
		c.leave(p, "lost")
	}
	c.peers = c.peers[:tracks]
	for range n - tracks {
		c.join()
	}
	c.settle()
	for _, p := range c.peers[:tracks] {
		require.Nil(t, p.sock.fate.Load(), "nobody is read too slowly")
		left, _ := c.count(p, signal.TypePeerLeft)
		came, _ := c.count(p, signal.TypePeerJoined)
		require.Equal(t, [2]int{n - tracks, n - tracks}, [2]int{left, came})
	}
}

// A joined frame passes every gateway, however large the room is: what does not fit follows.
func TestJoinedFitsAFrame(t *testing.T) {
	w := newWorld(t)
	r := newRoom("large", w.srv)
	for i := range 2000 {
		p := &peer{id: orama.PeerID(fmt.Sprintf("p_%d", i)), user: "u", name: strings.Repeat("ä", 60), metadata: json.RawMessage(`"` + strings.Repeat("m", 1000) + `"`)}
		r.peers[p.id], r.order = p, append(r.order, p.id)
	}
	self := r.peers["p_0"]
	m, rest := r.joined(self, false)
	b, err := signal.Encode(m)
	require.NoError(t, err)
	require.Less(t, len(b), signal.MaxFrame)
	met, metadata := map[orama.PeerID]bool{}, map[orama.PeerID]bool{}
	for _, p := range m.Peers {
		met[p.PeerID] = true
		metadata[p.PeerID] = p.Metadata != nil
	}
	for _, m := range rest {
		switch m := m.(type) {
		case *signal.PeerJoined:
			met[m.Peer.PeerID], metadata[m.Peer.PeerID] = true, true
		case *signal.PeerChanged:
			metadata[m.PeerID] = true
		}
	}
	require.Len(t, met, 1999)
	require.Len(t, metadata, 1999)
	for id, known := range metadata {
		require.True(t, known, id)
	}
}
