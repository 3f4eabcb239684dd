package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Mode says who makes the interface.
type Mode string

// The modes: somebody else, and nothing is touched; the kernel where it can, else user space; one of them.
const (
	ModeExisting  Mode = "existing"
	ModeAuto      Mode = "auto"
	ModeKernel    Mode = "kernel"
	ModeUserspace Mode = "userspace"
)

// How long a conversation with the interface may take, and how long a process may take to make one.
const (
	talkTime  = 5 * time.Second
	startTime = 10 * time.Second
)

// DefaultInterface and DefaultPort are taken where nothing is configured.
const (
	DefaultInterface = "orama0"
	DefaultPort      = 51820
)

// Options are what an interface is to be.
type Options struct {
	Interface      string       // "": DefaultInterface; in mode existing "" is any
	Address        netip.Prefix // this node's address on the mesh, with the mesh's length
	ListenPort     uint16       // UDP, on every address; 0: DefaultPort
	PrivateKeyFile string       // absolute; made when missing
	Mode           Mode         // "": existing
	// Start makes the process of RunDevice exist, and returns at once when it does. It is called in user space only.
	Start func(ctx context.Context) error
	Log   *slog.Logger
}

// wireguard is what we ask of interfaces, in the kernel and in user space alike.
type wireguard interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, cfg wgtypes.Config) error
	Close() error
}

// Mesh is this host's interface. Its methods may be called from any goroutine.
type Mesh struct {
	Options
	wg    wireguard
	links links
	now   func() time.Time

	mu    sync.Mutex // one at a time speaks to the interface; guards the following fields
	keys  *keys      // nil in mode existing
	told  map[wgtypes.Key]string
	peers []peer // that Apply was given last
	turn  turning
}

// Open makes the interface as it is to be, or adopts it as it is: peers and their sessions stay until Apply. In mode
// existing it only sees that the address is this host's. A mesh of mode existing has no key.
func Open(ctx context.Context, o Options) (*Mesh, error) {
	wg, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	m, err := open(ctx, o, wg, kernel{})
	if err != nil {
		return nil, errors.Join(err, wg.Close())
	}
	return m, nil
}

