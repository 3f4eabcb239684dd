package role

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/store"
	"orama.network/orama/internal/supervisor"
)

// meshUnitPrefix and the interface's name are the unit of a WireGuard interface in user space, the same under
// systemd: orama-mesh@orama0.service.
const meshUnitPrefix = "orama-mesh@"

// unitKeeper makes a process exist: child processes, or systemd.
type unitKeeper interface {
	Ensure(ctx context.Context, u supervisor.Unit) error
}

// hostMesh is this host's place on the mesh.
type hostMesh struct {
	*mesh.Mesh
	cfg      config.Node
	children *supervisor.Children // nil: the interface's process is not ours to end
}

// openMesh has this host's address on the mesh be there, with the peers that are remembered, before anything else:
// the cluster's records may be reachable over it alone. keep is the supervisor where that is systemd; with nil the
// interface's process, where one is needed, is a child that outlives an agent that is killed.
func openMesh(ctx context.Context, cfg config.Node, exe string, keep unitKeeper, log *slog.Logger) (*hostMesh, error) {
	h := &hostMesh{cfg: cfg}
	name := cfg.Mesh.Interface
	if name == "" {
		name = mesh.DefaultInterface
	}
	if keep == nil && cfg.Mesh.WireGuard != "" && cfg.Mesh.WireGuard != string(mesh.ModeExisting) {
		h.children = supervisor.New(filepath.Join(cfg.DataDir, "mesh"), log)
		keep = h.children
	}
	unit := supervisor.Unit{Name: meshUnitPrefix + name, Args: []string{exe, "mesh", "run", "--interface", name}, Dir: cfg.DataDir,
		Log: filepath.Join(cfg.DataDir, "mesh.log")}
	m, err := mesh.Open(ctx, mesh.Options{
		Interface: cfg.Mesh.Interface, Address: netip.PrefixFrom(cfg.MeshIP, cfg.MeshCIDR.Bits()), ListenPort: cfg.Mesh.ListenPort,
		PrivateKeyFile: cfg.Mesh.PrivateKey, Mode: mesh.Mode(cfg.Mesh.WireGuard),
		Start: func(ctx context.Context) error { return keep.Ensure(ctx, unit) },
		Log:   log,
	})
	if err != nil {
		if h.children != nil {
			h.children.Detach()
		}
		return nil, err
	}
	h.Mesh = m
	if peers, err := mesh.LoadPeers(meshPeersFile(cfg.DataDir)); err == nil && cfg.Mesh.WireGuard != "" {
		if err := m.Apply(ctx, peers); err != nil {
			log.Warn("the remembered mesh peers cannot be used", "error", err)
		}
	}
	return h, nil
}

func meshPeersFile(dataDir string) string { return filepath.Join(dataDir, "mesh_peers.json") }

// endpoint is where others reach this host's WireGuard; "" when the mesh is not ours.
func (h *hostMesh) endpoint() string {
	if h.PublicKey() == "" {
		return ""
	}
	return netip.AddrPortFrom(h.cfg.PublicIP, h.ListenPort).String()
}

// keepPeers keeps the peers what the records say, and this host's key young, until ctx ends.
func (h *hostMesh) keepPeers(ctx context.Context, nodes func(context.Context) ([]orama.Node, error)) error {
	return h.Run(ctx, mesh.Loop{Self: h.cfg.ID, Nodes: h.orMembers(nodes), PeersFile: meshPeersFile(h.cfg.DataDir), RotateAfter: mesh.RotateEvery})
}

const (
	// recordsTime is how long the records may take before members are asked; with memberTime it is less than the loop
	// gives one reading.
	recordsTime = 2 * time.Second
	memberTime  = 2 * time.Second
	// askEvery is how often members are asked.
	askEvery = 10 * time.Second
)

