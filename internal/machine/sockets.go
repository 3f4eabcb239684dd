package machine

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// settled is how long a socket of a port that the kernel chose must be there before it counts.
const settled = time.Second

// socket is a line of /proc/net/udp or tcp (proc_pid_net(5)).
type socket struct {
	local  netip.AddrPort
	listen bool // of TCP
	inode  string
}

// busy finds the ports of our ranges that cannot be bound on the mesh address because a socket has them: one that
// is bound to that address, connected or not, or to all addresses. Over UDP these are relays' and media's ports, over
// TCP, where only a listener is in the way, signalling's. A socket on any other address shares the port in peace.
//
// The relay range overlaps the ports that the kernel gives to sockets which ask for none, 32768-60999 by default. Clients
// use those for a moment, and a resolver uses a new one for each question. So such a port, held on all
// addresses, counts only when its socket has been there for a second; at the first look, all count.
func (m *Machine) busy(now time.Time) []orama.PortRange {
	udp, tcp := plan.Ranges()
	first, last := m.ephemeral()
	seen := map[string]time.Time{}
	var held []uint16
	look := func(s socket, ours []orama.PortRange) {
		port := s.local.Port()
		if !m.collides(s.local.Addr()) || !slices.ContainsFunc(ours, func(r orama.PortRange) bool { return r.Contains(port) }) {
			return
		}
		since, known := m.seen[s.inode]
		if !known {
			since = now
		}
		seen[s.inode] = since
		passing := port >= first && port <= last && s.local.Addr().IsUnspecified()
		if !passing || m.seen == nil || now.Sub(since) >= settled {
			held = append(held, port)
		}
		if m.seen == nil {
			seen[s.inode] = now.Add(-settled)
		}
	}
	for _, file := range []string{"proc/net/udp", "proc/net/udp6"} {
		m.lines(file, func(line string) bool {
			if s, ok := parseSocket(line); ok {
				look(s, udp)
			}
			return true
		})
	}
	for _, file := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		m.lines(file, func(line string) bool {
			s, ok := parseSocket(line)
			if ok && s.listen {
				look(s, tcp)
			}
			return !ok || s.listen // the kernel lists the listeners first, and there may be very many connections
		})
	}
	m.seen = seen
	return ranges(held)
}

// collides reports whether a socket at an address keeps others from binding its port on the mesh address. A socket
// on all IPv6 addresses takes the IPv4 port, too, unless it was told not to, which the kernel does not show.
func (m *Machine) collides(a netip.Addr) bool {
	if a.IsUnspecified() {
		return a.Is6() || m.mesh.Is4()
	}
	return a == m.mesh
}

// ephemeral is the range of the ports that the kernel gives out (ip_local_port_range in ip(7)).
func (m *Machine) ephemeral() (first, last uint16) {
	first, last = 32768, 60999
	m.lines("proc/sys/net/ipv4/ip_local_port_range", func(line string) bool {
		f := strings.Fields(line)
		if len(f) != 2 {
			return false
		}
		lo, err := strconv.ParseUint(f[0], 10, 16)
		hi, err2 := strconv.ParseUint(f[1], 10, 16)
		if err == nil && err2 == nil {
			first, last = uint16(lo), uint16(hi)
		}
		return false
	})
	return first, last
}

// tcpListen is TCP_LISTEN of include/net/tcp_states.h.
const tcpListen = "0A"

// parseSocket reads "sl local_address rem_address st ... inode ...". False: it is no socket.
func parseSocket(line string) (socket, bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return socket{}, false
	}
	local, ok := parseAddr(f[1])
	return socket{local: local, listen: f[3] == tcpListen, inode: f[9]}, ok
}

// parseAddr reads "0100007F:1F90": 32-bit words as the host has them in memory, each as a hexadecimal number; then the port.
func parseAddr(s string) (netip.AddrPort, bool) {
	host, portText, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	port, err2 := strconv.ParseUint(portText, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), ok
}
