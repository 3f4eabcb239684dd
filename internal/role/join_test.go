package role

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/store"
)

// testMesh is of RFC 2544: no host of a developer has it.
var testMesh = netip.MustParsePrefix("198.18.7.0/24")

// firstHost is a host that was set up by Init, whose agent lets others in.
type firstHost struct {
	t       *testing.T
	o       InitOptions
	r       InitResult
	cfg     config.Node
	records *store.Store
	enrol   *enrolment
}

func newFirstHost(t *testing.T) *firstHost {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dir := t.TempDir()
	h := &firstHost{t: t, o: InitOptions{HostOptions: HostOptions{ConfigFile: filepath.Join(dir, "etc", "node.yaml"), DataDir: filepath.Join(dir, "data"), Node: "node-1",
		PublicIP: netip.MustParseAddr("203.0.113.1"), Supervisor: "child"}, BaseDomain: "example.org", MeshCIDR: testMesh, Store: []string{"sqlite"}, Enroll: l.Addr().String()}}
	h.r, err = Init(h.o)
	require.NoError(t, err)
	h.cfg, err = config.Load(h.o.ConfigFile)
	require.NoError(t, err)
	h.records, err = store.Open(t.Context(), store.Options{File: h.cfg.Store.File})
	require.NoError(t, err)
	key, err := readClusterKey(h.cfg.ClusterKey)
	require.NoError(t, err)
	h.enrol, err = newEnrolment(h.cfg, key, h.records, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, h.enrol.firstInvitation(t.Context()))
	require.NoFileExists(t, seedPath(h.cfg.DataDir))
	require.NoError(t, h.records.Heartbeat(t.Context(), orama.Node{ID: "node-1", PublicIP: h.cfg.PublicIP, MeshIP: h.cfg.MeshIP, MeshKey: h.r.MeshKey,
		MeshEndpoint: "203.0.113.1:51820"}, time.Now()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.enrol.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, h.records.Close())
	})
	return h
}

func (h *firstHost) joiner(token string) JoinOptions {
	dir := h.t.TempDir()
	return JoinOptions{Token: token, HostOptions: HostOptions{ConfigFile: filepath.Join(dir, "etc", "node.yaml"), DataDir: filepath.Join(dir, "data"), Node: "node-2",
		Zone: "b", PublicIP: netip.MustParseAddr("203.0.113.2"), Supervisor: "child"}}
}

func TestInitAndJoin(t *testing.T) {
	h := newFirstHost(t)
	require.NotEmpty(t, h.r.Token)
	o := h.joiner(h.r.Token)
	r, err := Join(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, netip.MustParseAddr("198.18.7.2"), r.MeshIP)

	c, err := config.Load(o.ConfigFile)
	require.NoError(t, err)
	require.Equal(t, config.Node{
		ID: "node-2", Zone: "b", BaseDomain: "example.org", PublicIP: o.PublicIP, MeshIP: r.MeshIP, MeshCIDR: testMesh,
		DataDir: o.DataDir, ClusterKey: filepath.Join(o.DataDir, "cluster.key"), Store: h.cfg.Store, Supervisor: "child",
		Mesh:         config.Mesh{WireGuard: "auto", ListenPort: 51820, PrivateKey: filepath.Join(o.DataDir, "mesh.key"), Enroll: h.cfg.Mesh.Enroll},
		Certificates: config.Certificates{Mode: "authority", Authority: o.DataDir},
		Gateway:      config.Gateway{URL: "http://203.0.113.2:8080", HTTP: []string{"203.0.113.2:8080"}, HTTPS: "203.0.113.2:8443"},
		TURN:         config.TURN{URLs: "ip"},
	}, c)
	ours, err := readClusterKey(c.ClusterKey)
	require.NoError(t, err)
	theirs, err := readClusterKey(h.cfg.ClusterKey)
	require.NoError(t, err)
	require.Equal(t, theirs, ours)
	_, err = cert.LoadAuthority(c.Certificates.Authority)
	require.NoError(t, err)
	requirePrivate(t, o.DataDir)
	require.NoDirExists(t, filepath.Join(o.DataDir, ".join"))

	m, err := os.ReadFile(meshPeersFile(o.DataDir))
	require.NoError(t, err)
	require.Contains(t, string(m), h.r.MeshKey)

	// The first host's own private key stayed where it was made, and so did the joiner's.
	first, err := os.ReadFile(h.cfg.Mesh.PrivateKey)
	require.NoError(t, err)
	second, err := os.ReadFile(c.Mesh.PrivateKey)
	require.NoError(t, err)
	require.NotEqual(t, first, second)

	again := h.joiner(h.r.Token)
	again.Node = "node-3"
	_, err = Join(t.Context(), again)
	require.ErrorContains(t, err, "works once")
	requireNothing(t, again)

	_, err = Join(t.Context(), o)
	require.ErrorContains(t, err, "set up already")
}

