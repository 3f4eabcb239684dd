package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

func TestFramesPassUnread(t *testing.T) {
	w := newWorld(t, 1)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	frames := []struct {
		kind websocket.MessageType
		data []byte
	}{
		{websocket.MessageText, []byte(`{"type":"join"}`)},
		{websocket.MessageText, []byte(`not json at all`)},
		{websocket.MessageText, []byte{}},
		{websocket.MessageBinary, []byte{0, 1, 0xff}},
		{websocket.MessageText, bytes.Repeat([]byte("x"), signal.MaxFrame)},
	}
	for _, way := range []struct{ from, to *websocket.Conn }{{c, j.Conn}, {j.Conn, c}} {
		for _, f := range frames {
			require.NoError(t, way.from.Write(within(t), f.kind, f.data))
			kind, got, err := way.to.Read(within(t))
			require.NoError(t, err)
			require.Equal(t, f.kind, kind)
			require.True(t, bytes.Equal(f.data, got))
		}
	}
}

func TestCloseCodesOfTheSFUReachTheClient(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for sfu, want := range map[websocket.StatusCode]int{
		1000: 1000, 1009: 1009, 4400: 4400, 4401: 4401, 4403: 4403, 4404: 4404, 4408: 4408, 4409: 4409, 4410: 4410, 4429: 4429, 4500: 4500, 4503: 4503,
		1001: 4503, 1011: 4500, 1012: 4503, 1013: 4503, websocket.StatusNoStatusRcvd: 4503,
	} {
		c, j := g.mustDial(w.sfus[0], daily+string(rune('a'+len(w.sfus[0].tickets)%20)), w.token())
		go j.Close(sfu, "why")
		code, reason := closeOf(t, c)
		require.Equal(t, want, code)
		if int(sfu) == want {
			require.Equal(t, "why", reason)
		}
	}
}

func TestALostSFUCloses4503(t *testing.T) {
	w := newWorld(t, 1)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	require.NoError(t, j.CloseNow())
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseGone, code)
}

func TestASilentSFUCloses4503(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) {
		tm.sfuEvery, tm.sfuWithin = 30*time.Millisecond, 100*time.Millisecond
	})
	c, _ := g.mustDial(w.sfus[0], daily, w.token()) // the SFU's end is never read, so that no pong comes
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseGone, code)
}

// How a client goes decides whether the SFU may know of it by a close frame: only codes of the application.
func TestAClientThatGoesWithoutLeaveHasLostItsSocket(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for _, tc := range []struct {
		name string
		go_  func(c *websocket.Conn)
		want int // 0: without a close frame
	}{
		{"connection lost", func(c *websocket.Conn) { c.CloseNow() }, 0},
		{"1000", func(c *websocket.Conn) { c.Close(1000, "") }, 0},
		{"1001", func(c *websocket.Conn) { c.Close(1001, "") }, 0},
		{"no code", func(c *websocket.Conn) { c.Close(websocket.StatusNoStatusRcvd, "") }, 0},
		{"4000", func(c *websocket.Conn) { c.Close(4000, "bye") }, 4000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, j := g.mustDial(w.sfus[0], daily, w.token())
			require.NoError(t, c.Write(within(t), websocket.MessageText, []byte(`{"type":"leave"}`)))
			tc.go_(c)
			_, b, err := j.Read(within(t))
			require.NoError(t, err, "what was sent before still arrives")
			require.Equal(t, `{"type":"leave"}`, string(b))
			_, _, err = j.Read(within(t))
			require.Error(t, err)
			require.Equal(t, tc.want, max(0, int(websocket.CloseStatus(err))), "%v", err)
		})
	}
}

func TestASilentClientIsLost(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) {
		tm.pingEvery, tm.pongWithin = 30*time.Millisecond, 100*time.Millisecond
	})
	_, j := g.mustDial(w.sfus[0], daily, w.token()) // the client's end is never read
	_, _, err := j.Read(within(t))
	require.Error(t, err)
	require.Equal(t, websocket.StatusCode(-1), websocket.CloseStatus(err))
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

func TestAClientThatAnswersPingsStays(t *testing.T) {
	w := newWorld(t, 1)
	pings := make(chan struct{}, 64)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.pingEvery, tm.pongWithin = 10*time.Millisecond, 5*time.Second })
	c, _, err := g.dial(daily, w.token(), func(o *websocket.DialOptions) {
		o.OnPingReceived = func(context.Context, []byte) bool { pings <- struct{}{}; return true }
	})
	require.NoError(t, err)
	j := w.sfus[0].join(t)
	go c.Read(context.Background())
	for range 5 {
		<-pings
	}
	require.NoError(t, j.Write(within(t), websocket.MessageText, []byte("still here")))
}

func TestATooLargeFrameCloses1009AndLosesThePeer(t *testing.T) {
	w := newWorld(t, 1)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.Write(within(t), websocket.MessageText, bytes.Repeat([]byte("x"), signal.MaxFrame+1))
	}()
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseTooLarge, code)
	_, _, err := j.Read(within(t))
	require.Error(t, err)
	require.Equal(t, websocket.StatusCode(-1), websocket.CloseStatus(err))
	<-sent
}

