//go:build e2e

package e2e

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// From nothing to ready and back to nothing, twice on the same data directory.
func TestUp(t *testing.T) {
	down(t)
	dir := dataDir(t)
	c := start(t, dir, nil)
	t.Logf("ready %s after the start of the binary", ms(c.took))
	require.Less(t, c.took, 5*time.Second, "not ready within 5 s:\n%s", c.tail())
	checkReady(t, c)
	checkServes(t, c)
	key := c.OwnerKey

	// Ctrl-C reaches `orama up` alone here: it must see to its own.
	checkEnd(t, c, syscall.SIGINT)

	c = start(t, dir, nil)
	t.Logf("cold boot: ready %s after the start of the binary", ms(c.took))
	require.Less(t, c.took, 5*time.Second, "not ready within 5 s:\n%s", c.tail())
	require.Equal(t, key, c.OwnerKey, "a cold boot keeps the namespace and its key")
	checkReady(t, c)
	checkServes(t, c)
	checkEnd(t, c, syscall.SIGTERM)
}

// checkReady holds the printed line to its contract.
func checkReady(t testing.TB, c *cluster) {
	t.Helper()
	require.True(t, c.Ready)
	require.Equal(t, "orama.test", c.BaseDomain)
	require.Equal(t, []string{"http://127.0.0.11:8080", "http://127.0.0.12:8080", "http://127.0.0.13:8080"}, c.Gateways)
	require.Equal(t, "demo", c.Namespace)
	require.Regexp(t, `^orama_[0-9A-Za-z]+_[0-9A-Za-z_-]+_[0-9A-Za-z]+$`, c.OwnerKey)
	require.Regexp(t, `^http://localhost:8080/demo`, c.DemoURL)
	require.Len(t, c.Nodes, 3)
	for i, n := range c.Nodes {
		require.Equal(t, fmt.Sprintf("127.0.0.1%d", i+1), n.PublicIP)
		require.Equal(t, fmt.Sprintf("127.10.0.%d", i+1), n.MeshIP)
		require.DirExists(t, n.DataDir)
	}
	kinds := map[string]int{}
	for _, p := range c.Processes {
		kinds[p.Kind]++
		require.True(t, alive(p.PID), "%+v does not live", p)
		require.NotEmpty(t, p.Node)
		require.Equal(t, p.Kind == "sfu", p.Namespace == c.Namespace, "%+v", p)
	}
	require.Equal(t, map[string]int{"node": 3, "turn": 2, "sfu": 3}, kinds)
}

// checkServes asks each gateway, the first on localhost too, and that a page elsewhere on this machine may.
func checkServes(t testing.TB, c *cluster) {
	t.Helper()
	for _, base := range append([]string{"http://localhost:8080"}, c.Gateways...) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/webrtc/turn/credentials", nil)
		require.NoError(t, err)
		req.Header.Set("X-API-Key", c.OwnerKey)
		req.Header.Set("Origin", "http://localhost:5173")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", base, body)
		require.Contains(t, []string{"*", "http://localhost:5173"}, res.Header.Get("Access-Control-Allow-Origin"), base)
	}
	http.DefaultClient.CloseIdleConnections()
	res, err := http.Get(c.DemoURL)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

// checkEnd ends the cluster and looks for anything of it: processes, sockets, socket files.
func checkEnd(t testing.TB, c *cluster, signal os.Signal) {
	t.Helper()
	took, left := c.endWith(signal)
	t.Logf("gone %s after %v", ms(took), signal)
	require.Empty(t, left, "left behind:\n%s", c.tail())
	require.Zero(t, c.cmd.ProcessState.ExitCode(), "the exit code after %v:\n%s", signal, c.tail())
	require.Empty(t, clusterSockets(t), "sockets left behind")
	require.Empty(t, socketFiles(t, c.dir), "socket files left behind")
}

// sockets lists what listens on TCP and is bound on UDP, as ip:port/protocol. Closed connections that
// linger in TIME_WAIT are nobody's.
func sockets(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, proto := range []string{"tcp", "udp"} {
		f, err := os.Open("/proc/net/" + proto)
		require.NoError(t, err)
		lines := bufio.NewScanner(f)
		lines.Scan() // the heading
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if proto == "tcp" && fields[3] != "0A" {
				continue
			}
			ip, port := procAddr(t, fields[1])
			out = append(out, fmt.Sprintf("%s:%d/%s", ip, port, proto))
		}
		f.Close()
	}
	return out
}

// clusterSockets lists those on the addresses of a local cluster.
func clusterSockets(t testing.TB) []string {
	t.Helper()
	return slices.DeleteFunc(sockets(t), func(s string) bool {
		return !clusterAddress.MatchString(s)
	})
}

var clusterAddress = regexp.MustCompile(`^(127\.0\.0\.1\d|127\.10\.0\.\d+):|^127\.0\.0\.1:8080/`)

// procAddr reads "0100007F:1F90" of /proc/net: the address's bytes come last first.
func procAddr(t testing.TB, s string) (string, int) {
	t.Helper()
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	require.NoError(t, err)
	n, err := strconv.ParseUint(port, 16, 16)
	require.NoError(t, err)
	return net.IPv4(raw[3], raw[2], raw[1], raw[0]).String(), int(n)
}

func socketFiles(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			out = append(out, path)
		}
		return err
	}))
	return out
}

// A port that somebody else has is named with who has it, and nothing is left half started.
func TestUpNamesWhoHoldsAPort(t *testing.T) {
	down(t)
	for network, listen := range map[string]func() (interface{ Close() error }, error){
		"udp": func() (interface{ Close() error }, error) { return net.ListenPacket("udp", "127.0.0.12:3478") },
		"tcp": func() (interface{ Close() error }, error) { return net.Listen("tcp", "127.0.0.13:8080") },
	} {
		t.Run(network, func(t *testing.T) {
			taken, err := listen()
			require.NoError(t, err)
			defer taken.Close()
			c, code := tryStart(t, dataDir(t), nil)
			require.Equal(t, 5, code, "unavailable:\n%s\n%s", c.line, c.tail())
			said := c.line + c.tail()
			t.Logf("said: %s", strings.TrimSpace(said))
			addr := map[string]string{"udp": "127.0.0.12:3478", "tcp": "127.0.0.13:8080"}[network]
			require.Contains(t, said, addr)
			require.Contains(t, said, strconv.Itoa(os.Getpid()), "the process that holds it")
			require.Empty(t, ours(), "left half started")
			require.NoError(t, taken.Close())
			require.Empty(t, clusterSockets(t))
		})
	}
}

// Without root everything works, the listeners on 443 aside.
func TestUpWithoutRoot(t *testing.T) {
	const nobody = 65534
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "namespace" {
		t.Skip("this run is without root itself: every other test shows the same")
	}
	if raw, err := os.ReadFile("/proc/self/uid_map"); err != nil || len(strings.Fields(string(raw))) != 3 || strings.Fields(string(raw))[2] == "1" {
		t.Skip("only one user id is mapped here")
	}
	down(t)
	dir := dataDir(t)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, nobody, nobody))
	c := start(t, dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	t.Cleanup(func() { c.end() }) // after the tabs are closed
	t.Logf("ready %s after the start of the binary", ms(c.took))
	require.Less(t, c.took, 5*time.Second)
	require.Contains(t, c.tail(), "443", "says that the listeners on 443 are left out")
	for _, s := range clusterSockets(t) {
		require.NotContains(t, s, ":443/")
	}
	m := c.meeting(t, c.Namespace, "unprivileged")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.allMeet(20 * time.Second)
}
