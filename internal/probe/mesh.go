package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Mesh gives nil when the host answers on an address of the mesh: it takes a TCP connection to one of the ports, or
// refuses one, or answers an ICMP echo. A refusal proves as much as a welcome, because it comes from the far side of the mesh.
// From is our own address there; the zero address is any.
func Mesh(ctx context.Context, from, to netip.Addr, ports ...uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(ports)+1)
	for _, p := range ports {
		go func() { results <- answers(ctx, from, netip.AddrPortFrom(to, p)) }()
	}
	go func() { results <- echo(ctx, from, to) }()
	var errs error
	answered := false
	for range len(ports) + 1 { // all of them, so that none outlives the call
		err := <-results
		if err == nil && !answered {
			answered = true
			cancel()
		}
		errs = errors.Join(errs, err)
	}
	if answered {
		return nil
	}
	return fmt.Errorf("no answer: %w", errs)
}

// answers connects, and takes a refusal for an answer.
func answers(ctx context.Context, from netip.Addr, to netip.AddrPort) error {
	d := net.Dialer{}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tcp port %d: %w", to.Port(), cause(err))
	}
	return c.Close()
}

// cause is an error of package net without the addresses that its reader knows.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// Numbers of the protocols whose messages are parsed (IANA protocol numbers).
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// echo sends ICMP echo requests (RFC 792, RFC 4443), by a datagram socket where this user's group may have one and by
// a raw one where it may have that.
func echo(ctx context.Context, from, to netip.Addr) error {
	v6 := to.Is6() && !to.Is4In6()
	networks, proto := []string{"udp4", "ip4:icmp"}, protocolICMP
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if v6 {
		networks, proto = []string{"udp6", "ip6:ipv6-icmp"}, protocolICMPv6
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	local := ""
	if from.IsValid() {
		local = from.String()
	}
	conn, network, err := listenEcho(networks, local)
	if err != nil {
		return fmt.Errorf("icmp echo: %w", err)
	}
	defer conn.Close()
	var dst net.Addr = &net.IPAddr{IP: to.AsSlice()}
	if strings.HasPrefix(network, "udp") {
		dst = &net.UDPAddr{IP: to.AsSlice()}
	}
	if err := exchange(ctx, conn, dst, proto, request, reply); err != nil {
		return fmt.Errorf("icmp echo: %w", err)
	}
	return nil
}

// listenEcho opens the first kind of socket that may be had.
func listenEcho(networks []string, local string) (*icmp.PacketConn, string, error) {
	var errs error
	for _, network := range networks {
		conn, err := icmp.ListenPacket(network, local)
		if err == nil {
			return conn, network, nil
		}
		errs = errors.Join(errs, cause(err))
	}
	return nil, "", errs
}

// again is how long one request is waited for before another is sent.
const again = 500 * time.Millisecond

func exchange(ctx context.Context, conn *icmp.PacketConn, dst net.Addr, proto int, request, reply icmp.Type) error {
	token := make([]byte, 8)
	binary.BigEndian.PutUint64(token, uint64(time.Now().UnixNano()))                 //nolint:gosec // any number will do
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // the socket is ours
	defer stop()
	buf := make([]byte, 1500)
	for seq := 1; ; seq++ {
		msg := icmp.Message{Type: request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: seq, Data: token}}
		wire, err := msg.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(wire, dst); err != nil {
			return cause(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(again)); err != nil {
			return err
		}
		for {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return cause(err)
			}
			if echoed(buf[:n], proto, reply, token) {
				return nil
			}
		}
	}
}

// echoed tells our reply from all others that a raw socket hears. The id is not looked at: a datagram socket's is
// the kernel's.
func echoed(packet []byte, proto int, reply icmp.Type, token []byte) bool {
	m, err := icmp.ParseMessage(proto, packet)
	if err != nil || m.Type != reply {
		return false
	}
	e, ok := m.Body.(*icmp.Echo)
	return ok && string(e.Data) == string(token)
}
