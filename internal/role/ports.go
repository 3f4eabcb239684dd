package role

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"orama.network/orama"
)

// endpoint is one socket that a cluster is about to need.
type endpoint struct {
	Network string // "udp" or "tcp"
	Addr    netip.AddrPort
	Purpose string // for the message: "TURN", "the gateway"
}

// errMayNotBind means that the port is free but not for this user: below 1024 without the right.
var errMayNotBind = errors.New("this user may not bind it")

// checkFree binds the endpoint and lets it go again. A port in use is named together with
// the process that holds it, when that can be known.
func checkFree(e endpoint) error {
	var err error
	if e.Network == "udp" {
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", e.Addr.String()); err == nil {
			return c.Close()
		}
	} else {
		var l net.Listener
		if l, err = net.Listen("tcp", e.Addr.String()); err == nil {
			return l.Close()
		}
	}
	switch {
	case errors.Is(err, syscall.EACCES):
		return errMayNotBind
	case errors.Is(err, syscall.EADDRINUSE):
		return orama.Errorf(orama.KindUnavailable, "port_in_use", "%s/%s, which %s needs, is in use by %s; stop it and try again",
			e.Addr, e.Network, e.Purpose, holder(e))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return orama.Errorf(orama.KindUnavailable, "no_such_address", "%s, which %s needs, is no address of this machine; choose one with --public-ip",
			e.Addr.Addr(), e.Purpose)
	}
	return fmt.Errorf("%s/%s: %w", e.Addr, e.Network, err)
}

// holder names the process that has the endpoint's socket, as far as /proc tells this user.
func holder(e endpoint) string {
	inodes := socketInodes(e)
	if len(inodes) == 0 {
		return "another process"
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "another process"
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok && inodes[strings.TrimSuffix(inode, "]")] {
			pid := strings.Split(fd, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm") //nolint:errcheck // the name is a help only
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), pid)
		}
	}
	return "a process of another user"
}

// socketInodes finds the sockets bound to the endpoint, or to its port on every address, in
// /proc/net (proc(5)): local addresses there are hexadecimal in host byte order.
func socketInodes(e endpoint) map[string]bool {
	found := map[string]bool{}
	for _, table := range []string{"/proc/net/" + e.Network, "/proc/net/" + e.Network + "6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) || err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || (e.Network == "tcp" && fields[3] != "0A") { // 0A: listening
				continue
			}
			ip, port, ok := procAddr(fields[1])
			if ok && port == e.Addr.Port() && (ip.IsUnspecified() || ip == e.Addr.Addr()) {
				found[fields[9]] = true
			}
		}
		f.Close()
	}
	return found
}

// procAddr reads "0100007F:1F90": 32-bit words in host (little-endian) byte order, then the port.
func procAddr(s string) (netip.Addr, uint16, bool) {
	host, portText, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	ip, ok := netip.AddrFromSlice(raw)
	port, err := strconv.ParseUint(portText, 16, 16)
	return ip.Unmap(), uint16(port), ok && err == nil
}
