package role

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/config"
)

// listenAt makes a socket that takes connections and says nothing.
func listenAt(t *testing.T, path string) string {
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func TestFindingTheAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "o") // t.TempDir's names are too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, run, file := filepath.Join(dir, "d"), filepath.Join(dir, "r"), filepath.Join(dir, "node.yaml")
	find := func(named bool) (string, error) {
		patterns, err := AgentSockets(data, named, file, run)
		require.NoError(t, err)
		return FirstAgent(t.Context(), patterns, data)
	}

	_, err = find(false)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.ErrorContains(t, err, "orama up")

	inRun := listenAt(t, AgentSocket(run, "node-9"))
	got, err := find(false)
	require.NoError(t, err)
	require.Equal(t, inRun, got, "the usual place, without any configuration")

	cfg := config.Node{ID: "node-3", BaseDomain: "orama.test", PublicIP: netip.MustParseAddr("127.0.0.1"), MeshIP: netip.MustParseAddr("10.0.0.1"),
		MeshCIDR: netip.MustParsePrefix("10.0.0.0/24"), DataDir: dir, RunDir: filepath.Join(dir, "x"), ClusterKey: "/k",
		Store: config.Store{Engine: "sqlite", File: "/f"}, Certificates: config.Certificates{Mode: "authority", Authority: "/a"},
		Gateway: config.Gateway{URL: "http://127.0.0.1", HTTP: []string{"127.0.0.1:1"}}, TURN: config.TURN{URLs: "ip"}}
	require.NoError(t, cfg.Save(file))
	ofConfig := listenAt(t, AgentSocket(cfg.RunDir, "node-3"))
	got, err = find(false)
	require.NoError(t, err)
	require.Equal(t, ofConfig, got, "the node that is configured comes before one that happens to run")

	local := listenAt(t, AgentSocket(data, "node-1"))
	got, err = find(false)
	require.NoError(t, err)
	require.Equal(t, local, got, "the local cluster comes first")

	// Those that say nothing are passed over beside one whose agent speaks.
	speaks := AgentSocket(run, "node-8")
	require.NoError(t, os.MkdirAll(filepath.Dir(speaks), 0o700))
	l, err := listenUnix(speaks, 0o600)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }), time.Second) //nolint:errcheck // a test's
	}()
	got, err = find(false)
	require.NoError(t, err)
	require.Equal(t, speaks, got)
	stop()
	require.NoError(t, <-served)

	require.NoError(t, os.Remove(local))
	_, err = find(true)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err), "a directory that was named is not exchanged for another cluster")

	// A socket that nobody listens on any more is passed over.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: local, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	got, err = find(false)
	require.NoError(t, err)
	require.Equal(t, ofConfig, got)
}
