package sfu

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// handler serves gateways, over the mesh. Whoever calls proves itself with a ticket, once.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/signal", s.serveSignal)
	mux.HandleFunc("GET /v1/rooms", s.serveRooms)
	mux.HandleFunc("GET /v1/rooms/{id}", s.serveRoom)
	mux.HandleFunc("POST /v1/rooms/{id}", s.serveAct)
	mux.HandleFunc("DELETE /v1/rooms/{id}", s.serveClose)
	return mux
}

// problem answers with a code that a gateway can act on.
func problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"code": code}) //nolint:errcheck // the caller went away
}

// admit checks a request's ticket. It has answered the request when it reports false.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (auth.Ticket, bool) {
	set := s.settings.Load()
	if set == nil {
		problem(w, http.StatusServiceUnavailable, "not_configured")
		return auth.Ticket{}, false
	}
	raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Ticket ")
	if !ok {
		problem(w, http.StatusUnauthorized, "no_ticket")
		return auth.Ticket{}, false
	}
	t, err := set.tickets.Verify(raw, time.Now())
	var known *orama.Error
	switch {
	case errors.As(err, &known) && known.Kind == orama.KindLimited:
		problem(w, http.StatusServiceUnavailable, known.Code)
	case err != nil || t.Namespace != set.Namespace || t.Node != set.Node:
		problem(w, http.StatusUnauthorized, "bad_ticket")
	case t.Boot != s.boot:
		problem(w, http.StatusConflict, "wrong_boot")
	default:
		return t, true
	}
	return auth.Ticket{}, false
}

// serveSignal upgrades to a WebSocket and serves it until it ends.
func (s *Server) serveSignal(w http.ResponseWriter, r *http.Request) {
	t, ok := s.admit(w, r)
	if !ok {
		return
	}
	if t.Room == "" { // valid only with admin: the agent's probe
		t.Room = probeRoom
	}
	if s.draining.Load() || !s.begin() {
		problem(w, http.StatusServiceUnavailable, "draining")
		return
	}
	defer s.wg.Done()
	rec, err := readRecord(r.Header.Get(signal.HeaderRoom))
	if err != nil {
		problem(w, http.StatusBadRequest, "bad_record")
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // origins are the gateway's matter; here only a ticket counts
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		s.log.Debug("no upgrade", "err", err)
		return
	}
	x := &session{srv: s, ticket: t, record: rec}
	x.sock = newSocket(conn, func() { s.metrics.socketsSlow.Add(1) })
	x.run()
}

// begin counts a session unless the server is closing.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// admitAdmin checks a ticket for the control of all rooms.
func (s *Server) admitAdmin(w http.ResponseWriter, r *http.Request) bool {
	t, ok := s.admit(w, r)
	if ok && (!t.Admin || t.Room != "") {
		problem(w, http.StatusForbidden, "forbidden")
		return false
	}
	return ok
}

func (s *Server) serveRooms(w http.ResponseWriter, r *http.Request) {
	if !s.admitAdmin(w, r) {
		return
	}
	type entry struct {
		ID           orama.RoomID `json:"room_id"`
		Participants int64        `json:"participants"`
	}
	body := struct {
		Rooms []entry `json:"rooms"`
	}{[]entry{}}
	s.each(func(r *room) {
		if r.id != probeRoom {
			body.Rooms = append(body.Rooms, entry{r.id, r.count.Load()})
		}
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the caller went away
}

func (s *Server) serveClose(w http.ResponseWriter, r *http.Request) {
	if !s.admitAdmin(w, r) {
		return
	}
	room := s.find(orama.RoomID(r.PathValue("id")))
	if room == nil || !room.inbox.post(func() { room.close("the room was closed") }) {
		problem(w, http.StatusNotFound, "not_found")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
