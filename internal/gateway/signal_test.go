package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

func asClose(err error, ce *websocket.CloseError) bool { return errors.As(err, ce) }

const daily = signalPath + "?room=daily"

func TestAJoinMakesTheRoomAndCarriesWhoItIs(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	token := w.token(func(t *auth.Token) { t.Data = false })
	_, j := g.mustDial(w.sfus[0], daily+"&transports=tls,udp,tls", token)
	tk := j.ticket
	require.Equal(t, ns, tk.Namespace)
	require.Equal(t, orama.NodeID("node-1"), tk.Node)
	require.Equal(t, orama.RoomID("daily"), tk.Room)
	require.Equal(t, orama.UserID("alice"), tk.User)
	require.Equal(t, []string{"tls", "udp"}, tk.Transports)
	require.Equal(t, [4]bool{true, true, false, false}, [4]bool{tk.Publish, tk.Subscribe, tk.Data, tk.Admin})
	require.LessOrEqual(t, tk.Expires.Sub(tk.Issued), 30*time.Second)
	require.NotContains(t, fmt.Sprint(j.header), token, "the client's credential stays at the edge")
	row := w.store.room("daily")
	require.Equal(t, int64(1), row.Epoch)
	require.False(t, row.Permanent)
	require.Equal(t, "boot-1", row.Boot)
}

func TestSubprotocols(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	token := w.token()
	for _, tc := range []struct {
		name      string
		protocols []string
		header    http.Header
		want      string // answered; "-": refused
	}{
		{"token", []string{"Bearer", token}, nil, "Bearer"},
		{"key", []string{"ApiKey", w.member}, nil, "ApiKey"},
		{"key as Bearer", []string{"Bearer", w.member}, nil, "Bearer"},
		{"as the client wrote it", []string{"bearer", token}, nil, "bearer"},
		{"header", nil, http.Header{"Authorization": {"Bearer " + token}}, ""},
		{"key in header", nil, http.Header{"X-Api-Key": {w.member}}, ""},
		{"header beside subprotocol", []string{"Bearer", token}, http.Header{"Authorization": {"Bearer " + token}}, "Bearer"},
		{"scheme alone", []string{"Bearer"}, nil, "-"},
		{"secret alone", []string{token}, nil, "-"},
		{"secret first", []string{token, "Bearer"}, nil, "-"},
		{"other scheme", []string{"Basic", token}, nil, "-"},
		{"bad token", []string{"Bearer", token + "x"}, nil, "-"},
		{"nothing", nil, nil, "-"},
		{"a bad header beside a good subprotocol", []string{"Bearer", token}, http.Header{"Authorization": {"Bearer x"}}, "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, resp, err := g.dial(daily, "", func(o *websocket.DialOptions) {
				o.Subprotocols = tc.protocols
				for k, v := range tc.header {
					o.HTTPHeader[k] = v
				}
			})
			if tc.want == "-" {
				require.Error(t, err)
				require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
				require.NotEmpty(t, resp.Header.Get("WWW-Authenticate"))
				return
			}
			require.NoError(t, err)
			w.sfus[0].join(t)
			require.Equal(t, tc.want, resp.Header.Get("Sec-WebSocket-Protocol"))
			require.Equal(t, tc.want, c.Subprotocol())
			require.Empty(t, resp.Header.Get("Sec-WebSocket-Extensions"), "no compression")
		})
	}
}

func TestCredentialsInTheQueryAreNotLookedAt(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for _, name := range []string{"token", "access_token", "api_key", "jwt"} {
		_, resp, err := g.dial(daily+"&"+name+"="+w.token(), "")
		require.Error(t, err)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	}
}

// refusedWith joins, expects a refusal before the upgrade, and reads it.
func refusedWith(t *testing.T, g *edge, path, credential string) (*http.Response, string) {
	t.Helper()
	_, resp, err := g.dial(path, credential)
	require.Error(t, err)
	require.NotNil(t, resp, "%v", err)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	var p Problem
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
	require.Equal(t, resp.StatusCode, p.Status)
	return resp, p.Code
}

