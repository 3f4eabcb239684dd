package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func TestAfterClose(t *testing.T) {
	for code, want := range map[int]struct {
		stops orama.Kind // "": goes on
		token bool
		waits bool
	}{
		signal.CloseLeft:         {stops: orama.KindUnavailable},
		signal.CloseTooLarge:     {stops: orama.KindInternal},
		signal.CloseMalformed:    {stops: orama.KindInternal},
		signal.CloseUnauthorized: {token: true},
		signal.CloseForbidden:    {stops: orama.KindForbidden},
		signal.CloseNoRoom:       {stops: orama.KindNotFound},
		signal.CloseNoFirstFrame: {waits: true},
		signal.CloseResumed:      {stops: orama.KindConflict},
		signal.CloseKicked:       {stops: orama.KindForbidden},
		signal.CloseTooFast:      {waits: true},
		signal.CloseInternal:     {waits: true},
		signal.CloseGone:         {},
		-1:                       {},
		1001:                     {},
		4999:                     {},
	} {
		v := afterClose(websocket.StatusCode(code))
		require.Equal(t, want.stops, orama.KindOf(v.stop), code)
		require.Equal(t, want.token, v.token, code)
		require.Equal(t, want.waits, v.after > 0, code)
	}
}

func TestAfterRefusal(t *testing.T) {
	for status, stops := range map[int]bool{400: true, 401: false, 403: true, 404: true, 409: false, 429: false, 500: false, 502: false, 503: false} {
		v := afterRefusal(orama.Errorf(kindOfStatus(status), "refused", "no"))
		require.Equal(t, stops, v.stop != nil, status)
		require.Equal(t, status == 401, v.token, status)
	}
	require.Equal(t, 3*time.Second, afterRefusal(&orama.Error{Kind: orama.KindLimited, RetryAfter: 3 * time.Second}).after)
	require.Equal(t, verdict{}, afterRefusal(context.DeadlineExceeded))
}

func TestEndpoint(t *testing.T) {
	o := Options{Room: "a room", Transports: []string{"tcp", "tls"}}
	for in, want := range map[string]string{
		"http://localhost:8080":                   "ws://localhost:8080/v1/webrtc/signal?room=a+room&transports=tcp%2Ctls",
		"https://ns-a.example/":                   "wss://ns-a.example/v1/webrtc/signal?room=a+room&transports=tcp%2Ctls",
		"wss://ns-a.example/v1/webrtc/signal?x=1": "wss://ns-a.example/v1/webrtc/signal?room=a+room&transports=tcp%2Ctls",
		"https://ns-a.example/base":               "wss://ns-a.example/base/v1/webrtc/signal?room=a+room&transports=tcp%2Ctls",
	} {
		got, err := o.endpoint(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"", "localhost:8080", "ftp://host", "http://", "://"} {
		_, err := o.endpoint(in)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), in)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	long := string(make([]byte, 200))
	for name, o := range map[string]Options{
		"no credential":     {Room: "a"},
		"long room":         {Token: "t", Room: long},
		"long name":         {Token: "t", Name: long},
		"broken metadata":   {Token: "t", Metadata: json.RawMessage("{")},
		"too much metadata": {Token: "t", Metadata: json.RawMessage(`"` + string(make([]byte, 5000)) + `"`)},
	} {
		_, err := Join(t.Context(), "http://127.0.0.1:1", o)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), name)
	}
	for _, o := range []TrackOptions{{}, {Kind: "smell"}, {Kind: "audio", Codec: "video/VP8"}, {Kind: "video", Source: long}} {
		require.Equal(t, orama.KindInvalid, orama.KindOf(o.complete()))
	}
}

func TestPacerStaysBelowTheProtocolsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pacer
		limit := signal.Limiter{}
		for range 200 {
			require.True(t, p.wait(t.Context()))
			require.True(t, limit.Allow(time.Now()), "the SFU would close the socket")
		}
		time.Sleep(time.Minute)
		began := time.Now()
		for range upBurst {
			require.True(t, p.wait(t.Context()))
		}
		require.Equal(t, began, time.Now(), "a burst is not held back")
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		require.False(t, p.wait(canceled))
	})
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempt := rapid.IntRange(0, 1000).Draw(t, "attempt")
		d := backoff(attempt)
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.Less(t, d, backoffMost)
		require.Equal(t, attempt == 0, d == 0)
	})
}

func TestMailboxKeepsOrderAndDropsTheOldest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		in := rapid.SliceOf(rapid.Int()).Draw(t, "in")
		m := newMailbox[int](limit)
		dropped := 0
		for _, v := range in {
			if m.post(v) {
				dropped++
			}
		}
		out := m.take()
		require.Equal(t, len(in), dropped+len(out))
		require.LessOrEqual(t, len(out), limit)
		require.Equal(t, append([]int(nil), in[dropped:]...), out)
	})
}

