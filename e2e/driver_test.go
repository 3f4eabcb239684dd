//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// driver is a running browsers.mjs.
type driver struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu      sync.Mutex // guards the following
	last    int
	waiting map[int]chan reply
	opened  map[string]bool // browsers by name
}

type reply struct {
	ID    int             `json:"id"`
	Value json.RawMessage `json:"value"`
	Error string          `json:"error"`
}

// startDriver starts one, whose browsers live in a network namespace; "" is the tests' own.
func startDriver(t testing.TB, ns string) *driver {
	t.Helper()
	d := &driver{waiting: map[int]chan reply{}, opened: map[string]bool{}}
	d.cmd = exec.Command("node", "browsers.mjs")
	if ns != "" {
		d.cmd = exec.Command("ip", "netns", "exec", ns, "node", "browsers.mjs")
	}
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	d.stdin, err = d.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := d.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, d.cmd.Start())
	go d.read(out)
	return d
}

// read hands each answer to who waits for it. When the driver ends, everybody gets an error.
func (d *driver) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		d.mu.Lock()
		ch := d.waiting[r.ID]
		delete(d.waiting, r.ID)
		d.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, ch := range d.waiting {
		delete(d.waiting, id)
		ch <- reply{Error: "the driver ended"}
	}
}

// call sends one command and waits for its answer.
func (d *driver) call(op string, args map[string]any, into any) error {
	ch := make(chan reply, 1)
	d.mu.Lock()
	d.last++
	args["id"], args["op"] = d.last, op
	d.waiting[d.last] = ch
	line, err := json.Marshal(args)
	if err == nil {
		_, err = d.stdin.Write(append(line, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case r := <-ch:
		if r.Error != "" {
			return fmt.Errorf("%s: %s", op, r.Error)
		}
		if into == nil {
			return nil
		}
		return json.Unmarshal(r.Value, into)
	case <-time.After(150 * time.Second):
		return fmt.Errorf("%s: no answer from the driver within 150 s", op)
	}
}

func (d *driver) close() {
	_ = d.stdin.Close()
	timer := time.AfterFunc(15*time.Second, func() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) })
	_ = d.cmd.Wait()
	timer.Stop()
}

// browser gives a running browser of a kind that trusts the cluster's development authority.
// Browsers are shared by tests; a new authority gets a new one.
func (c *cluster) browser(t testing.TB, kind string) (*driver, string) {
	t.Helper()
	d := c.driver
	if d == nil {
		if shared.driver == nil {
			shared.driver = startDriver(t, "")
		}
		d = shared.driver
	}
	of := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(c.dir, os.Getenv(workEnv)), "/"), "/", "-")
	name := kind + " for " + of
	if d.opened[name] {
		return d, name
	}
	home := filepath.Join(os.Getenv(workEnv), "home-"+kind+"-"+of)
	db := home
	if kind == chromium {
		db = filepath.Join(home, ".pki", "nssdb")
	}
	if _, err := os.Stat(db); err != nil { // else another driver's browser of the kind trusts it already
		trust(t, db, filepath.Join(c.dir, "ca.pem"))
	}
	executable, err := exec.LookPath(kind)
	require.NoError(t, err, "`make deps` installs the browsers")
	var version string
	require.NoError(t, d.call("launch", map[string]any{
		"browser": name, "kind": map[string]string{chromium: "chromium", firefox: "firefox"}[kind],
		"executable": executable, "home": home,
	}, &version))
	t.Logf("started %s", version)
	d.opened[name] = true
	return d, name
}

// trust makes a browser's certificate database that trusts an authority.
func trust(t testing.TB, db, authority string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(db, 0o700))
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-t", "C,,", "-n", "orama", "-i", authority}} {
		out, err := exec.Command("certutil", append([]string{"-d", "sql:" + db}, args...)...).CombinedOutput()
		require.NoError(t, err, "certutil: %s", out)
	}
}

// page is one tab.
type page struct {
	t    testing.TB
	d    *driver
	name string
	open bool
}

// visit opens a tab at url. It is closed with the test.
func (c *cluster) visit(t testing.TB, kind, name, url string) *page {
	t.Helper()
	return c.visitWith(t, kind, name, url, nil)
}

// visitWith is visit with more of the driver's wishes: a "viewport", a script to "init" the page with.
func (c *cluster) visitWith(t testing.TB, kind, name, url string, wishes map[string]any) *page {
	t.Helper()
	d, browser := c.browser(t, kind)
	p := &page{t: t, d: d, name: t.Name() + " " + name, open: true}
	args := map[string]any{"browser": browser, "page": p.name, "url": url}
	maps.Copy(args, wishes)
	require.NoError(t, d.call("open", args, nil))
	t.Cleanup(p.close)
	return p
}

func (p *page) close() {
	if p.open {
		p.open = false
		if err := p.d.call("close", map[string]any{"page": p.name}, nil); err != nil {
			p.t.Logf("close %s: %v", p.name, err)
		}
	}
}

// eval runs the body of an async function in the page.
func (p *page) eval(into any, body string, args ...any) {
	p.t.Helper()
	if args == nil {
		args = []any{}
	}
	err := p.d.call("eval", map[string]any{"page": p.name, "body": body, "args": args}, into)
	if err != nil {
		p.t.Fatalf("%s: %v\nin: %.300s", p.name, err, body)
	}
}

// moment is an instant by the machine's clock, as a page gives it: milliseconds since 1970.
type moment float64

func (m moment) since(earlier moment) time.Duration {
	return time.Duration(float64(m-earlier) * float64(time.Millisecond))
}

func at(t time.Time) moment { return moment(float64(t.UnixMicro()) / 1000) }

func (m moment) time() time.Time { return time.UnixMicro(int64(m * 1000)) }

// until waits in the page for the expression to be true and gives when it was.
func (p *page) until(within time.Duration, what, expression string, args ...any) moment {
	p.t.Helper()
	var got struct {
		At   moment `json:"at"`
		Last any    `json:"last"`
	}
	wait := func(d time.Duration) {
		p.eval(&got, `const [ms, ...rest] = args; args = rest;
		return __probe.until(ms, async () => (`+expression+`));`, append([]any{d.Milliseconds()}, args...)...)
	}
	begun := time.Now()
	if wait(within); got.At == 0 {
		if more := held(p.t, within, begun) - within; more > 0 {
			wait(more)
		}
	}
	if got.At == 0 {
		p.t.Fatalf("%s: not within %v: %s (last: %v); %s", p.name, within, what, got.Last, p.state())
	}
	return got.At
}

// state describes the page's media for a failure.
func (p *page) state() string {
	var raw json.RawMessage
	if err := p.d.call("eval", map[string]any{"page": p.name, "body": "return __probe.state()", "args": []any{}}, &raw); err != nil {
		return err.Error()
	}
	return string(raw)
}
