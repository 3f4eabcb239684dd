package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/firewall"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/plan"
)

// wallEvery is how often the host's rules are compared with what they should be although nothing changed: somebody
// may have taken one away.
const wallEvery = time.Minute

// wallAgain is how soon what did not succeed is tried again.
const wallAgain = 5 * time.Second

// walls keeps this host's firewall. The zero value of ufw is a host that manages its own.
type walls struct {
	self orama.Node
	host plan.Host
	ufw  *firewall.UFW // nil: not ours
	news chan struct{} // somebody waits for an opening
	log  *slog.Logger

	mu      sync.Mutex // guards the following fields
	applied []plan.Opening
	at      time.Time
	follows int64 // the newest revision of the records whose rules were seen to
}

func newWalls(cfg config.Node, self orama.Node, log *slog.Logger) *walls {
	w := &walls{self: self, host: listensOn(cfg), news: make(chan struct{}, 1), log: log}
	if cfg.Firewall == "ufw" {
		name := cfg.Mesh.Interface
		if name == "" {
			name = mesh.DefaultInterface
		}
		w.ufw = firewall.New(name, firewallCommand(cfg), log)
	}
	return w
}

// listensOn is what a host opens whatever its namespaces are.
func listensOn(cfg config.Node) plan.Host {
	h := plan.Host{Gateway: append([]string{}, cfg.Gateway.HTTP...), Enroll: cfg.Mesh.Enroll}
	if cfg.Gateway.HTTPS != "" {
		h.Gateway = append(h.Gateway, cfg.Gateway.HTTPS)
	}
	if sharesHTTPS(cfg) { // whatever the node's TURN does, 443/tcp leads to the gateway
		h.Gateway = append(h.Gateway, hostPort(cfg.PublicIP, 443))
	}
	if cfg.DNS.Mode == "serve" {
		h.DNS = cfg.DNS.Listen
	}
	if ownMesh(cfg) {
		if h.WireGuard = cfg.Mesh.ListenPort; h.WireGuard == 0 {
			h.WireGuard = mesh.DefaultPort
		}
	}
	// What listens on this host's mesh address is for the other nodes, whoever runs it.
	for _, u := range cfg.Store.URLs {
		if at, err := url.Parse(u); err == nil && at.Hostname() == cfg.MeshIP.String() {
			api := service("store", at.Host)
			h.Mesh = append(h.Mesh, api, plan.Service{Name: "store", Proto: "tcp", Port: api.Port + 1}) // and Raft's
		}
	}
	for _, at := range cfg.Cache.Addresses {
		if a, err := netip.ParseAddrPort(at); err == nil && a.Addr() == cfg.MeshIP {
			gossip := a.Port() + cache.OlricGossipPort - cache.OlricPort
			h.Mesh = append(h.Mesh, service("cache", at), plan.Service{Name: "cache", Proto: "tcp", Port: gossip},
				plan.Service{Name: "cache", Proto: "udp", Port: gossip})
		}
	}
	return h
}

func service(name, hostport string) plan.Service {
	_, port, _ := net.SplitHostPort(hostport)
	n, _ := strconv.ParseUint(port, 10, 16)
	return plan.Service{Name: name, Proto: "tcp", Port: uint16(n)}
}

// prepare opens what the host needs whatever the records say, and closes nothing: the records may be on the other side,
// waiting for this host's own part of their store.
func (w *walls) prepare(ctx context.Context) {
	if w.ufw == nil {
		return
	}
	if err := w.ufw.Open(ctx, plan.Firewall(orama.Cluster{}, w.self, w.host)); err != nil {
		w.log.Warn("the firewall cannot be opened for this host; it is tried again", "error", err)
	}
}

// apply makes the host's rules those that the records ask for. What goes wrong is the node's report's to tell, and is no
// reason to run nothing: a host may have other walls.
func (w *walls) apply(ctx context.Context, c orama.Cluster) {
	if w.ufw == nil {
		return
	}
	want := plan.Firewall(c, w.self, w.host)
	w.mu.Lock()
	fresh := reflect.DeepEqual(want, w.applied) && time.Since(w.at) < wallEvery
	if fresh {
		w.follows = c.Revision
	}
	w.mu.Unlock()
	if fresh {
		return
	}
	at := time.Now()
	if err := w.ufw.Apply(ctx, want); err != nil {
		w.log.Warn("the firewall is not as it should be; it is tried again", "error", err)
		at = at.Add(wallAgain - wallEvery)
	}
	w.mu.Lock()
	w.applied, w.at, w.follows = want, at, c.Revision
	w.mu.Unlock()
}

// revision is that of the records which the rules follow, or have been tried to.
func (w *walls) revision() int64 {
	if w.ufw == nil {
		return math.MaxInt64
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.follows
}

// look has the rules compared with the records now.
func (w *walls) look() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// begun reports whether the rules were seen to once.
func (w *walls) begun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ufw == nil || !w.at.IsZero()
}

// opened reports whether what an instance needs was let through: until then it is not ready, whatever its own
// host sees of it from inside. A firewall that cannot be changed now does not hold an instance back for ever: the
// node's report tells of it.
func (w *walls) opened(role orama.Role, ns orama.NamespaceID) bool {
	if w.ufw == nil {
		return true
	}
	tag := map[orama.Role]string{orama.RoleTURN: ":relay", orama.RoleSFU: ":sfu"}[role]
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.applied {
		if o.Tag == string(ns)+tag {
			return true
		}
	}
	w.look()
	return false
}

// keepWalls keeps the rules until ctx ends. While the records cannot be read they stay as they are.
func (h *host) keepWalls(ctx context.Context) error {
	if h.walls.ufw == nil {
		<-ctx.Done()
		return nil
	}
	look := func(bounded context.Context) {
		c, err := h.store.Cluster(bounded)
		if err != nil {
			return
		}
		before := h.walls.revision()
		if h.walls.apply(ctx, c); h.walls.revision() != before {
			h.agent.Beat()
		}
	}
	return every(ctx, h.walls.news, func() { look(ctx) }, look)
}

// check says what is wrong with the rules, if anything.
func (w *walls) check(context.Context) error {
	switch s := w.ufw.Status(); {
	case s.Problem != "":
		return errors.New(s.Problem)
	case len(s.Missing)+len(s.Extra) > 0:
		return fmt.Errorf("rules that are missing: %d, that should not be there: %d", len(s.Missing), len(s.Extra))
	}
	return nil
}

// sharesHTTPS says whether TURN has 443/tcp and passes on to the gateway what is not for it. On loopback addresses it
// does so only where a namespace's TURN runs anyhow.
func sharesHTTPS(cfg config.Node) bool {
	return cfg.TURN.HTTPS != "off" && cfg.Gateway.HTTPS != "" && !cfg.PublicIP.IsLoopback()
}
