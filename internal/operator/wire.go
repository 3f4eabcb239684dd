package operator

import (
	"errors"
	"time"

	"orama.network/orama"
)

// What Handler and Client say to each other. Bodies are JSON; a stream of steps is one JSON value a line.

type createRequest struct {
	Name string `json:"name"`
}

type createAnswer struct {
	Namespace string `json:"namespace"`
	OwnerKey  string `json:"owner_key"`
}

type listAnswer struct {
	Namespaces []Namespace `json:"namespaces"`
}

type enableRequest struct {
	CredentialTTLSeconds float64 `json:"credential_ttl_seconds,omitempty"`
	WaitSeconds          float64 `json:"wait_seconds,omitempty"`
}

type tokenRequest struct {
	User       orama.UserID `json:"user"`
	Room       orama.RoomID `json:"room,omitempty"`
	TTLSeconds float64      `json:"ttl_seconds,omitempty"`
	Publish    *bool        `json:"publish,omitempty"`
	Subscribe  *bool        `json:"subscribe,omitempty"`
	Data       *bool        `json:"data,omitempty"`
	Admin      bool         `json:"admin,omitempty"`
}

// line is one line of a stream: a step, or the last line, which has done or error.
type line struct {
	*Step
	Done   bool       `json:"done,omitempty"`
	Status *Status    `json:"status,omitempty"` // with done, after enabling
	Error  *wireError `json:"error,omitempty"`
}

type errorAnswer struct {
	Error *wireError `json:"error"`
}

// wireError is an orama.Error. The socket is the operator's, so the inner error goes along as text.
type wireError struct {
	Kind              orama.Kind `json:"kind"`
	Code              string     `json:"code"`
	Message           string     `json:"message"`
	Detail            string     `json:"detail,omitempty"`
	RetryAfterSeconds float64    `json:"retry_after_seconds,omitempty"`
}

func toWire(err error) *wireError {
	var e *orama.Error
	if !errors.As(err, &e) {
		return &wireError{Kind: orama.KindInternal, Code: "internal", Message: "something went wrong inside; the node's log says more", Detail: err.Error()}
	}
	w := &wireError{Kind: e.Kind, Code: e.Code, Message: e.Message, RetryAfterSeconds: e.RetryAfter.Seconds()}
	if e.Err != nil {
		w.Detail = e.Err.Error()
	}
	return w
}

func (w *wireError) error() *orama.Error {
	e := &orama.Error{Kind: w.Kind, Code: w.Code, Message: w.Message, RetryAfter: seconds(w.RetryAfterSeconds)}
	if w.Detail != "" {
		e.Err = errors.New(w.Detail)
	}
	return e
}

// seconds reads a duration from outside; what is beyond a year is a year, which no limit allows.
func seconds(s float64) time.Duration {
	const year = 365 * 24 * 3600
	return time.Duration(max(-year, min(year, s)) * float64(time.Second))
}
