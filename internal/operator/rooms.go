package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// Where rooms are: at an agent below their namespace, at a gateway below webrtcPath, where the credential says which namespace.
const (
	roomsPath  = "/rooms"
	webrtcPath = "/v1/webrtc"
)

// roomsTokenTTL is how long the token lives that one call about rooms is let in with.
const roomsTokenTTL = time.Minute

// Rooms serves what an operator asks about a namespace's rooms, by the node's own gateway, as an owner would ask it:
//
//	GET, POST, DELETE /v1/namespaces/{name}/rooms        as /v1/webrtc/rooms of api/openapi.yaml
//	any               /v1/namespaces/{name}/rooms/{...}  as /v1/webrtc/rooms/{...}
//
// So there is one place where rooms are moderated, with one set of checks. Refusals are the gateway's problems.
type Rooms struct {
	Operator *Operator
	Gateway  func(http.ResponseWriter, *http.Request)
}

// Handler serves the calls.
func (s Rooms) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/namespaces/{name}"+roomsPath, s.serve)
	mux.HandleFunc("/v1/namespaces/{name}"+roomsPath+"/{rest...}", s.serve)
	return mux
}

func (s Rooms) serve(w http.ResponseWriter, r *http.Request) {
	ns := named(r)
	t, err := s.Operator.MintToken(r.Context(), ns, TokenRequest{User: "operator", TTL: roomsTokenTTL, Admin: true})
	if err != nil {
		handler{s.Operator}.refuse(w, err)
		return
	}
	inner := r.Clone(r.Context())
	below := "/v1/namespaces/" + string(ns) // a namespace's name has nothing to escape
	inner.URL.Path = webrtcPath + strings.TrimPrefix(r.URL.Path, below)
	if r.URL.RawPath != "" {
		inner.URL.RawPath = webrtcPath + strings.TrimPrefix(r.URL.RawPath, below)
	}
	inner.Host = "" // the token names the namespace
	for _, h := range []string{"X-Api-Key", "Sec-Websocket-Protocol", "Origin"} {
		inner.Header.Del(h)
	}
	inner.Header.Set("Authorization", "Bearer "+t.Token)
	s.Gateway(w, inner)
}

// Room is one room of a namespace.
type Room struct {
	ID           orama.RoomID `json:"room_id"`
	Participants *int         `json:"participants"` // nil: its SFU did not answer in time
	Node         orama.NodeID `json:"sfu_node"`
	CreatedAt    time.Time    `json:"created_at"`
}

// RoomDetails is a room with what admins have made of it and who is in it.
type RoomDetails struct {
	Room
	Settings signal.RoomSettings `json:"settings"`
	Peers    []signal.PeerView   `json:"peers"` // nil: its SFU did not answer in time
}

// RoomChange is what is to be different; nil stays.
type RoomChange struct {
	Locked          *bool           `json:"locked,omitempty"`
	MaxParticipants *int            `json:"max_participants,omitempty"`
	Metadata        json.RawMessage `json:"metadata,omitempty"` // null: none
}

// DialOwner makes a client for the rooms of one namespace alone, by an owner's key or an admin's token, at one gateway.
func DialOwner(gateway, credential string) (*Client, error) {
	u, err := GatewayURL(gateway)
	if err != nil {
		return nil, err
	}
	if credential == "" {
		return nil, orama.Errorf(orama.KindUnauthenticated, "no_credential", "an owner's key or an admin's token is needed")
	}
	c := dialed([]*url.URL{u}, nil, func(out *http.Request) { out.Header.Set("Authorization", "Bearer "+credential) })
	c.rooted = webrtcPath
	return c, nil
}

// rooms is the path of a namespace's rooms.
func (c *Client) rooms(name, rest string) string {
	if c.rooted != "" {
		return c.rooted + roomsPath + rest
	}
	return path(name, roomsPath+rest)
}

// room is the path of one room, or of something in it.
func (c *Client) room(name string, id orama.RoomID, rest string) (string, error) {
	if err := auth.ValidRoom(string(id)); err != nil {
		return "", err
	}
	if id == "." || id == ".." {
		return "", orama.Errorf(orama.KindInvalid, "invalid_room", "a room of the name %q cannot be asked about", id)
	}
	return c.rooms(name, "/"+url.PathEscape(string(id))+rest), nil
}

// Rooms lists a namespace's rooms.
func (c *Client) Rooms(ctx context.Context, name string) ([]Room, error) {
	var a struct {
		Rooms []Room `json:"rooms"`
	}
	err := c.call(ctx, http.MethodGet, c.rooms(name, ""), nil, &a)
	return a.Rooms, err
}

// Room reads one room.
func (c *Client) Room(ctx context.Context, name string, id orama.RoomID) (RoomDetails, error) {
	var d RoomDetails
	p, err := c.room(name, id, "")
	if err == nil {
		err = c.call(ctx, http.MethodGet, p, nil, &d)
	}
	return d, err
}

// SetRoom changes a room and gives its settings as they are then.
func (c *Client) SetRoom(ctx context.Context, name string, id orama.RoomID, ch RoomChange) (signal.RoomSettings, error) {
	var s signal.RoomSettings
	p, err := c.room(name, id, "")
	if err == nil {
		err = c.call(ctx, http.MethodPatch, p, ch, &s)
	}
	return s, err
}

// EndRoom sends everybody home and forgets a room.
func (c *Client) EndRoom(ctx context.Context, name string, id orama.RoomID) error {
	if err := auth.ValidRoom(string(id)); err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, c.rooms(name, "?room_id="+url.QueryEscape(string(id))), nil, nil)
}

// Kick removes a user with all its peers, and ends its tokens for the room. User or peer names it.
func (c *Client) Kick(ctx context.Context, name string, id orama.RoomID, user orama.UserID, peer orama.PeerID, reason string) error {
	p, err := c.room(name, id, "/kick")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, p, signal.Kick{UserID: user, PeerID: peer, Reason: reason}, nil)
}

// MuteTrack mutes somebody's track, or undoes that; locked keeps its publisher from unmuting it.
func (c *Client) MuteTrack(ctx context.Context, name string, id orama.RoomID, track orama.TrackID, muted, locked bool) error {
	p, err := c.room(name, id, "/mute")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, p, signal.Mute{TrackID: track, Muted: muted, Locked: locked}, nil)
}

// Permit replaces what a peer's user may do.
func (c *Client) Permit(ctx context.Context, name string, id orama.RoomID, peer orama.PeerID, may signal.Permissions) error {
	if peer == "" || peer == "." || peer == ".." {
		return orama.Errorf(orama.KindInvalid, "invalid_peer", "there is no peer %q", peer)
	}
	p, err := c.room(name, id, fmt.Sprintf("/peers/%s", url.PathEscape(string(peer))))
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPatch, p, map[string]any{"permissions": may}, nil)
}
