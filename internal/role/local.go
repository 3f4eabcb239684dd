package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/supervisor"
)

// LocalOptions shape a local cluster.
type LocalOptions struct {
	DataDir  string
	Nodes    int        // 1 to 9
	PublicIP netip.Addr // valid: one node, reachable by others; else loopback addresses
	Exe      string     // the orama binary
	Progress func(Step) // called from one goroutine, in order
	Log      *slog.Logger
}

// Step is one thing that a local cluster has come to while starting.
type Step struct {
	Text   string
	Notice bool // not progress, but something to know
}

// Local cluster as it is when ready; the line that `orama up --json` prints.
type LocalReady struct {
	Ready      bool                `json:"ready"`
	BaseDomain string              `json:"base_domain"`
	Gateways   []string            `json:"gateways"`
	Namespace  orama.NamespaceID   `json:"namespace"`
	OwnerKey   string              `json:"owner_key"`
	DemoURL    string              `json:"demo_url"`
	Nodes      []LocalNode         `json:"nodes"`
	Processes  []LocalProcess      `json:"processes"`
	Took       time.Duration       `json:"-"`
	DataDir    string              `json:"-"`
	Instances  []operator.Instance `json:"-"`
}

// LocalNode is one node of a ready local cluster.
type LocalNode struct {
	ID       orama.NodeID `json:"id"`
	PublicIP netip.Addr   `json:"public_ip"`
	MeshIP   netip.Addr   `json:"mesh_ip"`
	PID      int          `json:"pid"`
	DataDir  string       `json:"data_dir"`
}

// LocalProcess is one process of a ready local cluster.
type LocalProcess struct {
	Kind      string            `json:"kind"` // "node", "turn" or "sfu"
	Node      orama.NodeID      `json:"node"`
	Namespace orama.NamespaceID `json:"namespace"`
	PID       int               `json:"pid"`
}

const (
	// nodeGrace is how long a node may take to drain its units and end.
	nodeGrace = 15 * time.Second
	// startWithin bounds each stage of the start; a healthy cluster needs 2 s for all of them.
	startWithin = 60 * time.Second
)

// local is a local cluster being run.
type local struct {
	LocalOptions
	*layout
	agents  *supervisor.Children
	started time.Time
}