// A client that stops inside a frame must not hold its pipe: the library's close would wait for the rest.
func TestAClientThatStopsInsideAFrameIsLetGo(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	conn := rawUpgrade(t, g, daily, w.token())
	j := w.sfus[0].join(t)
	// A masked text frame of 64 KiB, of which only the first bytes come.
	_, err := conn.Write(append([]byte{0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, "abc"...))
	require.NoError(t, err)
	start := time.Now()
	go j.Close(4400, "malformed")
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.sockets == 0
	}, 5*time.Second, 10*time.Millisecond)
	require.Less(t, time.Since(start), 4*time.Second)
}

// rawUpgrade is a client without a library.
func rawUpgrade(t *testing.T, g *edge, path, token string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	req, err := http.NewRequest("GET", g.url+path, nil)
	require.NoError(t, err)
	for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Authorization": "Bearer " + token} {
		req.Header.Set(k, v)
	}
	require.NoError(t, req.Write(conn))
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	require.Contains(t, string(buf[:n]), "101 Switching Protocols")
	return conn
}

func TestASlowSideIsGivenUp(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.writeWithin = 200 * time.Millisecond })
	_, j := g.mustDial(w.sfus[0], daily, w.token()) // the client never reads
	frame := bytes.Repeat([]byte("x"), signal.MaxFrame)
	var err error
	for range 1000 { // more than all buffers between hold
		if err = j.Write(within(t), websocket.MessageText, frame); err != nil {
			break
		}
	}
	require.Error(t, err)
}

func TestCloseEndsEverySocketWith4503AndWaits(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	c, j := g.mustDial(w.sfus[0], daily, w.token())
	closed := make(chan struct{})
	go func() { defer close(closed); g.Close() }()
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseGone, code)
	<-closed
	require.Empty(t, g.pipes)
	_, _, err := j.Read(within(t))
	require.Equal(t, websocket.StatusCode(-1), websocket.CloseStatus(err), "the SFU keeps the peer for a resume")

	resp, problem := refusedWith(t, g, daily, w.token())
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "draining", problem)
	require.Equal(t, 503, g.do("GET", "/readyz", "", "").StatusCode)
	require.Equal(t, 200, g.do("GET", "/healthz", "", "").StatusCode)
	g.Close() // again does nothing
}

func TestSweep(t *testing.T) {
	moved := func(r orama.Room) orama.Room { r.Node, r.Epoch = "node-2", r.Epoch+1; return r }
	for _, tc := range []struct {
		name   string
		change func(m *memory)
		sweeps int
		cut    bool
	}{
		{"nothing happened", func(*memory) {}, 5, false},
		{"moved to another node", func(m *memory) { m.rooms["daily"] = moved(m.rooms["daily"]) }, 1, true},
		{"claimed for another boot", func(m *memory) { r := m.rooms["daily"]; r.Boot = "boot-2"; m.rooms["daily"] = r }, 1, true},
		{"missing, but perhaps not for long", func(m *memory) { delete(m.rooms, "daily") }, maxAbsent - 1, false},
		{"missing for long", func(m *memory) { delete(m.rooms, "daily") }, maxAbsent, true},
		{"the store does not answer", func(m *memory) { m.err = errors.New("down") }, 5, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			g := w.gateway()
			c, j := g.mustDial(w.sfus[0], daily, w.token())
			require.NoError(t, j.Write(within(t), websocket.MessageText, []byte("x")))
			_, _, err := c.Read(within(t)) // the pipe is in the list now
			require.NoError(t, err)
			w.store.change(tc.change)
			for range tc.sweeps {
				g.sweep(context.Background())
			}
			if tc.cut {
				code, _ := closeOf(t, c)
				require.Equal(t, signal.CloseGone, code)
				return
			}
			require.NoError(t, j.Write(within(t), websocket.MessageText, []byte("y")))
			_, _, err = c.Read(within(t))
			require.NoError(t, err)
		})
	}
}

func TestTheSweepRunsByItself(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway(func(_ *Config, _ *Deps, tm *timing) { tm.sweepEvery = 20 * time.Millisecond })
	c, _ := g.mustDial(w.sfus[0], daily, w.token())
	w.store.change(func(m *memory) { delete(m.rooms, "daily") })
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseGone, code)
}

// While a client writes, the SFU's close frame must win over the failing write.
func TestACloseCodeIsNotLostToAFailingWrite(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	for range 20 {
		token := w.token(func(t *auth.Token) { t.User = orama.UserID(rand.Text()) })
		c, j := g.mustDial(w.sfus[0], daily, token)
		go func() {
			for c.Write(context.Background(), websocket.MessageText, make([]byte, 1000)) == nil {
			}
		}()
		_, _, err := j.Read(within(t))
		require.NoError(t, err)
		go j.Close(4410, "kicked")
		code, _ := closeOf(t, c)
		require.Equal(t, 4410, code)
	}
}