func TestRefusalsComeBeforeTheUpgrade(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	bare := w.addKey("bare", auth.RoleOwner)
	for _, tc := range []struct {
		name, path, credential string
		status                 int
		code                   string
	}{
		{"no credential", daily, "", 401, "no_credential"},
		{"expired", daily, w.token(func(t *auth.Token) { t.Expires = time.Now().Add(-time.Second) }), 401, "token_expired"},
		{"namespace gone", daily, w.token(func(t *auth.Token) { t.Namespace = "gone-ns" }), 401, "namespace_gone"},
		{"bad room", signalPath + "?room=a%20b", w.token(), 400, "invalid_room"},
		{"system room", signalPath + "?room=_x", w.token(), 400, "invalid_room"},
		{"bad transports", daily + "&transports=pigeon", w.token(), 400, "invalid_transports"},
		{"wrong room", signalPath + "?room=b", w.token(func(t *auth.Token) { t.Room = "a" }), 403, "wrong_room"},
		{"not enabled", daily, bare, 404, "webrtc_not_enabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, code := refusedWith(t, g, tc.path, tc.credential)
			require.Equal(t, tc.status, resp.StatusCode)
			require.Equal(t, tc.code, code)
		})
	}
	a := g.do("GET", daily, w.token(), "")
	require.Equal(t, http.StatusUpgradeRequired, a.StatusCode)
	require.Equal(t, "websocket", a.Header.Get("Upgrade"))
	a = g.do("GET", daily, w.token(), "", header("Connection", "Upgrade"), header("Upgrade", "websocket"), header("Sec-WebSocket-Version", "13"))
	require.Equal(t, http.StatusBadRequest, a.StatusCode)
}

func TestDisablingAndClosedRooms(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	w.store.change(func(m *memory) { m.cluster.Namespaces[0].ClosedRooms = true })
	resp, code := refusedWith(t, g, daily, w.token())
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, "room_not_found", code)
	require.Equal(t, 201, g.do("POST", "/v1/webrtc/rooms", w.owner, `{"room_id":"daily"}`).StatusCode)
	g.mustDial(w.sfus[0], daily, w.token())

	w.store.change(func(m *memory) {
		cfg := *m.cluster.Namespaces[0].WebRTC
		cfg.Disabling = true
		m.cluster.Namespaces[0].WebRTC = &cfg
	})
	_, code = refusedWith(t, g, daily, w.token())
	require.Equal(t, "webrtc_not_enabled", code)
}

func TestJoinsOfOneUserAreLimited(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	for range joinBurst {
		resp, _ := refusedWith(t, g, daily, w.token())
		require.Equal(t, 503, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
	}
	resp, code := refusedWith(t, g, daily, w.token())
	require.Equal(t, 429, resp.StatusCode)
	require.Equal(t, "too_many_requests", code)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	resp, _ = refusedWith(t, g, daily, w.token(func(t *auth.Token) { t.User = "bob" }))
	require.Equal(t, 503, resp.StatusCode, "others are not")
	w.clock.offset.Add(int64(time.Second))
	resp, _ = refusedWith(t, g, daily, w.token())
	require.Equal(t, 503, resp.StatusCode)
}

func TestRoomsAreSpreadAndTheLocalNodeIsPreferred(t *testing.T) {
	w := newWorld(t, 3)
	g := w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-2" })
	g.mustDial(w.sfus[1], signalPath+"?room=a", w.token())
	g.mustDial(w.sfus[0], signalPath+"?room=b", w.token())
	g.mustDial(w.sfus[2], signalPath+"?room=c", w.token())
	g.mustDial(w.sfus[1], signalPath+"?room=d", w.token())
	g.mustDial(w.sfus[0], signalPath+"?room=b", w.token() /* an existing room stays where it is */)
}

func TestLongUnseenSFUsComeLast(t *testing.T) {
	w := newWorld(t, 2)
	w.observe("node-1", func(in *orama.Instance) { in.Observed.At = time.Now().Add(-time.Minute) })
	w.gateway().mustDial(w.sfus[1], daily, w.token())
}

func TestARoomMovesAwayFromALostSFU(t *testing.T) {
	owner := orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 7, Permanent: true, CreatedAt: time.Unix(1000, 0)}
	for _, tc := range []struct {
		name string
		lose func(w *world)
	}{
		{"its process is gone", func(w *world) { w.sfus[0].srv.Close() }},
		{"its process is another now", func(w *world) { w.sfus[0].boot = "boot-2" }},
		{"it is draining and says so", func(w *world) { w.sfus[0].status.Store(503) }},
		{"it was seen draining", func(w *world) {
			w.observe("node-1", func(in *orama.Instance) { in.Observed.State = orama.StateDraining })
		}},
		{"it was seen failed", func(w *world) {
			w.observe("node-1", func(in *orama.Instance) { in.Observed.State = orama.StateFailed })
		}},
		{"it is to stop", func(w *world) {
			w.observe("node-1", func(in *orama.Instance) { in.Desired = orama.DesiredStop })
		}},
		{"its instance is gone", func(w *world) {
			w.store.change(func(m *memory) { m.cluster.Instances = m.cluster.Instances[1:] })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.store.rooms["daily"] = owner
			tc.lose(w)
			_, j := w.gateway().mustDial(w.sfus[1], daily, w.token())
			require.Equal(t, orama.NodeID("node-2"), j.ticket.Node)
			row := w.store.room("daily")
			require.Equal(t, orama.NodeID("node-2"), row.Node)
			require.Equal(t, int64(8), row.Epoch)
			require.True(t, row.Permanent, "what the room was stays")
			require.Equal(t, owner.CreatedAt, row.CreatedAt)
		})
	}
}

