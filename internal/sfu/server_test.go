package sfu

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

func TestApplyRefusesWhatIsNotOnTheMesh(t *testing.T) {
	good := newWorld(t).spec
	for name, edit := range map[string]func(*plan.SFUSpec){
		"unspecified":      func(s *plan.SFUSpec) { s.MeshIP = netip.IPv4Unspecified() },
		"none":             func(s *plan.SFUSpec) { s.MeshIP = netip.Addr{} },
		"outside":          func(s *plan.SFUSpec) { s.MeshCIDR = netip.MustParsePrefix("10.0.0.0/24") },
		"everything":       func(s *plan.SFUSpec) { s.MeshCIDR = netip.MustParsePrefix("0.0.0.0/0") },
		"no mesh":          func(s *plan.SFUSpec) { s.MeshCIDR = netip.Prefix{} },
		"no secret":        func(s *plan.SFUSpec) { s.Secret = "" },
		"no TTL":           func(s *plan.SFUSpec) { s.CredentialTTL = 0 },
		"bad key":          func(s *plan.SFUSpec) { s.TicketKey = "x" },
		"bad namespace":    func(s *plan.SFUSpec) { s.Namespace = "Not One" },
		"relay of anybody": func(s *plan.SFUSpec) { s.Relays = []plan.RelaySource{{IP: netip.IPv4Unspecified()}} },
		"relay block wraps": func(s *plan.SFUSpec) {
			s.Relays = []plan.RelaySource{{IP: s.MeshIP, Ports: orama.PortRange{First: 65000, Count: 800}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := New(testLog(), nil)
			spec := good
			edit(&spec)
			require.Equal(t, orama.KindInvalid, orama.KindOf(srv.Apply(spec)))
			require.False(t, srv.Status().Configured)
			require.NoError(t, srv.Close())
		})
	}
}

func TestApplyAgainNeedsTheSamePlace(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.srv.Apply(w.spec), "the same changes nothing")
	moved := w.spec
	moved.Node = "node-2"
	require.Equal(t, orama.KindConflict, orama.KindOf(w.srv.Apply(moved)))
}

func TestApplyNamesAPortInUse(t *testing.T) {
	w := newWorld(t)
	signalAt, mediaAt := w.srv.Addrs()
	for _, edit := range []func(*plan.SFUSpec){
		func(s *plan.SFUSpec) { s.SignalPort = signalAt.Port() },
		func(s *plan.SFUSpec) { s.MediaPort = mediaAt.Port() },
	} {
		other := New(testLog(), nil)
		spec := w.spec
		edit(&spec)
		require.Equal(t, orama.KindUnavailable, orama.KindOf(other.Apply(spec)))
		require.NoError(t, other.Apply(w.spec), "nothing of the failed attempt is left")
		require.NoError(t, other.Close())
	}
}

// Relays, servers and the secret change under a running call.
func TestApplyDuringACall(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	first := await[*signal.TURNCredentials](bob.wire)
	require.Equal(t, []string{"turn:192.0.2.1:3478?transport=udp"}, first.URLs)
	require.Equal(t, first.URLs, first.URIs)
	require.Equal(t, 600, first.TTL)

	next := w.spec
	next.Secret = "another"
	next.Servers = []orama.TURNServer{{URL: "turn:192.0.2.2:3478?transport=udp", Transport: "udp", Default: true}}
	require.NoError(t, w.srv.Apply(next))
	second := await[*signal.RefreshCredentials](bob.wire)
	require.Equal(t, []string{"turn:192.0.2.2:3478?transport=udp"}, second.URLs)
	require.Equal(t, auth.TURNCredential("another", second.Username), second.Credential)
	drainChan(x.packets)
	x.packet(t)

	next.Relays = nil
	before := w.srv.Status().Counters.PacketsFiltered
	require.NoError(t, w.srv.Apply(next))
	require.Eventually(t, func() bool { return w.srv.Status().Counters.PacketsFiltered > before }, patience, 5*time.Millisecond)
	quiet(t, x)
	require.NoError(t, w.srv.Apply(w.spec))
	x.packet(t)
}

