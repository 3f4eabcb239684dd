package probe

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Listener is a socket of this machine that others can send to.
type Listener struct {
	Network string         `json:"network"` // "tcp" or "udp"
	Address netip.AddrPort `json:"address"`
	PID     int            `json:"pid"` // of a process that holds it; 0: of a user whose processes we may not see
}

// maxListeners bounds what is read: an address has 65536 ports.
const maxListeners = 1 << 16

// Listeners lists the TCP sockets of this network namespace that listen, and its UDP sockets that are bound, by network,
// address and port. proc is where proc(5) is mounted. Which process holds a socket is said for those that we may see.
func Listeners(proc string) ([]Listener, error) {
	var out []Listener
	holders := map[string]int{}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(filepath.Join(proc, "net", table))
		if os.IsNotExist(err) { // no IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
		sockets, err := parseSockets(f, strings.TrimSuffix(table, "6"))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", table, err)
		}
		if len(holders) == 0 && len(sockets) > 0 {
			holders = socketHolders(proc)
		}
		for _, s := range sockets {
			out = append(out, Listener{s.network, s.address, holders[s.inode]})
		}
	}
	slices.SortFunc(out, func(a, b Listener) int {
		if a.Network != b.Network {
			return strings.Compare(a.Network, b.Network)
		}
		return a.Address.Compare(b.Address)
	})
	return out, nil
}

type socket struct {
	network string
	address netip.AddrPort
	inode   string
}

// States of sockets in proc(5): tcp listens, udp is bound and not connected.
const (
	stateListen  = "0A"
	stateUnbound = "07"
)

// parseSockets reads a table such as /proc/net/tcp: a heading, then one socket a line.
func parseSockets(r io.Reader, network string) ([]socket, error) {
	want := stateListen
	if network == "udp" {
		want = stateUnbound
	}
	var out []socket
	lines := bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 10 || fields[3] != want {
			continue
		}
		at, ok := parseAddress(fields[1])
		if !ok || at.Port() == 0 {
			continue
		}
		if len(out) == maxListeners {
			break
		}
		out = append(out, socket{network, at, fields[9]})
	}
	return out, lines.Err()
}

// parseAddress reads "0100007F:1F90": 32-bit words in the byte order of the machine, which is little-endian wherever
// this runs, then the port.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, portText, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	port, err := strconv.ParseUint(portText, 16, 16)
	ip, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), err == nil
}

// socketHolders finds which process has which socket, by inode. Processes that we may not look into are left out.
func socketHolders(proc string) map[string]int {
	out := map[string]int{}
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*")) //nolint:errcheck // the pattern is fixed
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(fd))))
		if err == nil {
			out[strings.TrimSuffix(inode, "]")] = pid
		}
	}
	return out
}
