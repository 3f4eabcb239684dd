package gateway

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// drains sends an SFU's request to go, and gives it as the client has it.
func drains(t *testing.T, c *websocket.Conn, j *joined, m *signal.ServerDraining) *signal.ServerDraining {
	t.Helper()
	b, err := signal.Encode(m)
	require.NoError(t, err)
	require.NoError(t, j.Write(within(t), websocket.MessageText, b))
	_, b, err = c.Read(within(t))
	require.NoError(t, err)
	got, err := signal.Decode(b)
	require.NoError(t, err)
	return got.(*signal.ServerDraining)
}

func TestDrainingNamesTheNewOwner(t *testing.T) {
	w := newWorld(t, 2)
	here := w.gateway()
	c, j := here.mustDial(w.sfus[0], daily, w.token())
	d, k := here.mustDial(w.sfus[0], daily, w.token(func(t *auth.Token) { t.User = "bob" }))
	epoch := w.store.room("daily").Epoch

	asked := &signal.ServerDraining{Reason: "upgrade", DeadlineMS: 60_000}
	for _, got := range []*signal.ServerDraining{drains(t, c, j, asked), drains(t, d, k, asked)} {
		require.NotNil(t, got.Reconnect)
		require.Equal(t, "ws://127.0.0.12:8080/v1/webrtc/signal?room=daily", *got.Reconnect)
		require.Equal(t, asked.Reason, got.Reason)
		require.Equal(t, asked.DeadlineMS, got.DeadlineMS)
	}
	row := w.store.room("daily")
	require.Equal(t, orama.NodeID("node-2"), row.Node, "before anybody came there")
	require.Equal(t, epoch+1, row.Epoch, "moved once, however many were asked")

	// The old place is theirs until its deadline, though the record names the new one.
	here.sweep(context.Background())
	require.NoError(t, j.Write(within(t), websocket.MessageText, []byte("still here")))
	_, _, err := c.Read(within(t))
	require.NoError(t, err)
	w.gateway().mustDial(w.sfus[1], daily, w.token())
	w.clock.offset.Store(int64(2 * time.Minute))
	here.sweep(context.Background())
	code, _ := closeOf(t, c)
	require.Equal(t, signal.CloseGone, code)
}

func TestDrainingWithNowhereToGoNamesNobody(t *testing.T) {
	w := newWorld(t, 1)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	got := drains(t, c, j, &signal.ServerDraining{Reason: "upgrade", DeadlineMS: 1000})
	require.Nil(t, got.Reconnect)
	require.Equal(t, orama.NodeID("node-1"), w.store.room("daily").Node)
}

func TestDrainingFollowsARecordThatHasMoved(t *testing.T) {
	w := newWorld(t, 3)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	w.store.change(func(m *memory) {
		r := m.rooms["daily"]
		r.Node, r.Epoch = "node-3", r.Epoch+1
		m.rooms["daily"] = r
	})
	got := drains(t, c, j, &signal.ServerDraining{Reason: "it is elsewhere", DeadlineMS: 1000})
	require.NotNil(t, got.Reconnect)
	require.Equal(t, "ws://127.0.0.13:8080/v1/webrtc/signal?room=daily", *got.Reconnect)
	require.Equal(t, orama.NodeID("node-3"), w.store.room("daily").Node)
}

func TestWhatOnlyLooksLikeDrainingPassesUnread(t *testing.T) {
	w := newWorld(t, 2)
	c, j := w.gateway().mustDial(w.sfus[0], daily, w.token())
	elsewhere, err := json.Marshal(map[string]any{"type": "chat", "text": `{"type":"server-draining"}`})
	require.NoError(t, err)
	for _, frame := range []string{`{"type":"server-draining"`, `{"type":"server-draining","deadline_ms":"soon"}`, string(elsewhere)} {
		require.NoError(t, j.Write(within(t), websocket.MessageText, []byte(frame)))
		_, b, err := c.Read(within(t))
		require.NoError(t, err)
		require.Equal(t, frame, string(b))
	}
	require.Equal(t, orama.NodeID("node-1"), w.store.room("daily").Node)
}
