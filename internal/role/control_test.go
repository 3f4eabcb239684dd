package role

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunDirIsShortEnoughForASocket(t *testing.T) {
	short, err := RunDir("/var/lib/orama")
	require.NoError(t, err)
	require.Equal(t, "/var/lib/orama", short)
	long := "/" + strings.Repeat("a-long-directory/", 12)
	one, err := RunDir(long)
	require.NoError(t, err)
	two, err := RunDir(long)
	require.NoError(t, err)
	require.Equal(t, one, two, "everyone computes the same directory")
	require.LessOrEqual(t, len(sfuSocket(one, "node-99", "a-namespace-with-the-longest-name-of-40-b")), 107)
}

type spec struct{ Name string }

type state struct{ Applied string }

func TestUnitIsConfiguredOverItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "unit.sock")
	applied := ""
	mux := controlMux(func(s spec) error {
		if s.Name == "bad" {
			return errors.New("it cannot be had")
		}
		applied = s.Name
		return nil
	}, func() state { return state{applied} })
	ctx, cancel := context.WithCancel(t.Context())
	drained := false
	done := make(chan error)
	go func() {
		done <- Unit{Control: path}.controlled(ctx, mux, func() string { return "" }, func() { drained = true }, func() error { return nil })
	}()
	u := dialUnit(path)
	var got state
	require.NoError(t, poll(t.Context(), 5*time.Second, func() (bool, error) { return u.status(t.Context(), &got) == nil, nil }))
	require.NoError(t, u.apply(t.Context(), spec{"good"}))
	require.ErrorContains(t, u.apply(t.Context(), spec{"bad"}), "it cannot be had")
	require.NoError(t, u.status(t.Context(), &got))
	require.Equal(t, "good", got.Applied)

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = listenUnix(path, 0o600)
	require.ErrorContains(t, err, "another process")

	cancel()
	require.NoError(t, <-done)
	require.True(t, drained)
	require.NoFileExists(t, path)
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "unit.sock")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	l, err := listenUnix(path, 0o600)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestOneClusterADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "up.lock")
	unlock, err := lockFile(path)
	require.NoError(t, err)
	_, err = lockFile(path)
	require.ErrorContains(t, err, "already runs")
	unlock()
	unlock, err = lockFile(path)
	require.NoError(t, err)
	unlock()
}