func TestSlowReaderLosesTheOldest(t *testing.T) {
	r := newRemoteTrack("p", Track{TrackID: "t"}, webrtc.RTPCodecParameters{}, nil)
	for i := range downQueue + 10 {
		r.push(&rtp.Packet{Header: rtp.Header{SequenceNumber: uint16(i)}})
	}
	require.EqualValues(t, 10, r.Dropped())
	r.end()
	r.end()
	p, err := r.ReadRTP()
	require.NoError(t, err, "what has arrived can still be read")
	require.EqualValues(t, 10, p.SequenceNumber)
	for range downQueue - 1 {
		_, err = r.ReadRTP()
		require.NoError(t, err)
	}
	_, err = r.ReadRTP()
	require.ErrorContains(t, err, "EOF")
}

func TestRelayDialerLearnsWhichAreSecure(t *testing.T) {
	d := &relayDialer{}
	d.learn([]string{"turn:192.0.2.1:3478?transport=tcp", "turns:turn.example:443?transport=tcp", "turns:turn.example", "turns:[2001:db8::1]:5349"})
	require.Equal(t, map[string]bool{"turn.example:443": true, "turn.example:5349": true, "[2001:db8::1]:5349": true}, d.secure)
}

func TestLevel(t *testing.T) {
	for level, want := range map[float64]uint8{0: 127, 1: 0, 0.5: 6, 2: 0, 1e-9: 127} {
		h := rtp.Header{}
		require.NoError(t, setLevel(&h, 3, level))
		var ext rtp.AudioLevelExtension
		require.NoError(t, ext.Unmarshal(h.GetExtension(3)))
		require.Equal(t, want, ext.Level, level)
		require.Equal(t, level > 0, ext.Voice)
	}
}

// script is a gateway that plays one function per socket, the last for all further ones.
type script struct {
	srv *httptest.Server
	mu  sync.Mutex
	got []signal.Join // guarded by mu
}

func play(t *testing.T, acts ...func(ws *websocket.Conn, join signal.Join)) *script {
	s := &script{}
	s.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow() //nolint:errcheck // a test's
		_, frame, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		m, err := signal.Decode(frame)
		join, ok := m.(*signal.Join)
		if err != nil || !ok {
			return
		}
		s.mu.Lock()
		act := acts[min(len(s.got), len(acts)-1)]
		s.got = append(s.got, *join)
		s.mu.Unlock()
		act(ws, *join)
	}))
	t.Cleanup(s.srv.Close)
	return s
}

func (s *script) joins() []signal.Join {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]signal.Join(nil), s.got...)
}

// admit confirms a join and then ends the socket with a code; 0 waits for the client to end it.
func admit(j signal.Joined, code websocket.StatusCode) func(*websocket.Conn, signal.Join) {
	return func(ws *websocket.Conn, _ signal.Join) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		frame, _ := signal.Encode(&j)
		ws.Write(ctx, websocket.MessageText, frame) //nolint:errcheck // a test's
		if code != 0 {
			ws.Close(code, "") //nolint:errcheck // a test's
			return
		}
		for {
			if _, _, err := ws.Read(ctx); err != nil {
				return
			}
		}
	}
}

