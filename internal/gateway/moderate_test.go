package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// moderated is a world with a room that bob is in.
func moderated(t *testing.T) (*world, *edge) {
	w := newWorld(t, 1)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1, CreatedAt: time.Now()}
	w.store.rooms["empty"] = orama.Room{Namespace: ns, ID: "empty", Node: "node-1", Boot: "boot-1", Epoch: 1, CreatedAt: time.Now()}
	w.sfus[0].present["daily"] = 1
	w.sfus[0].view.Peers = []signal.PeerView{{Peer: signal.Peer{PeerID: "p_bob", UserID: "bob", Name: "Bob", Tracks: []signal.Track{}}, Permissions: signal.Permissions{Publish: true}}}
	return w, w.gateway()
}

func TestModerationOverREST(t *testing.T) {
	w, g := moderated(t)
	member := w.token()
	adminOfB := w.token(func(t *auth.Token) { t.Admin, t.Room = true, "b" })
	admin := w.token(func(t *auth.Token) { t.Admin, t.Room = true, "daily" })
	const daily, empty = roomsPath + "/daily", roomsPath + "/empty"
	for _, tc := range []struct {
		name, method, path, credential, body string
		status                               int
		code                                 string
	}{
		{"read", "GET", daily, w.owner, "", 200, ""},
		{"read, nobody there", "GET", empty, w.owner, "", 200, ""},
		{"read, no such room", "GET", roomsPath + "/x", w.owner, "", 404, "room_not_found"},
		{"read, no owner", "GET", daily, member, "", 403, "owner_required"},
		{"read, another's token", "GET", daily, adminOfB, "", 403, "wrong_room"},
		{"read, another namespace", "GET", daily, w.other, "", 404, "room_not_found"},
		{"lock", "PATCH", daily, admin, `{"locked":true}`, 200, ""},
		{"lock, nobody there", "PATCH", empty, w.owner, `{"locked":true,"metadata":{"a":1}}`, 200, ""},
		{"lock, no owner", "PATCH", daily, member, `{"locked":true}`, 403, "owner_required"},
		{"limit", "PATCH", daily, w.owner, `{"max_participants":10}`, 200, ""},
		{"limit, too high", "PATCH", daily, w.owner, `{"max_participants":10001}`, 422, "invalid"},
		{"limit, below zero", "PATCH", daily, w.owner, `{"max_participants":-1}`, 422, "invalid"},
		{"metadata, none", "PATCH", empty, w.owner, `{"metadata":null}`, 200, ""},
		{"metadata, too much", "PATCH", daily, w.owner, `{"metadata":"` + strings.Repeat("x", 5<<10) + `"}`, 422, "invalid_metadata"},
		{"settings, no JSON", "PATCH", daily, w.owner, `{`, 400, "bad_request"},
		{"settings, no such room", "PATCH", roomsPath + "/x", w.owner, `{"locked":true}`, 404, "room_not_found"},
		{"mute", "POST", daily + "/mute", w.owner, `{"track_id":"t","muted":true,"locked":true}`, 204, ""},
		{"mute, locked alone", "POST", daily + "/mute", w.owner, `{"track_id":"t","muted":false,"locked":true}`, 422, "invalid"},
		{"mute, no track", "POST", daily + "/mute", w.owner, `{"muted":true}`, 422, "invalid"},
		{"mute, nobody there", "POST", empty + "/mute", w.owner, `{"track_id":"t","muted":true}`, 404, "not_found"},
		{"permit", "PATCH", daily + "/peers/p_bob", w.owner, `{"permissions":{"publish":false,"subscribe":true,"data":true,"admin":false}}`, 204, ""},
		{"permit, half of it", "PATCH", daily + "/peers/p_bob", w.owner, `{"permissions":{"publish":false}}`, 422, "invalid"},
		{"permit, no such peer", "PATCH", daily + "/peers/p_x", w.owner, `{"permissions":{"publish":false,"subscribe":true,"data":true,"admin":false}}`, 404, "not_found"},
		{"name", "PATCH", daily + "/peers/p_bob", w.owner, `{"name":"Robert","metadata":{"a":1}}`, 204, ""},
		{"kick by peer", "POST", daily + "/kick", w.owner, `{"peer_id":"p_bob","reason":"spam"}`, 204, ""},
		{"kick, no such peer", "POST", daily + "/kick", w.owner, `{"peer_id":"p_x"}`, 404, "not_found"},
		{"kick who is not there", "POST", empty + "/kick", w.owner, `{"user_id":"dave"}`, 204, ""},
		{"kick nobody", "POST", daily + "/kick", w.owner, `{}`, 422, "invalid_kick"},
		{"kick both", "POST", daily + "/kick", w.owner, `{"peer_id":"p","user_id":"u"}`, 422, "invalid_kick"},
		{"kick, long reason", "POST", daily + "/kick", w.owner, `{"user_id":"u","reason":"` + strings.Repeat("x", 101) + `"}`, 422, "invalid"},
		{"kick, no owner", "POST", daily + "/kick", w.member, `{"user_id":"bob"}`, 403, "owner_required"},
	} {
		w.clock.offset.Add(int64(250 * time.Millisecond))
		a := g.do(tc.method, tc.path, tc.credential, tc.body)
		require.Equal(t, tc.status, a.StatusCode, "%s: %s", tc.name, a.body)
		require.Equal(t, tc.code, a.code(), "%s: %s", tc.name, a.body)
	}
	state, err := signal.DecodeRoomState([]byte(w.store.room("daily").State))
	require.NoError(t, err)
	require.Equal(t, signal.RoomSettings{Locked: true, MaxParticipants: 10}, state.Settings, "what the SFU did is recorded")
	state, err = signal.DecodeRoomState([]byte(w.store.room("empty").State))
	require.NoError(t, err)
	require.Equal(t, signal.RoomSettings{Locked: true}, state.Settings, "and what it could not do")
	require.EqualValues(t, 2, state.Revision)
	require.Contains(t, w.sfus[0].asked, `{"type":"kick","user_id":"bob","reason":"spam"}`)
	require.Len(t, w.store.kicks, 2)

	var read RoomDetails
	require.NoError(t, json.Unmarshal(g.do("GET", daily, w.owner, "").body, &read))
	require.Equal(t, 1, *read.Participants)
	require.True(t, read.Settings.Locked)
	require.Equal(t, "Bob", read.Peers[0].Name)
}

