package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// served is a world with quick agents whose operator answers on a Unix socket.
func served(t *testing.T) (*world, *Client) {
	w := newWorld(t, 3, 2*time.Millisecond)
	return w, serve(t, Handler(w.operator()))
}

func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, WriteTimeout: 200 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return Dial(socket)
}

func TestTheClientSpeaksToTheHandler(t *testing.T) {
	w, c := served(t)
	ctx := t.Context()
	shown, err := c.CreateNamespace(ctx, "myapp")
	require.NoError(t, err)
	_, _, err = auth.ParseAPIKey(shown)
	require.NoError(t, err)
	_, err = c.CreateNamespace(ctx, "myapp")
	var e *orama.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, orama.KindConflict, e.Kind)
	require.Equal(t, "namespace_exists", e.Code)

	var steps []Step
	s, err := c.EnableWebRTC(ctx, "myapp", Options{CredentialTTL: 20 * time.Second}, func(s Step) { steps = append(steps, s) })
	require.NoError(t, err)
	require.Equal(t, 20, s.TURNCredentialTTL)
	require.Len(t, s.Instances, 5)
	require.Contains(t, steps, Step{Step: StepSecret, State: Done, Detail: "32 random bytes, sealed with the cluster key"})
	require.Contains(t, steps, Step{Step: StepTURN, Node: "node-1", State: Done, Detail: "ready"})
	again, err := c.Status(ctx, "myapp")
	require.NoError(t, err)
	require.Equal(t, s.Namespace, again.Namespace)
	require.Equal(t, s.Instances[0].Ports, again.Instances[0].Ports)

	all, err := c.ListNamespaces(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].WebRTC)

	no := false
	m, err := c.MintToken(ctx, "myapp", TokenRequest{User: "alice", Room: "daily", TTL: time.Minute, Data: &no, Admin: true})
	require.NoError(t, err)
	got, err := auth.NewKeys([32]byte{1}).VerifyToken(m.Token, time.Now())
	require.NoError(t, err)
	require.Equal(t, auth.Token{Namespace: "myapp", User: "alice", Room: "daily", Issued: got.Issued, Expires: got.Expires, ID: got.ID, Publish: true, Subscribe: true, Admin: true}, got)
	require.True(t, m.ExpiresAt.Equal(got.Expires))

	require.Equal(t, orama.KindConflict, orama.KindOf(c.DeleteNamespace(ctx, "myapp", false)))
	steps = nil
	require.NoError(t, c.DisableWebRTC(ctx, "myapp", func(s Step) { steps = append(steps, s) }))
	require.Equal(t, StepDNS, steps[0].Step)
	_, err = c.EnableWebRTC(ctx, "myapp", Options{}, nil)
	require.NoError(t, err)
	require.NoError(t, c.DeleteNamespace(ctx, "myapp", true))
	require.Empty(t, shape(w.look(t)))
}

func TestErrorsKeepTheirKindAndCode(t *testing.T) {
	w, c := served(t)
	ctx := t.Context()
	is := func(err error, kind orama.Kind, code string) {
		t.Helper()
		var e *orama.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, kind, e.Kind, "%v", err)
		require.Equal(t, code, e.Code)
	}
	for _, name := range []string{"", ".", "..", "a/b", "../x", "%2e", "a b", "é", "\x00"} {
		_, err := c.Status(ctx, name)
		is(err, orama.KindInvalid, "invalid_namespace")
		_, err = c.EnableWebRTC(ctx, name, Options{}, nil)
		is(err, orama.KindInvalid, "invalid_namespace")
		is(c.DeleteNamespace(ctx, name, true), orama.KindInvalid, "invalid_namespace")
	}
	_, err := c.EnableWebRTC(ctx, "nobody", Options{}, nil)
	is(err, orama.KindNotFound, "namespace_not_found")
	_, err = c.MintToken(ctx, "nobody", TokenRequest{User: "a"})
	is(err, orama.KindNotFound, "namespace_not_found")
	_, err = c.MintToken(ctx, "nobody", TokenRequest{User: "a", TTL: 1 << 62})
	is(err, orama.KindInvalid, "invalid_ttl")

	_, err = c.CreateNamespace(ctx, "demo")
	require.NoError(t, err)
	w.set(func() {
		for _, n := range []string{"1", "2", "3"} {
			w.broken["node-"+n+"/turn"] = "exit 1: no port"
		}
	})
	var steps []Step
	_, err = c.EnableWebRTC(ctx, "demo", Options{Wait: 400 * time.Millisecond}, func(s Step) { steps = append(steps, s) })
	is(err, orama.KindUnavailable, "webrtc_not_ready") // after steps, so in the stream; and later than the server's write timeout
	require.ErrorContains(t, err, "no port")
	require.NotEmpty(t, steps)

	w.set(func() { w.unread = errors.New("disk on fire") })
	_, err = c.ListNamespaces(ctx)
	is(err, orama.KindInternal, "internal")
	require.ErrorContains(t, err, "disk on fire", "the operator may know")
}

