package dns

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// whoHolds says in words which process has the port, and what to do about it. It reads /proc (proc_net(5)); where
// that does not tell, it says how to look.
func whoHolds(network string, addr netip.AddrPort) string {
	for inode := range inodesAt(network, addr.Port()) {
		name, pid := ownerOf(inode)
		if name == "" {
			continue
		}
		advice := "stop it, or set dns.listen to another address"
		if strings.HasPrefix(name, "systemd-resolve") {
			advice = "set DNSStubListener=no in /etc/systemd/resolved.conf and restart it, or set dns.listen to this host's public address alone"
		}
		return fmt.Sprintf("%s (process %d) holds the port; %s", name, pid, advice)
	}
	return fmt.Sprintf("another process holds the port; 'ss -lnp sport = :%d' as root names it", addr.Port())
}

// inodesAt are the sockets bound to a port, as the kernel numbers them.
func inodesAt(network string, port uint16) map[string]bool {
	found := map[string]bool{}
	for _, family := range []string{"", "6"} {
		f, err := os.Open("/proc/net/" + network + family)
		if err != nil {
			continue
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			// sl, local_address, rem_address, st, queues, timer, retransmits, uid, timeout, inode
			fields := strings.Fields(sc.Text())
			if len(fields) < 10 {
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			if p, err := strconv.ParseUint(hex, 16, 16); err != nil || uint16(p) != port {
				continue
			}
			if network == "tcp" && fields[3] != "0A" { // not TCP_LISTEN
				continue
			}
			found[fields[9]] = true
		}
		f.Close()
	}
	return found
}

// ownerOf finds the process that has a socket open; "" when that is hidden from us.
func ownerOf(inode string) (name string, pid int) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, l := range links {
		target, err := os.Readlink(l)
		if err != nil || target != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		pid, _ = strconv.Atoi(filepath.Base(dir))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return strings.TrimSpace(string(comm)), pid
	}
	return "", 0
}
