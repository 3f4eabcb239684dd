package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/gateway"
	"orama.network/orama/internal/machine"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/probe"
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
	store  *store.Store
	units  *units
	agent  *node.Agent
	gate   *gateway.Gateway
	op     *operator.Operator

	mesh    *hostMesh
	own     *services // the store's and the cache's servers of this host
	cache   *cache.Cache
	certs   cert.Source
	roots   *x509.CertPool // that certs lead to; nil: the system's
	names   *names
	walls   *walls
	enrol   *enrolment
	checks  *checks
	inspect *operator.Inspector
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
	defer h.close()
	return h.run(ctx)
}

// close lets go of what newHost opened.
func (h *host) close() {
	if h.store != nil {
		h.store.Close() //nolint:errcheck // reading and writing are over
	}
	if h.cache != nil {
		h.cache.Close() //nolint:errcheck // it held nothing that is needed
	}
	if h.own != nil {
		bounded, cancel := context.WithTimeout(context.Background(), nodeGrace)
		defer cancel()
		if err := h.own.close(bounded); err != nil {
			h.log.Warn("the host's store or cache did not end", "error", err)
		}
	}
	if h.mesh != nil {
		bounded, cancel := context.WithTimeout(context.Background(), nodeGrace)
		defer cancel()
		if err := h.mesh.close(bounded); err != nil {
			h.log.Warn("the mesh's process did not end", "error", err)
		}
	}
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
	if err := h.open(ctx, key); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// open makes the node's parts, in the order of a cold boot: the mesh, over which the records may be; the records; what
// is made from them.
func (h *host) open(ctx context.Context, key [32]byte) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	h.units = newUnits(h.cfg, exe, h.runDir, h.log)
	var keep unitKeeper
	if bySystemd(h.cfg) {
		keep = h.units.keep
	}
	if h.mesh, err = openMesh(ctx, h.cfg, exe, keep, h.log); err != nil {
		return err
	}
	h.walls = newWalls(h.cfg, h.self(), h.log)
	h.walls.prepare(ctx)
	if h.own, err = startServices(ctx, h.cfg, h.log); err != nil {
		return err
	}
	if h.store, err = openRecords(ctx, h.cfg.Store, h.log); err != nil {
		return err
	}
	if h.cache, err = openCache(h.cfg.Cache, h.log); err != nil {
		return err
	}
	if h.certs, h.roots, err = openCertificates(h.cfg, h.store, h.keys, h.log); err != nil {
		return err
	}
	if h.names, err = openNames(h.cfg, h.store, h.log); err != nil {
		return err
	}
	if h.enrol, err = newEnrolment(h.cfg, key, h.store, h.log); err != nil {
		return err
	}
	return h.assemble()
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

// self is this node as its configuration says.
func (h *host) self() orama.Node {
	return orama.Node{ID: h.cfg.ID, PublicIP: h.cfg.PublicIP, MeshIP: h.cfg.MeshIP, Zone: h.cfg.Zone, GatewayURL: h.cfg.Gateway.URL,
		Report: orama.NodeReport{Version: Version()}}
}

// assemble wires the agent and the gateway.
func (h *host) assemble() (err error) {
	self := h.self()
	h.checks = newChecks(h.looks())
	records := meshRecords{h.store, h.mesh}
	h.agent = node.New(node.Deps{
		Self: self,
		Local: plan.Local{BaseDomain: h.cfg.BaseDomain, URLStyle: h.cfg.TURN.URLs, MeshCIDR: h.cfg.MeshCIDR,
			HTTPSBackend: h.cfg.Gateway.HTTPS, HTTPSProxy: sharesHTTPS(h.cfg), Edge: sharesHTTPS(h.cfg), NoTCP443: h.cfg.TURN.HTTPS == "off",
			TicketKey: h.keys.TicketKey(), Open: h.keys.Open},
		Store:        records,
		Runner:       h.units,
		Processes:    h.units,
		Prober:       prober{h.keys, h.walls.opened, h.units.leases},
		Certificates: turnCertificates{source: h.certs, base: h.cfg.BaseDomain, ip: h.cfg.PublicIP},
		Save:         h.saveState,
		Checks:       h.checks.snapshot,
		Walled:       h.walls.revision,
		Machine:      machine.New(h.cfg.PublicIP, h.cfg.MeshIP),
		Log:          h.log,
	})
	h.op = operator.New(operator.Deps{Store: h.store, Keys: h.keys, BaseDomain: h.cfg.BaseDomain, Wake: h.agent.Wake, Log: h.log})
	h.inspect = newInspector(h.cfg, h.keys, h.store, h.roots)
	h.gate, err = gateway.New(gateway.Config{
		Node:           h.cfg.ID,
		MeshIP:         h.cfg.MeshIP,
		MeshCIDR:       h.cfg.MeshCIDR,
		BaseDomain:     h.cfg.BaseDomain,
		URLStyle:       h.cfg.TURN.URLs,
		LocalOrigins:   h.cfg.Gateway.LocalOrigins,
		TrustedProxies: h.cfg.Gateway.TrustedProxies,
		Demo:           gateway.Demo{Namespace: h.cfg.Demo.Namespace, InviteHash: h.cfg.Demo.InviteHash},
	}, gateway.Deps{Store: h.store, Keys: h.keys, Rates: h.cache, Pages: web.FS(), Now: time.Now, Log: h.log,
		Operator: h.forOperators()})
	return err
}

// saveState keeps what the records want of this node, for a boot without them.
func (h *host) saveState(s manifest.State) error {
	defer h.walls.look() // whatever changed may have changed the rules
	return manifest.Save(h.manifestPath(), s)
}

// looks are what the node's report says of its parts.
func (h *host) looks() map[string]func(context.Context) error {
	l := map[string]func(context.Context) error{
		"store":       h.store.Check,
		"cache":       h.cache.Check,
		"gateway":     h.checkGateway,
		"certificate": h.checkCertificates,
	}
	if h.names.server != nil || h.names.foreign != nil {
		l["dns"] = h.names.check
	}
	if h.walls.ufw != nil {
		l["firewall"] = h.walls.check
	}
	if ownMesh(h.cfg) {
		l["mesh"] = h.mesh.check
	}
	h.lookAround(l)
	return l
}

// checkGateway asks this node's gateway as a client would.
func (h *host) checkGateway(ctx context.Context) error {
	_, err := probe.Gateway(ctx, "http://"+h.cfg.Gateway.HTTP[0], h.roots)
	return err
}

// forOperators is everything that an operator may ask of this node.
func (h *host) forOperators() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", operator.Handler(h.op))
	rooms := operator.Rooms{Operator: h.op, Gateway: func(w http.ResponseWriter, r *http.Request) { h.gate.Handler().ServeHTTP(w, r) }}.Handler()
	mux.Handle("/v1/namespaces/{name}/rooms", rooms)
	mux.Handle("/v1/namespaces/{name}/rooms/", rooms)
	seen := h.inspect.Handler()
	for _, path := range []string{"/v1/report", "/v1/inspection"} {
		mux.Handle(path, seen)
	}
	return mux
}

