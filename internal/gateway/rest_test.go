package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

const (
	credPath  = "/v1/webrtc/turn/credentials"
	roomsPath = "/v1/webrtc/rooms"
	tokenPath = "/v1/auth/token"
)

func TestStatusCodes(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	bare := w.addKey("bare", auth.RoleOwner)
	member := w.token()
	admin := w.token(func(t *auth.Token) { t.Admin = true })
	adminOfB := w.token(func(t *auth.Token) { t.Admin, t.Room = true, "b" })
	typo := w.owner[:len(w.owner)-1] + "a"
	if typo == w.owner {
		typo = w.owner[:len(w.owner)-1] + "b"
	}
	unknown, _ := auth.NewAPIKey(ns, auth.RoleOwner)
	for _, tc := range []struct {
		name, method, path, credential, body string
		status                               int
		code                                 string
	}{
		{"credentials by token", "POST", credPath, member, "", 200, ""},
		{"credentials by key", "POST", credPath, w.member, "", 200, ""},
		{"credentials, no credential", "POST", credPath, "", "", 401, "no_credential"},
		{"credentials, bad token", "POST", credPath, "x.y.z", "", 401, "invalid_token"},
		{"credentials, mistyped key", "POST", credPath, typo, "", 401, "invalid_api_key"},
		{"credentials, unknown key", "POST", credPath, unknown, "", 401, "invalid_api_key"},
		{"credentials, not enabled", "POST", credPath, bare, "", 404, "webrtc_not_enabled"},
		{"credentials, bad transports", "POST", credPath + "?transports=x", member, "", 422, "invalid_transports"},
		{"credentials, wrong method", "GET", credPath, member, "", 405, "method_not_allowed"},
		{"credentials, no relay", "POST", credPath, w.other, "", 503, "turn_unavailable"},
		{"list", "GET", roomsPath, member, "", 200, ""},
		{"list, no credential", "GET", roomsPath, "", "", 401, "no_credential"},
		{"list, not enabled", "GET", roomsPath, bare, "", 404, "webrtc_not_enabled"},
		{"create by owner", "POST", roomsPath, w.owner, `{"room_id":"a"}`, 201, ""},
		{"create again", "POST", roomsPath, w.owner, `{"room_id":"a"}`, 200, ""},
		{"create by admin token", "POST", roomsPath, admin, `{"room_id":"c"}`, 201, ""},
		{"create by member key", "POST", roomsPath, w.member, `{"room_id":"a"}`, 403, "owner_required"},
		{"create by token", "POST", roomsPath, member, `{"room_id":"a"}`, 403, "owner_required"},
		{"a stranger's body is not judged", "POST", roomsPath, "", `{`, 401, "no_credential"},
		{"a member's body is not judged", "POST", roomsPath, member, `{`, 403, "owner_required"},
		{"create another room than the token's", "POST", roomsPath, adminOfB, `{"room_id":"a"}`, 403, "wrong_room"},
		{"create the token's room", "POST", roomsPath, adminOfB, `{"room_id":"b"}`, 201, ""},
		{"create, bad name", "POST", roomsPath, w.owner, `{"room_id":"a b"}`, 422, "invalid_room"},
		{"create, long name", "POST", roomsPath, w.owner, `{"room_id":"` + strings.Repeat("a", 129) + `"}`, 422, "invalid"},
		{"create, no name", "POST", roomsPath, w.owner, `{}`, 422, "invalid"},
		{"create, wrong type", "POST", roomsPath, w.owner, `{"room_id":5}`, 422, "invalid"},
		{"create, unknown field", "POST", roomsPath, w.owner, `{"room_id":"a","later":1}`, 200, ""},
		{"create, no JSON", "POST", roomsPath, w.owner, `{`, 400, "bad_request"},
		{"create, no body", "POST", roomsPath, w.owner, ``, 400, "bad_request"},
		{"create, large body", "POST", roomsPath, w.owner, `{"room_id":"` + strings.Repeat("a", maxBody) + `"}`, 413, "too_large"},
		{"create, not enabled", "POST", roomsPath, bare, `{"room_id":"a"}`, 404, "webrtc_not_enabled"},
		{"create, no SFU", "POST", roomsPath, w.other, `{"room_id":"z"}`, 503, "sfu_unavailable"},
		{"close", "DELETE", roomsPath + "?room_id=a", w.owner, "", 204, ""},
		{"close again", "DELETE", roomsPath + "?room_id=a", w.owner, "", 404, "room_not_found"},
		{"close by member", "DELETE", roomsPath + "?room_id=c", member, "", 403, "owner_required"},
		{"close, other room", "DELETE", roomsPath + "?room_id=c", adminOfB, "", 403, "wrong_room"},
		{"close, no name", "DELETE", roomsPath, w.owner, "", 422, "invalid"},
		{"close, bad name", "DELETE", roomsPath + "?room_id=_x", w.owner, "", 422, "invalid_room"},
		{"another namespace's room", "DELETE", roomsPath + "?room_id=c", w.other, "", 404, "room_not_found"},
		{"rooms, wrong method", "PUT", roomsPath, w.owner, "", 405, "method_not_allowed"},
		{"mint by owner", "POST", tokenPath, w.owner, `{"user":"alice"}`, 200, ""},
		{"mint by member", "POST", tokenPath, w.member, `{"user":"alice","room":"a","ttl":60}`, 200, ""},
		{"mint without WebRTC", "POST", tokenPath, bare, `{"user":"alice"}`, 200, ""},
		{"mint admin by owner", "POST", tokenPath, w.owner, `{"user":"alice","admin":true}`, 200, ""},
		{"mint admin by member", "POST", tokenPath, w.member, `{"user":"alice","admin":true}`, 403, "owner_required"},
		{"mint by token", "POST", tokenPath, admin, `{"user":"alice"}`, 403, "api_key_required"},
		{"mint, no credential", "POST", tokenPath, "", `{"user":"alice"}`, 401, "no_credential"},
		{"mint, no user", "POST", tokenPath, w.owner, `{}`, 422, "invalid"},
		{"mint, bad user", "POST", tokenPath, w.owner, `{"user":"a\u0000"}`, 422, "invalid_user"},
		{"mint, bad room", "POST", tokenPath, w.owner, `{"user":"a","room":"_"}`, 422, "invalid_room"},
		{"mint, long life", "POST", tokenPath, w.owner, `{"user":"a","ttl":86401}`, 422, "invalid"},
		{"mint, no life", "POST", tokenPath, w.owner, `{"user":"a","ttl":-1}`, 422, "invalid"},
		{"mint, fraction", "POST", tokenPath, w.owner, `{"user":"a","ttl":1.5}`, 422, "invalid"},
		{"demo", "POST", "/demo/token", "", `{"invite":"foo","name":"Al"}`, 200, ""},
		{"demo, bad invite", "POST", "/demo/token", "", `{"invite":"fo"}`, 403, "invalid_invite"},
		{"demo, no invite", "POST", "/demo/token", "", `{}`, 422, "invalid"},
		{"healthz", "GET", "/healthz", "", "", 200, ""},
		{"readyz", "GET", "/readyz", "", "", 200, ""},
		{"readyz, wrong method", "POST", "/readyz", "", "", 405, "method_not_allowed"},
		{"jwks", "GET", "/.well-known/jwks.json", "", "", 200, ""},
		{"openapi", "GET", "/v1/openapi.json", "", "", 200, ""},
		{"nowhere", "GET", "/v1/nowhere", "", "", 404, "no_such_path"},
		{"nowhere, any method", "POST", "/x", "", "{}", 404, "no_such_path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := g.do(tc.method, tc.path, tc.credential, tc.body)
			require.Equal(t, tc.status, a.StatusCode, "%s", a.body)
			require.Equal(t, tc.code, a.code(), "%s", a.body)
			if a.StatusCode < 400 {
				return
			}
			require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
			var p Problem
			require.NoError(t, json.Unmarshal(a.body, &p))
			require.Equal(t, tc.status, p.Status)
			require.NotEmpty(t, p.Detail)
			require.Equal(t, tc.status == 401, a.Header.Get("WWW-Authenticate") != "")
			require.Equal(t, tc.status == 405, a.Header.Get("Allow") != "")
			require.Equal(t, tc.status == 503, a.Header.Get("Retry-After") != "")
		})
	}
	require.Equal(t, "DELETE, GET, HEAD, POST", g.do("PUT", roomsPath, w.owner, "").Header.Get("Allow"))
	require.Equal(t, "POST", g.do("GET", credPath, "", "").Header.Get("Allow"))
	require.Equal(t, http.StatusUnsupportedMediaType, g.do("POST", roomsPath, w.owner, `room_id=a`, header("Content-Type", "application/x-www-form-urlencoded")).StatusCode)
}

