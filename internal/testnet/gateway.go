package testnet

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// Target is the SFU process that owns a room.
type Target struct {
	Namespace orama.NamespaceID
	Node      orama.NodeID
	Boot      string
	Signal    netip.AddrPort
}

// Gateway pipes sockets to SFUs as the real one does. A token is "NAMESPACE/USER", followed by
// any of the words "+listen", "+nodata" that take a right away, and "+admin".
type Gateway struct {
	Keys *auth.Keys
	Find func(orama.NamespaceID, orama.RoomID) (Target, error)

	mu    sync.Mutex
	pipes map[*pipe]bool // guarded by mu
	deny  int            // guarded by mu; status that every request is refused with, 0: none
	dials int            // guarded by mu
	only  *Target        // guarded by mu; nil: Find decides
}

type pipe struct{ client, sfu *websocket.Conn }

// ServeHTTP answers GET /v1/webrtc/signal.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.dials++
	deny := g.deny
	g.mu.Unlock()
	if deny != 0 {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(deny)
		w.Write([]byte(`{"code":"denied","detail":"the test gateway refuses"}`)) //nolint:errcheck // a test's
		return
	}
	ticket, err := ticketOf(r)
	if err != nil {
		http.Error(w, "bad token", http.StatusUnauthorized)
		return
	}
	target, err := g.target(ticket.Namespace, ticket.Room)
	if err != nil {
		http.Error(w, "no SFU", http.StatusServiceUnavailable)
		return
	}
	ticket.Node, ticket.Boot = target.Node, target.Boot
	g.pipe(w, r, target, ticket)
}

func ticketOf(r *http.Request) (auth.Ticket, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	ns, rest, both := strings.Cut(token, "/")
	if !ok || !both {
		return auth.Ticket{}, errors.New("testnet: no token")
	}
	words := strings.Split(rest, "+")
	t := auth.Ticket{
		Namespace: orama.NamespaceID(ns), User: orama.UserID(words[0]), Room: orama.RoomID(r.URL.Query().Get("room")),
		Publish: true, Subscribe: true, Data: true,
	}
	for _, w := range words[1:] {
		switch w {
		case "listen":
			t.Publish = false
		case "nodata":
			t.Data = false
		case "admin":
			t.Admin = true
		}
	}
	if s := r.URL.Query().Get("transports"); s != "" {
		t.Transports = strings.Split(s, ",")
	}
	return t, nil
}

func (g *Gateway) pipe(w http.ResponseWriter, r *http.Request, to Target, ticket auth.Ticket) {
	raw, err := g.Keys.MintTicket(ticket)
	if err != nil {
		http.Error(w, "no ticket", http.StatusInternalServerError)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// An SFU answers addresses of its mesh alone; its own is one.
	onMesh := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.Signal.Addr(), 0))}
	up, resp, err := websocket.Dial(ctx, "ws://"+to.Signal.String()+"/v1/signal", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Ticket " + raw}}, HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: onMesh.DialContext}},
	})
	if err != nil {
		status := http.StatusServiceUnavailable
		if resp != nil && resp.StatusCode != http.StatusConflict {
			status = resp.StatusCode
		}
		http.Error(w, "SFU", status)
		return
	}
	down, err := websocket.Accept(w, r, nil)
	if err != nil {
		up.CloseNow() //nolint:errcheck // a test's
		return
	}
	up.SetReadLimit(-1)
	down.SetReadLimit(-1)
	p := &pipe{client: down, sfu: up}
	g.track(p, true)
	defer g.track(p, false)
	var wg sync.WaitGroup
	wg.Go(func() { copyFrames(ctx, up, down, signal.CloseGone) })
	wg.Go(func() { copyFrames(ctx, down, up, 0) })
	wg.Wait()
}

// copyFrames pipes one way until it ends and closes the other side alike; a side that ended
// without a code is told of lost, or cut off when that is 0.
func copyFrames(ctx context.Context, from, to *websocket.Conn, lost websocket.StatusCode) {
	for {
		kind, frame, err := from.Read(ctx)
		if err == nil {
			err = to.Write(ctx, kind, frame)
		}
		if err == nil {
			continue
		}
		code := websocket.CloseStatus(err)
		if code == -1 || code == websocket.StatusNoStatusRcvd || code == websocket.StatusAbnormalClosure {
			code = lost
		}
		if code == 0 {
			to.CloseNow() //nolint:errcheck // a test's
		} else {
			to.Close(code, "") //nolint:errcheck // a test's
		}
		from.CloseNow() //nolint:errcheck // a test's
		return
	}
}

func (g *Gateway) track(p *pipe, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pipes == nil {
		g.pipes = map[*pipe]bool{}
	}
	if on {
		g.pipes[p] = true
	} else {
		delete(g.pipes, p)
	}
}

// Cut breaks every socket without a close frame on either side, as a killed gateway does.
func (g *Gateway) Cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.pipes {
		p.client.CloseNow() //nolint:errcheck // a test's
		p.sfu.CloseNow()    //nolint:errcheck // a test's
	}
}

// Deny refuses every request with the status from now on; 0 serves again.
func (g *Gateway) Deny(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deny = status
}

// Requests counts what was asked of the gateway.
func (g *Gateway) Requests() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dials
}

// shutdownWithin bounds the end of the gateway's HTTP server.
const shutdownWithin = 5 * time.Second

// Direct sends every room to one target from now on.
func (g *Gateway) Direct(to Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.only = &to
}

func (g *Gateway) target(ns orama.NamespaceID, room orama.RoomID) (Target, error) {
	g.mu.Lock()
	only := g.only
	g.mu.Unlock()
	if only != nil {
		return *only, nil
	}
	return g.Find(ns, room)
}
