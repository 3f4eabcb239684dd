package testnet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/sfu"
	"orama.network/orama/internal/turn"
)

const (
	// Base is the base domain, and the realm.
	Base = "orama.test"
	// Alpha is the namespace of a Net that names none.
	Alpha orama.NamespaceID = "alpha"

	relayFirst, relayCount = 49152, 800
	mediaFirst, mediaCount = 20000, 500
	signalFirst            = 30000
)

// Ports are where the TURN servers listen: free for everybody to bind.
var Ports = turn.Ports{UDP: 13478, TCP: 13478, TLS: 15349, HTTPS: 10443}

// Options of a Net. The zero value is one TURN node, one SFU node and namespace alpha.
type Options struct {
	TURNNodes, SFUNodes int
	Namespaces          []orama.NamespaceID
	CredentialTTL       time.Duration // 10 min
	Log                 *slog.Logger  // silent
	Bare                bool          // start no server: addresses, specs and the gateway only, for servers in other processes
}

// Net is the running whole. Its methods may be called from any goroutine.
type Net struct {
	Gateway *Gateway
	URL     string // of the gateway
	Roots   *x509.CertPool

	o       Options
	log     *slog.Logger
	keys    *auth.Keys
	issuer  *cert.Authority
	dir     string
	prefix  [3]byte // the first three bytes of every address
	secrets map[orama.NamespaceID]string
	http    *http.Server
	served  sync.WaitGroup

	mu    sync.Mutex
	turns []*turn.Server                                   // guarded by mu; nil while killed
	sfus  map[orama.NamespaceID][]*sfu.Server              // guarded by mu; by node, nil while killed
	owner map[orama.NamespaceID]map[orama.RoomID]ownership // guarded by mu
}

type ownership struct {
	node int
	boot string
}