func TestNothingIsLookedUpForAMistypedKey(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	b := []byte(w.owner)
	b[20], b[21] = b[21], b[20]
	if string(b) == w.owner {
		b[20] = 'a' + (b[20]-'a'+1)%26
	}
	require.Equal(t, 401, g.do("GET", roomsPath, string(b), "").StatusCode)
	require.Zero(t, w.store.keyAsks)
}

func TestBadCredentialsOfOneAddressAreLimited(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	unknown, _ := auth.NewAPIKey(ns, auth.RoleOwner)
	for range authFailureBurst {
		require.Equal(t, 401, g.do("GET", roomsPath, unknown, "").StatusCode)
	}
	asks := w.store.keyAsks
	a := g.do("GET", roomsPath, unknown, "")
	require.Equal(t, 429, a.StatusCode)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Equal(t, asks, w.store.keyAsks, "keys are not looked up any more")
	require.Equal(t, 429, g.do("GET", roomsPath, "x.y.z", "").StatusCode)
	require.Equal(t, 200, g.do("GET", roomsPath, w.token(), "").StatusCode, "a good token costs nothing and passes")
	require.Equal(t, 429, g.do("GET", roomsPath, "", "", header("X-API-Key", w.owner), header("X-Forwarded-For", "9.9.9.9")).StatusCode, "an untrusted header does not help")
	w.clock.offset.Add(int64(2 * time.Second))
	require.Equal(t, 200, g.do("GET", roomsPath, w.owner, "").StatusCode)
}

