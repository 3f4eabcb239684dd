package operator

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"orama.network/orama"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 16 << 10

// Handler serves the operator's calls:
//
//	GET    /v1/namespaces                 {"namespaces":[…]}
//	POST   /v1/namespaces                 {"name"} → 201 {"namespace","owner_key"}
//	DELETE /v1/namespaces/{name}?force=   204
//	GET    /v1/namespaces/{name}/origins  Origins
//	PUT    /v1/namespaces/{name}/origins  Origins → Origins
//	GET    /v1/namespaces/{name}/limits   Limits
//	PUT    /v1/namespaces/{name}/limits   Limits → Limits
//	GET    /v1/namespaces/{name}/webrtc   Status
//	POST   /v1/namespaces/{name}/webrtc   {"credential_ttl_seconds","wait_seconds"} → a stream of steps
//	DELETE /v1/namespaces/{name}/webrtc   → a stream of steps
//	POST   /v1/namespaces/{name}/tokens   {"user","room","ttl_seconds","publish","subscribe","data","admin"} → 201 Minted
//
// A stream is one JSON value a line: steps, then {"done":true,"status"} or {"error":{"kind","code","message"}}. Any
// other refusal is {"error":…} with a status.
func Handler(o *Operator) http.Handler {
	h := handler{o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/namespaces", h.list)
	mux.HandleFunc("POST /v1/namespaces", h.create)
	mux.HandleFunc("DELETE /v1/namespaces/{name}", h.delete)
	mux.HandleFunc("GET /v1/namespaces/{name}/origins", h.origins)
	mux.HandleFunc("PUT /v1/namespaces/{name}/origins", h.setOrigins)
	mux.HandleFunc("GET /v1/namespaces/{name}/limits", h.limits)
	mux.HandleFunc("PUT /v1/namespaces/{name}/limits", h.setLimits)
	mux.HandleFunc("GET /v1/namespaces/{name}/webrtc", h.status)
	mux.HandleFunc("POST /v1/namespaces/{name}/webrtc", h.enable)
	mux.HandleFunc("DELETE /v1/namespaces/{name}/webrtc", h.disable)
	mux.HandleFunc("POST /v1/namespaces/{name}/tokens", h.token)
	return mux
}

type handler struct{ o *Operator }

func named(r *http.Request) orama.NamespaceID { return orama.NamespaceID(r.PathValue("name")) }

func (h handler) list(w http.ResponseWriter, r *http.Request) {
	all, err := h.o.ListNamespaces(r.Context())
	h.answer(w, http.StatusOK, listAnswer{Namespaces: all}, err)
}

func (h handler) create(w http.ResponseWriter, r *http.Request) {
	var q createRequest
	if err := decode(w, r, &q); err != nil {
		h.refuse(w, err)
		return
	}
	key, err := h.o.CreateNamespace(r.Context(), q.Name)
	h.answer(w, http.StatusCreated, createAnswer{Namespace: q.Name, OwnerKey: key}, err)
}

func (h handler) delete(w http.ResponseWriter, r *http.Request) {
	force := r.URL.Query().Get("force")
	if force != "" && force != "true" && force != "false" {
		h.refuse(w, orama.Errorf(orama.KindInvalid, "invalid_force", "force is true or false"))
		return
	}
	if err := h.o.DeleteNamespace(r.Context(), named(r), force == "true"); err != nil {
		h.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h handler) status(w http.ResponseWriter, r *http.Request) {
	s, err := h.o.Status(r.Context(), named(r))
	h.answer(w, http.StatusOK, s, err)
}

func (h handler) token(w http.ResponseWriter, r *http.Request) {
	var q tokenRequest
	if err := decode(w, r, &q); err != nil {
		h.refuse(w, err)
		return
	}
	t, err := h.o.MintToken(r.Context(), named(r), TokenRequest{User: q.User, Room: q.Room, TTL: seconds(q.TTLSeconds),
		Publish: q.Publish, Subscribe: q.Subscribe, Data: q.Data, Admin: q.Admin})
	h.answer(w, http.StatusCreated, t, err)
}

func (h handler) enable(w http.ResponseWriter, r *http.Request) {
	var q enableRequest
	if err := decode(w, r, &q); err != nil {
		h.refuse(w, err)
		return
	}
	s := newStream(w)
	status, err := h.o.EnableWebRTC(r.Context(), named(r),
		Options{CredentialTTL: seconds(q.CredentialTTLSeconds), Wait: seconds(q.WaitSeconds)}, s.step)
	h.end(s, err, &status)
}

func (h handler) disable(w http.ResponseWriter, r *http.Request) {
	s := newStream(w)
	h.end(s, h.o.DisableWebRTC(r.Context(), named(r), s.step), nil)
}

func (h handler) answer(w http.ResponseWriter, code int, body any, err error) {
	if err != nil {
		h.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the caller went away
}

func (h handler) refuse(w http.ResponseWriter, err error) {
	h.log(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(orama.KindOf(err).HTTPStatus())
	_ = json.NewEncoder(w).Encode(errorAnswer{toWire(err)}) // the caller went away
}

func (h handler) log(err error) {
	if orama.KindOf(err) == orama.KindInternal {
		h.o.d.Log.Error("operator call failed", "error", err)
	}
}

// decode reads one JSON object. An empty body is an empty object; a field that is not known is a mistake.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the object")
	}
	return orama.Errorf(orama.KindInvalid, "invalid_body", "the request's body is no JSON object of this call: %v", err)
}

// stream answers line by line, as things happen.
type stream struct {
	w       http.ResponseWriter
	started bool
}

func newStream(w http.ResponseWriter) *stream { return &stream{w: w} }

func (s *stream) step(st Step) { s.write(line{Step: &st}) }

func (s *stream) write(l line) {
	c := http.NewResponseController(s.w)
	if !s.started {
		s.started = true
		_ = c.SetWriteDeadline(time.Time{}) // a stream lasts as long as what it tells of
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.WriteHeader(http.StatusOK)
	}
	// An error means that the caller went away, which ends the request's context too.
	_ = json.NewEncoder(s.w).Encode(l)
	_ = c.Flush()
}

// end writes the last line; an error before the first line is an ordinary refusal.
func (h handler) end(s *stream, err error, status *Status) {
	switch {
	case err != nil && !s.started:
		h.refuse(s.w, err)
	case err != nil:
		h.log(err)
		s.write(line{Error: toWire(err)})
	default:
		s.write(line{Done: true, Status: status})
	}
}