// orMembers asks another member for the cluster's nodes where the records cannot be read and no peer answers: then it
// may be that every peer has changed its key while this host was away, so that neither the mesh nor the records on it
// are to be reached with what is remembered. Each call asks the next peer.
func (h *hostMesh) orMembers(nodes func(context.Context) ([]orama.Node, error)) func(context.Context) ([]orama.Node, error) {
	var asked time.Time
	next := 0
	return func(ctx context.Context) ([]orama.Node, error) {
		bounded, cancel := context.WithTimeout(ctx, recordsTime)
		defer cancel()
		got, err := nodes(bounded)
		if err == nil || time.Since(asked) < askEvery || !h.deaf(ctx) {
			return got, err
		}
		peers, _ := mesh.LoadPeers(meshPeersFile(h.cfg.DataDir)) //nolint:errcheck // nobody to ask then
		if len(peers) == 0 {
			return nil, err
		}
		asked = time.Now()
		next++
		found, e := askMember(ctx, h.cfg, peers[next%len(peers)])
		if e != nil {
			return nil, errors.Join(err, e)
		}
		return found, nil
	}
}

// deaf reports whether no peer has a session.
func (h *hostMesh) deaf(ctx context.Context) bool {
	s, err := h.Status(ctx)
	return err == nil && !slices.ContainsFunc(s.Peers, func(p mesh.PeerStatus) bool { return time.Since(p.LastHandshake) < peerSilent })
}

// askMember asks where that peer lets nodes in: at its public address, and the port that all nodes of a cluster use.
func askMember(ctx context.Context, cfg config.Node, p mesh.Peer) ([]orama.Node, error) {
	_, port, err := net.SplitHostPort(cfg.Mesh.Enroll)
	if err != nil || !p.Endpoint.IsValid() {
		return nil, errors.New("a peer that is remembered cannot be asked: no address to let nodes in at is configured")
	}
	key, err := readClusterKey(cfg.ClusterKey)
	if err != nil {
		return nil, err
	}
	id, err := enroll.NewIdentity(key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, memberTime)
	defer cancel()
	return enroll.Nodes(ctx, net.JoinHostPort(p.Endpoint.Addr().String(), port), id)
}

// close leaves the interface as it is, unless it lives in a child of ours, which ends with its node.
func (h *hostMesh) close(ctx context.Context) error {
	err := h.Close()
	if h.children != nil {
		if e := h.children.Close(ctx, nodeGrace); err == nil {
			err = e
		}
	}
	return err
}

// meshRecords are the cluster's records for the agent: its heartbeat also says how to reach this host on the mesh.
type meshRecords struct {
	*store.Store
	mesh *hostMesh
}

// Heartbeat is Store's, with the mesh's key and endpoint.
func (r meshRecords) Heartbeat(ctx context.Context, n orama.Node, now time.Time) error {
	n.MeshKey, n.MeshEndpoint = r.mesh.PublicKey(), r.mesh.endpoint()
	return r.Store.Heartbeat(ctx, n, now)
}

// peerSilent is how long a peer that lives may be without a handshake: WireGuard makes one every two minutes while
// packets flow, and keepalives see to that.
const peerSilent = 4 * time.Minute

// check says what is wrong with this host's place on the mesh, if anything. One peer that is silent is that peer's trouble; when
// most are, it is ours.
func (h *hostMesh) check(ctx context.Context) error {
	s, err := h.Status(ctx)
	if err != nil {
		return err
	}
	if !s.Up {
		return fmt.Errorf("the interface %s is not up with %s", s.Interface, s.Address)
	}
	var silent []string
	peers := 0
	for _, p := range s.Peers {
		if len(p.AllowedIPs) == 0 { // a key that a peer changes to, or from
			continue
		}
		peers++
		if time.Since(p.LastHandshake) > peerSilent {
			silent = append(silent, fmt.Sprint(p.AllowedIPs))
		}
	}
	if 2*len(silent) > peers {
		return fmt.Errorf("no handshake for %s with %s", peerSilent, strings.Join(silent, ", "))
	}
	return nil
}
