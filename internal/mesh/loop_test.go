package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

var discard = slog.New(slog.DiscardHandler)

// records are the cluster's, with one peer that does as told.
type records struct {
	m *Mesh

	mu    sync.Mutex // guards the following fields
	peer  orama.Node
	err   error
	shows bool // what we announce gets there
	self  string
}

func (r *records) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *records) nodes(context.Context) ([]orama.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if r.shows {
		r.self = r.m.PublicKey()
	}
	return []orama.Node{{ID: "node-1", MeshIP: netip.MustParseAddr("10.0.0.1"), MeshKey: r.self}, r.peer}, nil
}

func loopTest(t *testing.T, f func(t *testing.T, h *fakeHost, r *records, m *Mesh, peersFile string)) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{hasKernel: true}
		m := openFake(t, h)
		r := &records{m: m, shows: true, peer: orama.Node{ID: "node-2", MeshIP: netip.MustParseAddr("10.0.0.2"), MeshKey: publicKey(t), MeshEndpoint: "203.0.113.2:51820"}}
		file := filepath.Join(t.TempDir(), "peers.json")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx, Loop{Self: "node-1", Nodes: r.nodes, PeersFile: file}) }()
		time.Sleep(100 * time.Millisecond)
		f(t, h, r, m, file)
		cancel()
		require.NoError(t, <-done)
	})
}

func TestPeersFollowTheRecords(t *testing.T) {
	loopTest(t, func(t *testing.T, h *fakeHost, r *records, m *Mesh, file string) {
		require.Equal(t, []string{r.peer.MeshKey}, h.owner("10.0.0.2/32"))
		saved, err := LoadPeers(file)
		require.NoError(t, err)
		require.Equal(t, r.peer.MeshKey, saved[0].Keys[0])

		r.set(func() { r.err = errors.New("gone") })
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{r.peer.MeshKey}, h.owner("10.0.0.2/32"), "records that cannot be read change nothing")

		h.mu.Lock()
		h.dev = nil
		h.mu.Unlock()
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{r.peer.MeshKey}, h.owner("10.0.0.2/32"), "an interface that vanished is made again without the records")

		r.set(func() { r.err, r.peer.MeshIP = nil, netip.MustParseAddr("10.0.0.3") })
		time.Sleep(2 * time.Second)
		require.Empty(t, h.owner("10.0.0.2/32"))
		require.Equal(t, []string{r.peer.MeshKey}, h.owner("10.0.0.3/32"))
	})
}

func TestRememberedPeersServeAColdBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{hasKernel: true}
		m := openFake(t, h)
		file := filepath.Join(t.TempDir(), "peers.json")
		p := aPeer("10.0.0.2", publicKey(t))
		require.NoError(t, SavePeers(file, []Peer{p}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		// These records are another cluster's, or empty: they do not know this node.
		nodes := func(context.Context) ([]orama.Node, error) { return nil, nil }
		go func() { done <- m.Run(ctx, Loop{Self: "node-1", Nodes: nodes, PeersFile: file}) }()
		time.Sleep(5 * time.Second)
		require.Equal(t, p.Keys, h.owner("10.0.0.2/32"))
		cancel()
		require.NoError(t, <-done)
	})
}

func TestAKeyChanges(t *testing.T) {
	loopTest(t, func(t *testing.T, h *fakeHost, r *records, m *Mesh, _ string) {
		was := m.PublicKey()
		peer := mustKey(t, r.peer.MeshKey)
		h.handshake(peer, time.Now())
		r.set(func() { r.shows = false })
		done := make(chan error, 1)
		go func() { done <- m.Rotate(t.Context()) }()
		time.Sleep(time.Minute)
		require.Equal(t, was, h.look().PublicKey.String(), "nobody was told of the next key yet, so it is not used")
		next := strings.Split(m.PublicKey(), ",")
		require.Len(t, next, 2)
		require.Equal(t, was, next[0])

		r.set(func() { r.shows = true })
		h.handshake(peer, time.Now())
		time.Sleep(tellTime + 2*time.Second)
		require.Equal(t, next[1], h.look().PublicKey.String())
		require.Equal(t, next[1]+","+was, m.PublicKey(), "the old key is announced until the peer has answered to the new one")
		h.handshake(peer, time.Now())
		require.NoError(t, <-done)
		require.Equal(t, next[1], m.PublicKey())
		left, err := filepath.Glob(m.PrivateKeyFile + "*")
		require.NoError(t, err)
		require.Equal(t, []string{m.PrivateKeyFile}, left)
		require.Equal(t, Keepalive, h.look().Peers[0].PersistentKeepaliveInterval)
	})
}