func join(t *testing.T, s *script, o Options) *Room {
	t.Helper()
	o.Room, o.Token = "daily", "token"
	r, err := Join(t.Context(), s.srv.URL, o)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func TestFatalCodesCloseTheRoom(t *testing.T) {
	for code, kind := range map[websocket.StatusCode]orama.Kind{
		signal.CloseKicked: orama.KindForbidden, signal.CloseNoRoom: orama.KindNotFound, signal.CloseResumed: orama.KindConflict,
		signal.CloseUnauthorized: orama.KindUnauthenticated, signal.CloseForbidden: orama.KindForbidden,
	} {
		s := play(t, admit(signal.Joined{PeerID: "p_1", Resume: "r_1"}, code))
		r := join(t, s, Options{})
		require.Equal(t, kind, orama.KindOf(r.WaitState(t.Context(), StateConnected)), code)
		<-r.Done()
		require.Equal(t, StateClosed, r.State())
		require.Len(t, s.joins(), 1)
		_, err := r.Publish(t.Context(), TrackOptions{Kind: "audio"})
		require.Error(t, err)
		require.Error(t, r.Subscribe(t.Context(), "t_1"))
	}
}

func TestLostSocketsResume(t *testing.T) {
	s := play(t,
		admit(signal.Joined{PeerID: "p_1", Resume: "r_1", Peers: []signal.Peer{{PeerID: "p_2"}, {PeerID: "p_3"}}}, signal.CloseGone),
		admit(signal.Joined{PeerID: "p_9", Resume: "r_9", Peers: []signal.Peer{{PeerID: "p_2"}, {PeerID: "p_4"}}}, 0))
	events := make(chan Event, 64)
	r := join(t, s, Options{Name: "alice", OnEvent: func(e Event) { events <- e }})
	seen := map[Event]bool{}
	for want := range map[Event]bool{PeerLeft{PeerID: "p_3", Reason: "lost"}: true} {
		for !seen[want] {
			select {
			case e := <-events:
				if _, ok := e.(PeerJoined); !ok { // holds a slice, which no map takes
					seen[e] = true
				}
			case <-time.After(patience):
				t.Fatalf("no %#v", want)
			}
		}
	}
	joins := s.joins()
	require.Len(t, joins, 2)
	require.Empty(t, joins[0].Resume)
	require.True(t, joins[0].AwaitOffer)
	require.Equal(t, "r_1", joins[1].Resume)
	require.Equal(t, "alice", joins[1].Name)
	require.Equal(t, orama.PeerID("p_9"), r.PeerID())
	require.Len(t, r.Peers(), 2)
}

func TestNewTokenWhenTheOldIsNoLongerGood(t *testing.T) {
	s := play(t, admit(signal.Joined{PeerID: "p_1"}, signal.CloseUnauthorized), admit(signal.Joined{PeerID: "p_2"}, 0))
	var mu sync.Mutex
	asked := 0
	r, err := Join(t.Context(), s.srv.URL, Options{Room: "daily", TokenFunc: func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return "token", nil
	}})
	require.NoError(t, err)
	defer r.Close()
	require.Eventually(t, func() bool { return r.PeerID() == "p_2" }, patience, 5*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 2, asked)
}

func TestLeaveIsHeard(t *testing.T) {
	heard := make(chan signal.Message, 8)
	s := play(t, func(ws *websocket.Conn, _ signal.Join) {
		frame, _ := signal.Encode(&signal.Joined{PeerID: "p_1"})
		ws.Write(context.Background(), websocket.MessageText, frame) //nolint:errcheck // a test's
		for {
			_, frame, err := ws.Read(context.Background())
			if err != nil {
				close(heard)
				return
			}
			if m, err := signal.Decode(frame); err == nil {
				heard <- m
			}
		}
	})
	r := join(t, s, Options{})
	require.NoError(t, r.Leave(t.Context()))
	require.NoError(t, r.Err())
	require.IsType(t, &signal.Leave{}, <-heard)
}

func TestRefusedJoin(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		w.Write([]byte(`{"code":"too_many_joins","detail":"slow down"}`)) //nolint:errcheck // a test's
	}))
	defer srv.Close()
	_, err := Join(t.Context(), srv.URL, Options{Room: "daily", Token: "t"})
	var e *orama.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, orama.Error{Kind: orama.KindLimited, Code: "too_many_joins", Message: "slow down", RetryAfter: 7 * time.Second}, *e)
}

func TestTokensTravelInHeadersAlone(t *testing.T) {
	var o Options
	o.Token = "secret"
	h, err := o.header(t.Context())
	require.NoError(t, err)
	require.Equal(t, http.Header{"Authorization": {"Bearer secret"}}, h)
	o = Options{APIKey: "orama_a_b_c"}
	h, err = o.header(t.Context())
	require.NoError(t, err)
	require.Equal(t, "orama_a_b_c", h.Get("X-API-Key"))
	u, err := o.endpoint("https://x.example")
	require.NoError(t, err)
	require.NotContains(t, u, "orama_")
}

func TestRelayDialerSpeaksTLSOnlyWhereToldTo(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	address := srv.Listener.Addr().String()
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig
	d := &relayDialer{ctx: t.Context(), dial: (&net.Dialer{}).DialContext, config: &tls.Config{RootCAs: roots.RootCAs, MinVersion: tls.VersionTLS12}}
	plain, err := d.Dial("tcp4", address)
	require.NoError(t, err)
	require.IsType(t, &net.TCPAddr{}, plain.LocalAddr())
	plain.Close()
	d.learn([]string{"turns:" + address + "?transport=tcp"})
	secure, err := d.Dial("tcp4", address)
	require.NoError(t, err)
	require.IsType(t, &tls.Conn{}, secure.(tcpAddrs).Conn)
	secure.Close()
	d.config = &tls.Config{MinVersion: tls.VersionTLS12}
	_, err = d.Dial("tcp4", address)
	require.Error(t, err, "a certificate of nobody's")
}
