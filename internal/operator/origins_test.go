package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func TestOrigins(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	o := w.operator()
	_, err := o.CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err)
	got, err := o.Origins(t.Context(), "myapp")
	require.NoError(t, err)
	require.Empty(t, got.Origins)
	want := Origins{[]string{"https://app.example.org", "http://127.0.0.1:3000", "*"}}
	_, err = o.SetOrigins(t.Context(), "myapp", want)
	require.NoError(t, err)
	got, err = o.Origins(t.Context(), "myapp")
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, bad := range []string{"", "app.example.org", "https://app.example.org/", "https://a b", "ftp://a", "https://u@a/x", "https://" + strings.Repeat("a", 300)} {
		_, err := o.SetOrigins(t.Context(), "myapp", Origins{[]string{bad}})
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), bad)
	}
	_, err = o.SetOrigins(t.Context(), "myapp", Origins{make([]string, maxOrigins+1)})
	require.Equal(t, orama.KindInvalid, orama.KindOf(err))
	_, err = o.SetOrigins(t.Context(), "nobody", want)
	require.Equal(t, orama.KindNotFound, orama.KindOf(err))
	got, err = o.Origins(t.Context(), "myapp")
	require.NoError(t, err)
	require.Equal(t, want, got, "what is refused changes nothing")
}
