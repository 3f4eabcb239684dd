//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seenUp is what `orama monitor report` says of the demo namespace.
type seenUp struct {
	Name       string   `json:"name"`
	SFUUp      bool     `json:"sfu_up"`
	TURNUp     bool     `json:"turn_up"`
	SFUReady   int      `json:"sfu_ready"`
	SFUWanted  int      `json:"sfu_wanted"`
	TURNReady  int      `json:"turn_ready"`
	TURNWanted int      `json:"turn_wanted"`
	Age        *float64 `json:"observed_age_s"`
}

type monitored struct {
	Env   string `json:"env"`
	Nodes []struct {
		ID     string            `json:"id"`
		Alive  bool              `json:"alive"`
		Checks map[string]string `json:"checks"`
	} `json:"nodes"`
	Namespaces []seenUp `json:"namespaces"`
}

func (c *cluster) monitored(t testing.TB, args ...string) (monitored, seenUp) {
	t.Helper()
	var r monitored
	c.do(t, &r, append([]string{"monitor", "report"}, args...)...)
	for _, n := range r.Namespaces {
		if n.Name == c.Namespace {
			return r, n
		}
	}
	t.Fatalf("no namespace %s in %+v", c.Namespace, r)
	return r, seenUp{}
}

type inspected struct {
	OK     bool `json:"ok"`
	Checks []struct {
		Name      string `json:"name"`
		Node      string `json:"node"`
		Namespace string `json:"namespace"`
		Severity  string `json:"severity"`
		Detail    string `json:"detail"`
		Next      string `json:"next"`
	} `json:"checks"`
}

// inspected gives what the inspector found, and of that what is critical, as "check node namespace".
func (c *cluster) inspected(t testing.TB, args ...string) (got inspected, critical []string) {
	t.Helper()
	out, errs, code := c.orama(t, append([]string{"inspector", "--json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &got), "%s%s", out, errs)
	require.Equal(t, map[bool]int{true: 0, false: 1}[got.OK], code)
	for _, f := range got.Checks {
		if f.Severity == "critical" {
			require.NotEmpty(t, f.Next)
			critical = append(critical, strings.Join(strings.Fields(f.Name+" "+f.Node+" "+f.Namespace), " "))
		}
	}
	return got, critical
}

// freeze stops a process without ending it: nobody is told, so only looking finds out.
func freeze(t testing.TB, pid int) (thaw func()) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	thaw = func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(thaw)
	return thaw
}

// The report is observed: what dies is down in it within 30 s, and up again when it serves; the inspector fails on the same.
func TestMonitorAndInspectorSeeWhatDies(t *testing.T) {
	c := up(t)
	whole := func() string {
		if _, n := c.monitored(t); !n.SFUUp || !n.TURNUp || n.SFUReady != n.SFUWanted || n.TURNReady != n.TURNWanted {
			return fmt.Sprintf("%+v", n)
		}
		if got, critical := c.inspected(t); len(critical) > 0 {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	}
	eventually(t, time.Minute, whole)
	r, n := c.monitored(t)
	require.Len(t, r.Nodes, 3)
	require.Equal(t, "local", r.Env)
	require.Equal(t, []int{3, 2}, []int{n.SFUWanted, n.TURNWanted})
	require.LessOrEqual(t, *n.Age, 30.0)
	for _, node := range r.Nodes {
		require.True(t, node.Alive)
		for _, part := range []string{"store", "cache", "gateway", "mesh", "ports", "certificate"} {
			require.Contains(t, node.Checks, part)
		}
	}

	for kind, want := range map[string]string{"sfu": "sfu " + c.Namespace, "turn": "turn " + c.Namespace} {
		thaw := freeze(t, c.pid(t, kind, "node-1"))
		took := eventually(t, 30*time.Second, func() string {
			if _, n := c.monitored(t); kind == "sfu" && n.SFUReady == n.SFUWanted || kind == "turn" && n.TURNReady == n.TURNWanted {
				return "it is still counted"
			}
			return ""
		})
		_, critical := c.inspected(t)
		require.Contains(t, critical, want)
		thaw()
		back := eventually(t, 30*time.Second, whole)
		t.Logf("%s: not counted after %s, counted again after %s", kind, ms(took), ms(back))
	}
}

// A node whose agent and gateway hang is found by the others.
func TestInspectorFindsASilentNode(t *testing.T) {
	c := up(t)
	thaw := freeze(t, c.pid(t, "node", "node-3"))
	eventually(t, 30*time.Second, func() string {
		got, critical := c.inspected(t)
		for _, f := range critical {
			if f == "node node-3" {
				return ""
			}
		}
		return fmt.Sprintf("%+v", got)
	})
	thaw()
	eventually(t, time.Minute, func() string {
		got, critical := c.inspected(t)
		if len(critical) == 0 {
			return ""
		}
		return fmt.Sprintf("%+v", got)
	})
}

// From elsewhere: an operator key, over TLS to a gateway, does all that the socket does; ended, it does nothing.
func TestOperatorFromElsewhere(t *testing.T) {
	c := up(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var key struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	c.do(t, &key, "operator-key", "create")
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(key.Key+"\n"), 0o600))
	add := func(gateway string) (string, int) {
		out, errs, code := run(t, "env", "add", "devnet", "--gateway", gateway, "--key-file", file, "--ca-file", filepath.Join(c.dir, "ca.pem"))
		return out + errs, code
	}
	said, code := add("https://" + c.Nodes[1].PublicIP + ":8443")
	require.Zero(t, code, said)
	r, n := c.monitored(t, "--env", "devnet")
	require.Equal(t, "devnet", r.Env)
	require.True(t, n.SFUUp && n.TURNUp)
	got, _ := c.inspected(t, "--env", "devnet")
	require.NotEmpty(t, got.Checks)
	var all struct {
		Namespaces []struct{ Name string }
	}
	c.do(t, &all, "namespace", "list", "--env", "devnet")
	require.NotEmpty(t, all.Namespaces)
	_, _, code = c.orama(t, "operator-key", "create", "--env", "devnet")
	require.Equal(t, codeUsage, code, "a key does not make keys")

	c.do(t, nil, "operator-key", "remove", key.ID)
	_, errs, code := c.orama(t, "monitor", "report", "--env", "devnet")
	require.Equal(t, 3, code, "the key is ended: %s", errs)
	require.NotContains(t, errs, key.Key)
}

// What a node knows of itself: its processes by their pids, and who listens.
func TestNodeReport(t *testing.T) {
	c := up(t)
	var r struct {
		ID    string `json:"id"`
		Units []struct {
			Kind string `json:"kind"`
			PID  int    `json:"pid"`
		} `json:"units"`
		Listeners []struct {
			Network string `json:"network"`
			Address string `json:"address"`
			PID     int    `json:"pid"`
		} `json:"listeners"`
	}
	c.do(t, &r, "node", "report")
	require.Equal(t, "node-1", r.ID)
	pids := map[string]int{}
	for _, u := range r.Units {
		pids[u.Kind] = u.PID
	}
	require.Equal(t, c.pid(t, "turn", "node-1"), pids["turn"])
	held := map[string]int{}
	for _, l := range r.Listeners {
		held[l.Network+" "+l.Address] = l.PID
	}
	require.Equal(t, pids["turn"], held["udp "+c.Nodes[0].PublicIP+":3478"])
	require.Equal(t, c.pid(t, "node", "node-1"), held["tcp "+c.Nodes[0].PublicIP+":8080"])
}