func TestBodiesAreBounded(t *testing.T) {
	w, _ := served(t)
	h := Handler(w.operator())
	post := func(path, body string) (int, string) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		var a errorAnswer
		_ = json.Unmarshal(rec.Body.Bytes(), &a)
		if a.Error == nil {
			return rec.Code, ""
		}
		return rec.Code, a.Error.Code
	}
	for _, body := range []string{"[]", "{", `{"name":"aa"} {}`, `{"nam":"aa"}`, `{"name":7}`, `{"name":"` + strings.Repeat("a", maxBody) + `"}`} {
		code, text := post("/v1/namespaces", body)
		require.Equal(t, http.StatusUnprocessableEntity, code, "%.40s", body)
		require.Equal(t, "invalid_body", text)
	}
	code, text := post("/v1/namespaces", "")
	require.Equal(t, http.StatusUnprocessableEntity, code)
	require.Equal(t, "invalid_namespace", text)
	code, _ = post("/v1/namespaces", `{"name":"aa"}`)
	require.Equal(t, http.StatusCreated, code)
	for _, body := range []string{`{"wait_seconds":1e300}`, `{"wait_seconds":-1}`, `{"credential_ttl_seconds":-1e300}`, `{"credential_ttl_seconds":0.5}`} {
		code, _ = post("/v1/namespaces/aa/webrtc", body)
		require.Equal(t, http.StatusUnprocessableEntity, code, body)
	}
	r := httptest.NewRequest(http.MethodDelete, "/v1/namespaces/aa?force=perhaps", http.NoBody)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	require.Equal(t, http.StatusUnprocessableEntity, rec.Code)
}

func TestAgentsThatDoNotAnswer(t *testing.T) {
	_, err := Dial(filepath.Join(t.TempDir(), "none.sock")).ListNamespaces(t.Context())
	var e *orama.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "agent_unreachable", e.Code)

	answers := map[string]func(w http.ResponseWriter){
		"nothing":      func(http.ResponseWriter) {},
		"cut off":      func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"step":"turn","state":"done"}`+"\n"+`{"do`) },
		"no end":       func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"step":"turn","state":"done"}`+"\n") },
		"no JSON":      func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") },
		"endless line": func(w http.ResponseWriter) { _, _ = w.Write(bytes.Repeat([]byte("x"), maxLine+1)) },
		"no status":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"done":true}`) },
		"bare refusal": func(w http.ResponseWriter) { http.Error(w, "no", http.StatusTeapot) },
		"redirect":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			_, err := c.EnableWebRTC(t.Context(), "demo", Options{}, nil)
			require.Equal(t, orama.KindUnavailable, orama.KindOf(err), "%v", err)
		})
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	w, c := served(t)
	_, err := c.CreateNamespace(t.Context(), "demo")
	require.NoError(t, err)
	w.set(func() { w.silent["node-1"], w.silent["node-2"], w.silent["node-3"] = true, true, true })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = c.EnableWebRTC(ctx, "demo", Options{}, func(s Step) {
		if s.Step == StepPrerequisites {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestKindsHaveTheirStatus(t *testing.T) {
	for kind, code := range map[orama.Kind]int{orama.KindInvalid: 422, orama.KindUnauthenticated: 401, orama.KindForbidden: 403, orama.KindNotFound: 404,
		orama.KindConflict: 409, orama.KindLimited: 429, orama.KindUnavailable: 503, orama.KindInternal: 500, "": 500} {
		require.Equal(t, code, kind.HTTPStatus(), string(kind))
	}
	e := toWire(&orama.Error{Kind: orama.KindLimited, Code: "c", Message: "m", RetryAfter: 1500 * time.Millisecond, Err: errors.New("d")}).error()
	require.Equal(t, 1500*time.Millisecond, e.RetryAfter)
	require.Equal(t, "m: d", e.Error())
}
