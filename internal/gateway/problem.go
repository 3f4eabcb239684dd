package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// Problem is the body of every refusal: RFC 9457 with a stable code.
type Problem struct {
	Type   string         `json:"type" doc:"Always about:blank: the code tells problems apart"`
	Title  string         `json:"title" doc:"The status in words"`
	Status int            `json:"status" doc:"The HTTP status"`
	Detail string         `json:"detail" doc:"What is wrong and what to do next, for people"`
	Code   string         `json:"code" doc:"What is wrong, for programs; codes are never renamed" example:"room_not_found"`
	Errors []ProblemField `json:"errors,omitempty" doc:"Which fields are wrong"`

	header http.Header
}

// ProblemField says what is wrong with one field of a request.
type ProblemField struct {
	Location string `json:"location" example:"body.room_id"`
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func newProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail,
		header: http.Header{}}
}

// closeCodeOf maps kinds of error to close codes, for a socket that had to be accepted first.
func closeCodeOf(k orama.Kind) int {
	switch k {
	case orama.KindInvalid:
		return signal.CloseMalformed
	case orama.KindUnauthenticated:
		return signal.CloseUnauthorized
	case orama.KindForbidden:
		return signal.CloseForbidden
	case orama.KindNotFound:
		return signal.CloseNoRoom
	case orama.KindLimited:
		return signal.CloseTooFast
	case orama.KindConflict, orama.KindUnavailable:
		return signal.CloseGone
	default:
		return signal.CloseInternal
	}
}

// problemOf turns an error into what a stranger may read of it.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var e *orama.Error
	if !errors.As(err, &e) || e.Kind == orama.KindInternal {
		return newProblem(http.StatusInternalServerError, "internal", "something went wrong here; it was logged")
	}
	p = newProblem(e.Kind.HTTPStatus(), e.Code, e.Message)
	switch e.Kind {
	case orama.KindUnauthenticated:
		p.header.Set("WWW-Authenticate", `Bearer realm="orama", error="invalid_token"`)
	case orama.KindLimited, orama.KindUnavailable:
		p.header.Set("Retry-After", strconv.Itoa(seconds(e.RetryAfter)))
	}
	return p
}

// seconds rounds up, to 1 at least: Retry-After has no smaller unit.
func seconds(d time.Duration) int { return max(1, int((d+time.Second-1)/time.Second)) }

func unavailable(code, message string, retry time.Duration) *orama.Error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: code, Message: message, RetryAfter: retry}
}

func limited(wait time.Duration) *orama.Error {
	return &orama.Error{Kind: orama.KindLimited, Code: "too_many_requests", Message: "too many requests; wait and try again", RetryAfter: wait}
}

// refuse answers with err outside of huma. What only operators may read is logged.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	g.logError(r.Context(), r.Method+" "+r.URL.Path, err)
	writeProblem(w, problemOf(err))
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	for k, v := range p.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone
}

// logError logs what a stranger was not told. A client that went away is no error.
func (g *Gateway) logError(ctx context.Context, what string, err error) {
	var e *orama.Error
	if ctx.Err() != nil || errors.As(err, &e) && e.Err == nil && e.Kind != orama.KindInternal {
		return
	}
	if p := (*Problem)(nil); errors.As(err, &p) {
		return
	}
	level := slog.LevelWarn
	if e != nil && e.Code == "store_unavailable" {
		level = slog.LevelDebug // told once, by who keeps the connection to the records
	}
	g.log.LogAttrs(ctx, level, "request failed", slog.String("request", what), slog.Any("error", err))
}

// problemTransformer gives the errors that huma makes by itself the same form.
func problemTransformer(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := map[int]string{
		http.StatusBadRequest: "bad_request", http.StatusRequestTimeout: "timeout", http.StatusRequestEntityTooLarge: "too_large",
		http.StatusUnsupportedMediaType: "unsupported_media_type", http.StatusUnprocessableEntity: "invalid",
	}[m.Status]
	if code == "" {
		return newProblem(m.Status, "internal", "something went wrong here"), nil
	}
	p := newProblem(m.Status, code, m.Detail)
	for _, e := range m.Errors {
		if e != nil { // the value is left out: it may be a secret in the wrong field
			p.Errors = append(p.Errors, ProblemField{Location: e.Location, Message: e.Message})
		}
	}
	return p, nil
}
