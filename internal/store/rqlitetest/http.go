package rqlitetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// A Fault stands between a request for data and its answer.
type Fault func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc)

// Next makes faults of the coming requests for data, one each; nil is none.
func (c *Cluster) Next(faults ...Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = append(c.next, faults...)
}

// Always makes a fault of every request for data from now on; nil ends that.
func (c *Cluster) Always(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.always = f
}

// LoseRequest breaks the connection before anything is done.
func LoseRequest(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) }

// LoseAnswer does what is asked and breaks the connection before anybody hears of it.
func LoseAnswer(_ http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
	answer(discard{}, r)
	panic(http.ErrAbortHandler)
}

// CutAnswer does what is asked and breaks the connection in the middle of the answer.
func CutAnswer(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
	answer(half{w}, r)
	panic(http.ErrAbortHandler)
}

// Late breaks the connection at once, and does what was asked when the channel is closed.
func Late(when <-chan struct{}, done chan<- struct{}) Fault {
	return func(_ http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		body, _ := io.ReadAll(r.Body)
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(strings.NewReader(string(body)))
		go func() {
			defer close(done)
			<-when
			answer(discard{}, again)
		}()
		panic(http.ErrAbortHandler)
	}
}

// Hang does not answer until the caller goes away.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is seen
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Top answers 200 with an error at the top: what it says while a leader goes.
func Top(text string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		write(w, map[string]any{"results": []any{}, "error": text})
	}
}

// Says answers 200 with an error at the first statement.
func Says(text string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		write(w, map[string]any{"results": []result{{Error: text}}})
	}
}

// Status answers with a status and a body.
func Status(code int, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { http.Error(w, body, code) }
}

// Redirect sends the caller to another node.
func Redirect(to string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		http.Redirect(w, r, to+r.URL.RequestURI(), http.StatusMovedPermanently)
	}
}

func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	c := n.c
	if user, password, _ := r.BasicAuth(); c.User != "" && (user != c.User || password != c.Password) {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/readyz":
		n.readyz(w, r)
	case "/db/execute", "/db/query":
		f := c.fault(Request{Node: n.at, Path: r.URL.Path, Level: r.URL.Query().Get("level")})
		if f == nil {
			n.data(w, r)
			return
		}
		f(w, r, n.data)
	default:
		http.NotFound(w, r)
	}
}

func (c *Cluster) fault(r Request) Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, r)
	if len(c.next) == 0 {
		return c.always
	}
	f := c.next[0]
	c.next = c.next[1:]
	return f
}

func (n *node) readyz(w http.ResponseWriter, r *http.Request) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	switch {
	case n.c.leader < 0:
		http.Error(w, "[+]node ok\n[+]leader does not exist", http.StatusServiceUnavailable)
	case r.URL.Query().Has("sync") && n.applied < len(n.c.log):
		http.Error(w, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync timeout", http.StatusServiceUnavailable)
	default:
		fmt.Fprint(w, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync ok")
	}
}

func (n *node) data(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	batch, err := parse(body)
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "invalid request", http.StatusBadRequest)
		return
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	params := r.URL.Query()
	level := params.Get("level")
	var results []result
	switch {
	case r.URL.Path == "/db/query" && (level == "none" || level == "weak" && n.believes):
		results, err = n.queryLocked(batch)
	case n.c.leader < 0 || n.believes && n.c.leader != n.at: // it learns of it when it asks the others
		http.Error(w, "leader not found", http.StatusServiceUnavailable)
		return
	case params.Has("redirect") && n.c.leader != n.at:
		http.Redirect(w, r, n.c.leaderURLLocked()+r.URL.RequestURI(), http.StatusMovedPermanently)
		return
	case r.URL.Path == "/db/query":
		results, err = n.c.nodes[n.c.leader].queryLocked(batch)
	default:
		results, err = n.c.commitLocked(batch, params.Has("transaction"))
	}
	if err != nil {
		write(w, map[string]any{"results": []any{}, "error": err.Error()})
		return
	}
	write(w, map[string]any{"results": results})
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v) // the caller may have gone
}

// discard is where a lost answer goes.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// half lets half of each write through.
type half struct{ http.ResponseWriter }

func (h half) Write(p []byte) (int, error) {
	_, err := h.ResponseWriter.Write(p[:len(p)/2])
	if f, ok := h.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	return len(p), err
}
