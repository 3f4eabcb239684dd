package sfu

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// record is what a gateway knows of a room, for an SFU that may not have it yet.
type record struct{ signal.RoomRecord }

// readRecord reads signal.HeaderRoom; nothing is the record of a room that nobody has changed.
func readRecord(header string) (record, error) {
	rec, err := signal.DecodeRoomRecord(header)
	return record{rec}, err
}

// answer is what the control of one room answers.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the caller went away
}

// roomOf finds the room of a request; it has answered when it gives nil.
func (s *Server) roomOf(w http.ResponseWriter, r *http.Request) *room {
	if !s.admitAdmin(w, r) {
		return nil
	}
	room := s.find(orama.RoomID(r.PathValue("id")))
	if room == nil || room.id == probeRoom {
		problem(w, http.StatusNotFound, "not_found")
		return nil
	}
	return room
}

// inRoom runs f in the room's loop and waits for it. It reports false when the room has ended.
func (r *room) inRoom(f func()) bool {
	done := make(chan struct{})
	if !r.inbox.post(func() { defer close(done); f() }) {
		return false
	}
	<-done
	return true
}

// serveRoom describes one room.
func (s *Server) serveRoom(w http.ResponseWriter, r *http.Request) {
	room := s.roomOf(w, r)
	if room == nil {
		return
	}
	var v signal.RoomView
	if !room.inRoom(func() { v = room.view() }) {
		problem(w, http.StatusNotFound, "not_found")
		return
	}
	answer(w, http.StatusOK, v)
}

// view is the room as an owner sees it.
func (r *room) view() signal.RoomView {
	v := signal.RoomView{State: r.state, Peers: []signal.PeerView{}}
	for _, id := range r.order {
		p := r.peers[id]
		o := r.rated[id]
		v.Peers = append(v.Peers, signal.PeerView{Peer: r.describe(p), Permissions: p.granted, Quality: o.quality, Cause: o.cause})
	}
	return v
}

// serveAct does what an owner asks of a room, as one frame of the protocol, and answers with the room's state. Why something is
// refused is said in the words of signal.Error, which gateways map to a status.
func (s *Server) serveAct(w http.ResponseWriter, r *http.Request) {
	room := s.roomOf(w, r)
	if room == nil {
		return
	}
	frame, err := io.ReadAll(http.MaxBytesReader(w, r.Body, signal.MaxFirstFrame+signal.MaxMetadata))
	var m signal.Message
	if err == nil {
		m, err = signal.Decode(frame)
	}
	if err != nil {
		text := "the body is no message of the protocol"
		if invalid := (*orama.Error)(nil); errors.As(err, &invalid) {
			text = invalid.Message
		}
		answer(w, http.StatusUnprocessableEntity, signal.Error{Code: signal.CodeInvalid, Message: text})
		return
	}
	var no *refusal
	var state signal.RoomState
	done := room.inRoom(func() {
		no = room.act(actor{}, m)
		state = room.state
	})
	switch {
	case !done:
		problem(w, http.StatusNotFound, "not_found")
	case no != nil:
		answer(w, http.StatusUnprocessableEntity, signal.Error{Code: no.code, Message: no.message})
	default:
		answer(w, http.StatusOK, state)
	}
}
