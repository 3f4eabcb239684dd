package role

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/gateway"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/store"
	"orama.network/orama/web"
)

// rateKeys bounds how many users and addresses a gateway counts at a time.
const rateKeys = 100_000

// host is one node's process while it runs.
type host struct {
	cfg    config.Node
	runDir string
	log    *slog.Logger
	keys   *auth.Keys
	ca     *cert.Authority
	store  *store.Store
	units  *units
	agent  *node.Agent
	gate   *gateway.Gateway
	op     *operator.Operator
}

// Node is the life of one host's agent and gateway. When ctx ends it takes its units with it, unless systemd
// keeps them; killed outright, it leaves them running and adopts them at its next start. A parent other than 0 is a process whose end means the same as ctx's.
func Node(ctx context.Context, cfg config.Node, runDir string, parent int, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := endWith(ctx, parent, cancel); err != nil {
		return err
	}
	h, err := newHost(ctx, cfg, runDir, log)
	if err != nil {
		return err
	}
	defer h.store.Close() //nolint:errcheck // read-write is over
	return h.run(ctx)
}

func newHost(ctx context.Context, cfg config.Node, runDir string, log *slog.Logger) (*host, error) {
	key, err := readClusterKey(cfg.ClusterKey)
	if err != nil {
		return nil, err
	}
	h := &host{cfg: cfg, runDir: runDir, log: log, keys: auth.NewKeys(key)}
	if err := h.checkManifest(); err != nil {
		return nil, err
	}
	if h.ca, err = cert.LoadAuthority(cfg.Certificates.Authority); err != nil {
		return nil, err
	}
	if h.store, err = openRecords(ctx, cfg.Store, log); err != nil {
		return nil, err
	}
	if err := h.assemble(); err != nil {
		h.store.Close() //nolint:errcheck // the first error is the reason
		return nil, err
	}
	return h, nil
}

func (h *host) manifestPath() string { return filepath.Join(h.cfg.DataDir, "cluster_state.json") }

// checkManifest refuses to start over a damaged state file, which is kept for its owner to look at.
func (h *host) checkManifest() error {
	_, err := manifest.Load(h.manifestPath())
	if err != nil && !errors.Is(err, orama.ErrNotFound) {
		return err
	}
	return nil
}

// assemble wires the agent and the gateway.
func (h *host) assemble() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	h.units = newUnits(h.cfg, exe, h.runDir, h.log)
	h.agent = node.New(node.Deps{
		Self: orama.Node{ID: h.cfg.ID, PublicIP: h.cfg.PublicIP, MeshIP: h.cfg.MeshIP, Zone: h.cfg.Zone, GatewayURL: h.cfg.Gateway.URL},
		Local: plan.Local{BaseDomain: h.cfg.BaseDomain, URLStyle: h.cfg.TURN.URLs, MeshCIDR: h.cfg.MeshCIDR,
			HTTPSBackend: h.cfg.Gateway.HTTPS, TicketKey: h.keys.TicketKey(), Open: h.keys.Open},
		Store:     h.store,
		Runner:    h.units,
		Processes: h.units,
		Prober:    prober{h.keys},
		Certificates: turnCertificates{leaf: &cert.Leaf{Authority: h.ca},
			base: h.cfg.BaseDomain, ip: h.cfg.PublicIP},
		Save: func(s manifest.State) error { return manifest.Save(h.manifestPath(), s) },
		Log:  h.log,
	})
	h.op = operator.New(operator.Deps{Store: h.store, Keys: h.keys, BaseDomain: h.cfg.BaseDomain, Wake: h.agent.Wake, Log: h.log})
	h.gate, err = gateway.New(gateway.Config{
		Node:         h.cfg.ID,
		MeshIP:       h.cfg.MeshIP,
		BaseDomain:   h.cfg.BaseDomain,
		URLStyle:     h.cfg.TURN.URLs,
		LocalOrigins: h.cfg.Gateway.LocalOrigins,
		Demo:         gateway.Demo{Namespace: h.cfg.Demo.Namespace, InviteHash: h.cfg.Demo.InviteHash},
	}, gateway.Deps{Store: h.store, Keys: h.keys, Rates: cache.NewRates(rateKeys, time.Now), Pages: web.FS(), Now: time.Now, Log: h.log})
	return err
}