// Local starts a cluster on this machine, calls ready once when it serves, keeps it until ctx
// ends, and leaves nothing running. What cannot start is an error, after everything is undone.
func Local(ctx context.Context, o LocalOptions, ready func(LocalReady)) error {
	started := time.Now()
	if err := o.validate(); err != nil {
		return err
	}
	files, err := openLayout(o.DataDir, o.Nodes, o.PublicIP)
	if err != nil {
		return err
	}
	unlock, err := lockFile(files.path("up.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	defer files.removeSockets()
	if err := files.clearRemains(o.Log); err != nil {
		return err
	}
	c := &local{LocalOptions: o, layout: files, started: started}
	if err := c.checkPorts(); err != nil {
		return err
	}
	c.agents = supervisor.New(files.path("units"), o.Log)
	defer c.stop()
	r, err := c.start(ctx)
	if err != nil {
		return err
	}
	ready(r)
	<-ctx.Done()
	return nil
}

func (o LocalOptions) validate() error {
	if o.Nodes < 1 || o.Nodes > maxLocalNodes {
		return orama.Errorf(orama.KindInvalid, "invalid_nodes", "--nodes is 1 to %d", maxLocalNodes)
	}
	if o.PublicIP.IsValid() && o.Nodes != 1 {
		return orama.Errorf(orama.KindInvalid, "invalid_nodes", "--public-ip serves one address, so it needs --nodes 1")
	}
	return nil
}

// start brings the cluster up to a first call, stage by stage.
func (c *local) start(ctx context.Context) (LocalReady, error) {
	if err := c.startAgents(ctx); err != nil {
		return LocalReady{}, err
	}
	admin := operator.Dial(AgentSocket(c.runDir, c.nodes[0].ID))
	if err := c.waitHeard(ctx, admin); err != nil {
		return LocalReady{}, err
	}
	if err := c.ensureDemo(ctx, admin); err != nil {
		return LocalReady{}, err
	}
	status, err := c.enableDemo(ctx, admin)
	if err != nil {
		return LocalReady{}, err
	}
	for _, n := range c.nodes {
		if err := c.waitGateway(ctx, n.Gateway.URL); err != nil {
			return LocalReady{}, err
		}
	}
	return c.describe(ctx, status)
}

// waitHeard waits until the records know every node as alive: placement leaves out whom nobody has heard of.
func (c *local) waitHeard(ctx context.Context, admin *operator.Client) error {
	err := poll(ctx, startWithin, func() (bool, error) {
		r, err := admin.Report(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // tried again
		}
		alive := 0
		for _, n := range r.Nodes {
			if n.Alive {
				alive++
			}
		}
		return alive >= len(c.nodes), nil
	})
	if errors.Is(err, errTooLate) {
		return orama.Errorf(orama.KindUnavailable, "node_failed", "not every node was heard of within %s; their logs are under %s", startWithin, c.dir)
	}
	return err
}

// checkPorts finds out before anything starts whether every fixed port can be had.
func (c *local) checkPorts() error {
	var left []string
	for _, e := range c.endpoints() {
		err := checkFree(e)
		switch {
		case errors.Is(err, errMayNotBind):
			left = append(left, fmt.Sprintf("%s/%s", e.Addr, e.Network))
		case err != nil:
			return err
		}
	}
	if len(left) > 0 {
		c.Progress(Step{Notice: true, Text: fmt.Sprintf(
			"port 443 is left out: this user may not bind ports below 1024 (%d listeners); 3478 and 5349 serve", len(left))})
	}
	return nil
}

func (c *local) startAgents(ctx context.Context) error {
	for _, n := range c.nodes {
		err := c.agents.Ensure(ctx, supervisor.Unit{
			Name: string(n.ID),
			Args: []string{c.Exe, "node", "run", "--config", c.nodeConfig(n.ID), "--run-dir", c.runDir, "--parent", strconv.Itoa(os.Getpid())},
			Dir:  c.nodeDir(n.ID),
			Log:  filepath.Join(c.nodeDir(n.ID), "log", "node.log"),
		})
		if err != nil {
			return fmt.Errorf("%s: %w", n.ID, err)
		}
	}
	for _, n := range c.nodes {
		if err := c.waitAgent(ctx, n.ID); err != nil {
			return err
		}
		c.Progress(Step{Text: fmt.Sprintf("%s is up: gateway %s, mesh %s", n.ID, n.Gateway.URL, n.MeshIP)})
	}
	return nil
}

// waitAgent waits until a node's agent answers, or has died often enough to give up.
func (c *local) waitAgent(ctx context.Context, id orama.NodeID) error {
	err := poll(ctx, startWithin, func() (bool, error) {
		if _, err := agentUnits(ctx, c.runDir, id); err == nil {
			return true, nil
		}
		for _, s := range c.agents.List() {
			if s.Name == string(id) && s.Restarts >= 3 {
				return false, orama.Errorf(orama.KindUnavailable, "node_failed", "%s does not start: %s (log: %s)",
					id, s.LastExit, filepath.Join(c.nodeDir(id), "log", "node.log"))
			}
		}
		return false, nil
	})
	if errors.Is(err, errTooLate) {
		return orama.Errorf(orama.KindUnavailable, "node_failed", "%s did not answer within %s; its log is %s",
			id, startWithin, filepath.Join(c.nodeDir(id), "log", "node.log"))
	}
	return err
}

// ensureDemo makes the demo namespace on the first start. Its owner key is shown once by the
// cluster, so it is kept beside the data for the starts to come.
func (c *local) ensureDemo(ctx context.Context, admin *operator.Client) error {
	shown, err := admin.CreateNamespace(ctx, string(localNamespace))
	switch {
	case err == nil:
		c.local.OwnerKey = shown
		if err := c.save(); err != nil {
			return err
		}
		c.Progress(Step{Text: fmt.Sprintf("namespace %s created", localNamespace)})
		return nil
	case orama.KindOf(err) == orama.KindConflict:
		return nil
	}
	return fmt.Errorf("namespace %s: %w", localNamespace, err)
}

// enableDemo enables WebRTC by the same path as `orama namespace enable webrtc`, and on a cold
// boot waits until the instances were seen ready since this start.
func (c *local) enableDemo(ctx context.Context, admin *operator.Client) (operator.Status, error) {
	_, err := admin.EnableWebRTC(ctx, string(localNamespace), operator.Options{Wait: startWithin}, func(s operator.Step) {
		if text := s.String(); text != "" {
			c.Progress(Step{Text: text})
		}
	})
	if err != nil {
		return operator.Status{}, fmt.Errorf("webrtc for %s: %w", localNamespace, err)
	}
	var status operator.Status
	err = poll(ctx, startWithin, func() (bool, error) {
		if status, err = admin.Status(ctx, string(localNamespace)); err != nil {
			return false, err
		}
		for _, in := range status.Instances {
			if in.State != orama.StateReady || in.Since.Before(c.started) {
				return false, nil
			}
		}
		return true, nil
	})
	if errors.Is(err, errTooLate) {
		for _, in := range status.Instances {
			if in.State != orama.StateReady {
				return status, orama.Errorf(orama.KindUnavailable, "not_ready", "%s on %s is %s: %s", in.Role, in.Node, in.State, in.Detail)
			}
		}
	}
	return status, err
}

func (c *local) waitGateway(ctx context.Context, base string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	err := poll(ctx, startWithin, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", http.NoBody)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, nil //nolint:nilerr // not up yet
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
	if errors.Is(err, errTooLate) {
		return orama.Errorf(orama.KindUnavailable, "gateway_not_ready", "the gateway at %s is not ready", base)
	}
	return err
}

func (c *local) describe(ctx context.Context, status operator.Status) (LocalReady, error) {
	r := LocalReady{Ready: true, BaseDomain: localBase, Namespace: localNamespace, OwnerKey: c.local.OwnerKey,
		DataDir: c.dir, Instances: status.Instances}
	pids := map[string]int{}
	for _, s := range c.agents.List() {
		pids[s.Name] = s.PID
	}
	for _, n := range c.nodes {
		r.Gateways = append(r.Gateways, n.Gateway.URL)
		r.Nodes = append(r.Nodes, LocalNode{ID: n.ID, PublicIP: n.PublicIP, MeshIP: n.MeshIP, PID: pids[string(n.ID)], DataDir: n.DataDir})
		r.Processes = append(r.Processes, LocalProcess{Kind: "node", Node: n.ID, PID: pids[string(n.ID)]})
		units, err := agentUnits(ctx, c.runDir, n.ID)
		if err != nil {
			return r, err
		}
		for _, u := range units {
			r.Processes = append(r.Processes, LocalProcess{Kind: string(u.Role), Node: n.ID, Namespace: u.Namespace, PID: u.PID})
		}
	}
	r.DemoURL = fmt.Sprintf("http://localhost:%d/demo#%s", localHTTP, c.local.Invite)
	if c.PublicIP.IsValid() { // browsers give cameras to secure pages only
		r.DemoURL = fmt.Sprintf("https://%s/demo#%s", hostPort(c.PublicIP, localHTTPS), c.local.Invite)
	}
	r.Took = time.Since(c.started)
	return r, nil
}

// stop ends the nodes, each of which drains and ends its own units first.
func (c *local) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), nodeGrace+5*time.Second)
	defer cancel()
	if err := c.agents.Close(ctx, nodeGrace); err != nil {
		c.Log.Error("a node did not end in order", "error", err)
	}
	if err := c.clearRemains(c.Log); err != nil {
		c.Log.Error("something may still run", "error", err)
	}
}