func requirePrivate(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if strings.HasSuffix(path, "ca.pem") || strings.Contains(path, "cluster.db") {
			return nil
		}
		require.Zero(t, info.Mode().Perm()&0o077, path)
		return nil
	}))
}

// requireNothing demands that a join left no file.
func requireNothing(t *testing.T, o JoinOptions) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(o.ConfigFile), o.DataDir} {
		left, err := os.ReadDir(dir)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		require.Empty(t, left)
	}
}

func TestAFailedJoinLeavesNothing(t *testing.T) {
	h := newFirstHost(t)
	o := h.joiner("orama-join-1.nonsense")
	_, err := Join(t.Context(), o)
	require.ErrorContains(t, err, "not whole")
	requireNothing(t, o)

	// Everything was sent, and the last step fails: something is where the configuration belongs.
	o = h.joiner(h.r.Token)
	require.NoError(t, os.MkdirAll(o.ConfigFile+".tmp", 0o700))
	_, err = Join(t.Context(), o)
	require.Error(t, err)
	left, err := filepath.Glob(filepath.Join(o.DataDir, "*.*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAJoinThatWasBrokenOffIsSweptAway(t *testing.T) {
	h := newFirstHost(t)
	o := h.joiner(h.r.Token)
	require.NoError(t, os.MkdirAll(filepath.Join(o.DataDir, ".join"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(o.DataDir, ".join", "cluster.key"), []byte("half"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(o.DataDir, "mesh.key"), []byte("moved already"), 0o600))
	_, err := Join(t.Context(), o)
	require.NoError(t, err)
}

func TestJoinTouchesNoOtherNode(t *testing.T) {
	h := newFirstHost(t)
	o := h.joiner(h.r.Token)
	require.NoError(t, os.MkdirAll(o.DataDir, 0o700))
	key := filepath.Join(o.DataDir, "cluster.key")
	require.NoError(t, os.WriteFile(key, []byte("precious"), 0o600))
	_, err := Join(t.Context(), o)
	require.ErrorContains(t, err, "another node")
	text, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, "precious", string(text))
	require.NoError(t, os.Remove(key))
	_, err = Join(t.Context(), o)
	require.NoError(t, err, "the token is not used up by that")
}

func TestInitIsIdempotent(t *testing.T) {
	h := newFirstHost(t)
	before, err := os.ReadFile(h.o.ConfigFile)
	require.NoError(t, err)
	key, err := os.ReadFile(h.cfg.ClusterKey)
	require.NoError(t, err)
	r, err := Init(h.o)
	require.NoError(t, err)
	require.True(t, r.Already)
	require.Empty(t, r.Token)
	require.Equal(t, h.r.MeshKey, r.MeshKey)
	_, err = Init(InitOptions{HostOptions: HostOptions{ConfigFile: h.o.ConfigFile, DataDir: h.o.DataDir}})
	require.NoError(t, err, "what is not said again is as it is")
	for _, change := range []func(*InitOptions){
		func(o *InitOptions) { o.Node = "node-7" },
		func(o *InitOptions) { o.PublicIP = netip.MustParseAddr("203.0.113.7") },
		func(o *InitOptions) { o.BaseDomain = "example.net" },
		func(o *InitOptions) { o.MeshCIDR = netip.MustParsePrefix("10.1.0.0/24") },
		func(o *InitOptions) { o.DataDir += "x" },
	} {
		o := h.o
		change(&o)
		_, err := Init(o)
		require.Equal(t, orama.KindConflict, orama.KindOf(err))
	}
	after, err := os.ReadFile(h.o.ConfigFile)
	require.NoError(t, err)
	require.Equal(t, before, after)
	same, err := os.ReadFile(h.cfg.ClusterKey)
	require.NoError(t, err)
	require.Equal(t, key, same)
	requirePrivate(t, h.o.DataDir)
}

func TestInitRefusesADataDirectoryOfAnother(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cluster_state.json"), []byte(`{"version":1,"node_id":"node-9","revision":1,"namespaces":[]}`), 0o600))
	_, err := Init(InitOptions{HostOptions: HostOptions{ConfigFile: filepath.Join(dir, "node.yaml"), DataDir: dir, Node: "node-1", PublicIP: netip.MustParseAddr("203.0.113.1")}})
	require.Equal(t, "other_node", err.(*orama.Error).Code) //nolint:errorlint,forcetypeassert // it is not wrapped
	require.NoFileExists(t, filepath.Join(dir, "cluster.key"))
}

func TestAMeshThatIsSomethingElseIsRefused(t *testing.T) {
	cfg := config.Node{PublicIP: netip.MustParseAddr("203.0.113.1"), MeshCIDR: netip.MustParsePrefix("127.0.0.0/16"), Mesh: config.Mesh{WireGuard: "auto"}}
	require.ErrorContains(t, meshIsFree(cfg, "--mesh-cidr"), "interface lo")
	cfg.MeshCIDR = netip.MustParsePrefix("203.0.113.0/24")
	require.ErrorContains(t, meshIsFree(cfg, "--mesh-cidr"), "public address")
	cfg.MeshCIDR = testMesh
	require.NoError(t, meshIsFree(cfg, "--mesh-cidr"))
	cfg.MeshCIDR, cfg.Mesh.WireGuard = netip.MustParsePrefix("127.0.0.0/16"), "existing"
	require.NoError(t, meshIsFree(cfg, "--mesh-cidr"))
}

func TestThePublicAddressIsFoundWhereItIsPlain(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	a, err := choosePublic(addrs("10.1.2.3", "203.0.113.5"))
	require.NoError(t, err)
	require.Equal(t, "203.0.113.5", a.String())
	for _, list := range [][]netip.Addr{nil, addrs("192.168.1.2"), addrs("100.64.1.1"), addrs("203.0.113.5", "198.51.100.7"), addrs("169.254.1.1")} {
		_, err := choosePublic(list)
		require.ErrorContains(t, err, "--public-ip")
	}
	for host, node := range map[string]orama.NodeID{"Web-1.example.org": "web-1", "a_b": "a-b", "---": "", strings.Repeat("x", 80): orama.NodeID(strings.Repeat("x", 63))} {
		require.Equal(t, node, nodeName(host), host)
	}
}

func TestAJoinersConfiguration(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, program := range []string{"rqlited", "olric-server"} {
		require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("PATH"), program), nil, 0o700)) //nolint:gosec // a program
	}
	was := config.Node{
		ID: "node-1", BaseDomain: "example.org", PublicIP: netip.MustParseAddr("203.0.113.1"), MeshIP: netip.MustParseAddr("198.18.7.1"), MeshCIDR: testMesh,
		DataDir: "/var/lib/orama", RunDir: "/run/orama", ClusterKey: "/var/lib/orama/cluster.key",
		Store:        config.Store{Engine: "rqlite", URLs: []string{"http://198.18.7.1:4001", "http://198.18.7.9:4001"}, Run: true, User: "u", PasswordFile: "/secret/p"},
		Cache:        config.Cache{Engine: "olric", Addresses: []string{"198.18.7.1:3320"}, Run: true},
		Mesh:         config.Mesh{WireGuard: "userspace", Interface: "wg9", ListenPort: 51820, PrivateKey: "/var/lib/orama/mesh.key", Enroll: "203.0.113.1:7946"},
		Firewall:     "ufw",
		DNS:          config.DNS{Mode: "serve", Listen: []string{"203.0.113.1:53"}},
		Certificates: config.Certificates{Mode: "acme", Email: "ops@example.org", Roots: "/etc/orama/roots.pem"},
		Gateway:      config.Gateway{URL: "https://203.0.113.1", HTTP: []string{"203.0.113.1:8080", "198.18.7.1:8080"}, HTTPS: "203.0.113.1:8443"},
		TURN:         config.TURN{URLs: "name"},
		Demo:         config.Demo{Namespace: "demo"},
	}
	require.NoError(t, was.Validate())
	offered, err := offer(config.Node{ClusterKey: "/nowhere"})
	require.Error(t, err, "what cannot be read is not offered")
	require.Empty(t, offered.Files)
	o := JoinOptions{HostOptions: HostOptions{DataDir: "/data", Node: "node-2", PublicIP: netip.MustParseAddr("203.0.113.2"), MeshPort: 51821, Supervisor: "systemd"}}
	text := filepath.Join(t.TempDir(), "was.yaml")
	require.NoError(t, was.Save(text))
	body, err := os.ReadFile(text)
	require.NoError(t, err)
	c, err := o.adapt(enroll.Answer{MeshIP: netip.MustParseAddr("198.18.7.2"), Config: body})
	require.NoError(t, err)

	want := was
	want.ID, want.PublicIP, want.MeshIP, want.DataDir, want.ClusterKey = "node-2", o.PublicIP, netip.MustParseAddr("198.18.7.2"), "/data", "/data/cluster.key"
	want.Store.URLs = []string{"http://198.18.7.2:4001", "http://198.18.7.1:4001", "http://198.18.7.9:4001"}
	want.Store.PasswordFile = "/data/store.password"
	want.Cache.Addresses = []string{"198.18.7.2:3320", "198.18.7.1:3320"}
	want.Mesh.ListenPort, want.Mesh.PrivateKey, want.Mesh.Enroll = 51821, "/data/mesh.key", "203.0.113.2:7946"
	want.DNS.Listen = []string{"203.0.113.2:53"}
	want.Certificates.Roots = "/data/acme-roots.pem"
	want.Gateway = config.Gateway{URL: "https://203.0.113.2", HTTP: []string{"203.0.113.2:8080", "198.18.7.2:8080"}, HTTPS: "203.0.113.2:8443"}
	want.Supervisor, want.Demo = "systemd", config.Demo{}
	require.Equal(t, want, c)

	t.Setenv("PATH", t.TempDir()) // nothing is installed
	c, err = o.adapt(enroll.Answer{MeshIP: netip.MustParseAddr("198.18.7.2"), Config: body})
	require.NoError(t, err)
	require.False(t, c.Store.Run)
	require.Equal(t, was.Store.URLs, c.Store.URLs)
}

