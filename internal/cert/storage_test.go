package cert

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// memory is the cluster's records, for tests that need the clock.
type memory struct {
	mu    sync.Mutex // guards the following fields
	files map[string]string
	locks map[string]lock
	down  bool
	tries int
}

type lock struct {
	holder string
	until  time.Time
}

var errDown = orama.Errorf(orama.KindUnavailable, "store_unavailable", "down")

func (m *memory) PutFile(_ context.Context, path, content string, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string]string{}
	}
	m.files[path] = content
	return nil
}

func (m *memory) File(_ context.Context, path string) (string, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return "", time.Time{}, errDown
	}
	content, ok := m.files[path]
	if !ok {
		return "", time.Time{}, orama.ErrNotFound
	}
	return content, time.Unix(1, 0), nil
}

func (m *memory) Files(_ context.Context, dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for p := range m.files {
		if strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (m *memory) DeleteFiles(_ context.Context, path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.files {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(m.files, p)
		}
	}
	return nil
}

func (m *memory) TakeLock(_ context.Context, name, holder string, now, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tries++
	if m.down {
		return errDown
	}
	if l, ok := m.locks[name]; ok && l.holder != holder && l.until.After(now) {
		return orama.ErrConflict
	}
	if m.locks == nil {
		m.locks = map[string]lock{}
	}
	m.locks[name] = lock{holder, until}
	return nil
}

func (m *memory) ReleaseLock(_ context.Context, name, holder string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name].holder == holder {
		delete(m.locks, name)
	}
	return nil
}

func newTestStorage(m *memory) *storage { return newStorage(m, auth.NewKeys([32]byte{7})) }

func TestStorageIsAsCertmagicWantsIt(t *testing.T) {
	m := &memory{}
	s := newTestStorage(m)
	ctx := t.Context()
	_, err := s.Load(ctx, "acme/a/users/u/u.json")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, s.Delete(ctx, "acme"))
	cert := "certificates/ca/wildcard_.ns-demo.orama.test/wildcard_.ns-demo.orama.test.key"
	for _, k := range []string{"acme/a/users/u/u.json", "acme/a/users/u/u.key", "acme/a/users/v/v.json", "top", cert} {
		require.NoError(t, s.Store(ctx, k, []byte("content of "+k)))
	}
	for _, k := range []string{"acme/a/users/u/u.json", cert} {
		got, err := s.Load(ctx, k)
		require.NoError(t, err)
		require.Equal(t, "content of "+k, string(got))
		info, err := s.Stat(ctx, k)
		require.NoError(t, err)
		require.True(t, info.IsTerminal)
		require.EqualValues(t, len(got), info.Size)
		require.True(t, s.Exists(ctx, k))
	}
	info, err := s.Stat(ctx, "acme/a")
	require.NoError(t, err)
	require.False(t, info.IsTerminal)
	got, err := s.List(ctx, "acme/a/users", false)
	require.NoError(t, err)
	require.Equal(t, []string{"acme/a/users/u", "acme/a/users/v"}, got)
	got, err = s.List(ctx, "acme/a/users", true)
	require.NoError(t, err)
	require.Equal(t, []string{"acme/a/users/u/u.json", "acme/a/users/u/u.key", "acme/a/users/v/v.json"}, got)
	_, err = s.List(ctx, "nowhere", true)
	require.ErrorIs(t, err, fs.ErrNotExist)

	for path, content := range m.files {
		require.NotContains(t, path, "ns-demo")
		require.NotContains(t, content, "content")
	}
	require.NoError(t, s.Delete(ctx, "acme/a/users/u"))
	require.False(t, s.Exists(ctx, "acme/a/users/u/u.key"))
	require.True(t, s.Exists(ctx, "acme/a/users/v"))

	// Sealed for its place: moved elsewhere it cannot be read, and that is no absence.
	m.files["root/x"] = m.files[place(cert)]
	m.files[place("top")] = m.files[place(cert)]
	_, err = s.Load(ctx, "top")
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	m.down = true
	_, err = s.Load(ctx, cert)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.False(t, errors.Is(err, fs.ErrNotExist), "unreachable is not absent: that would order anew")
}

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		a, b := newTestStorage(m), newTestStorage(m)
		ctx := t.Context()
		require.NoError(t, a.Lock(ctx, "l"))
		got := make(chan string, 2)
		take := func(s *storage, who string) {
			if err := s.Lock(ctx, "l"); err != nil {
				who = err.Error()
			}
			got <- who
		}
		go take(b, "another node")
		go take(a, "another caller here")
		time.Sleep(time.Hour) // prolonged all the while
		require.Empty(t, got)
		short, cancel := context.WithTimeout(ctx, time.Minute)
		require.ErrorIs(t, a.Lock(short, "l"), context.DeadlineExceeded)
		require.ErrorIs(t, newTestStorage(m).Lock(short, "l"), context.DeadlineExceeded)
		cancel()
		tries := func() int { m.mu.Lock(); defer m.mu.Unlock(); return m.tries }
		before := tries()
		time.Sleep(10 * time.Minute)
		require.Less(t, tries()-before, 100, "waiting is cheap")

		require.NoError(t, a.Unlock(ctx, "l"))
		waiting := map[string]*storage{"another node": b, "another caller here": a} // whoever tries first
		for range 2 {
			who := <-got
			require.Contains(t, waiting, who)
			require.NoError(t, waiting[who].Unlock(ctx, "l"))
			delete(waiting, who)
		}
		require.NoError(t, b.Lock(ctx, "l"))
		require.NoError(t, a.Lock(ctx, "m"))
		b.close()
		began := time.Now()
		require.NoError(t, a.Lock(ctx, "l"), "who is gone holds it a minute more")
		require.LessOrEqual(t, time.Since(began), lockLife+lockRetryAt)
		a.close()
		require.NoError(t, a.Unlock(ctx, "m"), "late is harmless")
	})
}

func TestALockOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{down: true}
		a := newTestStorage(m)
		done := make(chan error, 1)
		go func() { done <- a.Lock(t.Context(), "l") }()
		time.Sleep(5 * time.Minute)
		m.mu.Lock()
		m.down = false
		m.mu.Unlock()
		require.NoError(t, <-done)
		require.NoError(t, a.Unlock(t.Context(), "l"))
		require.Empty(t, m.locks)
	})
}