func TestARoomStaysWhereNothingSpeaksAgainstIt(t *testing.T) {
	for _, state := range []orama.State{orama.StateUnknown, orama.StateStarting, orama.StateReady} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t, 2)
			w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1}
			w.observe("node-1", func(in *orama.Instance) {
				in.Observed = orama.Observation{State: state, Boot: "boot-0", At: time.Now().Add(-time.Hour)}
			})
			w.gateway().mustDial(w.sfus[0], daily, w.token())
			require.Equal(t, int64(1), w.store.room("daily").Epoch)
		})
	}
}

func TestAnObservationOfAnEarlierBootDoesNotMoveARoom(t *testing.T) {
	w := newWorld(t, 2)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1}
	w.observe("node-1", func(in *orama.Instance) {
		in.Observed = orama.Observation{State: orama.StateFailed, Boot: "boot-0"}
	})
	w.gateway().mustDial(w.sfus[0], daily, w.token())
}

func TestTheOnlySFUGetsItsRoomsBackAfterARestart(t *testing.T) {
	w := newWorld(t, 1)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-0", Epoch: 1}
	_, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	require.Equal(t, "boot-1", j.ticket.Boot)
	require.Equal(t, int64(2), w.store.room("daily").Epoch)
}

func TestNotEverySFUIsTriedForEver(t *testing.T) {
	w := newWorld(t, 5)
	for _, f := range w.sfus {
		f.status.Store(503)
	}
	resp, code := refusedWith(t, w.gateway(), daily, w.token())
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "sfu_unavailable", code)
	refused := 0
	for _, f := range w.sfus {
		refused += f.refusals
	}
	require.Equal(t, maxDials, refused)
}

func TestASilentNodeIsGivenUp(t *testing.T) {
	w := newWorld(t, 2)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1}
	w.observe("node-1", func(in *orama.Instance) { in.Ports.Signal.First = silentPort(t) })
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.dialWithin = 100 * time.Millisecond })
	g.mustDial(w.sfus[1], daily, w.token())
}

func TestRefusalsOfTheSFUMoveNothing(t *testing.T) {
	for sfu, want := range map[int64]int{401: 503, 403: 403, 404: 404, 429: 429, 500: 503} {
		w := newWorld(t, 2)
		w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1}
		w.sfus[0].status.Store(sfu)
		resp, _ := refusedWith(t, w.gateway(), daily, w.token())
		require.Equal(t, want, resp.StatusCode, "for %d", sfu)
		require.Equal(t, int64(1), w.store.room("daily").Epoch)
	}
}

func TestAClientThatGoesAwayMovesNothing(t *testing.T) {
	w := newWorld(t, 2)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-1", Epoch: 1}
	w.observe("node-1", func(in *orama.Instance) { in.Ports.Signal.First = silentPort(t) })
	g := w.gateway()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, _, err := websocket.Dial(ctx, g.url+daily, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + w.token()}}})
	require.Error(t, err)
	g.Close() // waits for the request
	require.Equal(t, int64(1), w.store.room("daily").Epoch)
}

