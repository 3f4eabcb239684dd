package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// process is one run of an SFU: another boot on the same node is another process, with other rooms.
type process struct {
	ns   orama.NamespaceID
	node orama.NodeID
	boot string
}

// sfus speaks to SFUs over the mesh.
type sfus struct {
	keys   *auth.Keys
	now    func() time.Time
	within time.Duration // for one dial
	client *http.Client  // for questions
	joins  *http.Client  // for sockets: each has a connection made for it, which shows whether the host is there
}

const (
	// connectWithin is how long a host of the mesh may take to accept a connection. A dead one is silent, and people wait.
	connectWithin = 900 * time.Millisecond
	// connectBeside is when a second try is made beside the first, whose SYN may have been lost: the kernel repeats it after
	// a second only. A room moves when neither is answered.
	connectBeside = 300 * time.Millisecond
)

// newSFUs dials from the node's mesh address, because an SFU answers nobody else; the zero address
// leaves the choice to the kernel.
func newSFUs(keys *auth.Keys, now func() time.Time, within time.Duration, from netip.Addr) *sfus {
	dialer := &net.Dialer{Timeout: within}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	client := func(t *http.Transport) *http.Client { // no proxy from the environment: the mesh is reached directly
		t.MaxResponseHeaderBytes = 16 << 10
		return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &sfus{keys: keys, now: now, within: within,
		client: client(&http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second}),
		joins: client(&http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return connect(ctx, func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, addr) })
		}}),
	}
}

// connect makes one connection, by a second try beside the first where that is slow, within connectWithin.
func connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	type made struct {
		conn net.Conn
		err  error
	}
	tries := make(chan made, 2)
	try := func() {
		conn, err := dial(ctx)
		tries <- made{conn, err}
	}
	go try()
	beside := time.NewTimer(connectBeside)
	defer beside.Stop()
	for running := 1; ; {
		select {
		case <-beside.C:
			running++
			go try()
		case got := <-tries:
			running--
			if running > 0 { // the other is given up, or too late
				cancel()
				if other := <-tries; other.conn != nil {
					if got.conn == nil {
						return other.conn, nil
					}
					other.conn.Close()
				}
			}
			return got.conn, got.err
		}
	}
}

func (s *sfus) close() {
	s.client.CloseIdleConnections()
	s.joins.CloseIdleConnections()
}

// errLost means that a process does not have its rooms any more, or never will again: another
// one has to take them over.
var errLost = errors.New("the SFU is lost to its rooms")

// addressOf finds where a process listens on the mesh.
func addressOf(c orama.Cluster, p process) (netip.AddrPort, bool) {
	in, ok := instanceOf(c, p.ns, orama.RoleSFU, p.node)
	if !ok {
		return netip.AddrPort{}, false
	}
	n, ok := nodeOf(c, p.node)
	return netip.AddrPortFrom(n.MeshIP, in.Ports.Signal.First), ok && n.MeshIP.IsValid() && in.Ports.Signal.First != 0
}