func TestClientAddress(t *testing.T) {
	g := &Gateway{cfg: Config{TrustedProxies: prefixes("127.0.0.1/32", "10.0.0.0/24")}}
	for _, tc := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "1.1.1.1", "192.0.2.1"},
		{"127.0.0.1:5", "1.1.1.1", "1.1.1.1"},
		{"127.0.0.1:5", "6.6.6.6, 1.1.1.1", "1.1.1.1"},
		{"127.0.0.1:5", "6.6.6.6, 1.1.1.1, 10.0.0.7", "1.1.1.1"},
		{"127.0.0.1:5", "junk", "127.0.0.1"},
		{"[::ffff:192.0.2.1]:5", "", "192.0.2.1"},
		{"[2001:db8:1:2:3:4:5:6]:5", "", "2001:db8:1:2::/64"},
		{"[fe80::1%eth0]:5", "", "fe80::/64"},
	} {
		r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{}}
		if tc.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tc.forwarded)
		}
		require.Equal(t, tc.want, g.clientAddress(r), "%+v", tc)
	}
}

func TestTurnCredentials(t *testing.T) {
	w := newWorld(t, 2)
	g := w.gateway()
	a := g.do("POST", credPath, w.token(), "")
	var c signal.Credentials
	require.NoError(t, json.Unmarshal(a.body, &c))
	require.Equal(t, []string{"turn:127.0.0.11:3478?transport=udp", "turn:127.0.0.11:3478?transport=tcp"}, c.URLs)
	require.Equal(t, c.URLs, c.URIs)
	require.Equal(t, 600, c.TTL)
	require.Equal(t, c.Credential, c.Password)
	expiry, of, err := auth.ParseTURNUsername(c.Username)
	require.NoError(t, err)
	require.Equal(t, ns, of)
	require.WithinDuration(t, w.clock.now().Add(10*time.Minute), expiry, 3*time.Second)
	require.Equal(t, auth.TURNCredential("s3cret", c.Username), c.Credential)
	require.Equal(t, "no-store", a.Header.Get("Cache-Control"))

	require.NoError(t, json.Unmarshal(g.do("POST", credPath+"?transports=tls", w.token(), "").body, &c))
	for _, u := range c.URLs {
		require.Contains(t, u, "turns:turn-1.ns-myapp.orama.test:")
	}
}