// run serves until ctx ends. The order of ending: the agent first, so that nothing is started
// again; then the SFUs, whose peers hear of it through gateways and relays that still work;
// then TURN; then the gateway; and the administration socket, by which others see that we
// live, last.
func (h *host) run(ctx context.Context) error {
	serving, stopServing := context.WithCancel(context.Background())
	defer stopServing()
	var g errgroup.Group
	failed := make(chan struct{})
	listeners, err := h.listen()
	if err != nil {
		return err
	}
	for _, l := range listeners {
		g.Go(func() error { return serve(serving, l.Listener, l.handler, time.Second) })
	}
	agentCtx, stopAgent := context.WithCancel(ctx)
	defer stopAgent()
	agentDone := make(chan error, 1)
	go func() {
		var both errgroup.Group
		both.Go(func() error { return h.agent.Run(agentCtx) })
		both.Go(func() error { return h.op.Run(agentCtx) }) // finishes what a crashed node began
		agentDone <- both.Wait()
	}()
	go func() { g.Wait(); close(failed) }() //nolint:errcheck // collected below
	told := notify(func() string {
		return fmt.Sprintf("node %s, gateway %s, units: %d", h.cfg.ID, h.cfg.Gateway.URL, len(h.units.Units()))
	})
	defer told.close()
	h.log.Info("node is up", "node", h.cfg.ID, "gateway", h.cfg.Gateway.URL, "mesh", h.cfg.MeshIP)
	select {
	case <-ctx.Done():
	case <-failed:
	}
	stopAgent()
	if err := <-agentDone; err != nil {
		h.log.Error("the agent ended", "error", err)
	}
	told.ending()
	h.leave()
	h.gate.Close()
	stopServing()
	return g.Wait()
}

// leave ends the units, because with child processes nobody else would. Under systemd they are not this process's to
// end: calls go on without it.
func (h *host) leave() {
	if !bySystemd(h.cfg) {
		h.units.stopAll(context.Background(), h.log)
		h.agent.ReportGone(context.Background())
	}
	if h.units.close != nil {
		h.units.close()
	}
}

type listener struct {
	net.Listener
	handler http.Handler
}

// listen opens every socket of this process; none when one that must cannot.
func (h *host) listen() (out []listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				l.Close()
			}
		}
	}()
	for _, addr := range h.cfg.Gateway.HTTP {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return out, fmt.Errorf("gateway: %w", err)
		}
		out = append(out, listener{l, h.gate.Handler()})
	}
	for _, addr := range h.cfg.Gateway.HTTPOptional {
		if l, err := net.Listen("tcp", addr); err == nil {
			out = append(out, listener{l, h.gate.Handler()})
		}
	}
	if h.cfg.Gateway.HTTPS != "" {
		certs := &cert.Server{Authority: h.ca, Base: h.cfg.BaseDomain, IPs: []netip.Addr{h.cfg.PublicIP}}
		l, err := net.Listen("tcp", h.cfg.Gateway.HTTPS)
		if err != nil {
			return out, fmt.Errorf("gateway: %w", err)
		}
		// HTTP/1.1 alone: a WebSocket over HTTP/2 needs RFC 8441, which clients do not all speak.
		out = append(out, listener{tls.NewListener(l, &tls.Config{GetCertificate: certs.GetCertificate,
			MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}), h.gate.Handler()})
	}
	socket := AgentSocket(h.runDir, h.cfg.ID)
	if err := privateDir(filepath.Dir(socket)); err != nil {
		return out, err
	}
	l, err := listenUnix(socket, 0o600)
	if err != nil {
		return out, err
	}
	return append(out, listener{l, h.admin()}), nil
}

// admin is the administration socket: the operator's calls, and what this node runs.
func (h *host) admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", operator.Handler(h.op))
	mux.HandleFunc("GET /v1/node", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"id": h.cfg.ID, "units": h.units.Units()}) //nolint:errcheck // the reader went away
	})
	return mux
}

// endWith calls end when process pid does, by pidfd_open(2): no polling, and no confusion
// with a later process of the same number.
func endWith(ctx context.Context, pid int, end func()) error {
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("the process %d that this node belongs to is gone: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	go func() {
		defer f.Close()
		for ctx.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor fits
			if n, err := unix.Poll(fds, 1000); n > 0 && err == nil {
				end()
				return
			}
		}
	}()
	return nil
}

// FindAgent gives the administration socket of a living node of the cluster in dataDir.
func FindAgent(ctx context.Context, dataDir string) (string, error) {
	runDir, err := RunDir(dataDir)
	if err != nil {
		return "", err
	}
	sockets, err := filepath.Glob(AgentSocket(runDir, "*"))
	if err != nil {
		return "", err
	}
	for _, s := range sockets {
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", s); err == nil {
			c.Close()
			return s, nil
		}
	}
	return "", orama.Errorf(orama.KindUnavailable, "no_cluster",
		"no cluster runs on %s; start one with 'orama up', or name its directory with --data-dir", dataDir)
}