// Start runs a Net. Close it.
func Start(o Options) (*Net, error) {
	o.TURNNodes, o.SFUNodes = max(o.TURNNodes, 1), max(o.SFUNodes, 1)
	if len(o.Namespaces) == 0 {
		o.Namespaces = []orama.NamespaceID{Alpha}
	}
	if o.CredentialTTL == 0 {
		o.CredentialTTL = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Net{o: o, log: o.Log, keys: auth.NewKeys([32]byte{1}), turns: make([]*turn.Server, o.TURNNodes),
		secrets: map[orama.NamespaceID]string{}, sfus: map[orama.NamespaceID][]*sfu.Server{},
		owner: map[orama.NamespaceID]map[orama.RoomID]ownership{}}
	for _, ns := range o.Namespaces {
		n.secrets[ns] = auth.NewTURNSecret()
		n.sfus[ns] = make([]*sfu.Server, o.SFUNodes)
		n.owner[ns] = map[orama.RoomID]ownership{}
	}
	if err := n.start(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Net) start() error {
	if err := n.claim(); err != nil {
		return err
	}
	if err := n.authority(); err != nil {
		return err
	}
	if n.o.Bare {
		return nil
	}
	for k := range n.o.TURNNodes {
		if err := n.StartTURN(k); err != nil {
			return err
		}
	}
	for _, ns := range n.o.Namespaces {
		for k := range n.o.SFUNodes {
			if err := n.StartSFU(ns, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// claims counts the Nets of this process.
var claims atomic.Uint32

// claim finds addresses that no other process uses: a block of 127.0.0.0/8 is whosever has bound
// the gateway's port in it.
func (n *Net) claim() error {
	for range 64 {
		c := claims.Add(1)
		n.prefix = [3]byte{127, byte(30 + c%32), byte(os.Getpid() + int(c/32))}
		l, err := net.Listen("tcp4", netip.AddrPortFrom(n.ip(1), 18080).String())
		if err != nil {
			continue
		}
		n.URL = "http://" + l.Addr().String()
		n.Gateway = &Gateway{Keys: n.keys, Find: n.find}
		n.http = &http.Server{Handler: n.Gateway, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		n.served.Go(func() { n.http.Serve(l) }) //nolint:errcheck // ends by Close
		return nil
	}
	return errors.New("testnet: no free loopback addresses")
}

func (n *Net) ip(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{n.prefix[0], n.prefix[1], n.prefix[2], last})
}

// TURNAddr is where TURN node k is reached; RelayIP is where its relays send from.
func (n *Net) TURNAddr(k int) netip.AddrPort { return netip.AddrPortFrom(n.ip(byte(10+k)), Ports.UDP) }

// RelayIP is the mesh address of TURN node k.
func (n *Net) RelayIP(k int) netip.Addr { return n.ip(byte(30 + k)) }

// SFUIP is the mesh address of SFU node k, shared by the namespaces.
func (n *Net) SFUIP(k int) netip.Addr { return n.ip(byte(50 + k)) }

// Media is a namespace's media socket on SFU node k.
func (n *Net) Media(ns orama.NamespaceID, k int) netip.AddrPort {
	return netip.AddrPortFrom(n.SFUIP(k), uint16(mediaFirst+mediaCount*n.index(ns)))
}

// Signal is a namespace's signalling address on SFU node k.
func (n *Net) Signal(ns orama.NamespaceID, k int) netip.AddrPort {
	return netip.AddrPortFrom(n.SFUIP(k), uint16(signalFirst+n.index(ns)))
}

func (n *Net) index(ns orama.NamespaceID) int {
	for i, o := range n.o.Namespaces {
		if o == ns {
			return i
		}
	}
	panic(fmt.Sprintf("testnet: no namespace %s", ns))
}

func (n *Net) relay(ns orama.NamespaceID) orama.PortRange {
	return orama.PortRange{First: uint16(relayFirst + relayCount*n.index(ns)), Count: relayCount}
}

// authority makes certificates for every name a turns: URL may have.
func (n *Net) authority() error {
	var err error
	if n.dir, err = os.MkdirTemp("", "testnet"); err != nil {
		return err
	}
	if n.issuer, err = cert.OpenAuthority(n.dir, "testnet"); err != nil {
		return err
	}
	pem, err := os.ReadFile(filepath.Join(n.dir, cert.CertFile))
	if err != nil {
		return err
	}
	n.Roots = x509.NewCertPool()
	n.Roots.AppendCertsFromPEM(pem)
	return nil
}

func host(ns orama.NamespaceID, k int) string { return fmt.Sprintf("turn-%d.ns-%s.%s", k+1, ns, Base) }

// DialContext knows the names of the TURN nodes.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for k := range n.o.TURNNodes {
		if strings.HasPrefix(name, fmt.Sprintf("turn-%d.", k+1)) {
			name = n.TURNAddr(k).Addr().String()
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(name, port))
}

// TURNSpec is what TURN node k is told.
func (n *Net) TURNSpec(k int) (plan.TURNSpec, error) {
	var names []string
	spec := plan.TURNSpec{Node: orama.NodeID(fmt.Sprintf("turn-%d", k)), PublicIP: n.TURNAddr(k).Addr(), RelayIP: n.RelayIP(k), Realm: Base}
	for _, ns := range n.o.Namespaces {
		names = append(names, host(ns, k))
		t := plan.TenantSpec{Namespace: ns, Secret: n.secrets[ns], Relay: n.relay(ns)}
		for i := range n.o.SFUNodes {
			t.Allow = append(t.Allow, n.Media(ns, i))
		}
		spec.Tenants = append(spec.Tenants, t)
	}
	certPEM, keyPEM, err := n.issuer.Issue(names, []netip.Addr{spec.PublicIP})
	spec.CertPEM, spec.KeyPEM = string(certPEM), string(keyPEM)
	return spec, err
}

// SFUSpec is what a namespace's SFU on node k is told.
func (n *Net) SFUSpec(ns orama.NamespaceID, k int) plan.SFUSpec {
	spec := plan.SFUSpec{
		Namespace: ns, Node: orama.NodeID(fmt.Sprintf("sfu-%d", k)), MeshIP: n.SFUIP(k), MeshCIDR: netip.PrefixFrom(n.ip(0), 24),
		SignalPort: n.Signal(ns, k).Port(), MediaPort: n.Media(ns, k).Port(), TicketKey: n.keys.TicketKey(),
		Secret: n.secrets[ns], CredentialTTL: n.o.CredentialTTL,
	}
	for _, transport := range []string{"udp", "tcp", "tls", "dtls"} {
		for i := range n.o.TURNNodes {
			spec.Servers = append(spec.Servers, n.server(ns, i, transport))
		}
	}
	for i := range n.o.TURNNodes {
		spec.Relays = append(spec.Relays, plan.RelaySource{IP: n.RelayIP(i), Ports: n.relay(ns)})
	}
	return spec
}

func (n *Net) server(ns orama.NamespaceID, k int, transport string) orama.TURNServer {
	s := orama.TURNServer{Transport: transport, Default: transport == "udp" || transport == "tcp"}
	switch transport {
	case "udp", "tcp":
		s.URL = fmt.Sprintf("turn:%s?transport=%s", n.TURNAddr(k), transport)
	case "tls":
		s.URL = fmt.Sprintf("turns:%s:%d?transport=tcp", host(ns, k), Ports.TLS)
	case "dtls":
		s.URL = fmt.Sprintf("turns:%s:%d?transport=udp", host(ns, k), Ports.HTTPS)
	}
	return s
}

// StartTURN starts TURN node k, which does not run.
func (n *Net) StartTURN(k int) error {
	spec, err := n.TURNSpec(k)
	if err != nil {
		return err
	}
	s := turn.New(n.log.With("turn", k), nil)
	s.Ports = Ports
	if err := s.Apply(spec); err != nil {
		return errors.Join(err, s.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turns[k] = s
	return nil
}

// StopTURN ends TURN node k with all its relays.
func (n *Net) StopTURN(k int) error {
	n.mu.Lock()
	s := n.turns[k]
	n.turns[k] = nil
	n.mu.Unlock()
	return closeIf(s != nil, s)
}

// TURN is the server of TURN node k, nil while it does not run.
func (n *Net) TURN(k int) *turn.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.turns[k]
}

// StartSFU starts a namespace's SFU on node k, which does not run.
func (n *Net) StartSFU(ns orama.NamespaceID, k int) error {
	s := sfu.New(n.log.With("sfu", k, "namespace", ns), nil)
	if err := s.Apply(n.SFUSpec(ns, k)); err != nil {
		return errors.Join(err, s.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sfus[ns][k] = s
	return nil
}

// StopSFU ends a namespace's SFU on node k.
func (n *Net) StopSFU(ns orama.NamespaceID, k int) error {
	n.mu.Lock()
	s := n.sfus[ns][k]
	n.sfus[ns][k] = nil
	n.mu.Unlock()
	return closeIf(s != nil, s)
}

// SFU is a namespace's server on node k, nil while it does not run.
func (n *Net) SFU(ns orama.NamespaceID, k int) *sfu.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sfus[ns][k]
}

func closeIf(running bool, c io.Closer) error {
	if !running {
		return nil
	}
	return c.Close()
}

// find gives a room's owner: the one it had while that process lives, else the next that does.
func (n *Net) find(ns orama.NamespaceID, room orama.RoomID) (Target, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	servers, ok := n.sfus[ns]
	if !ok {
		return Target{}, errors.New("testnet: no such namespace")
	}
	o := n.owner[ns][room]
	for i := range servers {
		k := (o.node + i) % len(servers)
		s := servers[k]
		if s == nil || s.Status().Draining {
			continue
		}
		boot := s.Status().Boot
		n.owner[ns][room] = ownership{node: k, boot: boot}
		return Target{Namespace: ns, Node: orama.NodeID(fmt.Sprintf("sfu-%d", k)), Boot: boot, Signal: n.Signal(ns, k)}, nil
	}
	return Target{}, errors.New("testnet: no SFU runs")
}

// Credential mints one of the namespace's that is good for ttl, which may be negative.
func (n *Net) Credential(ns orama.NamespaceID, ttl time.Duration) (username, credential string) {
	return auth.MintTURN(n.secrets[ns], ns, time.Now().Add(ttl))
}

// Close ends everything and waits for it.
func (n *Net) Close() error {
	var errs []error
	if n.http != nil {
		n.Gateway.Cut()
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWithin)
		defer cancel()
		errs = append(errs, n.http.Close(), n.http.Shutdown(ctx))
		n.served.Wait()
	}
	for _, ns := range n.o.Namespaces {
		for k := range n.o.SFUNodes {
			errs = append(errs, n.StopSFU(ns, k))
		}
	}
	for k := range n.o.TURNNodes {
		errs = append(errs, n.StopTURN(k))
	}
	if n.dir != "" {
		errs = append(errs, os.RemoveAll(n.dir))
	}
	return errors.Join(errs...)
}

// ClientTLS trusts the Net's certificates.
func (n *Net) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: n.Roots, MinVersion: tls.VersionTLS12}
}