func TestCredentialsNameOnlyRelaysThatServe(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for _, s := range []orama.State{orama.StateUnknown, orama.StateStarting, orama.StateDraining, orama.StateFailed, orama.StateGone} {
		w.store.change(func(m *memory) { m.cluster.Instances[len(m.cluster.Instances)-1].Observed.State = s })
		a := g.do("POST", credPath, w.token(), "")
		require.Equal(t, 503, a.StatusCode, s)
		require.Equal(t, "turn_unavailable", a.code())
	}
}

func TestListRooms(t *testing.T) {
	w := newWorld(t, 3)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.askWithin = 200 * time.Millisecond })
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for id, node := range map[orama.RoomID]orama.NodeID{"a": "node-1", "b": "node-1", "c": "node-2", "d": "node-3"} {
		w.store.rooms[id] = orama.Room{Namespace: ns, ID: id, Node: node, Boot: "boot-1", Epoch: 1, CreatedAt: at}
	}
	w.store.rooms["e"] = orama.Room{Namespace: ns, ID: "e", Node: "node-1", Boot: "boot-0", Epoch: 1, CreatedAt: at}
	w.store.rooms["x"] = orama.Room{Namespace: "other", ID: "x", Node: "node-1", Boot: "boot-1", Epoch: 1}
	w.sfus[0].present["a"] = 3
	w.sfus[1].srv.Close()
	w.sfus[2].slow = make(chan struct{})
	defer close(w.sfus[2].slow)
	a := g.do("GET", roomsPath, w.token(), "")
	require.JSONEq(t, `{"rooms":[
		{"room_id":"a","participants":3,"sfu_node":"node-1","created_at":"2026-01-02T03:04:05Z"},
		{"room_id":"b","participants":0,"sfu_node":"node-1","created_at":"2026-01-02T03:04:05Z"},
		{"room_id":"c","participants":null,"sfu_node":"node-2","created_at":"2026-01-02T03:04:05Z"},
		{"room_id":"d","participants":null,"sfu_node":"node-3","created_at":"2026-01-02T03:04:05Z"},
		{"room_id":"e","participants":null,"sfu_node":"node-1","created_at":"2026-01-02T03:04:05Z"}]}`, string(a.body))
	a = g.do("GET", roomsPath, w.token(func(t *auth.Token) { t.Room = "b" }), "")
	require.Contains(t, string(a.body), `"b"`)
	require.NotContains(t, string(a.body), `"a"`, "a token for one room sees that one")
	require.JSONEq(t, `{"rooms":[]}`, string(g.do("GET", roomsPath, w.token(func(t *auth.Token) { t.Room = "zz" }), "").body))
}

func TestACreatedRoomIsEmpty(t *testing.T) {
	w := newWorld(t, 1)
	a := w.gateway().do("POST", roomsPath, w.owner, `{"room_id":"a"}`)
	require.Contains(t, string(a.body), `"participants":0`)
	row := w.store.room("a")
	require.True(t, row.Permanent)
	require.Equal(t, row.CreatedAt, row.CreatedAt.Truncate(time.Microsecond))
}

func TestCreateKeepsARoomThatAJoinMade(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	g.mustDial(w.sfus[0], daily, w.token())
	a := g.do("POST", roomsPath, w.owner, `{"room_id":"daily"}`)
	require.Equal(t, 200, a.StatusCode)
	row := w.store.room("daily")
	require.True(t, row.Permanent)
	require.Equal(t, int64(2), row.Epoch)
	require.Equal(t, "boot-1", row.Boot)
}

func TestClosingARoomTellsItsSFU(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	require.Equal(t, 201, g.do("POST", roomsPath, w.owner, `{"room_id":"a%b"}`).StatusCode)
	require.Equal(t, 204, g.do("DELETE", roomsPath+"?room_id=a%25b", w.owner, "").StatusCode)
	require.Equal(t, []orama.RoomID{"a%b"}, w.sfus[0].closed)
	require.Empty(t, w.store.rooms)
}