func TestModerationIsLimited(t *testing.T) {
	w, g := moderated(t)
	for range moderateBurst {
		require.Equal(t, 200, g.do("GET", roomsPath+"/empty", w.owner, "").StatusCode)
	}
	a := g.do("GET", roomsPath+"/empty", w.owner, "")
	for range 10 * moderateBurst { // a slow machine asks so slowly that some more are allowed
		if a.StatusCode == 429 {
			break
		}
		a = g.do("GET", roomsPath+"/empty", w.owner, "")
	}
	require.Equal(t, 429, a.StatusCode)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
}

// An SFU that does not answer is no reason not to lock a room: the next one is told.
func TestARoomIsLockedWhoseSFUIsLost(t *testing.T) {
	w, g := moderated(t)
	w.sfus[0].srv.Close()
	a := g.do("PATCH", roomsPath+"/daily", w.owner, `{"locked":true}`)
	require.Equal(t, 200, a.StatusCode, "%s", a.body)
	require.Contains(t, w.store.room("daily").State, `"locked":true`)
	a = g.do("POST", roomsPath+"/daily/kick", w.owner, `{"user_id":"bob"}`)
	require.Equal(t, 503, a.StatusCode, "he may be there still")
	require.Contains(t, w.store.kicks, orama.UserID("bob"), "but he does not come again")
}

