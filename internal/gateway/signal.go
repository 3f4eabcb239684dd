package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

const signalPath = "/v1/webrtc/signal"

// serveSignal joins a client's socket to its room's SFU. The SFU is dialled before the client's
// upgrade is answered, so that every refusal is an HTTP status that a client can read. Only where neither
// the query nor the token names the room must the first frame be read, and close codes do it.
func (g *Gateway) serveSignal(w http.ResponseWriter, r *http.Request) {
	leave, err := g.admit()
	if err != nil {
		g.refuse(w, r, err)
		return
	}
	defer leave()
	c, room, transports, err := g.joining(r)
	if err != nil {
		g.refuse(w, r, asQuery(err))
		return
	}
	if room == "" {
		g.serveUnnamed(w, r, c, transports)
		return
	}
	ctx, cancel := g.untilStopped(r.Context())
	defer cancel()
	sfu, p, err := g.connect(ctx, c, room, transports)
	if err != nil {
		g.refuse(w, r, asQuery(err))
		return
	}
	client, err := accept(w, r, c)
	if err != nil {
		sfu.end(0, "", 0)
		return
	}
	g.run(&pipe{client: client, sfu: sfu, process: p, room: room})
}

// serveUnnamed learns the room from the first frame.
func (g *Gateway) serveUnnamed(w http.ResponseWriter, r *http.Request, c *caller, transports []string) {
	client, err := accept(w, r, c)
	if err != nil {
		return
	}
	ctx, cancel := g.untilStopped(context.WithoutCancel(r.Context()))
	defer cancel()
	frame, room, err := g.firstFrame(ctx, client)
	if err == nil {
		err = c.mayUse(room)
	}
	var sfu *socket
	var p process
	if err == nil {
		sfu, p, err = g.connect(ctx, c, room, transports)
	}
	if err != nil {
		g.reject(client, err)
		return
	}
	g.run(&pipe{client: client, sfu: sfu, process: p, room: room, first: frame})
}

// joining reads and checks all that a request to join says.
func (g *Gateway) joining(r *http.Request) (c *caller, room orama.RoomID, transports []string, err error) {
	switch {
	case !isUpgrade(r):
		p := newProblem(http.StatusUpgradeRequired, "upgrade_required", "this path speaks WebSocket version 13 only")
		p.header.Set("Upgrade", "websocket")
		p.header.Set("Connection", "Upgrade")
		p.header.Set("Sec-WebSocket-Version", "13")
		return nil, "", nil, p
	case !hasKey(r):
		return nil, "", nil, newProblem(http.StatusBadRequest, "bad_request", "Sec-WebSocket-Key is not 16 bytes of base64")
	}
	if c, err = g.authenticate(r); err != nil {
		return nil, "", nil, err
	}
	if wait := g.rates.Take("join:"+string(c.ns.ID)+"/"+string(c.user), joinBurst, joinsPerSecond); wait > 0 {
		return nil, "", nil, limited(wait)
	}
	if _, err = webrtcOf(c.ns); err != nil {
		return nil, "", nil, err
	}
	q := r.URL.Query()
	if transports, err = parseTransports(q.Get("transports")); err != nil {
		return nil, "", nil, err
	}
	if room = orama.RoomID(q.Get("room")); room == "" {
		return c, c.room, transports, nil
	}
	if err = auth.ValidRoom(string(room)); err != nil {
		return nil, "", nil, err
	}
	return c, room, transports, c.mayUse(room)
}

func isUpgrade(r *http.Request) bool {
	has := func(key, word string) bool {
		return slices.ContainsFunc(headerTokens(r.Header, key), func(t string) bool { return strings.EqualFold(t, word) })
	}
	return r.ProtoAtLeast(1, 1) && has("Connection", "upgrade") && has("Upgrade", "websocket") &&
		r.Header.Get("Sec-WebSocket-Version") == "13"
}

// hasKey checks the header's form (RFC 6455 section 4.2.1), so that no SFU is dialled in vain.
func hasKey(r *http.Request) bool {
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(b) == 16
}

// asQuery: what is wrong with a query is a bad request; 422 is for bodies.
func asQuery(err error) error {
	var e *orama.Error
	if errors.As(err, &e) && e.Kind == orama.KindInvalid {
		return newProblem(http.StatusBadRequest, e.Code, e.Message)
	}
	return err
}

// parseTransports reads ?transports=udp,tcp,tls,dtls; "" asks for nothing in particular.
func parseTransports(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	var out []string
	for t := range strings.SplitSeq(list, ",") {
		switch t = strings.TrimSpace(t); t {
		case plan.TransportUDP, plan.TransportTCP, plan.TransportTLS, plan.TransportDTLS:
			if !slices.Contains(out, t) {
				out = append(out, t)
			}
		default:
			return nil, orama.Errorf(orama.KindInvalid, "invalid_transports", "transports is a list of udp, tcp, tls and dtls")
		}
	}
	return out, nil
}

// firstFrame reads a join that names its room.
func (g *Gateway) firstFrame(ctx context.Context, client *socket) ([]byte, orama.RoomID, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timing.firstWithin)
	defer cancel()
	type result struct {
		kind  websocket.MessageType
		frame []byte
		err   error
	}
	got := make(chan result, 1)
	// A read that is cancelled closes the connection, so this one is not: a close frame is still to be sent.
	go func() {
		kind, frame, err := readFrame(context.Background(), client, signal.MaxFirstFrame)
		got <- result{kind, frame, err}
	}()
	select {
	case <-ctx.Done():
		err := closing{signal.CloseNoFirstFrame, "no first frame in time"}
		if g.stopped.Err() != nil {
			err = closing{signal.CloseGone, "the gateway is going away"}
		}
		g.reject(client, err)
		<-got
		return nil, "", err
	case r := <-got:
		room, err := roomOf(r.kind, r.frame, r.err)
		return r.frame, room, err
	}
}

// roomOf reads the room out of a first frame.
func roomOf(kind websocket.MessageType, frame []byte, err error) (orama.RoomID, error) {
	if errors.Is(err, errTooLarge) {
		return "", closing{signal.CloseTooLarge, "the first frame is at most 4 KiB"}
	}
	if err != nil {
		return "", closing{} // the client is gone
	}
	m, err := signal.Decode(frame)
	join, ok := m.(*signal.Join)
	if err != nil || !ok || kind != websocket.MessageText || auth.ValidRoom(string(join.Room)) != nil {
		return "", closing{signal.CloseMalformed, "without ?room= the first frame is a join that names the room"}
	}
	return join.Room, nil
}

// closing is an error that has a close code already.
type closing struct {
	code   int
	reason string
}

func (c closing) Error() string { return c.reason }

// reject closes a socket that was accepted before it was known to be unwanted. A second call does nothing.
func (g *Gateway) reject(client *socket, err error) {
	var c closing
	if !errors.As(err, &c) {
		g.logError(context.Background(), "join", err)
		c = closing{closeCodeOf(orama.KindOf(err)), problemOf(err).Code}
	}
	client.end(c.code, c.reason, g.timing.closeWithin)
}

// untilStopped ends with the parent or with the gateway.
func (g *Gateway) untilStopped(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	unhook := context.AfterFunc(g.stopped, cancel)
	return ctx, func() { unhook(); cancel() }
}