func TestClosingARoomOfADeadSFU(t *testing.T) {
	w := newWorld(t, 1)
	w.store.rooms["a"] = orama.Room{Namespace: ns, ID: "a", Node: "node-1", Boot: "boot-1", Epoch: 4}
	w.sfus[0].srv.Close()
	require.Equal(t, 204, w.gateway().do("DELETE", roomsPath+"?room_id=a", w.owner, "").StatusCode)
	require.Empty(t, w.store.rooms)
}

func TestMintedTokens(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	mint := func(key, body string) auth.Token {
		a := g.do("POST", tokenPath, key, body)
		require.Equal(t, 200, a.StatusCode, "%s", a.body)
		var out struct {
			Token   string    `json:"token"`
			User    string    `json:"user"`
			Expires time.Time `json:"expires_at"`
		}
		require.NoError(t, json.Unmarshal(a.body, &out))
		tok, err := w.keys.VerifyToken(out.Token, w.clock.now())
		require.NoError(t, err)
		require.Equal(t, out.User, string(tok.User))
		require.True(t, out.Expires.Equal(tok.Expires))
		return tok
	}
	tok := mint(w.member, `{"user":"alice"}`)
	require.Equal(t, [4]bool{true, true, true, false}, [4]bool{tok.Publish, tok.Subscribe, tok.Data, tok.Admin})
	require.WithinDuration(t, w.clock.now().Add(time.Hour), tok.Expires, 3*time.Second)
	tok = mint(w.owner, `{"user":"bob","room":"daily","ttl":60,"publish":false,"subscribe":true,"data":false,"admin":true}`)
	require.Equal(t, [4]bool{false, true, false, true}, [4]bool{tok.Publish, tok.Subscribe, tok.Data, tok.Admin})
	require.Equal(t, orama.RoomID("daily"), tok.Room)
	require.WithinDuration(t, w.clock.now().Add(time.Minute), tok.Expires, 3*time.Second)
}

func TestDemoToken(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	var out struct{ Token, User string }
	require.NoError(t, json.Unmarshal(g.do("POST", "/demo/token", "", `{"invite":"foo","name":"Al"}`).body, &out))
	tok, err := w.keys.VerifyToken(out.Token, w.clock.now())
	require.NoError(t, err)
	require.Equal(t, ns, tok.Namespace)
	require.Equal(t, out.User, string(tok.User))
	require.Contains(t, out.User, "guest-")
	require.Equal(t, [4]bool{true, true, true, false}, [4]bool{tok.Publish, tok.Subscribe, tok.Data, tok.Admin})
	for range demoBurst - 1 {
		g.do("POST", "/demo/token", "", `{"invite":"wrong"}`)
	}
	a := g.do("POST", "/demo/token", "", `{"invite":"foo"}`)
	require.Equal(t, 429, a.StatusCode)
	require.NotEmpty(t, a.Header.Get("Retry-After"))

	off := w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Demo = Demo{} })
	require.Equal(t, 404, off.do("POST", "/demo/token", "", `{"invite":"foo"}`).StatusCode)
	require.Equal(t, 404, off.do("POST", "/demo/token", "", `{"invite":""}`).StatusCode)
}

func TestAStoreThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	w.store.change(func(m *memory) { m.err = errors.New("dial tcp 10.0.0.1:4001: secret detail") })
	for _, tc := range []struct{ method, path, credential, body string }{
		{"POST", credPath, w.token(), ""}, {"GET", roomsPath, w.token(), ""}, {"GET", roomsPath, w.owner, ""},
		{"POST", roomsPath, w.owner, `{"room_id":"a"}`}, {"DELETE", roomsPath + "?room_id=a", w.owner, ""}, {"GET", "/readyz", "", ""},
	} {
		a := g.do(tc.method, tc.path, tc.credential, tc.body)
		require.Equal(t, 503, a.StatusCode, "%+v %s", tc, a.body)
		require.Equal(t, "store_unavailable", a.code())
		require.NotContains(t, string(a.body), "10.0.0.1")
		require.Equal(t, "1", a.Header.Get("Retry-After"))
	}
	require.Contains(t, w.logs.String(), "10.0.0.1", "but operators read it")
	require.Equal(t, 200, g.do("GET", "/healthz", "", "").StatusCode)
}