// dial joins a client to a process. The error wraps errLost when the room has to move.
func (s *sfus) dial(ctx context.Context, at netip.AddrPort, room signal.RoomRecord, t auth.Ticket) (*socket, error) {
	t.Issued = s.now()
	ticket, err := s.keys.MintTicket(t)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Authorization": {"Ticket " + ticket}}
	if room.MaxParticipants != 0 || room.State.Revision > 0 {
		record, err := room.Encode()
		if err != nil {
			return nil, err
		}
		header.Set(signal.HeaderRoom, record)
	}
	dialCtx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	conn, resp, err := dialSocket(dialCtx, "ws://"+at.String()+"/v1/signal", &websocket.DialOptions{
		HTTPClient: s.joins, HTTPHeader: header,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil { // the client went away, or all time is spent: that says nothing about the SFU
		return nil, ctx.Err()
	}
	return nil, refusal(resp, err)
}

// refusal reads what an SFU's answer means for the room.
func refusal(resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	switch resp.StatusCode {
	case http.StatusConflict, http.StatusServiceUnavailable:
		return fmt.Errorf("%w: it answered %d", errLost, resp.StatusCode)
	case http.StatusForbidden:
		return orama.Errorf(orama.KindForbidden, "forbidden", "you may not join this room")
	case http.StatusNotFound:
		return orama.Errorf(orama.KindNotFound, "room_not_found", "there is no such room")
	case http.StatusTooManyRequests:
		return limited(time.Second)
	default: // above all 401: clocks or keys disagree, which no other SFU would mend
		e := unavailable("sfu_refused", "the room's server refused this gateway; try again", time.Second)
		e.Err = fmt.Errorf("the SFU answered %d", resp.StatusCode)
		return e
	}
}

// rooms asks a process who is in its rooms.
func (s *sfus) rooms(ctx context.Context, at netip.AddrPort, p process) (map[orama.RoomID]int, error) {
	resp, err := s.control(ctx, http.MethodGet, at, p, "/v1/rooms", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the SFU answered %d", resp.StatusCode)
	}
	var body struct {
		Rooms []struct {
			ID           orama.RoomID `json:"room_id"`
			Participants int          `json:"participants"`
		} `json:"rooms"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&body); err != nil {
		return nil, fmt.Errorf("the SFU's list of rooms: %w", err)
	}
	out := make(map[orama.RoomID]int, len(body.Rooms))
	for _, r := range body.Rooms {
		out[r.ID] = r.Participants
	}
	return out, nil
}

// closeRoom tells a process to send everybody home.
func (s *sfus) closeRoom(ctx context.Context, at netip.AddrPort, p process, room orama.RoomID) error {
	resp, err := s.control(ctx, http.MethodDelete, at, p, "/v1/rooms/"+url.PathEscape(string(room)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("the SFU answered %d", resp.StatusCode)
	}
	return nil
}

func (s *sfus) control(ctx context.Context, method string, at netip.AddrPort, p process, path string, body []byte) (*http.Response, error) {
	ticket, err := s.keys.MintTicket(auth.Ticket{Namespace: p.ns, Node: p.node, Boot: p.boot, Admin: true, Issued: s.now()})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Ticket "+ticket)
	return s.client.Do(req)
}

// errNotThere means that a process does not have the room: nobody has joined it, or not lately.
var errNotThere = errors.New("the SFU does not have the room")

// view asks a process who is in a room.
func (s *sfus) view(ctx context.Context, at netip.AddrPort, p process, room orama.RoomID) (v signal.RoomView, err error) {
	return v, s.one(ctx, http.MethodGet, at, p, room, nil, &v)
}

// act has a process do what an owner asks of a room, and gives the room's state.
func (s *sfus) act(ctx context.Context, at netip.AddrPort, p process, room orama.RoomID, m signal.Message) (st signal.RoomState, err error) {
	frame, err := signal.Encode(m)
	if err != nil {
		return st, err
	}
	return st, s.one(ctx, http.MethodPost, at, p, room, frame, &st)
}

// one asks a process about one room.
func (s *sfus) one(ctx context.Context, method string, at netip.AddrPort, p process, room orama.RoomID, body []byte, out any) error {
	resp, err := s.control(ctx, method, at, p, "/v1/rooms/"+url.PathEscape(string(room)), body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	limited := json.NewDecoder(io.LimitReader(resp.Body, 64<<20))
	switch resp.StatusCode {
	case http.StatusOK:
		return limited.Decode(out)
	case http.StatusNotFound, http.StatusConflict: // not joined, or another boot, which has lost the room
		return errNotThere
	case http.StatusUnprocessableEntity:
		var e signal.Error
		if err := limited.Decode(&e); err != nil {
			return err
		}
		kind := orama.KindInvalid
		if e.Code == signal.CodeNotFound {
			kind = orama.KindNotFound
		}
		return orama.Errorf(kind, e.Code, "%.200s", e.Message)
	}
	return fmt.Errorf("the SFU answered %d", resp.StatusCode)
}
