package client

import (
	"errors"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// verdict says what follows the end of a socket or a refused one.
type verdict struct {
	stop  error         // not nil: the Room closes with it
	after time.Duration // otherwise: not before
	token bool          // only a new token can help
}

// afterClose is the protocol's table of close codes. -1 stands for a socket that broke without one.
func afterClose(code websocket.StatusCode) verdict {
	switch code {
	case signal.CloseLeft:
		return verdict{stop: errLeft}
	case signal.CloseTooLarge, signal.CloseMalformed:
		return verdict{stop: orama.Errorf(orama.KindInternal, "protocol", "the server did not understand a frame")}
	case signal.CloseUnauthorized:
		return verdict{token: true}
	case signal.CloseForbidden:
		return verdict{stop: orama.Errorf(orama.KindForbidden, "forbidden", "the token does not permit this room")}
	case signal.CloseNoRoom:
		return verdict{stop: orama.Errorf(orama.KindNotFound, "room_closed", "the room is closed")}
	case signal.CloseResumed:
		return verdict{stop: orama.Errorf(orama.KindConflict, "resumed", "another socket resumed this peer")}
	case signal.CloseKicked:
		return verdict{stop: orama.Errorf(orama.KindForbidden, "kicked", "the peer was removed from the room")}
	case signal.CloseTooFast:
		return verdict{after: 2 * time.Second}
	case signal.CloseInternal, signal.CloseNoFirstFrame:
		return verdict{after: 100 * time.Millisecond}
	}
	return verdict{} // 4503, a lost connection, or a code of later protocols: again, at once
}

// afterRefusal is the same for a dial that failed.
func afterRefusal(err error) verdict {
	var e *orama.Error
	if !errors.As(err, &e) {
		return verdict{}
	}
	switch e.Kind {
	case orama.KindUnauthenticated:
		return verdict{token: true}
	case orama.KindInvalid, orama.KindForbidden, orama.KindNotFound:
		return verdict{stop: err}
	}
	return verdict{after: e.RetryAfter}
}

var errLeft = orama.Errorf(orama.KindUnavailable, "left", "the peer left the room")

// kindOfStatus classes an answer that was not an upgrade.
func kindOfStatus(status int) orama.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusMethodNotAllowed:
		return orama.KindInvalid
	case http.StatusUnauthorized:
		return orama.KindUnauthenticated
	case http.StatusForbidden:
		return orama.KindForbidden
	case http.StatusNotFound:
		return orama.KindNotFound
	case http.StatusConflict:
		return orama.KindConflict
	case http.StatusTooManyRequests:
		return orama.KindLimited
	case http.StatusInternalServerError:
		return orama.KindInternal
	}
	return orama.KindUnavailable
}
