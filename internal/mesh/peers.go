package mesh

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"orama.network/orama"
)

// Keepalive is how often a peer is sent something when there is nothing to send: less than the 30 s after which
// usual NATs and firewalls forget a UDP flow.
const Keepalive = 25 * time.Second

// Limits of what is read of other nodes.
const (
	maxKeys      = 2       // of one node, while it changes its key
	maxPeersFile = 1 << 20 // bytes; a peer takes about 200
)

// Peer is another node.
type Peer struct {
	Keys       []string       `json:"keys"`        // its public keys, base64: one, or two while it changes; the preferred first
	Endpoint   netip.AddrPort `json:"endpoint"`    // where its WireGuard is reached; zero: it reaches us
	AllowedIPs []netip.Prefix `json:"allowed_ips"` // its addresses on the mesh, nobody else's
	Keepalive  time.Duration  `json:"keepalive"`   // 0: none; whole seconds
}

// PeersOf works out a node's peers from the cluster's nodes. A node without a key, or whose record makes no sense, is
// left out with a warning: one wrong record must not cost the others their mesh.
func PeersOf(nodes []orama.Node, self orama.NodeID, network netip.Prefix, log *slog.Logger) []Peer {
	taken := map[netip.Addr]orama.NodeID{}
	known := map[string]orama.NodeID{}
	for _, n := range nodes {
		if n.ID == self {
			taken[n.MeshIP] = self
			for _, k := range splitKeys(n.MeshKey) {
				known[k] = self
			}
		}
	}
	var out []Peer
	for _, n := range nodes {
		if n.ID == self || n.MeshKey == "" {
			continue
		}
		p, err := peerOf(n, network)
		if err == nil && taken[n.MeshIP] != "" {
			err = fmt.Errorf("its mesh address %s is %s's", n.MeshIP, taken[n.MeshIP])
		}
		for _, k := range p.Keys {
			if err == nil && known[k] != "" {
				err = fmt.Errorf("its key is %s's", known[k])
			}
		}
		if err != nil {
			log.Warn("a node is left out of the mesh", "node", n.ID, "reason", err)
			continue
		}
		taken[n.MeshIP] = n.ID
		for _, k := range p.Keys {
			known[k] = n.ID
		}
		out = append(out, p)
	}
	return out
}

func peerOf(n orama.Node, network netip.Prefix) (Peer, error) {
	if !network.Contains(n.MeshIP) {
		return Peer{}, fmt.Errorf("its mesh address %s is not in %s", n.MeshIP, network)
	}
	p := Peer{Keys: splitKeys(n.MeshKey), AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.MeshIP, n.MeshIP.BitLen())}, Keepalive: Keepalive}
	if n.MeshEndpoint != "" {
		e, err := netip.ParseAddrPort(n.MeshEndpoint)
		if err != nil {
			return Peer{}, fmt.Errorf("its endpoint %q is not ADDRESS:PORT", n.MeshEndpoint)
		}
		p.Endpoint = e
	}
	_, err := p.parse()
	return p, err
}

// The keys of a node are written in its record with a comma between them.
func splitKeys(s string) []string { return strings.Split(s, ",") }

func joinKeys(keys []wgtypes.Key) string {
	var out []string
	for _, k := range keys {
		out = append(out, k.String())
	}
	return strings.Join(out, ",")
}

// peer is a Peer that was understood.
type peer struct {
	keys      []wgtypes.Key
	endpoint  *net.UDPAddr // nil: none
	allowed   []net.IPNet
	keepalive time.Duration
}

func (p Peer) parse() (peer, error) {
	out := peer{keepalive: p.Keepalive.Truncate(time.Second)}
	if len(p.Keys) < 1 || len(p.Keys) > maxKeys {
		return out, fmt.Errorf("1 or %d keys are needed, not %d", maxKeys, len(p.Keys))
	}
	for _, text := range p.Keys {
		k, err := wgtypes.ParseKey(text)
		if err != nil || k == (wgtypes.Key{}) || slices.Contains(out.keys, k) {
			return out, fmt.Errorf("%.60q is not a WireGuard public key of its own", text)
		}
		out.keys = append(out.keys, k)
	}
	if p.Endpoint.IsValid() {
		if p.Endpoint.Port() == 0 || p.Endpoint.Addr().IsUnspecified() {
			return out, fmt.Errorf("its endpoint %s cannot be reached", p.Endpoint)
		}
		out.endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
	}
	if out.keepalive < 0 || out.keepalive > time.Hour {
		return out, fmt.Errorf("a keepalive of 0 to 1 h is needed")
	}
	for _, a := range p.AllowedIPs {
		if !a.IsValid() || a != a.Masked() {
			return out, fmt.Errorf("%s is not a network", a)
		}
		out.allowed = append(out.allowed, net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
	}
	return out, nil
}

// parsePeers understands a list. An address or a key that two peers claim is an error: WireGuard would silently give
// it to the last.
func parsePeers(list []Peer) ([]peer, error) {
	var out []peer
	var nets []netip.Prefix
	known := map[wgtypes.Key]bool{}
	for _, p := range list {
		q, err := p.parse()
		if err != nil {
			return nil, err
		}
		for _, k := range q.keys {
			if known[k] {
				return nil, fmt.Errorf("two peers have the key %s", k)
			}
			known[k] = true
		}
		for _, a := range p.AllowedIPs {
			if slices.ContainsFunc(nets, a.Overlaps) {
				return nil, fmt.Errorf("two peers have the address %s", a)
			}
			nets = append(nets, a)
		}
		out = append(out, q)
	}
	return out, nil
}

// peersFile is what a node remembers of the others, so that it finds them at a cold boot: the cluster's records may
// be reachable over the mesh alone. It holds no secret.
type peersFile struct {
	Version int    `json:"version"`
	Peers   []Peer `json:"peers"`
}

// SavePeers writes the peers for LoadPeers to find.
func SavePeers(path string, peers []Peer) error {
	text, err := json.MarshalIndent(peersFile{Version: 1, Peers: peers}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

// LoadPeers reads what SavePeers wrote.
func LoadPeers(path string) ([]Peer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mesh peers: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPeersFile+1))
	if err != nil {
		return nil, fmt.Errorf("mesh peers: %w", err)
	}
	peers, err := decodePeers(text)
	if err != nil {
		return nil, fmt.Errorf("mesh peers: %s is damaged and was kept as it is: %w", path, err)
	}
	return peers, nil
}

func decodePeers(text []byte) ([]Peer, error) {
	if len(text) > maxPeersFile {
		return nil, fmt.Errorf("larger than %d bytes", maxPeersFile)
	}
	var f peersFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("version %d, not 1", f.Version)
	}
	_, err := parsePeers(f.Peers)
	return f.Peers, err
}
