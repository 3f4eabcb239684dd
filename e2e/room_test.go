//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// guest is a plain WebSocket in a room.
type guest struct {
	t  testing.TB
	ws *websocket.Conn
}

// tries joins a room and gives the first answer, whatever it is.
func (c *cluster) tries(t testing.TB, namespace, room, user string) (*guest, map[string]any) {
	t.Helper()
	url := "ws" + strings.TrimPrefix(c.Gateways[0], "http") + "/v1/webrtc/signal?room=" + room
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"Bearer", c.token(t, namespace, user)}})
	require.NoError(t, err)
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { ws.CloseNow() })
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"join","await_offer":true,"name":"`+user+`"}`)))
	g := &guest{t, ws}
	m, err := g.next()
	require.NoError(t, err)
	return g, m
}

func (g *guest) next() (m map[string]any, err error) {
	_, frame, err := g.ws.Read(g.t.Context())
	if err == nil {
		err = json.Unmarshal(frame, &m)
	}
	return m, err
}

// hears reads until a message of a type comes.
func (g *guest) hears(kind string) map[string]any {
	g.t.Helper()
	for {
		m, err := g.next()
		require.NoError(g.t, err, "no %s came", kind)
		if m["type"] == kind {
			return m
		}
	}
}

// What an operator does to a room on the command line, those in it see; an owner's key does the same at a gateway.
func TestRoomCommands(t *testing.T) {
	c := up(t)
	const room = "moderated"
	ada, joined := c.tries(t, c.Namespace, room, "ada")
	require.Equal(t, "joined", joined["type"])
	peer := joined["peer_id"].(string)
	at := []string{"--namespace", c.Namespace}
	do := func(into any, args ...string) { c.do(t, into, append(append([]string{"room"}, args...), at...)...) }

	var list struct {
		Rooms []struct {
			ID           string `json:"room_id"`
			Participants int
			Node         string `json:"sfu_node"`
		}
	}
	do(&list, "list")
	require.Contains(t, list.Rooms, struct {
		ID           string `json:"room_id"`
		Participants int
		Node         string `json:"sfu_node"`
	}{room, 1, c.owner(t, room)})

	do(nil, "set", room, "--max-participants", "1", "--metadata", `{"topic":"plans"}`)
	require.Equal(t, map[string]any{"locked": false, "max_participants": 1.0, "metadata": map[string]any{"topic": "plans"}}, ada.hears("room-changed")["settings"])
	_, refused := c.tries(t, c.Namespace, room, "bob")
	require.Equal(t, "full", refused["code"])
	out, _, code := c.orama(t, append([]string{"room", "show", room}, at...)...)
	require.Zero(t, code)
	require.Contains(t, out, "at most 1 participant")
	require.Regexp(t, peer+` +ada +ada +publish,subscribe,data `, out)

	do(nil, "permit", room, peer, "--publish=false")
	changed := ada.hears("permissions-changed")
	require.Equal(t, map[string]any{"publish": false, "subscribe": true, "data": true, "admin": false}, changed["permissions"])
	require.Equal(t, "api", changed["by"])

	c.do(t, nil, "namespace", "limits", c.Namespace, "--participants", "1")
	var status struct {
		Most int `json:"max_participants"`
	}
	c.do(t, &status, "namespace", "webrtc-status", "--namespace", c.Namespace)
	require.Equal(t, 1, status.Most)
	eventually(t, 5*time.Second, func() string { // a gateway may go by what it read a moment ago
		_, errs, code := c.orama(t, append([]string{"room", "set", room, "--max-participants", "2"}, at...)...)
		if code != codeUsage || !strings.Contains(errs, "at most 1") {
			return fmt.Sprintf("exit code %d: %s", code, errs)
		}
		return ""
	})
	do(nil, "set", room, "--max-participants", "0")
	_, refused = c.tries(t, c.Namespace, room, "bob")
	require.Equal(t, "full", refused["code"], "by the namespace's limit")
	c.do(t, nil, "namespace", "limits", c.Namespace, "--participants", "0")

	at = []string{"--url", c.Gateways[1], "--api-key", c.OwnerKey}
	do(nil, "kick", room, "--user", "ada", "--reason", "enough")
	require.Equal(t, "enough", ada.hears("kicked")["reason"])
	for err := error(nil); ; _, err = ada.next() {
		if err != nil {
			require.EqualValues(t, 4410, websocket.CloseStatus(err))
			break
		}
	}
	bob, joined := c.tries(t, c.Namespace, room, "bob")
	require.Equal(t, "joined", joined["type"])
	do(nil, "end", room)
	bob.hears("room-closed")
	eventually(t, 5*time.Second, func() string {
		_, errs, code := c.orama(t, append([]string{"room", "show", room}, at...)...)
		if code != codeNotFound {
			return "the room is there still: " + errs
		}
		return ""
	})
}
