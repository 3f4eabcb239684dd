// Package probe looks at the system from outside, as a client or another host would: each function does one real
// thing once (an allocation, a join, a handshake, a question) and says what came of it. It keeps no results, knows
// no schedule, and judges nothing.
package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/coder/websocket"
	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"orama.network/orama/internal/signal"
)

// TURN makes one allocation over UDP (RFC 8656) with the credential and gives it back at once.
func TURN(ctx context.Context, server netip.AddrPort, realm, username, credential string) error {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(server.Addr().String(), "0"))
	if err != nil { // the server is another host's: any address will do
		// Of the server's family: by its own address a client says which family of relay it wants (RFC 8656 section 7.1).
		network := "udp4"
		if server.Addr().Unmap().Is6() {
			network = "udp6"
		}
		if conn, err = net.ListenPacket(network, ":0"); err != nil { //nolint:gosec // a client's socket
			return fmt.Errorf("turn probe: %w", err)
		}
	}
	defer conn.Close()
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: server.String(),
		STUNServerAddr: server.String(),
		Username:       username,
		Password:       credential,
		Realm:          realm,
		Conn:           conn,
		LoggerFactory:  &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
	})
	if err != nil {
		return fmt.Errorf("turn probe: %w", err)
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		return fmt.Errorf("turn probe: %w", err)
	}
	relay, err := c.AllocateWithContext(ctx)
	if err != nil {
		return fmt.Errorf("no allocation at %s: %w", server, err)
	}
	return relay.Close()
}

// SFU joins the room that the ticket names and leaves it again, from an address of the mesh, because
// an SFU answers nobody else. No media is exchanged.
func SFU(ctx context.Context, from netip.Addr, at netip.AddrPort, ticket string) error {
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	header := http.Header{"Authorization": {"Ticket " + ticket}}
	ws, resp, err := websocket.Dial(ctx, "ws://"+at.String()+"/v1/signal", &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err != nil {
		if resp != nil {
			return fmt.Errorf("no socket at %s: status %d", at, resp.StatusCode)
		}
		return fmt.Errorf("no socket at %s: %w", at, err)
	}
	defer ws.CloseNow() //nolint:errcheck // over either way
	ws.SetReadLimit(signal.MaxFrame)
	if err := send(ctx, ws, &signal.Join{Name: "probe"}); err != nil {
		return fmt.Errorf("sfu probe: %w", err)
	}
	for {
		_, frame, err := ws.Read(ctx)
		if err != nil {
			return fmt.Errorf("no joined from %s: %w", at, err)
		}
		var head struct {
			Type signal.Type `json:"type"`
		}
		if json.Unmarshal(frame, &head) == nil && head.Type == signal.TypeJoined {
			break
		}
	}
	if err := send(ctx, ws, &signal.Leave{}); err != nil {
		return fmt.Errorf("sfu probe: %w", err)
	}
	return nil
}

func send(ctx context.Context, ws *websocket.Conn, m signal.Message) error {
	frame, err := signal.Encode(m)
	if err != nil {
		return err
	}
	return ws.Write(ctx, websocket.MessageText, frame)
}
