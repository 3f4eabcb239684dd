package operator

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// roomsGateway is a gateway that notes what it is asked and answers with what it was given.
type roomsGateway struct {
	asked  []string
	tokens []string
	status int
	answer string
}

func (g *roomsGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) //nolint:errcheck // a test's
	g.asked = append(g.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	g.tokens = append(g.tokens, r.Header.Get("Authorization"))
	if g.status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(g.status)
	io.WriteString(w, g.answer) //nolint:errcheck // a test's
}

// An operator's calls about rooms, over the socket, are an owner's at the gateway; and so are an owner's own.
func TestRoomsAreTheGateways(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	o := w.operator()
	_, err := o.CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err)
	g := &roomsGateway{}
	agent := httptest.NewServer(Rooms{Operator: o, Gateway: g.ServeHTTP}.Handler())
	defer agent.Close()
	operator := &Client{http: &http.Client{Transport: toServer(agent.URL)}, socket: agent.URL}
	direct := httptest.NewServer(g)
	defer direct.Close()
	owner, err := DialOwner(direct.URL, "a-secret")
	require.NoError(t, err)
	yes, two := true, 2
	for _, x := range []struct {
		name   string
		status int
		answer string
		do     func(c *Client) error
		asked  string
	}{
		{"list", 200, `{"rooms":[{"room_id":"daily","participants":null,"sfu_node":"node-1"}]}`, func(c *Client) error {
			all, err := c.Rooms(t.Context(), "myapp")
			require.Len(t, all, 1)
			require.Nil(t, all[0].Participants)
			return err
		}, "GET /v1/webrtc/rooms"},
		{"show", 200, `{"room_id":"a:b%","participants":1,"settings":{"locked":true},"peers":[{"peer_id":"p","user_id":"u","quality":"poor"}]}`, func(c *Client) error {
			r, err := c.Room(t.Context(), "myapp", "a:b%")
			require.True(t, r.Settings.Locked)
			require.Equal(t, orama.UserID("u"), r.Peers[0].UserID)
			require.Equal(t, "poor", r.Peers[0].Quality)
			return err
		}, "GET /v1/webrtc/rooms/a:b%25"},
		{"set", 200, `{"locked":true,"max_participants":2}`, func(c *Client) error {
			s, err := c.SetRoom(t.Context(), "myapp", "daily", RoomChange{Locked: &yes, MaxParticipants: &two, Metadata: json.RawMessage("null")})
			require.Equal(t, signal.RoomSettings{Locked: true, MaxParticipants: 2}, s)
			return err
		}, `PATCH /v1/webrtc/rooms/daily {"locked":true,"max_participants":2,"metadata":null}`},
		{"kick", 204, "", func(c *Client) error { return c.Kick(t.Context(), "myapp", "daily", "bob", "", "spam") },
			`POST /v1/webrtc/rooms/daily/kick {"user_id":"bob","reason":"spam"}`},
		{"mute", 204, "", func(c *Client) error { return c.MuteTrack(t.Context(), "myapp", "daily", "t1", true, true) },
			`POST /v1/webrtc/rooms/daily/mute {"track_id":"t1","muted":true,"locked":true}`},
		{"permit", 204, "", func(c *Client) error {
			return c.Permit(t.Context(), "myapp", "daily", "p/1", signal.Permissions{Subscribe: true})
		}, `PATCH /v1/webrtc/rooms/daily/peers/p%2F1 {"permissions":{"publish":false,"subscribe":true,"data":false,"admin":false}}`},
		{"end", 204, "", func(c *Client) error { return c.EndRoom(t.Context(), "myapp", "a&b") }, "DELETE /v1/webrtc/rooms?room_id=a%26b"},
	} {
		for by, c := range map[string]*Client{"operator": operator, "owner": owner} {
			g.status, g.answer, g.asked, g.tokens = x.status, x.answer, nil, nil
			require.NoError(t, x.do(c), "%s as %s", x.name, by)
			require.Equal(t, []string{x.asked}, g.asked, by)
			if by == "owner" {
				require.Equal(t, []string{"Bearer a-secret"}, g.tokens)
				continue
			}
			token, err := auth.NewKeys([32]byte{1}).VerifyToken(strings.TrimPrefix(g.tokens[0], "Bearer "), time.Now())
			require.NoError(t, err)
			require.Equal(t, orama.NamespaceID("myapp"), token.Namespace, "the token is of the namespace in the path, and of no other")
			require.True(t, token.Admin)
			require.Less(t, time.Until(token.Expires), 2*time.Minute)
		}
	}
}

// What the gateway refuses arrives as the error it is, over the socket too.
func TestRoomsRefusals(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	o := w.operator()
	_, err := o.CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err)
	g := &roomsGateway{status: 404, answer: `{"code":"room_not_found","detail":"there is no such room"}`}
	agent := httptest.NewServer(Rooms{Operator: o, Gateway: g.ServeHTTP}.Handler())
	defer agent.Close()
	c := &Client{http: &http.Client{Transport: toServer(agent.URL)}, socket: agent.URL}
	_, err = c.Room(t.Context(), "myapp", "daily")
	require.Equal(t, orama.KindNotFound, orama.KindOf(err))
	require.EqualError(t, err, "there is no such room")
	g.status, g.answer = 500, "it is broken"
	_, err = c.Room(t.Context(), "myapp", "daily")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	g.asked = nil
	for _, bad := range []orama.RoomID{"", ".", "..", "_probe", "a/b", "a?b", "a b", orama.RoomID(strings.Repeat("a", 129))} {
		_, err = c.Room(t.Context(), "myapp", bad)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), "%q", bad)
	}
	for _, ns := range []string{"nobody", "..", "", "a/../myapp"} {
		_, err = c.Rooms(t.Context(), ns)
		require.Error(t, err, ns)
	}
	require.Empty(t, g.asked, "none of these is the gateway's to answer")
	for _, bad := range []string{"", "gw.example.org", "http://gw.example.org"} {
		_, err = DialOwner(bad, "key")
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), bad)
	}
}
