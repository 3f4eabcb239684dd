package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/signal"
)

func sampleRoom() operator.RoomDetails {
	two := 2
	return operator.RoomDetails{
		Room:     operator.Room{ID: "daily", Participants: &two, Node: "node-2", CreatedAt: time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)},
		Settings: signal.RoomSettings{Locked: true, MaxParticipants: 20, Metadata: json.RawMessage(`{"topic":"plans"}`)},
		Peers: []signal.PeerView{
			{Peer: signal.Peer{PeerID: "p_ada", UserID: "ada", Name: "Ada \x1b[2JL.", Tracks: []signal.Track{
				{TrackID: "t_mic", Kind: "audio", Source: "microphone", Muted: true, Locked: true},
				{TrackID: "t_cam", Kind: "video", Source: "camera", Layers: make([]signal.Layer, 3)},
			}}, Permissions: signal.Permissions{Publish: true, Subscribe: true, Data: true, Admin: true}, Quality: "excellent"},
			{Peer: signal.Peer{PeerID: "p_bob", UserID: "bob"}, Quality: "poor", Cause: "down_loss"},
		},
	}
}

func TestRoomForPeople(t *testing.T) {
	r := sampleRoom()
	require.Equal(t, `Room daily on node-2, made 2026-11-22 12:00:00.
Locked: only admins join; at most 20 participants; metadata {"topic":"plans"}.

PEER   USER  NAME       MAY                           QUALITY
p_ada  ada   Ada [2JL.  publish,subscribe,data,admin  excellent
p_bob  bob   -          nothing                       poor (down_loss)

TRACK  USER  KIND   SOURCE      LAYERS  MUTED
t_mic  ada   audio  microphone  1       locked
t_cam  ada   video  camera      3       -
`, roomText(r), "and nothing that a terminal would obey")
	r.Peers, r.Settings = r.Peers[1:], signal.RoomSettings{}
	require.Contains(t, roomText(r), "Not locked; as many participants as the namespace allows; no metadata.")
	require.Contains(t, roomText(r), "Nobody sends anything.")
	r.Peers = []signal.PeerView{}
	require.Contains(t, roomText(r), "Nobody is in it.")
	r.Peers = nil
	require.Contains(t, roomText(r), "not known")
}

// Each command is one request, said to people and to programs; a mistake is none, and a refusal is told with its exit code.
func TestRoomCommands(t *testing.T) {
	var asked []string
	status := 0
	answers := map[string]any{
		"GET /v1/webrtc/rooms":         map[string]any{"rooms": []operator.Room{sampleRoom().Room, {ID: "hall", Node: "node-1", CreatedAt: time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)}}},
		"GET /v1/webrtc/rooms/daily":   sampleRoom(),
		"PATCH /v1/webrtc/rooms/daily": sampleRoom().Settings,
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) //nolint:errcheck // a test's
		call := r.Method + " " + r.URL.RequestURI()
		asked = append(asked, strings.TrimSpace(call+" "+string(body)))
		if status != 0 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			io.WriteString(w, `{"code":"room_not_found","detail":"there is no such room"}`) //nolint:errcheck // a test's
			return
		}
		json.NewEncoder(w).Encode(answers[call]) //nolint:errcheck // a test's
	}))
	defer gateway.Close()
	run := func(line string) (out, errs string, code int) {
		var o, e bytes.Buffer
		code = Run(t.Context(), append(strings.Fields(line), "--url", gateway.URL, "--api-key", "key"), &o, &e)
		return o.String(), e.String(), code
	}
	const daily = " /v1/webrtc/rooms/daily"
	for _, x := range []struct{ line, says, asks string }{
		{"room list", "ROOM   PARTICIPANTS  NODE    CREATED\ndaily  2             node-2  2026-11-22 12:00:00\nhall   unknown       node-1  2026-11-22 12:00:00\n", "GET /v1/webrtc/rooms"},
		{"room list --json", `"participants":null`, "GET /v1/webrtc/rooms"},
		{"room show daily", "p_bob  bob ", "GET" + daily},
		{"room show daily --json", `"quality":"poor"`, "GET" + daily},
		{"room set daily --locked --max-participants 20 --metadata null", "Room daily: Locked: only admins join; at most 20 participants", "PATCH" + daily + ` {"locked":true,"max_participants":20,"metadata":null}`},
		{"room set daily --locked=false --json", `"settings":{`, "PATCH" + daily + ` {"locked":false}`},
		{"room kick daily --user bob --reason spam", "bob is out of daily", "POST" + daily + `/kick {"user_id":"bob","reason":"spam"}`},
		{"room kick daily --peer p_bob", "the user of p_bob is out", "POST" + daily + `/kick {"peer_id":"p_bob"}`},
		{"room mute daily t_cam", "t_cam is muted.", "POST" + daily + `/mute {"track_id":"t_cam","muted":true}`},
		{"room mute daily t_cam --locked", "only an admin may undo", "POST" + daily + `/mute {"track_id":"t_cam","muted":true,"locked":true}`},
		{"room mute daily t_cam --undo", "is not muted any more", "POST" + daily + `/mute {"track_id":"t_cam","muted":false}`},
		{"room permit daily p_ada --publish=false", "p_ada may: subscribe,data,admin.", "PATCH" + daily + `/peers/p_ada {"permissions":{"publish":false,"subscribe":true,"data":true,"admin":true}}`},
		{"room end daily", "Room daily is closed.", "DELETE /v1/webrtc/rooms?room_id=daily"},
	} {
		asked = nil
		out, errs, code := run(x.line)
		require.Zero(t, code, "%s: %s", x.line, errs)
		require.Contains(t, out, x.says, x.line)
		require.Equal(t, x.asks, asked[len(asked)-1], x.line)
		if strings.HasSuffix(x.line, "--json") {
			require.True(t, json.Valid([]byte(out)), out)
		}
	}
	asked = nil
	for _, line := range []string{"room show", "room show a/b", "room set daily", "room set daily --max-participants -1", "room set daily --max-participants 10001", "room set daily --metadata {",
		"room kick daily", "room kick daily --user a --peer b", "room kick daily --user a --reason " + strings.Repeat("x", 101), "room mute daily", "room mute daily t --locked --undo",
		"room permit daily p", "room list --namespace myapp", "room nonsense"} {
		_, errs, code := run(line)
		require.Equal(t, exitUsage, code, "%s: %s", line, errs)
		require.NotEmpty(t, errs)
	}
	require.Empty(t, asked, "a mistake asks nobody")
	_, errs, code := run("room permit daily p_nobody --data")
	require.Equal(t, exitNotFound, code)
	require.Contains(t, errs, "orama room show")
	status = http.StatusNotFound
	_, errs, code = run("room show daily")
	require.Equal(t, exitNotFound, code)
	require.Contains(t, errs, "there is no such room")
	status = http.StatusForbidden
	_, _, code = run("room end daily")
	require.Equal(t, exitAuth, code)
}