// clearRemains ends what an earlier run left: nodes first, then the units of nodes that were killed.
func (l *layout) clearRemains(log *slog.Logger) error {
	dirs := []string{l.path("units")}
	for _, n := range l.nodes {
		dirs = append(dirs, filepath.Join(l.nodeDir(n.ID), "units"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeGrace+5*time.Second)
	defer cancel()
	for _, d := range dirs {
		if err := supervisor.New(d, log).Close(ctx, nodeGrace); err != nil {
			return err
		}
	}
	return nil
}

// removeSockets takes away what killed processes left; orderly ones remove their own.
func (l *layout) removeSockets() {
	for _, n := range l.nodes {
		left, _ := filepath.Glob(filepath.Join(l.runDir, string(n.ID), "*.sock")) //nolint:errcheck // the pattern is fixed
		for _, f := range left {
			os.Remove(f)
		}
	}
	if l.runDir != l.dir {
		os.RemoveAll(l.runDir)
	}
	os.Remove(l.path("up.lock"))
}

// lockFile takes an exclusive lock that ends with this process.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, orama.Errorf(orama.KindUnavailable, "already_running",
			"a cluster already runs on %s; stop it, or choose another --data-dir", filepath.Dir(path))
	}
	return func() { f.Close() }, nil
}

var errTooLate = errors.New("not in time")

// poll calls check every 20 ms until it says true or fails; errTooLate after within.
func poll(ctx context.Context, within time.Duration, check func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(within)
	for {
		ok, err := check()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return errTooLate
		case <-tick.C:
		}
	}
}

// agentUnits asks a node's agent which processes it has.
func agentUnits(ctx context.Context, runDir string, id orama.NodeID) ([]node.Unit, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var out struct {
		Units []node.Unit `json:"units"`
	}
	return out.Units, dialUnit(AgentSocket(runDir, id)).do(ctx, http.MethodGet, "/v1/node", nil, &out)
}