func TestTheSocketInvites(t *testing.T) {
	h := newFirstHost(t)
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := listenUnix(socket, 0o600)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	m, err := openMesh(ctx, config.Node{MeshIP: netip.MustParseAddr("127.0.0.1"), MeshCIDR: netip.MustParsePrefix("127.0.0.0/8")}, "", nil, h.enrol.log)
	require.NoError(t, err)
	mux := http.NewServeMux()
	nodeRoutes(mux, h.enrol, m)
	done := make(chan error)
	go func() { done <- serve(ctx, l, mux, time.Second) }()
	i, err := Invite(ctx, socket, time.Hour)
	require.NoError(t, err)
	_, err = Join(ctx, h.joiner(i.Token))
	require.NoError(t, err)
	_, err = Invite(ctx, socket, 1000*time.Hour)
	require.Equal(t, orama.KindInvalid, orama.KindOf(err))
	s, err := MeshStatus(ctx, socket)
	require.NoError(t, err)
	require.Equal(t, "existing", s.Kind)
	require.True(t, s.Up)
	require.Equal(t, orama.KindConflict, orama.KindOf(RotateKey(ctx, socket)))
	cancel()
	require.NoError(t, <-done)
	_, err = Invite(t.Context(), socket, time.Hour)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.NoError(t, m.close(t.Context()))
}

