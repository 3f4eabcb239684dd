//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"orama.network/orama/internal/store/rqlitetest"
)

// lab is three hosts and a client on one bridge: each a network namespace with an address of its own, the hosts with
// WireGuard between them. It lives inside the run's own namespaces, so its names and mounts are nobody else's.
type lab struct {
	hosts  []*labHost
	client string // namespace that can route to the public addresses only
	dir    string
	store  *rqlitetest.Cluster
	// rebooted is when every host last lost power.
	rebooted time.Time
	cuts     [3]atomic.Bool // the store's node on a host has lost the others
}

// labHost is one host: `orama node run` with its own address, directory and configuration.
type labHost struct {
	name   string // also of its network namespace
	public string
	mesh   string
	dir    string
	agent  *exec.Cmd
	log    string
}

// The first thread stays in the run's own namespace: it is what /proc shows of this process, and others' threads come
// and go.
func init() { runtime.LockOSThread() }

const (
	labSwitch = "switch"
	labClient = "client"
	labBridge = "198.51.100.%d" // RFC 5737: documentation
)

// newLab makes the bridge, the hosts and the client. It skips, with the reason, where that cannot be.
func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getenv(insideEnv) != "namespace" || os.Geteuid() != 0 {
		t.Skip("hosts are network namespaces, which this user may not make")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("userspace WireGuard needs a TUN device: %v", err)
	}
	l := &lab{client: labClient, dir: dataDir(t)}
	require.NoError(t, os.MkdirAll(l.dir, 0o755))
	for _, dir := range []string{"/run/netns", "/run/wireguard", "/etc/netns"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "")) // of our mount namespace alone
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	ip(t, "netns add "+labSwitch)
	t.Cleanup(func() { l.end(t) })
	in(t, labSwitch, "ip link add br0 type bridge")
	in(t, labSwitch, "ip link set br0 up")
	for i := 1; i <= 3; i++ {
		h := &labHost{name: fmt.Sprintf("host-%d", i), public: fmt.Sprintf(labBridge, i), mesh: fmt.Sprintf("10.0.0.%d", i)}
		h.dir = filepath.Join(l.dir, h.name)
		h.log = filepath.Join(h.dir, "node.log")
		require.NoError(t, os.MkdirAll(h.dir, 0o700))
		plug(t, h.name, i, h.public)
		wall(t, h.name)
		l.hosts = append(l.hosts, h)
	}
	plug(t, labClient, 9, fmt.Sprintf(labBridge, 9))
	// What is in the client's namespace asks the hosts' name servers, as a resolver would.
	servers := "options timeout:1 attempts:1\n"
	for _, h := range l.hosts {
		servers += "nameserver " + h.public + "\n"
	}
	require.NoError(t, os.MkdirAll("/etc/netns/"+labClient, 0o755))
	for _, h := range l.hosts {
		require.NoError(t, os.WriteFile("/etc/netns/"+h.name+"/resolv.conf", []byte(servers), 0o644))
	}
	require.NoError(t, os.WriteFile("/etc/netns/"+labClient+"/resolv.conf", []byte(servers), 0o644))
	return l
}

// serveRecords puts a node of the records' store on each host's mesh address, where it is reached as RQLite would be.
// The address need not be there yet.
func (l *lab) serveRecords(t testing.TB) {
	t.Helper()
	var err error
	l.store, err = rqlitetest.Start(len(l.hosts))
	require.NoError(t, err)
	t.Cleanup(func() { l.store.Close() })
	for i, target := range l.store.URLs() {
		at, err := url.Parse(target)
		require.NoError(t, err)
		front := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }, ErrorLog: log.New(io.Discard, "", 0)}
		ln := listenIn(t, l.hosts[i].name, l.hosts[i].mesh+":4001")
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if l.cuts[i].Load() {
				http.Error(w, "leader not found", http.StatusServiceUnavailable)
				return
			}
			front.ServeHTTP(w, r)
		}), ReadHeaderTimeout: 5 * time.Second}
		go srv.Serve(ln) //nolint:errcheck // ends with Close
		t.Cleanup(func() { srv.Close() })
	}
}

// storeURLs are where the hosts find the records.
func (l *lab) storeURLs() string {
	var out []string
	for _, h := range l.hosts {
		out = append(out, "http://"+h.mesh+":4001")
	}
	return strings.Join(out, ",")
}

// plug makes a network namespace with one interface on the bridge.
func plug(t testing.TB, ns string, i int, addr string) {
	t.Helper()
	ip(t, "netns add "+ns)
	ip(t, fmt.Sprintf("link add port%d netns %s type veth peer name eth0 netns %s", i, labSwitch, ns))
	in(t, labSwitch, fmt.Sprintf("ip link set port%d master br0 up", i))
	for _, c := range []string{"link set lo up", "addr add " + addr + "/24 dev eth0", "link set eth0 up",
		"route add default via " + fmt.Sprintf(labBridge, 254)} {
		in(t, ns, "ip "+c)
	}
}

