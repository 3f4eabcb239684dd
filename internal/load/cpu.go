package load

import (
	"bytes"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// proc is where the kernel tells of processes; a tick is its unit of CPU time on every Linux that Go runs on.
const (
	proc = "/proc"
	tick = 10 * time.Millisecond
)

// fullAt is the share of a machine's CPU that may be used in the long run: above it queues grow, and latency with them.
const fullAt = 0.8

// spent is CPU time since the machine started; of this process and Orama's servers, since they did.
type spent struct {
	at            time.Duration
	machine       time.Duration
	self, servers time.Duration
}

// usage is CPU, in CPUs: 1 is one that is always busy.
type usage struct {
	machine, self, servers float64
}

func readSpent() spent {
	s := spent{at: now()}
	if text, err := os.ReadFile(filepath.Join(proc, "stat")); err == nil {
		s.machine = parseStat(text)
	}
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err == nil {
		s.self = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	}
	commands, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline")) //nolint:errcheck // the pattern is fixed
	for _, file := range commands {
		if command, err := os.ReadFile(file); err == nil && isServer(command) {
			if text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "stat")); err == nil {
				s.servers += parseProcess(text)
			}
		}
	}
	return s
}

// parseStat reads the time that all CPUs were busy: everything but idle, iowait and what guests had, which user has (proc(5)).
func parseStat(text []byte) (busy time.Duration) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	for i, f := range bytes.Fields(line) {
		if n, err := strconv.ParseInt(string(f), 10, 64); err == nil && slices.Contains([]int{1, 2, 3, 6, 7, 8}, i) {
			busy += time.Duration(n) * tick
		}
	}
	return busy
}

// parseProcess reads the CPU time of one process: fields 14 and 15, counted behind the name, which may hold anything.
func parseProcess(text []byte) (used time.Duration) {
	_, rest, ok := bytes.Cut(text, []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0
	}
	for _, f := range fields[11:13] {
		if n, err := strconv.ParseInt(string(f), 10, 64); err == nil {
			used += time.Duration(n) * tick
		}
	}
	return used
}

// isServer recognizes a process of Orama's that carries calls or serves them.
func isServer(command []byte) bool {
	words := bytes.Split(command, []byte{0})
	return len(words) > 2 && filepath.Base(string(words[0])) == "orama" &&
		slices.Contains([]string{"turn", "sfu", "node"}, string(words[1])) && string(words[2]) == "run"
}

// until is what was used from a to b.
func (a spent) until(b spent) usage {
	span := (b.at - a.at).Seconds()
	if span <= 0 {
		return usage{}
	}
	per := func(from, to time.Duration) float64 { return max((to-from).Seconds()/span, 0) }
	return usage{machine: per(a.machine, b.machine), self: per(a.self, b.self), servers: per(a.servers, b.servers)}
}

// unmeasurable is too little CPU to divide by, in CPUs.
const unmeasurable = 0.02

// room says how many more subscribers like these a machine would carry until it is full, with this load on it, and how
// many in all if the load were elsewhere. before is what the machine did without them. -1: too little was seen to say.
func room(cpus int, before, during usage, subscribers int) (more, apart int) {
	more, apart = -1, -1
	full := fullAt * float64(cpus)
	if subscribers == 0 {
		return more, apart
	}
	others := min(before.machine, during.machine)
	if others >= full { // other work has the machine: what is divided here would be noise
		return more, apart
	}
	if cost := during.machine - others; cost >= unmeasurable {
		more = max(int((full-during.machine)/cost*float64(subscribers)), 0)
	}
	if during.servers >= unmeasurable {
		apart = max(int((full-others)/during.servers*float64(subscribers)), 0)
	}
	return more, apart
}

// here tells whether all gateways are on this machine.
func here(urls []string) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return false
		}
		ip, err := netip.ParseAddr(u.Hostname())
		if err != nil && u.Hostname() != "localhost" || err == nil && !ip.IsLoopback() && !slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == ip.Unmap()
		}) {
			return false
		}
	}
	return true
}
