package operator

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

func operatorKey() string {
	shown, _ := auth.NewAPIKey("", auth.RoleOperator)
	return shown
}

// dead is a URL that nobody listens on.
func dead(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

// gatewayOf serves an operator as a gateway does.
func gatewayOf(t *testing.T, h http.Handler, key string) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, remotePrefix)
		if !ok || r.Header.Get("X-API-Key") != key {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			json.NewEncoder(w).Encode(map[string]any{"code": "invalid_api_key", "detail": "the key is not valid here"}) //nolint:errcheck // a test's
			return
		}
		r.URL.Path, r.URL.RawPath = "/v1/"+rest, ""
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestRemoteDoesWhatTheSocketDoes(t *testing.T) {
	w := newWorld(t, 3, time.Millisecond)
	key := operatorKey()
	srv := gatewayOf(t, Handler(w.operator()), key)
	c, err := DialGateways([]string{dead(t), srv.URL}, key, nil)
	require.NoError(t, err)
	owner, err := c.CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err, "a gateway that cannot be reached is passed over, body and all")
	require.True(t, auth.LooksLikeAPIKey(owner))
	var steps atomic.Int64
	s, err := c.EnableWebRTC(t.Context(), "myapp", Options{}, func(Step) { steps.Add(1) })
	require.NoError(t, err)
	require.True(t, s.Enabled)
	require.Positive(t, steps.Load(), "steps come as they are observed")
	_, err = c.CreateNamespace(t.Context(), "myapp")
	require.Equal(t, orama.KindConflict, orama.KindOf(err))
	all, err := c.ListNamespaces(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func TestRemoteRefusals(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	srv := gatewayOf(t, Handler(w.operator()), operatorKey())
	c, err := DialGateways([]string{srv.URL}, operatorKey(), nil)
	require.NoError(t, err)
	_, err = c.ListNamespaces(t.Context())
	require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "the key is not valid here")

	c, err = DialGateways([]string{dead(t)}, operatorKey(), nil)
	require.NoError(t, err)
	_, err = c.ListNamespaces(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.NotContains(t, err.Error(), "orama_", "a key is in no error")
}

// What may have begun is not begun again elsewhere; a question is asked of the next.
func TestRemoteRepeatsOnlyQuestions(t *testing.T) {
	var asked atomic.Int64
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer broken.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	key := operatorKey()
	good := gatewayOf(t, Handler(newWorld(t, 1, time.Millisecond).operator()), key)
	c, err := DialGateways([]string{broken.URL, busy.URL, good.URL}, key, nil)
	require.NoError(t, err)
	_, err = c.ListNamespaces(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, asked.Load())
	_, err = c.CreateNamespace(t.Context(), "myapp")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	all, err := c.ListNamespaces(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestRemoteDoesNotFollowRedirects(t *testing.T) {
	var got atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Store(true) }))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	c, err := DialGateways([]string{srv.URL}, operatorKey(), nil)
	require.NoError(t, err)
	_, err = c.ListNamespaces(t.Context())
	require.Error(t, err)
	require.False(t, got.Load(), "the key would have gone elsewhere")
}

func TestGatewayURL(t *testing.T) {
	for _, good := range []string{"https://gw1.example.org", "https://192.0.2.1:8443/", "http://localhost:8080", "http://127.0.0.11:8080",
		"http://10.0.0.1:8080", "http://[::1]:8080"} {
		_, err := GatewayURL(good)
		require.NoError(t, err, good)
	}
	for _, bad := range []string{"", "gw1.example.org", "http://gw1.example.org", "http://192.0.2.1", "ftp://10.0.0.1", "https://user:pass@gw1.example.org",
		"https://gw1.example.org/path", "https://gw1.example.org?x=1", "https://", "http://localhost.example.org", "unix:///run/agent.sock"} {
		_, err := GatewayURL(bad)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), bad)
	}
}

func FuzzGatewayURL(f *testing.F) {
	f.Add("https://gw1.example.org")
	f.Add("http://10.0.0.1:80/")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := GatewayURL(text)
		if err != nil {
			return
		}
		require.NotEmpty(t, u.Host)
		require.Nil(t, u.User)
	})
}

func TestDialGatewaysWantsAKeyAndAGateway(t *testing.T) {
	_, err := DialGateways(nil, operatorKey(), nil)
	require.Equal(t, orama.KindInvalid, orama.KindOf(err))
	_, err = DialGateways([]string{"https://gw1.example.org"}, "orama_typo", nil)
	require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
}

// keyStore is the records' keys.
type keyStore struct{ *world }

func (k keyStore) APIKey(_ context.Context, id string) (orama.APIKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		if key.ID == id {
			return key, nil
		}
	}
	return orama.APIKey{}, orama.ErrNotFound
}

func TestOperatorKeysAreMadeAndEnded(t *testing.T) {
	w := newWorld(t, 1, time.Millisecond)
	var ended []string
	w.before = func(ch orama.Change) error { ended = append(ended, ch.DeleteKeys...); return nil }
	ring := Keyring{Operator: w.operator(), Keys: keyStore{w}}
	srv := httptest.NewServer(ring.Handler())
	defer srv.Close()
	c := &Client{http: &http.Client{Transport: toServer(srv.URL)}, socket: srv.URL}
	k, err := c.CreateOperatorKey(t.Context())
	require.NoError(t, err)
	id, secret, err := auth.ParseAPIKey(k.Key)
	require.NoError(t, err)
	require.Equal(t, k.ID, id)
	kept, err := keyStore{w}.APIKey(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, auth.RoleOperator, kept.Role)
	require.Empty(t, kept.Namespace)
	require.True(t, auth.CheckAPIKey(kept, secret))

	_, err = w.operator().CreateNamespace(t.Context(), "myapp")
	require.NoError(t, err)
	for _, bad := range []string{"", "..", "nobody", w.keys[1].ID} {
		require.Equal(t, orama.KindNotFound, orama.KindOf(c.RemoveOperatorKey(t.Context(), bad)), "%q; an owner's key is not ended here", bad)
	}
	require.NoError(t, c.RemoveOperatorKey(t.Context(), id))
	require.Equal(t, []string{id}, ended)
	require.Len(t, w.events, 3)
	for _, e := range w.events {
		require.NotContains(t, e.Detail, secret)
	}
}
