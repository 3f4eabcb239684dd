package store

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// A challenge is seen by every handle, raises the revision, and is gone when it was taken back or has expired.
func challengesComeAndGo(t *testing.T, w world) {
	a, b := w.open(t), w.open(t)
	rev, err := a.Revision(t.Context())
	require.NoError(t, err)
	first := orama.TXTRecord{Name: "_acme-challenge.orama.test", Value: "one", TTL: 10, Expires: t0.Add(time.Hour)}
	second := orama.TXTRecord{Name: "_acme-challenge.orama.test", Value: "two", TTL: 10, Expires: t0.Add(2 * time.Hour)}
	require.NoError(t, a.SetTXT(t.Context(), first, t0))
	require.NoError(t, b.SetTXT(t.Context(), second, t0))
	require.NoError(t, b.SetTXT(t.Context(), second, t0), "twice is once")
	got, err := b.TXT(t.Context(), t0)
	require.NoError(t, err)
	require.Equal(t, []orama.TXTRecord{first, second}, got)
	after, err := b.Revision(t.Context())
	require.NoError(t, err)
	require.Equal(t, rev+3, after)

	got, err = a.TXT(t.Context(), t0.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, []orama.TXTRecord{second}, got, "expired")
	require.NoError(t, a.RemoveTXT(t.Context(), second.Name, second.Value))
	require.NoError(t, a.RemoveTXT(t.Context(), second.Name, second.Value))
	got, err = a.TXT(t.Context(), t0)
	require.NoError(t, err)
	require.Equal(t, []orama.TXTRecord{first}, got)
	require.NoError(t, a.SetTXT(t.Context(), second, t0.Add(time.Hour)))
	got, err = a.TXT(t.Context(), t0)
	require.NoError(t, err)
	require.Equal(t, []orama.TXTRecord{second}, got, "the expired one was swept")
}

func filesAreKept(t *testing.T, w world) {
	a, b := w.open(t), w.open(t)
	_, _, err := a.File(t.Context(), "acme/x")
	require.ErrorIs(t, err, orama.ErrNotFound)
	for i, p := range []string{"acme/x", "acme/d/one", "acme/d/two", "acme/d2", "acme", "b"} {
		require.NoError(t, a.PutFile(t.Context(), p, p, t0.Add(time.Duration(i))))
	}
	require.NoError(t, b.PutFile(t.Context(), "acme/x", "again", t0.Add(time.Hour)))
	content, modified, err := a.File(t.Context(), "acme/x")
	require.NoError(t, err)
	require.Equal(t, "again", content)
	require.Equal(t, t0.Add(time.Hour), modified)
	list := func(dir string) []string {
		got, err := b.Files(t.Context(), dir)
		require.NoError(t, err)
		return got
	}
	require.Equal(t, []string{"acme", "acme/d/one", "acme/d/two", "acme/d2", "acme/x", "b"}, list(""))
	require.Equal(t, []string{"acme/d/one", "acme/d/two"}, list("acme/d"))
	require.NoError(t, b.DeleteFiles(t.Context(), "acme/d"))
	require.NoError(t, b.DeleteFiles(t.Context(), "nowhere"))
	require.Equal(t, []string{"acme/d2", "acme/x"}, list("acme"))
	err = a.PutFile(t.Context(), "large", strings.Repeat("x", maxFile+1), t0)
	require.Equal(t, orama.KindInvalid, orama.KindOf(err))
}

func aLockHasOneHolder(t *testing.T, w world) {
	a, b := w.open(t), w.open(t)
	take := func(s *Store, holder string, at time.Duration) error {
		return s.TakeLock(t.Context(), "l", holder, t0.Add(at), t0.Add(at+time.Minute))
	}
	require.NoError(t, take(a, "a", 0))
	require.ErrorIs(t, take(b, "b", 0), orama.ErrConflict)
	require.NoError(t, take(a, "a", 30*time.Second), "prolonged")
	require.ErrorIs(t, take(b, "b", 89*time.Second), orama.ErrConflict)
	require.NoError(t, take(b, "b", 90*time.Second), "its time is over")
	require.ErrorIs(t, take(a, "a", 91*time.Second), orama.ErrConflict)
	require.NoError(t, a.ReleaseLock(t.Context(), "l", "a"))
	require.ErrorIs(t, take(a, "a", 92*time.Second), orama.ErrConflict, "another's stays")
	require.NoError(t, b.ReleaseLock(t.Context(), "l", "b"))
	require.NoError(t, take(a, "a", 93*time.Second))

	var won sync.Map
	var wg sync.WaitGroup
	for _, holder := range []string{"c", "d", "e", "f"} {
		wg.Go(func() {
			if err := b.TakeLock(t.Context(), "race", holder, t0, t0.Add(time.Minute)); err == nil {
				won.Store(holder, true)
			}
		})
	}
	wg.Wait()
	var n int
	won.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n)
}
