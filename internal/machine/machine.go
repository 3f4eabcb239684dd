// Package machine measures the host that it runs on, from what the kernel tells in /proc and /sys: processors and load,
// memory, traffic, and which of our ports other programs hold. It decides nothing, and keeps no history but what a rate
// needs. What cannot be read is left out of the report.
package machine

import (
	"bufio"
	"context"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"orama.network/orama"
)

// maxLines bounds what is read of one file.
const maxLines = 1 << 20

// Machine is this host. It is used by one goroutine at a time.
type Machine struct {
	public, mesh netip.Addr
	root         fs.FS // of proc and sys
	now          func() time.Time
	link         func() string // name of the interface that clients come in by; "" when it is not known

	// the report before
	traffic uint64 // bytes through link
	at      time.Time
	seen    map[string]time.Time // sockets by inode, when each was first seen
}

// New makes a Machine for a node of these addresses.
func New(public, mesh netip.Addr) *Machine {
	m := &Machine{public: public, mesh: mesh, root: os.DirFS("/"), now: time.Now}
	m.link = m.publicLink
	return m
}

// Report measures now. Bandwidth is the mean since the last report; the first has none.
func (m *Machine) Report(_ context.Context) orama.NodeReport {
	r := orama.NodeReport{CPUs: runtime.NumCPU(), Load: m.load()}
	r.MemoryTotal, r.MemoryAvailable = m.memory()
	now := m.now()
	if link := m.link(); link != "" {
		r.Bandwidth = m.rate(link, now)
		r.LinkSpeed = m.speed(link)
	}
	m.at = now
	r.Busy = m.busy(now)
	return r
}

// load is the number of runnable processes, as the mean of a minute (proc_loadavg(5)).
func (m *Machine) load() float64 {
	text, err := fs.ReadFile(m.root, "proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil || !(v >= 0 && v < 1e9) { // JSON has no NaN
		return 0
	}
	return v
}

// memory is in bytes (proc_meminfo(5)).
func (m *Machine) memory() (total, available uint64) {
	m.lines("proc/meminfo", func(line string) bool {
		f := strings.Fields(line)
		if len(f) < 2 {
			return true
		}
		kib, err := strconv.ParseUint(f[1], 10, 54)
		switch {
		case err != nil:
		case f[0] == "MemTotal:":
			total = kib << 10
		case f[0] == "MemAvailable:":
			available = kib << 10
		}
		return total == 0 || available == 0
	})
	return total, min(available, total)
}

// rate is in bits a second, both directions (proc_pid_net(5), /proc/net/dev).
func (m *Machine) rate(link string, now time.Time) uint64 {
	bytes, ok := m.counted(link)
	before, since := m.traffic, now.Sub(m.at)
	m.traffic = bytes
	if !ok || m.at.IsZero() || since <= 0 || bytes < before { // a counter that went back was set to zero between
		return 0
	}
	return uint64(float64(bytes-before) * 8 / since.Seconds())
}

// counted is how many bytes an interface has received and sent.
func (m *Machine) counted(link string) (sum uint64, ok bool) {
	m.lines("proc/net/dev", func(line string) bool {
		name, rest, found := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !found || strings.TrimSpace(name) != link || len(f) < 9 {
			return true
		}
		in, err := strconv.ParseUint(f[0], 10, 63)
		out, err2 := strconv.ParseUint(f[8], 10, 63)
		sum, ok = in+out, err == nil && err2 == nil
		return false
	})
	return sum, ok
}

// speed is in bits a second; 0 for an interface that does not know its own, such as a virtual one.
func (m *Machine) speed(link string) uint64 {
	text, err := fs.ReadFile(m.root, "sys/class/net/"+link+"/speed")
	if err != nil {
		return 0
	}
	megabits, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32) // -1 is none, too
	if err != nil {
		return 0
	}
	return megabits * 1_000_000
}

// publicLink finds the interface that has the public address; or, where that is the address of a router before this host, the one
// of the default route.
func (m *Machine) publicLink() string {
	links, err := net.Interfaces()
	if err != nil {
		return ""
	}
	loopback := ""
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, err := netip.ParsePrefix(a.String()); err == nil && n.Addr().Unmap() == m.public {
				return l.Name
			}
		}
		if l.Flags&net.FlagLoopback != 0 {
			loopback = l.Name
		}
	}
	if m.public.IsLoopback() {
		return loopback // all of 127.0.0.0/8 is on it
	}
	return m.defaultLink()
}

func (m *Machine) defaultLink() (name string) {
	m.lines("proc/net/route", func(line string) bool {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && fs.ValidPath(f[0]) && !strings.Contains(f[0], "/") {
			name = f[0]
		}
		return name == ""
	})
	return name
}

// lines calls read for each line of a file until it gives false. A file that cannot be read has no lines.
func (m *Machine) lines(name string, read func(string) bool) {
	f, err := m.root.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 0; n < maxLines && s.Scan() && read(s.Text()); n++ {
	}
}

// ranges joins ports to ranges.
func ranges(ports []uint16) []orama.PortRange {
	slices.Sort(ports)
	var out []orama.PortRange
	for _, p := range slices.Compact(ports) {
		if n := len(out); n > 0 && int(out[n-1].First)+int(out[n-1].Count) == int(p) {
			out[n-1].Count++
			continue
		}
		out = append(out, orama.PortRange{First: p, Count: 1})
	}
	return out
}
