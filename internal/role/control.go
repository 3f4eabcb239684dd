package role

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"orama.network/orama"
)

// maxSocketPath is what sockaddr_un takes on Linux (108 bytes with the final NUL), less the
// longest name we put below a cluster's directory: /node-99/sfu-<40 bytes>.sock.
const maxSocketPath = 107 - 60

// maxControlBody bounds what a control socket reads, in bytes, and what is read of its answer.
const maxControlBody = 8 << 20

// RunDir is where a cluster's Unix sockets live: its data directory, or, where that path is too
// long for a socket's address, a private directory that anyone can compute from it.
func RunDir(dataDir string) (string, error) {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", err
	}
	if len(abs) <= maxSocketPath {
		return abs, nil
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(os.TempDir(), fmt.Sprintf("orama-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6]))), nil
}

// AgentSocket is the path of one node's administration socket.
func AgentSocket(runDir string, node orama.NodeID) string {
	return filepath.Join(runDir, string(node), "agent.sock")
}

func turnSocket(runDir string, node orama.NodeID) string {
	return filepath.Join(runDir, string(node), "turn.sock")
}

func sfuSocket(runDir string, node orama.NodeID, ns orama.NamespaceID) string {
	return filepath.Join(runDir, string(node), "sfu-"+string(ns)+".sock")
}

// privateDir makes dir for its owner alone and refuses one that belongs to somebody else.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (!info.IsDir() || int(st.Uid) != os.Getuid()) {
		return fmt.Errorf("%s is not a directory of this user", dir)
	}
	return nil
}

// listenUnix listens at path with a mode of 0600, or 0660 for a unit whose agent is another user. A socket file that
// nobody listens on is replaced; a living one is an error.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another process listens there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serve runs an HTTP server on l until ctx ends, then lets requests under way finish.
func serve(ctx context.Context, l net.Listener, h http.Handler, grace time.Duration) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 32 << 10, IdleTimeout: 2 * time.Minute,
		// What a stranger sends that is no TLS is no news: half the internet does.
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if srv.Shutdown(bounded) != nil {
			srv.Close()
		}
	}()
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return err
}

// unit is the client of one unit's control socket.
type unit struct {
	http *http.Client
}

func dialUnit(path string) unit {
	return unit{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // the process behind the path may be another the next time
	}}}
}

// status reads the unit's own account of itself into out.
func (u unit) status(ctx context.Context, out any) error {
	return u.do(ctx, http.MethodGet, "/v1/status", nil, out)
}

// apply hands the unit its whole configuration.
func (u unit) apply(ctx context.Context, spec any) error {
	return u.do(ctx, http.MethodPut, "/v1/config", spec, nil)
}

// unitError is what a unit answered instead of doing as it was asked.
type unitError struct {
	status int
	text   string
}

func (e *unitError) Error() string { return e.text }

func (u unit) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://unit"+path, body)
	if err != nil {
		return err
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxControlBody))
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return &unitError{resp.StatusCode, string(bytes.TrimSpace(text))}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// controlMux serves a unit's control socket: its status, its configuration taken whole, and profiles of the process.
func controlMux[Spec, Status any](apply func(Spec) error, status func() Status) *http.ServeMux {
	mux := http.NewServeMux()
	statusRoute(mux, status)
	mux.HandleFunc("PUT /v1/config", func(w http.ResponseWriter, r *http.Request) {
		var spec Spec
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody)).Decode(&spec); err != nil {
			http.Error(w, "the configuration cannot be read", http.StatusBadRequest)
			return
		}
		if err := apply(spec); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /debug/pprof/{profile}", serveProfile)
	return mux
}

// serveProfile answers with one of the runtime's profiles, such as heap or goroutine, as `go tool pprof` reads them. That of the heap is of what is still in use.
func serveProfile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("profile")
	profile := pprof.Lookup(name)
	if profile == nil {
		http.Error(w, "there is no such profile; there are heap, allocs, goroutine, threadcreate, block and mutex", http.StatusNotFound)
		return
	}
	if name == "heap" {
		runtime.GC()
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	profile.WriteTo(w, 0) //nolint:errcheck // the reader went away
}

func statusRoute[Status any](mux *http.ServeMux, status func() Status) {
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, status()) })
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the reader went away
}