// Every gateway refuses a token that was issued before the kick, for a join and for credentials; a later one is good.
func TestATokenEndsWithAKick(t *testing.T) {
	w, g := moderated(t)
	old := w.token(func(t *auth.Token) { t.User, t.Room = "bob", "daily" })
	anyRoom := w.token(func(t *auth.Token) { t.User = "bob" })
	w.clock.offset.Add(int64(2 * time.Second))
	require.Equal(t, 204, g.do("POST", roomsPath+"/daily/kick", w.owner, `{"user_id":"bob"}`).StatusCode)
	other := w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-2" })
	for _, e := range []*edge{g, other} {
		for _, token := range []string{old, anyRoom} {
			_, resp, err := e.dial(signalPath+"?room=daily", token)
			require.Error(t, err)
			require.Equal(t, 403, resp.StatusCode)
		}
		require.Equal(t, "kicked", e.do("POST", credPath, old, "").code())
	}
	w.clock.offset.Add(int64(2 * time.Second))
	later := w.token(func(t *auth.Token) { t.User, t.Room, t.Issued = "bob", "daily", w.clock.now() })
	g.mustDial(w.sfus[0], signalPath+"?room=daily", later)
	minted := g.do("POST", tokenPath, w.owner, `{"user":"bob","room":"daily"}`)
	var body struct{ Token string }
	require.NoError(t, json.Unmarshal(minted.body, &body))
	_, j := g.mustDial(w.sfus[0], signalPath+"?room=daily", body.Token)
	require.WithinDuration(t, w.clock.now(), j.ticket.Granted, time.Minute, "the SFU is told how old the token is")
}

// The SFU that has a room, or will have it, is told with every join what admins have made of it.
func TestAJoinBringsTheRoomsState(t *testing.T) {
	w, g := moderated(t)
	require.Equal(t, 200, g.do("PATCH", roomsPath+"/empty", w.owner, `{"max_participants":2}`).StatusCode)
	_, j := g.mustDial(w.sfus[0], signalPath+"?room=empty", w.token())
	rec, err := signal.DecodeRoomRecord(j.header.Get(signal.HeaderRoom))
	require.NoError(t, err)
	require.Equal(t, 2, rec.State.Settings.MaxParticipants)
	_, j = g.mustDial(w.sfus[0], signalPath+"?room=daily", w.token())
	require.Empty(t, j.header.Get(signal.HeaderRoom), "there is nothing to say of it")
}

// What an operator allows a namespace goes to the SFU with every join, and an owner cannot go beyond it.
func TestAJoinBringsTheNamespacesLimit(t *testing.T) {
	w, g := moderated(t)
	w.store.change(func(m *memory) { m.cluster.Namespaces[0].MaxParticipants = 5 })
	w.clock.offset.Add(int64(time.Second)) // what was read of the cluster is old
	_, j := g.mustDial(w.sfus[0], signalPath+"?room=daily", w.token())
	rec, err := signal.DecodeRoomRecord(j.header.Get(signal.HeaderRoom))
	require.NoError(t, err)
	require.Equal(t, signal.RoomRecord{MaxParticipants: 5}, rec)
	for _, room := range []string{"/daily", "/empty"} {
		a := g.do("PATCH", roomsPath+room, w.owner, `{"max_participants":6}`)
		require.Equal(t, 422, a.StatusCode, "%s", a.body)
		require.Equal(t, "too_many_participants", a.code())
		for _, good := range []string{"0", "1", "5"} {
			require.Equal(t, 200, g.do("PATCH", roomsPath+room, w.owner, `{"max_participants":`+good+`}`).StatusCode)
		}
	}
}

func TestALargeStateFitsTheHeader(t *testing.T) {
	s := signal.RoomState{Revision: 1, Settings: signal.RoomSettings{Metadata: json.RawMessage(`"` + strings.Repeat("m", signal.MaxMetadata-2) + `"`)}}
	for i := range signal.MaxRoomUsers {
		s.Users = append(s.Users, signal.UserState{UserID: orama.UserID(fmt.Sprint(i, strings.Repeat("u", 100))), Permissions: &signal.Permissions{}})
	}
	text, err := signal.RoomRecord{MaxParticipants: 5, State: s}.Encode()
	require.NoError(t, err)
	require.Less(t, len(text), 12<<10)
	got, err := signal.DecodeRoomRecord(text)
	require.NoError(t, err)
	require.Equal(t, s.Settings, got.State.Settings)
	require.NotEmpty(t, got.State.Users)
	require.Equal(t, s.Users[len(s.Users)-1].UserID, got.State.Users[len(got.State.Users)-1].UserID, "the newest stay")
	for _, bad := range []string{"%", "AAAA", strings.Repeat("A", 20<<10)} {
		_, err := signal.DecodeRoomRecord(bad)
		require.Error(t, err)
	}
}
