package orama

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind classes an error by what its receiver should do about it. Each edge (HTTP,
// WebSocket close, exit code) maps kinds once.
type Kind string

// The kinds of error. They cross the wire, so the list only grows.
const (
	KindInvalid         Kind = "invalid"         // the request can never work as it is
	KindUnauthenticated Kind = "unauthenticated" // no credential, or a bad one
	KindForbidden       Kind = "forbidden"       // a good credential that may not do this
	KindNotFound        Kind = "not_found"
	KindConflict        Kind = "conflict"    // somebody else changed it first: read again
	KindLimited         Kind = "limited"     // too much: wait and try again
	KindUnavailable     Kind = "unavailable" // not now: try again
	KindInternal        Kind = "internal"
)

// HTTPStatus is the kind's status in every HTTP answer of the project (RFC 9110, RFC 6585).
func (k Kind) HTTPStatus() int {
	switch k {
	case KindInvalid:
		return http.StatusUnprocessableEntity
	case KindUnauthenticated:
		return http.StatusUnauthorized
	case KindForbidden:
		return http.StatusForbidden
	case KindNotFound:
		return http.StatusNotFound
	case KindConflict:
		return http.StatusConflict
	case KindLimited:
		return http.StatusTooManyRequests
	case KindUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// Error is an error that may be shown to strangers: Code and Message hold nothing internal.
// What only operators may read is in Err.
type Error struct {
	Kind       Kind
	Code       string        // stable, snake_case, such as "room_not_found"
	Message    string        // one sentence that says what to do next
	RetryAfter time.Duration // 0: no advice
	Err        error         // for logs only
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Message, e.Err)
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind with a stable code.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// KindOf finds the kind of err: KindInternal for an error of no kind, "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// ErrConflict is what a commit or a claim gives when the record has moved on.
var ErrConflict = &Error{Kind: KindConflict, Code: "conflict", Message: "the record was changed meanwhile; read it again"}

// ErrNotFound is what a lookup gives when there is no such record.
var ErrNotFound = &Error{Kind: KindNotFound, Code: "not_found", Message: "there is no such record"}
