package role

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"orama.network/orama"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
)

// What a local cluster is made of.
const (
	localBase      = "orama.test" // RFC 6761: never a real name
	localHTTP      = 8080
	localHTTPS     = 8443
	localNamespace = orama.NamespaceID("demo")
	maxLocalNodes  = 9 // 127.0.0.11 to 127.0.0.19
)

var localMesh = netip.MustParsePrefix("127.10.0.0/24")

// layout is a local cluster on disk:
//
//	cluster.key    the key that secrets are sealed with and tokens derive from, 0600
//	cluster.db     the records, shared by the nodes
//	ca.pem ca.key  the development certificate authority
//	local.json     what `orama up` must remember between starts, 0600
//	node-N/        node.yaml, cluster_state.json, units/, log/
type layout struct {
	dir    string // absolute
	runDir string
	nodes  []config.Node
	local  localFile
}

// localFile is local.json.
type localFile struct {
	Nodes    int    `json:"nodes"`
	PublicIP string `json:"public_ip,omitempty"`
	Invite   string `json:"invite"`              // of the demo page
	OwnerKey string `json:"owner_key,omitempty"` // of the demo namespace
}

func (l *layout) path(name string) string { return filepath.Join(l.dir, name) }

func (l *layout) nodeDir(id orama.NodeID) string { return l.path(string(id)) }

// openLayout finds or makes a local cluster's files. Nothing runs yet.
func openLayout(dataDir string, nodes int, public netip.Addr) (*layout, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, err
	}
	runDir, err := RunDir(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{dir, runDir} {
		if err := privateDir(d); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	l := &layout{dir: dir, runDir: runDir}
	if err := l.remember(nodes, public); err != nil {
		return nil, err
	}
	if err := l.ensureKey(); err != nil {
		return nil, err
	}
	if _, err := cert.OpenAuthority(dir, "Orama local development"); err != nil {
		return nil, err
	}
	return l, l.writeNodes(public)
}

// remember reads local.json, or makes it. A cluster keeps its number of nodes for life.
func (l *layout) remember(nodes int, public netip.Addr) error {
	text, err := os.ReadFile(l.path("local.json"))
	if errors.Is(err, fs.ErrNotExist) {
		l.local = localFile{Nodes: nodes, Invite: newInvite()}
		if public.IsValid() {
			l.local.PublicIP = public.String()
		}
		return l.save()
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &l.local); err != nil || l.local.Nodes < 1 || l.local.Invite == "" {
		return fmt.Errorf("%s is damaged; restore it, or start a new cluster with another --data-dir", l.path("local.json"))
	}
	had := l.local.PublicIP
	if l.local.Nodes != nodes || (public.IsValid() && public.String() != had) || (!public.IsValid() && had != "") {
		return orama.Errorf(orama.KindInvalid, "other_cluster",
			"%s holds a cluster of %d nodes%s; start it with the same flags, or choose another --data-dir",
			l.dir, l.local.Nodes, map[bool]string{true: " at " + had}[had != ""])
	}
	return nil
}

func (l *layout) save() error {
	text, err := json.MarshalIndent(l.local, "", "  ")
	if err != nil {
		return err
	}
	tmp := l.path("local.json.tmp")
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, l.path("local.json"))
}

func (l *layout) ensureKey() error {
	if _, err := readClusterKey(l.path("cluster.key")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key) //nolint:errcheck // never fails
	return os.WriteFile(l.path("cluster.key"), []byte(hex.EncodeToString(key)+"\n"), 0o600)
}

// readClusterKey reads 64 hexadecimal digits.
func readClusterKey(path string) (key [32]byte, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return key, fmt.Errorf("cluster key: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != len(key) {
		return key, fmt.Errorf("cluster key: %s is not 64 hexadecimal digits; restore it from another node", path)
	}
	return [32]byte(raw), nil
}

func (l *layout) writeNodes(public netip.Addr) error {
	sum := sha256.Sum256([]byte(l.local.Invite))
	for i := 1; i <= l.local.Nodes; i++ {
		ip := netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)})
		if public.IsValid() {
			ip = public
		}
		id := orama.NodeID("node-" + strconv.Itoa(i))
		c := config.Node{
			ID: id, BaseDomain: localBase, PublicIP: ip,
			MeshIP: netip.AddrFrom4([4]byte{127, 10, 0, byte(i)}), MeshCIDR: localMesh,
			DataDir: l.nodeDir(id), ClusterKey: l.path("cluster.key"),
			Store:        config.Store{Engine: "sqlite", File: l.path("cluster.db")},
			Certificates: config.Certificates{Mode: "authority", Authority: l.dir},
			Gateway: config.Gateway{
				URL:          "http://" + hostPort(ip, localHTTP),
				HTTP:         []string{hostPort(ip, localHTTP)},
				HTTPS:        hostPort(ip, localHTTPS),
				LocalOrigins: true,
			},
			TURN: config.TURN{URLs: "ip"},
			Demo: config.Demo{Namespace: localNamespace, InviteHash: hex.EncodeToString(sum[:])},
		}
		if i == 1 {
			c.Gateway.HTTP = append(c.Gateway.HTTP, hostPort(netip.AddrFrom4([4]byte{127, 0, 0, 1}), localHTTP))
			c.Gateway.HTTPOptional = []string{hostPort(netip.IPv6Loopback(), localHTTP)}
		}
		for _, d := range []string{l.nodeDir(id), filepath.Join(l.nodeDir(id), "log"), filepath.Join(l.runDir, string(id))} {
			if err := privateDir(d); err != nil {
				return err
			}
		}
		if err := c.Save(l.nodeConfig(id)); err != nil {
			return err
		}
		l.nodes = append(l.nodes, c)
	}
	return nil
}

func (l *layout) nodeConfig(id orama.NodeID) string {
	return filepath.Join(l.nodeDir(id), "node.yaml")
}

// endpoints are the sockets that the cluster needs whatever its namespaces are.
func (l *layout) endpoints() []endpoint {
	var out []endpoint
	for _, c := range l.nodes {
		at := func(network string, port uint16, purpose string) {
			out = append(out, endpoint{network, netip.AddrPortFrom(c.PublicIP, port), purpose + " of " + string(c.ID)})
		}
		for _, h := range c.Gateway.HTTP {
			out = append(out, endpoint{"tcp", netip.MustParseAddrPort(h), "the gateway of " + string(c.ID)})
		}
		at("tcp", localHTTPS, "the gateway")
		at("udp", 3478, "TURN")
		at("tcp", 3478, "TURN")
		at("tcp", 5349, "TURN over TLS")
		at("tcp", 443, "TURN over TLS")
		at("udp", 443, "TURN over DTLS")
	}
	return out
}

func hostPort(ip netip.Addr, port int) string {
	return net.JoinHostPort(ip.String(), strconv.Itoa(port))
}

// newInvite makes the word that opens the demo page: 12 letters and digits, 60 bits.
func newInvite() string {
	const alphabet = "abcdefghjkmnpqrstuvwxyz234567890" // 32, none easily mistaken
	b := make([]byte, 12)
	rand.Read(b) //nolint:errcheck // never fails
	for i := range b {
		b[i] = alphabet[b[i]%32]
	}
	return string(b)
}
