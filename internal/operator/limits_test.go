package operator

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func TestLimits(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	o := w.operator()
	_, err := o.CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err)
	srv := httptest.NewServer(Handler(o))
	defer srv.Close()
	c := &Client{http: &http.Client{Transport: toServer(srv.URL)}, socket: srv.URL}
	got, err := c.Limits(t.Context(), "myapp")
	require.NoError(t, err)
	require.Zero(t, got.MaxParticipants)
	for range 2 { // the second time nothing is committed
		got, err = c.SetLimits(t.Context(), "myapp", Limits{50})
		require.NoError(t, err)
		require.Equal(t, Limits{50}, got)
	}
	require.Len(t, w.events, 2, "made, and limited once")
	for _, bad := range []int{-1, signal.MaxParticipants + 1} {
		_, err = c.SetLimits(t.Context(), "myapp", Limits{bad})
		require.Equal(t, orama.KindInvalid, orama.KindOf(err))
	}
	for _, nobody := range []string{"nobody", ".."} {
		_, err = c.Limits(t.Context(), nobody)
		require.Error(t, err)
		_, err = c.SetLimits(t.Context(), nobody, Limits{1})
		require.Error(t, err)
	}
	got, err = c.Limits(t.Context(), "myapp")
	require.NoError(t, err)
	require.Equal(t, Limits{50}, got, "what is refused changes nothing")
	s, err := c.Status(t.Context(), "myapp")
	require.NoError(t, err)
	require.Equal(t, 50, s.MaxParticipants)
}