func TestAChangeThatNobodyAnswersIsUndone(t *testing.T) {
	loopTest(t, func(t *testing.T, h *fakeHost, r *records, m *Mesh, _ string) {
		was := m.PublicKey()
		h.handshake(mustKey(t, r.peer.MeshKey), time.Now())
		err := m.Rotate(t.Context())
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.Equal(t, was, m.PublicKey())
		require.Equal(t, was, h.look().PublicKey.String())
		k, err := EnsureKey(m.PrivateKeyFile)
		require.NoError(t, err)
		require.Equal(t, was, k)
	})
}

func TestAnOldKeyChangesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{hasKernel: true}
		m := openFake(t, h)
		old := time.Now().Add(-2 * RotateEvery)
		require.NoError(t, os.Chtimes(m.PrivateKeyFile, old, old))
		was := m.PublicKey()
		r := &records{m: m, shows: true, peer: orama.Node{ID: "node-2"}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- m.Run(ctx, Loop{Self: "node-1", Nodes: r.nodes, PeersFile: filepath.Join(t.TempDir(), "p"), RotateAfter: RotateEvery})
		}()
		time.Sleep(30 * time.Second)
		require.NotEqual(t, was, m.PublicKey())
		cancel()
		require.NoError(t, <-done)
	})
}

// TestKeysSurviveACrashAnywhere does the steps of a change in turn and starts again after each, with the disk as it
// was then: there is always one key, it is one that was announced, and what is announced holds it.
func TestKeysSurviveACrashAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k, err := openKeys(path)
	require.NoError(t, err)
	first := k.now
	require.NoError(t, k.begin())
	check := func(at string, now any, announced int) {
		t.Helper()
		again, err := openKeys(path)
		require.NoError(t, err, at)
		require.Equal(t, now, again.now, at)
		require.Len(t, again.announced(), announced, at)
		require.Equal(t, again.now.PublicKey(), again.announced()[0], at)
	}
	// turn is cut in the middle: the old key is written, the next one is not moved yet.
	require.NoError(t, writeKey(path+oldSuffix, first))
	check("in turn", first, 1)
	require.NoFileExists(t, path+nextSuffix)

	k, err = openKeys(path)
	require.NoError(t, err)
	require.NoError(t, k.begin())
	second := *k.next
	require.Len(t, k.announced(), 2)
	require.NoError(t, k.turn())
	check("after turn", second, 2)
	require.NoError(t, k.settle())
	check("after settle", second, 1)
	require.NoError(t, k.begin())
	require.NoError(t, k.turn())
	require.NoError(t, k.back())
	check("after back", second, 1)
}

func TestAKeyThatOthersReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	_, err := EnsureKey(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = EnsureKey(path)
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.WriteFile(path, []byte("nonsense"), 0o600))
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = EnsureKey(path)
	require.ErrorContains(t, err, "not a WireGuard key")
	require.NotContains(t, err.Error(), "nonsense")
}

// TestPeersOfHoldsTogether: whatever the records say, the peers can be applied, none is ourselves, and no two share an
// address or a key.
func TestPeersOfHoldsTogether(t *testing.T) {
	network := netip.MustParsePrefix("10.0.0.0/29")
	var pool []string
	for range 6 {
		pool = append(pool, publicKey(t))
	}
	pool = append(pool, "", "nonsense", pool[0]+","+pool[1], pool[2]+","+pool[2], ",")
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) orama.Node {
			return orama.Node{ID: orama.NodeID(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "id")),
				MeshIP:       netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "ip") % 12}),
				MeshKey:      rapid.SampledFrom(pool).Draw(t, "key"),
				MeshEndpoint: rapid.SampledFrom([]string{"", "203.0.113.1:51820", "nonsense", "0.0.0.0:1", "[2001:db8::1]:5"}).Draw(t, "endpoint")}
		}), 0, 8).Draw(t, "nodes")
		peers := PeersOf(nodes, "a", network, discard)
		_, err := parsePeers(peers)
		require.NoError(t, err)
		for _, n := range nodes {
			if n.ID != "a" {
				continue
			}
			for _, p := range peers {
				require.False(t, slices.Contains(p.AllowedIPs, netip.PrefixFrom(n.MeshIP, 32)), "an address of ours was given away")
			}
		}
	})
}

func FuzzPeersFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"peers":[{"keys":["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="],"endpoint":"203.0.113.1:51820","allowed_ips":["10.0.0.2/32"],"keepalive":25000000000}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"peers":[{"keys":[],"endpoint":"","allowed_ips":null,"keepalive":-1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		peers, err := decodePeers(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "p")
		require.NoError(t, SavePeers(path, peers))
		_, err = LoadPeers(path)
		require.NoError(t, err)
	})
}
