package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// fakeHost is a host's kernel and WireGuard, in memory. It does with a configuration what wg(8) says.
type fakeHost struct {
	mu         sync.Mutex
	hasKernel  bool // can make interfaces itself
	dev        *wgtypes.Device
	shaped     netip.Prefix
	configured []wgtypes.Config
	refuse     error // of configuring
}

func (f *fakeHost) Device(string) (*wgtypes.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dev == nil {
		return nil, os.ErrNotExist
	}
	d := *f.dev
	d.Peers = slices.Clone(f.dev.Peers)
	return &d, nil
}

func (f *fakeHost) ConfigureDevice(_ string, c wgtypes.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	f.configured = append(f.configured, c)
	if c.PrivateKey != nil {
		f.dev.PrivateKey, f.dev.PublicKey = *c.PrivateKey, c.PrivateKey.PublicKey()
	}
	if c.ListenPort != nil {
		f.dev.ListenPort = *c.ListenPort
	}
	for _, p := range c.Peers {
		f.configurePeer(p)
	}
	return nil
}

func (f *fakeHost) configurePeer(p wgtypes.PeerConfig) {
	i := slices.IndexFunc(f.dev.Peers, func(o wgtypes.Peer) bool { return o.PublicKey == p.PublicKey })
	switch {
	case p.Remove && i >= 0:
		f.dev.Peers = slices.Delete(f.dev.Peers, i, i+1)
		return
	case p.Remove || i < 0 && p.UpdateOnly:
		return
	case i < 0:
		f.dev.Peers = append(f.dev.Peers, wgtypes.Peer{PublicKey: p.PublicKey})
		i = len(f.dev.Peers) - 1
	}
	o := &f.dev.Peers[i]
	if p.Endpoint != nil {
		o.Endpoint = p.Endpoint
	}
	if p.PersistentKeepaliveInterval != nil {
		o.PersistentKeepaliveInterval = *p.PersistentKeepaliveInterval
	}
	if p.ReplaceAllowedIPs {
		o.AllowedIPs = nil
	}
	for _, a := range p.AllowedIPs { // an address has one owner: the last
		for j := range f.dev.Peers {
			f.dev.Peers[j].AllowedIPs = slices.DeleteFunc(slices.Clone(f.dev.Peers[j].AllowedIPs), is(a.String()))
		}
		o.AllowedIPs = append(o.AllowedIPs, a)
	}
}

func (f *fakeHost) Close() error { return nil }

func (f *fakeHost) create(string) error {
	if !f.hasKernel {
		return errNoKernel
	}
	f.appear(wgtypes.LinuxKernel)
	return nil
}

func (f *fakeHost) appear(kind wgtypes.DeviceType) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dev == nil {
		f.dev = &wgtypes.Device{Type: kind}
	}
}

func (f *fakeHost) exists(string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dev != nil, nil
}

func (f *fakeHost) shape(_ string, a netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shaped = a
	return nil
}

func (f *fakeHost) up(_ string, a netip.Addr) (bool, error) { return f.shaped.Addr() == a, nil }

// handshake is what a peer does.
func (f *fakeHost) handshake(k wgtypes.Key, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.dev.Peers {
		if f.dev.Peers[i].PublicKey == k {
			f.dev.Peers[i].LastHandshakeTime = at
		}
	}
}

func (f *fakeHost) owner(a string) (out []string) {
	for _, p := range f.look().Peers {
		for _, n := range p.AllowedIPs {
			if n.String() == a {
				out = append(out, p.PublicKey.String())
			}
		}
	}
	return out
}

func (f *fakeHost) look() *wgtypes.Device {
	d, _ := f.Device("") //nolint:errcheck // the test put it there
	return d
}

func (f *fakeHost) changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.configured)
}

func testOptions(t *testing.T) Options {
	return Options{Address: netip.MustParsePrefix("10.0.0.1/24"), PrivateKeyFile: filepath.Join(t.TempDir(), "key"), Mode: ModeAuto, Log: slog.New(slog.DiscardHandler)}
}

func openFake(t *testing.T, f *fakeHost) *Mesh {
	m, err := open(t.Context(), testOptions(t), f, f)
	require.NoError(t, err)
	return m
}

func publicKey(t *testing.T) string {
	k, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	return k.PublicKey().String()
}

func aPeer(ip string, keys ...string) Peer {
	a := netip.MustParseAddr(ip)
	return Peer{Keys: keys, Endpoint: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), 51820), AllowedIPs: []netip.Prefix{netip.PrefixFrom(a, 32)}, Keepalive: Keepalive}
}

func TestTheKernelIsUsedWhereItCan(t *testing.T) {
	f := &fakeHost{hasKernel: true}
	s, err := openFake(t, f).Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, "kernel", s.Kind)
	require.True(t, s.Up)
	require.Equal(t, DefaultPort, s.ListenPort)
}