func TestTwoGatewaysAgreeOnOneOwner(t *testing.T) {
	w := newWorld(t, 3)
	gs := []*edge{
		w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-1" }),
		w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-2" }),
		w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-3" }),
	}
	const rooms, each = 8, 6
	var wg sync.WaitGroup
	for room := range rooms {
		for i := range each {
			wg.Go(func() {
				user := orama.UserID(fmt.Sprintf("user-%d-%d", room, i))
				_, _, err := gs[i%3].dial(fmt.Sprintf("%s?room=race-%d", signalPath, room), w.token(func(t *auth.Token) { t.User = user }))
				if err != nil {
					t.Errorf("join: %v", err)
				}
			})
		}
	}
	wg.Wait()
	nodes := map[orama.RoomID]map[orama.NodeID]int{}
	for _, f := range w.sfus {
		for _, j := range f.joinAll(t) {
			if nodes[j.ticket.Room] == nil {
				nodes[j.ticket.Room] = map[orama.NodeID]int{}
			}
			nodes[j.ticket.Room][j.ticket.Node]++
		}
	}
	require.Len(t, nodes, rooms)
	for room, on := range nodes {
		require.Len(t, on, 1, "room %s is split: %v", room, on)
		require.Equal(t, int64(1), w.store.room(room).Epoch)
	}
}

func TestTwoGatewaysMoveALostRoomOnce(t *testing.T) {
	w := newWorld(t, 3)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-0", Epoch: 1}
	w.sfus[0].status.Store(503)
	a, b := w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-2" }), w.gateway(func(c *Config, _ *Deps, _ *timing) { c.Node = "node-3" })
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			g := []*edge{a, b}[i%2]
			_, _, err := g.dial(daily, w.token(func(t *auth.Token) { t.User = orama.UserID(fmt.Sprint("u", i)) }))
			if err != nil {
				t.Errorf("join: %v", err)
			}
		})
	}
	wg.Wait()
	on2, on3 := len(w.sfus[1].joinAll(t)), len(w.sfus[2].joinAll(t))
	require.Equal(t, 10, on2+on3)
	require.True(t, on2 == 0 || on3 == 0, "the room is split")
	require.Equal(t, int64(2), w.store.room("daily").Epoch)
}

func TestTheTokenNamesTheRoom(t *testing.T) {
	w := newWorld(t, 1)
	_, j := w.gateway().mustDial(w.sfus[0], signalPath, w.token(func(t *auth.Token) { t.Room = "standup" }))
	require.Equal(t, orama.RoomID("standup"), j.ticket.Room)
}

func TestTheFirstFrameNamesTheRoom(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	c, _, err := g.dial(signalPath, w.token())
	require.NoError(t, err)
	first := `{"type":"join","room":"daily","name":"Alice"}`
	require.NoError(t, c.Write(within(t), websocket.MessageText, []byte(first)))
	j := w.sfus[0].join(t)
	require.Equal(t, orama.RoomID("daily"), j.ticket.Room)
	_, b, err := j.Read(within(t))
	require.NoError(t, err)
	require.Equal(t, first, string(b), "the frame is passed on")
}

func TestABadFirstFrameCloses(t *testing.T) {
	w := newWorld(t, 1)
	w.store.change(func(m *memory) { m.cluster.Namespaces[1].ClosedRooms = true })
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.firstWithin = 200 * time.Millisecond })
	for _, tc := range []struct {
		name, frame string
		credential  string
		code        int
	}{
		{"no room", `{"type":"join"}`, w.token(), signal.CloseMalformed},
		{"bad room", `{"type":"join","room":"a b"}`, w.token(), signal.CloseMalformed},
		{"another message", `{"type":"offer","sdp":"v=0"}`, w.token(), signal.CloseMalformed},
		{"no message", `hello`, w.token(), signal.CloseMalformed},
		{"too large", `{"type":"join","room":"a","x":"` + strings.Repeat("x", signal.MaxFirstFrame) + `"}`, w.token(), signal.CloseTooLarge},
		{"silence", ``, w.token(), signal.CloseNoFirstFrame},
		{"closed rooms", `{"type":"join","room":"a"}`, w.other, signal.CloseNoRoom},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _, err := g.dial(signalPath, tc.credential)
			require.NoError(t, err)
			if tc.frame != "" {
				require.NoError(t, c.Write(within(t), websocket.MessageText, []byte(tc.frame)))
			}
			code, reason := closeOf(t, c)
			require.Equal(t, tc.code, code, reason)
		})
	}
}

func TestAClientIsNotSentBackToTheNodeItLost(t *testing.T) {
	w := newWorld(t, 2)
	w.store.rooms["daily"] = orama.Room{Namespace: ns, ID: "daily", Node: "node-1", Boot: "boot-0", Epoch: 1}
	for i := range 5 { // node-2 is the busier one
		id := orama.RoomID(fmt.Sprint("busy-", i))
		w.store.rooms[id] = orama.Room{Namespace: ns, ID: id, Node: "node-2", Boot: "boot-1", Epoch: 1}
	}
	w.gateway().mustDial(w.sfus[1], daily, w.token())
}