func TestTheClusterIsReadAFewTimesASecondOnly(t *testing.T) {
	w := newWorld(t, 1)
	now := time.Now() // stands still
	g := w.gateway(func(_ *Config, d *Deps, tm *timing) {
		tm.viewFor = 250 * time.Millisecond
		d.Now = func() time.Time { return now.Add(time.Duration(w.clock.offset.Load())) }
	})
	for range 20 {
		require.Equal(t, 200, g.do("GET", roomsPath, w.token(), "").StatusCode)
	}
	require.Equal(t, 1, w.store.reads)
	w.clock.offset.Add(int64(251 * time.Millisecond))
	g.do("GET", "/readyz", "", "")
	require.Equal(t, 2, w.store.reads)
	w.store.change(func(m *memory) { m.err = errors.New("down") })
	w.clock.offset.Add(int64(3 * time.Second))
	require.Equal(t, 200, g.do("GET", "/readyz", "", "").StatusCode, "a reading of a moment ago serves")
	w.clock.offset.Add(int64(3 * time.Second))
	require.Equal(t, 503, g.do("GET", "/readyz", "", "").StatusCode)
}

func TestNoSecretIsLogged(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	token := w.token()
	g.do("GET", roomsPath, token, "")
	g.do("GET", roomsPath, w.owner, "")
	g.dial(daily, token)
	w.store.change(func(m *memory) { m.err = errors.New("down") })
	g.do("GET", roomsPath, w.owner, "")
	g.do("GET", roomsPath, token, "")
	require.NotEmpty(t, w.logs.String())
	require.NotContains(t, w.logs.String(), token)
	require.NotContains(t, w.logs.String(), strings.Split(w.owner, "_")[2])
	w.sfus[0].join(t)
}

func TestAPanicIsOneRequestsProblem(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway(func(_ *Config, d *Deps, _ *timing) { d.Now = func() time.Time { panic("boom") } })
	a := g.do("GET", "/readyz", "", "")
	require.Equal(t, 500, a.StatusCode)
	require.Equal(t, "internal", a.code())
	require.NotContains(t, string(a.body), "boom")
	require.Equal(t, 200, g.do("GET", "/healthz", "", "").StatusCode)
}

func TestNewNeedsItsParts(t *testing.T) {
	_, err := New(Config{}, Deps{})
	require.Error(t, err)
}

func TestManyRequestsAtOnceReadTheClusterOnce(t *testing.T) {
	w := newWorld(t, 0)
	now := time.Now() // stands still
	g := w.gateway(func(_ *Config, d *Deps, tm *timing) {
		tm.viewFor = 250 * time.Millisecond
		d.Now = func() time.Time { return now }
	})
	<-g.view.turn // so that all wait
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { g.view.cluster(t.Context()) })
	}
	g.view.turn <- struct{}{}
	wg.Wait()
	require.Equal(t, 1, w.store.reads)
	<-g.view.turn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.clock.offset.Add(int64(time.Hour))
	now = now.Add(time.Hour)
	_, err := g.view.cluster(ctx)
	require.ErrorIs(t, err, context.Canceled, "who has left does not wait")
	g.view.turn <- struct{}{}
}

func TestInternalErrorsAreNotTold(t *testing.T) {
	w := newWorld(t, 1)
	w.store.change(func(m *memory) {
		m.cluster.Namespaces[0].WebRTC = &orama.WebRTCConfig{SealedSecret: "v1.damaged", CredentialTTL: time.Minute}
	})
	a := w.gateway().do("POST", credPath, w.token(), "")
	require.Equal(t, 500, a.StatusCode)
	require.Equal(t, "internal", a.code())
	require.NotContains(t, string(a.body), "sealed")
	require.Contains(t, w.logs.String(), "sealed")
}