// Version is that of the running binary, as its build says.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "development"
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
	for _, part := range h.parts() {
		g.Go(func() error { return part(serving) })
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

// parts run beside the agent, until the node has let go of its units.
func (h *host) parts() []func(context.Context) error {
	return []func(context.Context) error{
		h.certs.Run, h.keepCertificates, h.names.run, h.enrol.run, h.checks.run,
		func(ctx context.Context) error { return h.mesh.keepPeers(ctx, h.store.Nodes) },
		h.keepWalls,
	}
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
		l, err := net.Listen("tcp", h.cfg.Gateway.HTTPS)
		if err != nil {
			return out, fmt.Errorf("gateway: %w", err)
		}
		if sharesHTTPS(h.cfg) {
			l = &proxyproto.Listener{Listener: l, ReadHeaderTimeout: proxyHeaderTimeout, ConnPolicy: h.announcers}
		}
		// HTTP/1.1 alone: a WebSocket over HTTP/2 needs RFC 8441, which clients do not all speak.
		out = append(out, listener{tls.NewListener(l, &tls.Config{GetCertificate: h.certs.GetCertificate,
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

// proxyHeaderTimeout is how long a connection that is announced may take to say so.
const proxyHeaderTimeout = 5 * time.Second

// announcers are who may say whose connection they pass on: this host's TURN server, and nobody else.
func (h *host) announcers(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
	if from, ok := o.Upstream.(*net.TCPAddr); ok {
		at := from.AddrPort().Addr().Unmap()
		if at.IsLoopback() || at == h.cfg.PublicIP {
			return proxyproto.USE, nil
		}
	}
	return proxyproto.SKIP, nil
}

// admin is the administration socket: the operator's calls, and what this node runs.
func (h *host) admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h.forOperators())
	keyring := operator.Keyring{Operator: h.op, Keys: h.store}.Handler()
	mux.Handle("/v1/operator-keys", keyring)
	mux.Handle("/v1/operator-keys/", keyring)
	nodeRoutes(mux, h.enrol, h.mesh)
	mux.HandleFunc("GET /v1/node/report", h.serveNodeReport)
	mux.Handle("GET /metrics", h.metrics())
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