func TestTickets(t *testing.T) {
	w := newWorld(t)
	otherKeys := auth.NewKeys([32]byte{9})
	forged, err := otherKeys.MintTicket(auth.Ticket{Namespace: "demo", Node: "node-1", Boot: w.srv.Status().Boot, Room: "daily", User: "a"})
	require.NoError(t, err)
	used := w.ticket()
	require.Equal(t, http.StatusUpgradeRequired, w.do("GET", "/v1/signal", used).StatusCode)
	for name, c := range map[string]struct {
		ticket string
		status int
	}{
		"none":            {"", 401},
		"garbage":         {"a.b.c", 401},
		"forged":          {forged, 401},
		"used":            {used, 401},
		"other node":      {w.ticket(func(t *auth.Ticket) { t.Node = "node-2" }), 401},
		"other namespace": {w.ticket(func(t *auth.Ticket) { t.Namespace = "other" }), 401},
		"other boot":      {w.ticket(func(t *auth.Ticket) { t.Boot = "b_old" }), 409},
		"expired":         {w.ticket(func(t *auth.Ticket) { t.Issued, t.Expires = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute) }), 401},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.status, w.do("GET", "/v1/signal", c.ticket).StatusCode)
		})
	}
	resp := w.do("GET", "/v1/signal", w.ticket(func(t *auth.Ticket) { t.Boot = "b_old" }))
	require.Equal(t, "wrong_boot", decode[map[string]string](t, resp.Body)["code"])
	require.Equal(t, http.StatusForbidden, w.do("GET", "/v1/rooms", w.ticket()).StatusCode)
	require.Equal(t, http.StatusForbidden, w.do("DELETE", "/v1/rooms/daily", w.ticket(func(t *auth.Ticket) { t.Admin = true })).StatusCode)
}

func TestAnUnconfiguredServerIsUnavailable(t *testing.T) {
	srv := New(testLog(), nil)
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{Handler: srv.Handler()}
	go s.Serve(l)
	defer s.Close()
	resp, err := http.Get("http://" + l.Addr().String() + "/v1/signal")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

func admin(t *auth.Ticket) { t.Admin, t.Room = true, "" }

func TestRoomsOverHTTP(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{})
	await[*signal.Joined](alice)
	type rooms struct {
		Rooms []struct {
			ID           string `json:"room_id"`
			Participants int    `json:"participants"`
		} `json:"rooms"`
	}
	got := decode[rooms](t, w.do("GET", "/v1/rooms", w.ticket(admin)).Body)
	require.Len(t, got.Rooms, 1)
	require.Equal(t, "daily", got.Rooms[0].ID)
	require.Equal(t, 1, got.Rooms[0].Participants)
	require.Equal(t, http.StatusNotFound, w.do("DELETE", "/v1/rooms/other", w.ticket(admin)).StatusCode)
	require.Equal(t, http.StatusNoContent, w.do("DELETE", "/v1/rooms/daily", w.ticket(admin)).StatusCode)
	await[*signal.RoomClosed](alice)
	require.Equal(t, signal.CloseNoRoom, alice.closeCode())
	require.Eventually(t, func() bool { return len(w.srv.Status().Rooms) == 0 }, patience, 5*time.Millisecond)
}

// The agent's probe joins a room of its own, which is gone as soon as it leaves.
func TestTheProbeRoomIsForgottenAtOnce(t *testing.T) {
	w := newWorld(t)
	probe := w.dial(admin)
	probe.send(&signal.Join{Name: "probe"})
	require.Equal(t, probeRoom, await[*signal.Joined](probe).Room)
	require.Empty(t, decode[map[string][]any](t, w.do("GET", "/v1/rooms", w.ticket(admin)).Body)["rooms"])
	probe.send(&signal.Leave{})
	require.Equal(t, signal.CloseLeft, probe.closeCode())
	require.Eventually(t, func() bool { return len(w.srv.Status().Rooms) == 0 }, patience, 5*time.Millisecond)
}

func TestDrainAsksAndThenCloses(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.dial(), w.dial()
	for _, c := range []*wire{alice, bob} {
		c.send(&signal.Join{})
		await[*signal.Joined](c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.srv.Drain(ctx, "maintenance")
	}()
	for _, c := range []*wire{alice, bob} {
		m := await[*signal.ServerDraining](c)
		require.Equal(t, "maintenance", m.Reason)
		require.InDelta(t, 1000, m.DeadlineMS, 500)
		require.Nil(t, m.Reconnect)
	}
	require.True(t, w.srv.Status().Draining)
	require.Equal(t, http.StatusServiceUnavailable, w.do("GET", "/v1/signal", w.ticket()).StatusCode)
	alice.send(&signal.Leave{})
	require.Equal(t, signal.CloseLeft, alice.closeCode())
	require.Equal(t, signal.CloseGone, bob.closeCode(), "at the deadline")
	wait(t, drained, "Drain")
}

func TestDrainReturnsWhenNobodyIsLeft(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{})
	await[*signal.Joined](alice)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.srv.Drain(context.Background(), "")
	}()
	await[*signal.ServerDraining](alice)
	alice.send(&signal.Leave{})
	wait(t, drained, "Drain")
}

