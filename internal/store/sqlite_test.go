package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func TestContractSQLite(t *testing.T) {
	suite(t, func(t *testing.T) world {
		path := temp(t)
		return world{open: func(t *testing.T) *Store { return open(t, path) }, rooms: 1000}
	})
}

// helperEnv makes the test binary a second process on the same records.
const helperEnv = "ORAMA_STORE_TEST"

// helper is what a second process does: open the records, and commit or claim n times.
func helper(task, path, name string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{File: path})
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range 25 {
		switch task {
		case "commit":
			err = commitUntilDone(ctx, s, orama.NamespaceID(fmt.Sprintf("%s-%d", name, i)))
		case "claim":
			err = s.ClaimRoom(ctx, orama.Room{Namespace: "demo", ID: orama.RoomID(fmt.Sprint(i)), Node: orama.NodeID(name), Boot: "b", Epoch: 1})
			if errors.Is(err, orama.ErrConflict) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Processes that create the records at the same moment and then race for every revision: none fails, and every
// change of each is there.
func TestProcessesRaceFromTheFirstMoment(t *testing.T) {
	path := temp(t)
	const processes = 4
	runHelpers(t, "commit", path, processes)
	s := open(t, path)
	c := cluster(t, s)
	require.Len(t, c.Namespaces, processes*25)
	require.EqualValues(t, 1+processes*25, c.Revision)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestProcessesRaceForRooms(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	runHelpers(t, "claim", path, 3)
	rooms, err := s.Rooms(t.Context(), "demo")
	require.NoError(t, err)
	require.Len(t, rooms, 25)
}

func runHelpers(t *testing.T, task, path string, n int) {
	t.Helper()
	var cmds []*exec.Cmd
	var outs []*strings.Builder
	for i := range n {
		out := &strings.Builder{}
		cmd := exec.CommandContext(t.Context(), os.Args[0], path, fmt.Sprintf("p%d", i))
		cmd.Env = append(os.Environ(), helperEnv+"="+task)
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait(), outs[i].String())
	}
}

func TestManyHandlesOpenAtOnce(t *testing.T) {
	path := temp(t)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			s, err := Open(context.Background(), Options{File: path})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Cluster(context.Background()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestWhatCannotBeOpenedIsUnavailable(t *testing.T) {
	damaged := temp(t)
	require.NoError(t, os.WriteFile(damaged, []byte(strings.Repeat("not a database ", 100)), 0o600))
	_, err := Open(t.Context(), Options{File: damaged})
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	text, err := os.ReadFile(damaged)
	require.NoError(t, err)
	require.Contains(t, string(text), "not a database", "damage is kept")

	later := temp(t)
	s := open(t, later)
	require.NoError(t, s.write(t.Context(), []statement{stmt(1, `UPDATE meta SET value = 99 WHERE key = 'schema'`)}))
	_, err = Open(t.Context(), Options{File: later})
	require.ErrorContains(t, err, "schema 99")
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "orama ?#%20.db") }

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{File: path})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestRecordsThatCannotBeOpenedYetComeByThemselves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later", "o.db")
	var said strings.Builder
	s, err := Open(t.Context(), Options{File: path, Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	defer s.Close()
	for range 3 {
		require.Equal(t, orama.KindUnavailable, orama.KindOf(s.Check(t.Context())))
		_, err = s.Cluster(t.Context())
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	}
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	require.NoError(t, s.Check(t.Context()))
	require.Equal(t, 2, strings.Count(said.String(), "\n"), said.String())
}

func TestClosedRecordsAreUnavailable(t *testing.T) {
	s, err := Open(t.Context(), Options{File: temp(t)})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Cluster(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
}
