package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/operator"
)

func seconds(s float64) *float64 { return &s }

var sample = operator.Report{At: time.Unix(1_800_000_000, 0), Nodes: []operator.NodeReport{
	{ID: "node-1", Zone: "a", Alive: true, HeartbeatAge: seconds(1), Checks: map[string]string{"store": "", "cache": "connection refused"},
		Report: orama.NodeReport{CPUs: 4, Load: 1.5, MemoryTotal: 100, MemoryAvailable: 40, Relays: 7, Bandwidth: 12_300_000}},
	{ID: "node-2", HeartbeatAge: seconds(61)},
}, Namespaces: []operator.NamespaceReport{
	{Name: "myapp", Enabled: true, SFUUp: true, SFUReady: 2, SFUWanted: 3, TURNWanted: 2, ObservedAge: seconds(4),
		Instances: []operator.InstanceReport{{Instance: operator.Instance{Node: "node-2", Role: orama.RoleSFU, State: orama.StateUnknown, Detail: "silent"}}}},
	{Name: "quiet"},
}}

func TestLiveShowsWhatCounts(t *testing.T) {
	text := live{env: "devnet", last: sample}.text()
	for _, want := range []string{"devnet", "myapp", "up 2/3", "DOWN 0/2", "4s ago", "sfu node-2 unknown: silent", "and 1 without WebRTC",
		"SILENT 61s ago", "cache: connection refused", "1.5/4", "40%", "12.3"} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "store", "what is well takes no room")
	text = live{env: "devnet", last: sample, err: errors.New("no answer")}.text()
	require.Contains(t, text, "! no answer")
	require.Contains(t, text, "myapp", "the last report stays")
	require.Equal(t, "a[2Jb", fit("a\x1b[2Jb", 80, 24), "nobody's reason moves our cursor")
}

// The view never has more lines than the terminal, nor longer ones, and always says how to leave.
func TestLiveFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := sample
		r.Nodes, r.Namespaces = nil, nil
		for i := range rapid.IntRange(0, 40).Draw(t, "nodes") {
			n := sample.Nodes[i%2]
			n.ID = orama.NodeID(strings.Repeat("n", rapid.IntRange(1, 63).Draw(t, "name")))
			r.Nodes = append(r.Nodes, n)
		}
		for range rapid.IntRange(0, 40).Draw(t, "namespaces") {
			r.Namespaces = append(r.Namespaces, sample.Namespaces[0])
		}
		w, h := rapid.IntRange(10, 200).Draw(t, "width"), rapid.IntRange(4, 60).Draw(t, "height")
		view := live{env: "devnet", last: r, width: w, height: h}.screen()
		lines := strings.Split(view, "\n")
		if len(lines) > h {
			t.Fatalf("%d lines of %d", len(lines), h)
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > w {
				t.Fatalf("%q is longer than %d", l, w)
			}
		}
		if lines[len(lines)-1] != "q quits" {
			t.Fatalf("the last line is %q", lines[len(lines)-1])
		}
	})
	at80 := live{env: "devnet", last: sample, width: 80, height: 24}.screen()
	require.Contains(t, at80, "myapp")
	require.Contains(t, at80, "node-2")
}

func TestLiveReacts(t *testing.T) {
	l := live{env: "devnet", interval: time.Hour, width: 80, height: 24, read: func(context.Context) (operator.Report, error) { return sample, nil }}
	m, cmd := l.Update(l.Init()())
	require.NotNil(t, cmd, "it looks again")
	require.Contains(t, m.(live).screen(), "myapp")
	m, _ = m.Update(tea.WindowSizeMsg{Width: 20, Height: 5})
	require.Len(t, strings.Split(m.(live).screen(), "\n"), 5)
	m, _ = m.Update(looked{err: errors.New("gone")})
	require.Contains(t, m.(live).screen(), "! gone")
	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: 'c', Mod: tea.ModCtrl}, {Code: tea.KeyEscape}} {
		_, cmd = m.Update(key)
		require.IsType(t, tea.QuitMsg{}, cmd())
	}
	_, cmd = m.Update(tea.KeyPressMsg{Code: 'x', Text: "x"})
	require.Nil(t, cmd)
}

