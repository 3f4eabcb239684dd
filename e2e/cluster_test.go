//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shared is what tests need not make anew: one cluster and one driver of browsers. Only one of those that run
// side by side uses the cluster, so nothing guards it.
var shared struct {
	cluster *cluster
	driver  *driver
	made    atomic.Int64
}

// ready is the line that `orama up --json` prints.
type ready struct {
	Ready      bool     `json:"ready"`
	BaseDomain string   `json:"base_domain"`
	Gateways   []string `json:"gateways"`
	Namespace  string   `json:"namespace"`
	OwnerKey   string   `json:"owner_key"`
	DemoURL    string   `json:"demo_url"`
	Nodes      []struct {
		ID       string `json:"id"`
		PublicIP string `json:"public_ip"`
		MeshIP   string `json:"mesh_ip"`
		PID      int    `json:"pid"`
		DataDir  string `json:"data_dir"`
	} `json:"nodes"`
	Processes []process `json:"processes"`
}

// cluster is one `orama up`.
type cluster struct {
	ready
	dir   string
	line  string        // as printed
	took  time.Duration // from the start of the binary to the line
	where []instance    // of the namespace, see placed

	host   *labHost // where commands are given; nil: here
	driver *driver  // of the browsers; nil: the shared one
	site   string   // where participant.html is served from; "": a server of our own

	cmd    *exec.Cmd
	log    string // file of its standard error
	exited chan struct{}
	err    error // of Wait; read after exited
}

// up gives the shared cluster, started if need be.
func up(t testing.TB) *cluster {
	t.Helper()
	if c := shared.cluster; c != nil && c.running() {
		return c
	}
	c := start(t, dataDir(t), nil)
	shared.cluster = c
	relays := map[string]string{}
	k := 0
	for _, n := range c.Nodes {
		for _, p := range c.Processes {
			if p.Kind == "turn" && p.Node == n.ID {
				k++
				relays[fmt.Sprintf("turn-%d.ns-%s.%s", k, c.Namespace, c.BaseDomain)] = n.PublicIP
			}
		}
	}
	require.NoError(t, nameRelays(relays))
	return c
}

// down ends the shared cluster, for a test that starts its own on the same addresses.
func down(t testing.TB) {
	t.Helper()
	if shared.cluster != nil {
		shared.cluster.end()
		shared.cluster = nil
	}
}

// dataDir names a directory that does not exist yet.
func dataDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(os.Getenv(workEnv), fmt.Sprintf("data-%d", shared.made.Add(1)))
}

// start runs `orama up --json` and waits for its line.
func start(t testing.TB, dir string, attr *syscall.SysProcAttr, args ...string) *cluster {
	t.Helper()
	c, code := tryStart(t, dir, attr, args...)
	if code >= 0 {
		t.Fatalf("orama up ended with %d before it was ready:\n%s", code, c.tail())
	}
	return c
}

// tryStart is start for a cluster that may refuse: the code is -1 when it is ready, else its exit status.
func tryStart(t testing.TB, dir string, attr *syscall.SysProcAttr, args ...string) (*cluster, int) {
	t.Helper()
	c := &cluster{dir: dir, log: dir + ".log", exited: make(chan struct{})}
	stderr, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer stderr.Close()
	stdout, w, err := os.Pipe()
	require.NoError(t, err)
	c.cmd = exec.Command(os.Getenv(binaryEnv), append([]string{"up", "--json", "--data-dir", dir}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = w, stderr
	c.cmd.SysProcAttr = attr
	begun := time.Now()
	require.NoError(t, c.cmd.Start())
	w.Close()
	first := make(chan string, 1)
	go func() {
		defer stdout.Close()
		defer close(first)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			select {
			case first <- lines.Text():
			default:
			}
		}
	}()
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	select {
	case c.line = <-first: // or "": it ended without a word
	case <-time.After(time.Minute):
		c.end()
		t.Fatalf("orama up was not ready within a minute:\n%s", c.tail())
	}
	c.took = time.Since(begun)
	if c.line != "" {
		require.NoError(t, json.Unmarshal([]byte(c.line), &c.ready), c.line)
	}
	if c.Ready {
		return c, -1
	}
	select { // the line says why not
	case <-c.exited:
	case <-time.After(30 * time.Second):
		t.Fatalf("orama up refused, but did not end: %s", c.line)
	}
	return c, c.cmd.ProcessState.ExitCode()
}

func (c *cluster) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// end interrupts the cluster, as Ctrl-C does, and gives how long it took and what it left behind.
func (c *cluster) end() (took time.Duration, left []string) { return c.endWith(syscall.SIGINT) }

func (c *cluster) endWith(signal os.Signal) (took time.Duration, left []string) {
	begun := time.Now()
	_ = c.cmd.Process.Signal(signal)
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		left = append(left, "orama up itself")
	}
	took = time.Since(begun)
	for _, p := range ours() {
		left = append(left, fmt.Sprintf("process %d: %s", p.pid, strings.Join(p.argv[1:], " ")))
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	return took, left
}

func (c *cluster) tail() string {
	raw, _ := os.ReadFile(c.log)
	if len(raw) > 4000 {
		raw = raw[len(raw)-4000:]
	}
	return string(raw)
}

// pid finds the living process of a kind on a node.
func (c *cluster) pid(t testing.TB, kind, node string) int {
	t.Helper()
	pids := named(t, " "+kind+" run ", "/"+node+"/")
	require.Len(t, pids, 1, "the %s process of %s", kind, node)
	return pids[0]
}

// orama runs one command of the binary against the cluster.
func (c *cluster) orama(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	if c.host != nil {
		return c.host.orama(t, args...)
	}
	return run(t, append(args, "--data-dir", c.dir)...)
}

func run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(os.Getenv(binaryEnv), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Run()
	if !timer.Stop() {
		t.Fatalf("orama %s did not end within 90 s:\n%s", strings.Join(args, " "), errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// do runs a command that must succeed and reads its JSON.
func (c *cluster) do(t testing.TB, into any, args ...string) {
	t.Helper()
	out, errs, code := c.orama(t, append(args, "--json")...)
	require.Zero(t, code, "orama %s: %s", strings.Join(args, " "), errs)
	if into != nil {
		require.NoError(t, json.Unmarshal([]byte(out), into), out)
	}
}

// token mints a JWT for a user.
func (c *cluster) token(t testing.TB, namespace, user string, args ...string) string {
	t.Helper()
	var minted struct {
		Token string `json:"token"`
	}
	c.do(t, &minted, append([]string{"token", "--namespace", namespace, "--user", user}, args...)...)
	require.NotEmpty(t, minted.Token)
	return minted.Token
}

// credentials asks the first gateway for TURN credentials.
func (c *cluster) credentials(t testing.TB, token, query string) (urls []string, username, credential string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Gateways[0]+"/v1/webrtc/turn/credentials"+query, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	var body struct {
		URLs       []string `json:"urls"`
		Username   string   `json:"username"`
		Credential string   `json:"credential"`
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
	return body.URLs, body.Username, body.Credential
}