func open(ctx context.Context, o Options, wg wireguard, l links) (*Mesh, error) {
	m := &Mesh{Options: o.withDefaults(), wg: wg, links: l, now: time.Now, told: map[wgtypes.Key]string{}}
	if err := m.validate(); err != nil {
		return nil, err
	}
	if m.Mode == ModeExisting {
		if err := canBind(m.Address.Addr()); err != nil {
			return nil, fmt.Errorf("mesh: the address %s is not on this host; bring the existing mesh up first, or set mesh.wireguard: auto (%w)", m.Address.Addr(), err)
		}
		return m, nil
	}
	var err error
	if m.keys, err = openKeys(m.PrivateKeyFile); err != nil {
		return nil, err
	}
	if m.keys.old != nil {
		m.turn = turning{at: m.now()} // whom it had reached is not known; it ends by itself
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, m.applyLocked(ctx, nil, true)
}

func (o Options) withDefaults() Options {
	if o.Mode == "" {
		o.Mode = ModeExisting
	}
	if o.Interface == "" && o.Mode != ModeExisting {
		o.Interface = DefaultInterface
	}
	if o.ListenPort == 0 {
		o.ListenPort = DefaultPort
	}
	return o
}

func (m *Mesh) validate() error {
	switch {
	case !m.Address.IsValid() || m.Address.Addr().IsUnspecified():
		return errors.New("mesh: an address with its network, such as 10.0.0.1/24, is needed")
	case m.Mode == ModeExisting:
		return nil
	case m.Mode != ModeAuto && m.Mode != ModeKernel && m.Mode != ModeUserspace:
		return fmt.Errorf("mesh: unknown mode %q", m.Mode)
	case m.PrivateKeyFile == "":
		return errors.New("mesh: a file for the private key is needed")
	}
	return validName(m.Interface)
}

// Close ends the use of the interface, and leaves it as it is.
func (m *Mesh) Close() error { return m.wg.Close() }

// PublicKey is what others know this node by, for orama.Node.MeshKey: base64; while it changes, two with a comma
// between them. "" in mode existing.
func (m *Mesh) PublicKey() string {
	if m.keys == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return joinKeys(m.keys.announced())
}

// Apply has the interface be there, up, with its address and key, and with exactly these peers. Only what differs is
// changed: a peer that stays the same keeps its session, and one that is not in the list is removed. In mode existing
// nothing happens.
func (m *Mesh) Apply(ctx context.Context, peers []Peer) error {
	return m.apply(ctx, peers, false)
}

// apply with keep leaves peers that are not in the list.
func (m *Mesh) apply(ctx context.Context, peers []Peer, keep bool) error {
	if m.Mode == ModeExisting {
		return nil
	}
	parsed, err := parsePeers(peers)
	if err != nil {
		return fmt.Errorf("mesh: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applyLocked(ctx, parsed, keep)
}

func (m *Mesh) applyLocked(ctx context.Context, peers []peer, keep bool) error {
	have, err := m.ensureLocked(ctx)
	if err != nil {
		return err
	}
	cfg, changed := difference(have, wanted{private: m.keys.now, port: int(m.ListenPort), peers: peers, endpoints: m.told, keep: keep}, m.now())
	if changed {
		if err := m.configureLocked(ctx, cfg); err != nil {
			return err
		}
		m.logChanges(cfg)
	}
	m.told = map[wgtypes.Key]string{}
	for _, p := range peers {
		for _, k := range p.keys {
			if p.endpoint != nil {
				m.told[k] = p.endpoint.String()
			}
		}
	}
	m.peers = peers
	if err := m.links.shape(m.Interface, m.Address); err != nil {
		return fmt.Errorf("mesh: interface %s: %w", m.Interface, err)
	}
	return nil
}

// logChanges names what changed; keys that are shown are public.
func (m *Mesh) logChanges(cfg wgtypes.Config) {
	if cfg.PrivateKey != nil {
		m.Log.Info("mesh key set", "interface", m.Interface, "key", cfg.PrivateKey.PublicKey())
	}
	for _, p := range cfg.Peers {
		switch {
		case p.Remove:
			m.Log.Info("mesh peer removed", "peer", p.PublicKey)
		case !p.UpdateOnly:
			m.Log.Info("mesh peer added", "peer", p.PublicKey, "endpoint", p.Endpoint)
		default:
			m.Log.Info("mesh peer changed", "peer", p.PublicKey, "owns", len(p.AllowedIPs) > 0)
		}
	}
}

func (m *Mesh) configureLocked(ctx context.Context, cfg wgtypes.Config) error {
	_, err := talk(ctx, func() (struct{}, error) { return struct{}{}, m.wg.ConfigureDevice(m.Interface, cfg) })
	if err != nil {
		return fmt.Errorf("mesh: interface %s cannot be configured: %w", m.Interface, err)
	}
	return nil
}

func (m *Mesh) deviceLocked(ctx context.Context) (*wgtypes.Device, error) {
	return talk(ctx, func() (*wgtypes.Device, error) { return m.wg.Device(m.Interface) })
}

// talk bounds a conversation with the process behind an interface, which may hang.
func talk[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	got := make(chan answer, 1)
	go func() { v, err := f(); got <- answer{v, err} }()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// ensureLocked gives the interface as it is, and makes it where it is missing.
func (m *Mesh) ensureLocked(ctx context.Context) (*wgtypes.Device, error) {
	there, err := m.links.exists(m.Interface)
	if err != nil {
		return nil, fmt.Errorf("mesh: interface %s: %w", m.Interface, err)
	}
	if there {
		d, err := m.deviceLocked(ctx)
		if err == nil {
			return d, nil
		}
		if m.Mode == ModeKernel {
			return nil, fmt.Errorf("mesh: the interface %s is there and is no WireGuard of ours: %w; choose another name, or set mesh.wireguard: existing", m.Interface, err)
		}
		// A device in user space whose process has just come is not to be spoken to yet.
		return m.startLocked(ctx)
	}
	if m.Mode != ModeUserspace {
		err := m.links.create(m.Interface)
		if err == nil {
			m.Log.Info("mesh interface made in the kernel", "interface", m.Interface)
			return m.deviceLocked(ctx)
		}
		if m.Mode == ModeKernel || !errors.Is(err, errNoKernel) {
			return nil, fmt.Errorf("mesh: interface %s: %w", m.Interface, err)
		}
	}
	return m.startLocked(ctx)
}

// startLocked has the process of RunDevice exist and waits until the interface answers.
func (m *Mesh) startLocked(ctx context.Context) (*wgtypes.Device, error) {
	if m.Start != nil {
		if err := m.Start(ctx); err != nil {
			return nil, fmt.Errorf("mesh: the process of interface %s: %w", m.Interface, err)
		}
	}
	late, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		there, err := m.links.exists(m.Interface)
		if err == nil && there {
			var d *wgtypes.Device
			if d, err = m.deviceLocked(ctx); err == nil {
				return d, nil
			}
		}
		select {
		case <-late.Done():
			return nil, fmt.Errorf("mesh: the interface %s does not come, or is not WireGuard; is 'orama mesh run --interface %s' running? %w",
				m.Interface, m.Interface, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// PeerStatus is what the interface says of a peer.
type PeerStatus struct {
	Key           string         `json:"key"` // base64
	Endpoint      netip.AddrPort `json:"endpoint,omitzero"`
	AllowedIPs    []netip.Prefix `json:"allowed_ips"`
	LastHandshake time.Time      `json:"last_handshake,omitzero"`
	Received      int64          `json:"received"` // bytes
	Sent          int64          `json:"sent"`     // bytes
}

// Status is what was seen of the interface.
type Status struct {
	Interface  string       `json:"interface,omitempty"`
	Kind       string       `json:"kind"` // "kernel", "userspace", "existing"
	Up         bool         `json:"up"`   // and has its address
	Address    netip.Prefix `json:"address"`
	ListenPort int          `json:"listen_port,omitempty"`
	PublicKey  string       `json:"public_key,omitempty"` // that the interface uses
	Peers      []PeerStatus `json:"peers"`
}

// Status looks at the interface. An existing one that is no WireGuard, or that nobody named, has no peers.
func (m *Mesh) Status(ctx context.Context) (Status, error) {
	s := Status{Interface: m.Interface, Kind: "existing", Address: m.Address, Peers: []PeerStatus{}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Mode == ModeExisting {
		s.Up = canBind(m.Address.Addr()) == nil
		if m.Interface == "" {
			return s, nil
		}
	}
	d, err := m.deviceLocked(ctx)
	if m.Mode == ModeExisting && err != nil {
		return s, nil //nolint:nilerr // it need not be WireGuard
	}
	if err != nil {
		return s, fmt.Errorf("mesh: interface %s: %w", m.Interface, err)
	}
	s.ListenPort, s.PublicKey = d.ListenPort, d.PublicKey.String()
	if m.Mode != ModeExisting {
		s.Kind = map[bool]string{true: "kernel", false: "userspace"}[d.Type == wgtypes.LinuxKernel]
		if s.Up, err = m.links.up(m.Interface, m.Address.Addr()); err != nil {
			return s, fmt.Errorf("mesh: interface %s: %w", m.Interface, err)
		}
	}
	for _, p := range d.Peers {
		s.Peers = append(s.Peers, peerStatus(p))
	}
	return s, nil
}

func peerStatus(p wgtypes.Peer) PeerStatus {
	out := PeerStatus{Key: p.PublicKey.String(), LastHandshake: p.LastHandshakeTime, Received: p.ReceiveBytes, Sent: p.TransmitBytes, AllowedIPs: []netip.Prefix{}}
	if p.Endpoint != nil {
		e := p.Endpoint.AddrPort()
		out.Endpoint = netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
	}
	for _, n := range p.AllowedIPs {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			bits, _ := n.Mask.Size()
			out.AllowedIPs = append(out.AllowedIPs, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return out
}
