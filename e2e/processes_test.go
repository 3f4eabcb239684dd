//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is one entry of /proc, and of the "processes" that `orama up --json` names.
type process struct {
	Kind      string `json:"kind"` // "node", "turn" or "sfu"
	Node      string `json:"node"`
	Namespace string `json:"namespace"`
	PID       int    `json:"pid"`

	pid  int
	argv []string
}

// processesIn lists the processes that live in a network namespace, by its link in /proc.
func processesIn(netns string) []process {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	var out []process
	for _, link := range links {
		if ns, err := os.Readlink(link); err != nil || ns != netns {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(raw) == 0 { // gone meanwhile, or a zombie
			continue
		}
		out = append(out, process{pid: pid, argv: strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")})
	}
	return out
}

// ours lists the living processes of the binary under test.
func ours() []process {
	netns, _ := os.Readlink("/proc/self/ns/net")
	var out []process
	for _, p := range processesIn(netns) {
		if p.argv[0] == os.Getenv(binaryEnv) {
			out = append(out, p)
		}
	}
	return out
}

// named finds a living process of the binary whose arguments begin with the verbs and hold every word.
func named(t testing.TB, words ...string) []int {
	t.Helper()
	var pids []int
	for _, p := range ours() {
		line := " " + strings.Join(p.argv[1:], " ") + " "
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// alive reports whether pid exists and is not a zombie.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := raw[bytes.LastIndexByte(raw, ')')+1:]
	return len(after) > 1 && after[1] != 'Z' && after[1] != 'X'
}

func kill(t testing.TB, pid int) time.Time {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	return time.Now()
}

// openFiles counts the descriptors of a process.
func openFiles(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// resident gives a process's memory, in bytes.
func resident(pid int) int {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if f := strings.Fields(string(raw)); len(f) > 1 {
		pages, _ := strconv.Atoi(f[1])
		return pages * os.Getpagesize()
	}
	return 0
}

// eventually asks until the answer is empty, and gives how long that took. What keeps it from being empty
// is the failure's message.
func eventually(t testing.TB, within time.Duration, wrong func() string) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := wrong()
		if why == "" {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("after %v still: %s", within, why)
		}
		<-tick.C
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
