package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// sparedFor is how much longer than an SFU says a pipe to it is left to the SFU itself to end.
const sparedFor = time.Second

// drainingPrefix begins the one frame of an SFU that a gateway reads; signal.Encode puts the type first.
var drainingPrefix = []byte(`{"type":"server-draining"`)

// rewrite gives the frame of the SFU as the client is to have it. One that asks the client to go says where to: the room's record
// is moved first, if no other gateway was faster, so that whoever goes there finds the new owner. When that is not to be had now
// the frame stays as it is: any gateway leads on, later.
func (g *Gateway) rewrite(ctx context.Context, p *pipe, frame []byte) []byte {
	if !bytes.HasPrefix(frame, drainingPrefix) {
		return frame
	}
	m, err := signal.Decode(frame)
	d, ok := m.(*signal.ServerDraining)
	if err != nil || !ok {
		return frame
	}
	// The record will name another process while the client has its old place yet: that is no reason to cut it off.
	within := min(time.Duration(max(0, d.DeadlineMS))*time.Millisecond, time.Hour)
	p.spared.Store(g.now().Add(within + sparedFor).UnixNano())
	if d.Reconnect != nil {
		return frame
	}
	ctx, cancel := context.WithTimeout(ctx, g.timing.storeWithin)
	defer cancel()
	to, err := g.newOwner(ctx, p)
	if err != nil {
		g.log.LogAttrs(ctx, slog.LevelInfo, "a room has nowhere to go", slog.String("namespace", string(p.process.ns)),
			slog.String("room", string(p.room)), slog.Any("reason", err))
		return frame
	}
	d.Reconnect = g.signalURL(ctx, to, p.room)
	if b, err := signal.Encode(d); err == nil {
		return b
	}
	return frame
}

// newOwner gives the process that has the pipe's room from now on.
func (g *Gateway) newOwner(ctx context.Context, p *pipe) (process, error) {
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return process{}, err
	}
	n, ok := namespaceOf(cl, p.process.ns)
	if !ok {
		return process{}, errNoSFU
	}
	s := &search{g: g, ns: n, room: p.room, lost: map[process]bool{p.process: true}, from: p.process.node}
	return s.owner(ctx)
}

// signalURL is where clients join the room at the gateway of a process's node, or here when that has none. Nil: neither is known.
func (g *Gateway) signalURL(ctx context.Context, to process, room orama.RoomID) *string {
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return nil
	}
	for _, id := range []orama.NodeID{to.node, g.cfg.Node} {
		n, _ := nodeOf(cl, id)
		base, err := url.Parse(n.GatewayURL)
		if err != nil || base.Host == "" || !strings.HasPrefix(base.Scheme, "http") {
			continue
		}
		base.Scheme = "ws" + strings.TrimPrefix(base.Scheme, "http")
		base = base.JoinPath(signalPath)
		base.RawQuery = url.Values{"room": {string(room)}}.Encode()
		u := base.String()
		return &u
	}
	return nil
}