// wall gives a namespace a UFW of its own, active and with nothing open: `ip netns exec` shows what is under
// /etc/netns/NAME in the place of what is under /etc.
func wall(t testing.TB, ns string) {
	t.Helper()
	own := "/etc/netns/" + ns
	require.NoError(t, os.MkdirAll(own, 0o755))
	for _, dir := range []string{"ufw", "default"} {
		out, err := exec.Command("cp", "-a", "/etc/"+dir, own+"/").CombinedOutput()
		require.NoError(t, err, string(out))
	}
	in(t, ns, "ufw --force enable")
}

func ip(t testing.TB, args string) {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	require.NoError(t, err, "ip %s: %s", args, out)
}

// in runs a command line in a namespace and gives its output.
func in(t testing.TB, ns, line string) string {
	t.Helper()
	out, err := try(ns, line)
	require.NoError(t, err, "%s: %s: %s", ns, line, out)
	return out
}

// try is in for a command that may fail, within 20 s.
func try(ns, line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns}, strings.Fields(line)...)...).CombinedOutput()
	return string(out), err
}

// orama runs the binary on a host, as its operator would, within 90 s.
func (h *labHost) orama(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	args = append(args, "--data-dir", h.dir)
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.name, os.Getenv(binaryEnv)}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: orama %s: %v", h.name, strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is orama for a command that has to succeed; it gives what was printed.
func (h *labHost) must(t testing.TB, args ...string) string {
	t.Helper()
	out, errs, code := h.orama(t, args...)
	require.Zero(t, code, "%s: orama %s: %s%s\n%s", h.name, strings.Join(args, " "), out, errs, h.tail())
	return out
}

// start runs the host's agent; its output goes to its log.
func (h *labHost) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	h.agent = exec.Command("ip", "netns", "exec", h.name, os.Getenv(binaryEnv), "node", "run", "--config", filepath.Join(h.dir, "node.yaml"))
	h.agent.Stdout, h.agent.Stderr = log, log
	require.NoError(t, h.agent.Start())
}

func (h *labHost) tail() string {
	end := func(path string, most int) string {
		raw, _ := os.ReadFile(path)
		return string(raw[max(0, len(raw)-most):])
	}
	text := h.name + " said:\n" + end(h.log, 6000)
	if store := end(filepath.Join(h.dir, "rqlited.log"), 3000); store != "" {
		text += "\nits rqlited said:\n" + store
	}
	return text
}

// processes lists what runs in the host's namespace.
func (h *labHost) processes(t testing.TB) []process {
	t.Helper()
	link, err := within(h.name, func() (string, error) { return os.Readlink("/proc/thread-self/ns/net") })
	require.NoError(t, err)
	return processesIn(link)
}

// dies is a host that loses power: every process of it at once, and its link.
func (h *labHost) dies(t testing.TB) {
	t.Helper()
	in(t, h.name, "ip link set eth0 down")
	for _, p := range h.processes(t) {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	_, _ = h.agent.Process.Wait()
}

// cut drops what comes in from outside; sending out is not refused, as a broken network does not refuse.
func (h *labHost) cut(t testing.TB) {
	t.Helper()
	script := filepath.Join(h.dir, "cut.nft")
	require.NoError(t, os.WriteFile(script, []byte("table inet cut {\n chain input {\n  type filter hook input priority -300;\n  iifname \"eth0\" drop\n }\n}\n"), 0o600))
	in(t, h.name, "nft -f "+script)
}

func (h *labHost) heal(t testing.TB) {
	t.Helper()
	in(t, h.name, "nft delete table inet cut")
}

// end ends what runs in the lab, by the namespaces it runs in.
func (l *lab) end(t testing.TB) {
	if t.Failed() {
		for _, h := range l.hosts {
			t.Log(h.tail())
		}
	}
	for _, ns := range []string{viewerNS, labClient, "host-1", "host-2", "host-3", labSwitch} {
		link, err := within(ns, func() (string, error) { return os.Readlink("/proc/thread-self/ns/net") })
		if err != nil {
			continue // it was never made
		}
		for _, p := range processesIn(link) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			t.Logf("remove %s: %v: %s", ns, err, out)
		}
	}
}

// within runs f on a thread that is in the namespace, and nothing else ever on that thread: it ends with f.
// Sockets that f opens belong to the namespace for good.
func within[T any](ns string, f func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	ch := make(chan answer, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		var a answer
		defer func() { ch <- a }()
		fd, err := os.Open("/run/netns/" + ns)
		if err != nil {
			a.err = err
			return
		}
		defer fd.Close()
		if a.err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); a.err != nil {
			return
		}
		a.v, a.err = f()
	})
	wg.Wait()
	a := <-ch
	return a.v, a.err
}

// listenIn opens a listener that belongs to a namespace. Its address may be one that the namespace will have.
func listenIn(t testing.TB, ns, addr string) net.Listener {
	t.Helper()
	anyAddress := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return errors.Join(c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }))
	}}
	l, err := within(ns, func() (net.Listener, error) { return anyAddress.Listen(context.Background(), "tcp", addr) })
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}