// remoteCluster is a gateway that answers what an operator asks, and an environments file that names it.
func remoteCluster(t *testing.T, answers map[string]any) {
	key, _ := auth.NewAPIKey("", auth.RoleOperator)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok || r.Header.Get("X-API-Key") != key {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"code":"operator_required","detail":"only an operator of the cluster may do this"}`)
			return
		}
		json.NewEncoder(w).Encode(answer) //nolint:errcheck // a test's
	}))
	t.Cleanup(srv.Close)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	path, err := environmentsPath()
	require.NoError(t, err)
	f := environmentsFile{Environments: map[string]environment{"devnet": {Gateways: []string{srv.URL}, Key: key}}}
	require.NoError(t, f.save(path))
}

func run(t *testing.T, args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = Run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestMonitorReportOfAClusterElsewhere(t *testing.T) {
	remoteCluster(t, map[string]any{"GET /v1/operator/report": sample})
	code, out, errOut := run(t, "monitor", "report", "--env", "devnet")
	require.Zero(t, code, errOut)
	var got operator.Report
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, "devnet", got.Env)
	require.Contains(t, out, "\n  \"nodes\"", "for people as well")
	code, out, _ = run(t, "monitor", "report", "--env", "devnet", "--json")
	require.Zero(t, code)
	require.Equal(t, 1, strings.Count(out, "\n"), "one line")

	code, _, errOut = run(t, "namespace", "list", "--env", "devnet")
	require.Equal(t, exitAuth, code)
	require.Contains(t, errOut, "only an operator")
}

func TestInspectorEndsAsItFinds(t *testing.T) {
	found := operator.Inspection{From: "node-1", OK: false, Checks: []operator.Finding{
		{Name: "store", Severity: operator.SeverityOK, Detail: "it serves 3 of 3 nodes"},
		{Name: "turn", Namespace: "myapp", Severity: operator.SeverityCritical, Detail: "1 of 2 relays serve", Next: "orama namespace webrtc-status"}}}
	remoteCluster(t, map[string]any{"GET /v1/operator/inspection": found})
	code, out, errOut := run(t, "inspector", "--env", "devnet")
	require.Equal(t, exitFailed, code)
	require.Empty(t, errOut, "what is wrong is said once")
	require.Regexp(t, `critical +turn +- +myapp +1 of 2 relays serve`, out)
	require.Contains(t, out, "turn: orama namespace webrtc-status")
	require.Contains(t, out, "1 critical, 0 warnings, 1 ok; seen from node-1")
	code, out, _ = run(t, "inspect", "--env", "devnet", "--json")
	require.Equal(t, exitFailed, code)
	var got operator.Inspection
	require.NoError(t, json.Unmarshal([]byte(out), &got), "one document, and no error beside it")
	require.Equal(t, found.Checks, got.Checks)

	found.OK, found.Checks = true, found.Checks[:1]
	remoteCluster(t, map[string]any{"GET /v1/operator/inspection": found})
	code, _, _ = run(t, "inspector", "--env", "devnet")
	require.Zero(t, code)
}

// firstLine ends a run when it has printed its first line.
type firstLine struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
	end  func()
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
	return f.text.Write(p)
}

func TestMonitorLiveWithoutATerminal(t *testing.T) {
	remoteCluster(t, map[string]any{"GET /v1/operator/report": sample})
	for _, flags := range [][]string{nil, {"--json"}} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &firstLine{end: cancel}
		require.Zero(t, Run(ctx, append([]string{"monitor", "live", "--env", "devnet"}, flags...), out, out))
		require.Contains(t, out.text.String(), "myapp")
		require.Equal(t, flags != nil, strings.HasPrefix(out.text.String(), "{"))
	}
}

func FuzzParseEnvironments(f *testing.F) {
	key, _ := auth.NewAPIKey("", auth.RoleOperator)
	f.Add([]byte("environments:\n  devnet:\n    gateways: [https://gw1.example.org]\n    key: " + key + "\n"))
	f.Add([]byte("environments: {}"))
	f.Add([]byte("a: [&x *x]"))
	f.Add([]byte("environments:\n devnet:\n    gateways: !x\n")) // at which the library panics
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseEnvironments(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "environments.yaml")
		require.NoError(t, got.save(path))
		again, err := os.ReadFile(path)
		require.NoError(t, err)
		same, err := parseEnvironments(again)
		require.NoError(t, err)
		require.Equal(t, got, same)
	})
}
