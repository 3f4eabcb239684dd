package role

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/sfu"
)

// moveWithin is how long the peers of a room that is elsewhere have to go there by themselves. A client does so within
// a round trip or two; one that does not understand is closed, and every client comes back from that.
const moveWithin = 5 * time.Second

// InHand tells how many peers each room of a namespace's SFU has.
func (u *units) InHand(ctx context.Context, ns orama.NamespaceID) (map[orama.RoomID]int, error) {
	var s sfu.Status
	if err := dialUnit(u.sfuSocket(ns)).status(ctx, &s); err != nil {
		return nil, err
	}
	out := make(map[orama.RoomID]int, len(s.Rooms))
	for _, r := range s.Rooms {
		out[r.ID] = r.Peers
	}
	return out, nil
}

// moveRequest is the body of POST /v1/rooms/{id}/move.
type moveRequest struct {
	Reason string `json:"reason"` // peers are told
}

// MoveRoom asks a room's peers to reconnect. A room that is not there any more has moved.
func (u *units) MoveRoom(ctx context.Context, ns orama.NamespaceID, room orama.RoomID, why string) error {
	return dialUnit(u.sfuSocket(ns)).do(ctx, http.MethodPost, "/v1/rooms/"+url.PathEscape(string(room))+"/move", moveRequest{why}, nil)
}

// serveMove is MoveRoom's other end, on the SFU's control socket.
func serveMove(srv *sfu.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var m moveRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&m); err != nil {
			http.Error(w, "the request cannot be read", http.StatusBadRequest)
			return
		}
		srv.MoveRoom(orama.RoomID(r.PathValue("id")), m.Reason, moveWithin)
		w.WriteHeader(http.StatusNoContent)
	}
}

// moderated is what of a room's status belongs into its record.
func moderated(r sfu.RoomStatus) (m node.Moderated, changed bool) {
	m.Room = r.ID
	if r.State != nil && r.State.Revision > 0 {
		if b, err := r.State.Encode(); err == nil { // a state that was decoded can be encoded
			m.Revision, m.State = r.State.Revision, string(b)
		}
	}
	for _, k := range r.Kicks {
		m.Kicks = append(m.Kicks, orama.Kick{User: k.User, At: k.At.UTC().Truncate(time.Microsecond)})
	}
	return m, m.Revision > 0 || len(m.Kicks) > 0
}