func TestCloseEndsASocketThatNeverJoined(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	require.NoError(t, w.srv.Close())
	<-c.done
	require.NoError(t, w.srv.Close(), "a second time")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(w.srv.Apply(w.spec)))
}

func TestMetricsAreRegistered(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	srv := New(testLog(), reg)
	defer srv.Close()
	families, err := reg.Gather()
	require.NoError(t, err)
	names := []string{}
	for _, f := range families {
		names = append(names, f.GetName())
		require.True(t, strings.HasPrefix(f.GetName(), "orama_sfu_"))
	}
	for _, want := range []string{"peers", "rooms", "tracks", "packets_in_total", "packets_filtered_total", "candidates_removed_total", "pli_sent_total", "join_seconds"} {
		require.Contains(t, names, "orama_sfu_"+want)
	}
}

func TestTheSocketAnswersRelaysAlone(t *testing.T) {
	w := newWorld(t)
	next := w.spec
	next.Relays = []plan.RelaySource{{IP: w.spec.MeshIP, Ports: orama.PortRange{First: 1, Count: 1}}}
	require.NoError(t, w.srv.Apply(next))
	_, mediaAt := w.srv.Addrs()
	c, err := net.Dial("udp", mediaAt.String())
	require.NoError(t, err)
	defer c.Close()
	for range 10 {
		_, err = c.Write([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return w.srv.Status().Counters.PacketsFiltered == 10 }, patience, 5*time.Millisecond)
	_, err = w.srv.listeners().guard.WriteTo([]byte("x"), c.LocalAddr())
	require.ErrorIs(t, err, errNotRelay)
}

// A socket that is not read is closed; the room goes on.
func TestASocketThatIsNotReadIsClosed(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	deaf, _, err := websocket.Dial(ctx, w.url("/v1/signal"), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Ticket " + w.ticket()}},
	})
	require.NoError(t, err)
	defer deaf.CloseNow()
	require.NoError(t, deaf.Write(ctx, websocket.MessageText, []byte(`{"type":"join"}`)))
	require.Eventually(t, func() bool { return w.room("daily") != nil && w.room("daily").count.Load() == 1 }, patience, 5*time.Millisecond)
	r := w.room("daily")
	big := &signal.ServerDraining{Reason: strings.Repeat("x", 60_000)}
	require.Eventually(t, func() bool {
		sent := make(chan struct{}) // the room's own work is not to pile up
		r.inbox.post(func() {
			defer close(sent)
			for range 50 {
				r.broadcast(big, nil)
			}
		})
		<-sent
		return w.srv.Status().Counters.SocketsSlow > 0
	}, patience, 10*time.Millisecond)
	other := w.dial()
	other.send(&signal.Join{})
	await[*signal.Joined](other)
}

// room gives a room to look into.
func (w *world) room(id orama.RoomID) *room {
	w.srv.mu.Lock()
	defer w.srv.mu.Unlock()
	return w.srv.rooms[id]
}

func TestAnEmptyRoomIsForgottenAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(testLog(), nil)
		r := newRoom("daily", s)
		s.rooms[r.id] = r
		s.wg.Go(r.run)
		time.Sleep(forgetAfter - time.Second)
		synctest.Wait()
		require.Len(t, s.Status().Rooms, 1)
		require.NotNil(t, s.Status().Rooms[0].EmptySince)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Empty(t, s.Status().Rooms)
		require.NoError(t, s.Close())
	})
}

// inside runs f in the loop of the room's only peer, or of one of several.
func (w *world) inside(t *testing.T, f func(p *peer), which ...orama.PeerID) {
	t.Helper()
	done := make(chan struct{})
	r := w.room("daily")
	r.inbox.post(func() {
		for _, p := range r.peers {
			if len(which) == 0 || p.id == which[0] {
				p.post(func() { f(p); close(done) })
			}
		}
	})
	wait(t, done, "the peer's loop")
}

func TestAPeerThatNobodyResumesIsLost(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{})
	await[*signal.Joined](c)
	c.ws.CloseNow()
	gone := false
	for !gone {
		w.inside(t, func(p *peer) { gone = !p.life.socketLost.IsZero() })
	}
	w.inside(t, func(p *peer) { p.life.socketLost = p.life.socketLost.Add(-signal.ResumeWithin) })
	require.Eventually(t, func() bool { return w.room("daily").count.Load() == 0 }, patience, 5*time.Millisecond)
}

func TestAPeerWhoseMediaStaysAwayIsClosed(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{})
	await[*signal.Joined](c)
	w.inside(t, func(p *peer) {
		p.life.mediaFlows()
		p.life.mediaSilent(time.Now().Add(-restartWithin))
	})
	require.Equal(t, signal.CloseGone, c.closeCode())
}
