package store

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/store/rqlitetest"
)

// After a node has joined, the leader answers no linearizable read until something is written; seen with RQLite 10.
func TestReadingGoesOnAfterANodeJoined(t *testing.T) {
	c, err := rqlitetest.Start(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	s, err := Open(t.Context(), Options{Engine: "rqlite", URLs: c.URLs()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	before, err := s.Revision(t.Context())
	require.NoError(t, err)

	var written atomic.Bool
	c.Always(func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		if strings.HasSuffix(r.URL.Path, "/execute") {
			written.Store(true)
		} else if !written.Load() {
			rqlitetest.Top("index 28: timeout waiting for fsm")(w, r, answer)
			return
		}
		answer(w, r)
	})
	after, err := s.Revision(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after, "and nothing has changed")
}