func TestUserSpaceIsUsedElsewhere(t *testing.T) {
	f := &fakeHost{}
	o := testOptions(t)
	started := 0
	o.Start = func(context.Context) error { started++; f.appear(wgtypes.Userspace); return nil }
	m, err := open(t.Context(), o, f, f)
	require.NoError(t, err)
	require.Equal(t, 1, started)
	s, err := m.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, "userspace", s.Kind)

	// The process dies with everything that it knew.
	require.NoError(t, m.Apply(t.Context(), []Peer{aPeer("10.0.0.2", publicKey(t))}))
	f.dev = nil
	require.NoError(t, m.Apply(t.Context(), []Peer{aPeer("10.0.0.2", publicKey(t))}))
	require.Equal(t, 2, started)
	require.Len(t, f.dev.Peers, 1)
	require.Equal(t, m.PublicKey(), f.dev.PublicKey.String())
}

func TestKernelModeNeedsTheKernel(t *testing.T) {
	f := &fakeHost{}
	o := testOptions(t)
	o.Mode = ModeKernel
	_, err := open(t.Context(), o, f, f)
	require.ErrorIs(t, err, errNoKernel)
}

func TestAnInterfaceIsAdoptedWithItsPeers(t *testing.T) {
	f := &fakeHost{hasKernel: true}
	o := testOptions(t)
	m, err := open(t.Context(), o, f, f)
	require.NoError(t, err)
	peers := []Peer{aPeer("10.0.0.2", publicKey(t))}
	require.NoError(t, m.Apply(t.Context(), peers))
	n := f.changes()
	again, err := open(t.Context(), o, f, f)
	require.NoError(t, err)
	require.Len(t, f.dev.Peers, 1)
	require.NoError(t, again.Apply(t.Context(), peers))
	require.Equal(t, n, f.changes(), "nothing differs, so nothing may be touched")
	require.Equal(t, m.PublicKey(), again.PublicKey())
}

func TestApplyRefusesAmbiguity(t *testing.T) {
	m := openFake(t, &fakeHost{hasKernel: true})
	k := publicKey(t)
	for name, peers := range map[string][]Peer{
		"one address, two owners": {aPeer("10.0.0.2", publicKey(t)), aPeer("10.0.0.2", publicKey(t))},
		"one key, two peers":      {aPeer("10.0.0.2", k), aPeer("10.0.0.3", k)},
		"no key":                  {aPeer("10.0.0.2")},
		"three keys":              {aPeer("10.0.0.2", publicKey(t), publicKey(t), publicKey(t))},
		"the same key twice":      {aPeer("10.0.0.2", k, k)},
		"no key at all":           {aPeer("10.0.0.2", "nonsense")},
	} {
		require.Error(t, m.Apply(t.Context(), peers), name)
	}
}

func TestARoamedEndpointStaysWhileItLives(t *testing.T) {
	f := &fakeHost{hasKernel: true}
	m := openFake(t, f)
	now := time.Now()
	m.now = func() time.Time { return now }
	p := aPeer("10.0.0.2", publicKey(t))
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	roamed := *f.dev.Peers[0].Endpoint
	roamed.Port = 40000
	f.dev.Peers[0].Endpoint, f.dev.Peers[0].LastHandshakeTime = &roamed, now

	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, 40000, f.dev.Peers[0].Endpoint.Port)

	p.Endpoint = netip.MustParseAddrPort("203.0.113.10:51820") // it was told to be elsewhere
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, "203.0.113.10:51820", f.dev.Peers[0].Endpoint.String())

	f.dev.Peers[0].Endpoint = &roamed
	now = now.Add(forgotten + time.Second) // and has not been heard of since
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, "203.0.113.10:51820", f.dev.Peers[0].Endpoint.String())
}

func TestAddressesFollowTheKeyThatIsUsed(t *testing.T) {
	f := &fakeHost{hasKernel: true}
	m := openFake(t, f)
	old, next := publicKey(t), publicKey(t)
	p := aPeer("10.0.0.2", old, next)
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, []string{old}, f.owner("10.0.0.2/32"))
	f.handshake(mustKey(t, old), time.Now().Add(-time.Minute))
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, []string{old}, f.owner("10.0.0.2/32"))
	f.handshake(mustKey(t, next), time.Now())
	require.NoError(t, m.Apply(t.Context(), []Peer{p}))
	require.Equal(t, []string{next}, f.owner("10.0.0.2/32"))
	require.NoError(t, m.Apply(t.Context(), []Peer{aPeer("10.0.0.2", next)}))
	require.Len(t, f.dev.Peers, 1)
	require.Equal(t, []string{next}, f.owner("10.0.0.2/32"))
}

func mustKey(t *testing.T, s string) wgtypes.Key {
	k, err := wgtypes.ParseKey(s)
	require.NoError(t, err)
	return k
}

// TestAHungProcessIsNotWaitedForForever: whoever moves the packets may hang; the agent must not.
func TestAHungProcessIsNotWaitedForForever(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	entered := make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := talk(ctx, func() (int, error) { close(entered); <-release; return 0, nil })
		done <- err
	}()
	<-entered
	cancel()
	require.True(t, errors.Is(<-done, context.Canceled))
	close(release)
}

func is(text string) func(net.IPNet) bool {
	return func(n net.IPNet) bool { return n.String() == text }
}
