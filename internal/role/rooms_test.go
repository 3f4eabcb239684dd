package role

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/sfu"
	"orama.network/orama/internal/signal"
)

// The agent's way to an SFU's rooms, through its control socket: it sees who is there, and sends them away.
func TestRoomsOverTheControlSocket(t *testing.T) {
	keys := auth.NewKeys([32]byte{1})
	srv := sfu.New(slog.New(slog.DiscardHandler), nil)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	require.NoError(t, srv.Apply(plan.SFUSpec{Namespace: "demo", Node: "node-1", MeshIP: netip.MustParseAddr("127.0.0.1"),
		MeshCIDR: netip.MustParsePrefix("127.0.0.0/8"), TicketKey: keys.TicketKey(), Secret: "s", CredentialTTL: time.Minute}))
	mux := controlMux(srv.Apply, srv.Status)
	mux.HandleFunc("POST /v1/rooms/{id}/move", serveMove(srv))
	dir := t.TempDir()
	require.NoError(t, privateDir(filepath.Join(dir, "node-1")))
	l, err := listenUnix(sfuSocket(dir, "node-1", "demo"), 0o600)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, mux, time.Second) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	u := &units{node: "node-1", runDir: dir}

	const room = orama.RoomID("50%25;a+b") // whatever a client calls it is one word of the path
	peer := joinSFU(t, srv, keys, room)
	inHand, err := u.InHand(t.Context(), "demo")
	require.NoError(t, err)
	require.Equal(t, map[orama.RoomID]int{room: 1}, inHand)

	require.NoError(t, u.MoveRoom(t.Context(), "demo", "another", "it is elsewhere"), "nobody is in it")
	require.NoError(t, u.MoveRoom(t.Context(), "demo", room, "it is elsewhere"))
	for {
		_, frame, err := peer.Read(t.Context())
		require.NoError(t, err)
		if m, err := signal.Decode(frame); err == nil && m.Type() == signal.TypeServerDraining {
			require.Equal(t, &signal.ServerDraining{Reason: "it is elsewhere", DeadlineMS: int(moveWithin.Milliseconds())}, m)
			return
		}
	}
}

// joinSFU is one client that a gateway has let in.
func joinSFU(t *testing.T, srv *sfu.Server, keys *auth.Keys, room orama.RoomID) *websocket.Conn {
	t.Helper()
	ticket, err := keys.MintTicket(auth.Ticket{Namespace: "demo", Node: "node-1", Boot: srv.Status().Boot, Room: room, User: "alice"})
	require.NoError(t, err)
	at, _ := srv.Addrs()
	c, _, err := websocket.Dial(t.Context(), "ws://"+at.String()+"/v1/signal", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Ticket " + ticket}}})
	require.NoError(t, err)
	t.Cleanup(func() { c.CloseNow() }) //nolint:errcheck // a test's
	require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte(`{"type":"join"}`)))
	_, _, err = c.Read(t.Context())
	require.NoError(t, err)
	return c
}