// TestANodeThatKnowsNobodyAsksAMember: while a node was away every other changed its key, and the records are on the
// mesh.
func TestANodeThatKnowsNobodyAsksAMember(t *testing.T) {
	h := newFirstHost(t)
	o := h.joiner(h.r.Token)
	_, err := Join(t.Context(), o)
	require.NoError(t, err)
	cfg, err := config.Load(o.ConfigFile)
	require.NoError(t, err)
	peers, err := mesh.LoadPeers(meshPeersFile(o.DataDir))
	require.NoError(t, err)
	peers[0].Endpoint = netip.MustParseAddrPort("127.0.0.1:51820") // where the first host lets nodes in
	require.NoError(t, mesh.SavePeers(meshPeersFile(o.DataDir), peers))
	require.NoError(t, h.records.Heartbeat(t.Context(), orama.Node{ID: "node-1", PublicIP: h.cfg.PublicIP, MeshIP: h.cfg.MeshIP, MeshKey: "another",
		MeshEndpoint: "203.0.113.1:51820"}, time.Now()))

	deaf := cfg
	deaf.MeshIP, deaf.MeshCIDR, deaf.Mesh.WireGuard = netip.MustParseAddr("127.0.0.1"), netip.MustParsePrefix("127.0.0.0/8"), ""
	m, err := openMesh(t.Context(), deaf, "", nil, h.enrol.log)
	require.NoError(t, err)
	defer m.close(t.Context()) //nolint:errcheck // nothing is open
	gone := errors.New("the records cannot be reached")
	nodes := m.orMembers(func(context.Context) ([]orama.Node, error) { return nil, gone })
	found, err := nodes(t.Context())
	require.NoError(t, err)
	require.Equal(t, "another", found[0].MeshKey)
	_, err = nodes(t.Context())
	require.ErrorIs(t, err, gone, "members are not asked all the time")

	// With another cluster's key nothing is told.
	require.NoError(t, os.WriteFile(cfg.ClusterKey, []byte(strings.Repeat("ab", 32)), 0o600))
	_, err = askMember(t.Context(), deaf, peers[0])
	require.ErrorContains(t, err, "not of the cluster")
}

// An agent that was just started does not listen yet: it is asked again, and the user is told once.
func TestJoinWaitsForAnAgentThatStarts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	came := make(chan struct{})
	time.AfterFunc(2*refusedEvery, func() {
		late, err := net.Listen("tcp", address)
		if err != nil {
			return
		}
		defer late.Close()
		if c, err := late.Accept(); err == nil {
			c.Close()
			close(came)
		}
	})
	var said []string
	o := JoinOptions{Progress: func(text string) { said = append(said, text) }}
	_, err = o.ask(t.Context(), enroll.NewToken([32]byte{1}, address), enroll.Request{Node: "node-2", PublicIP: netip.MustParseAddr("203.0.113.2"), MeshIP: netip.MustParseAddr("10.0.0.2")})
	require.Error(t, err, "it hung up")
	<-came
	require.Equal(t, []string{"nobody listens there yet; asking again for 10s"}, said)
}
