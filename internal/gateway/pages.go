package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// pages are the embedded files of demo/ and sdk/.
type pages struct {
	files http.Handler
	etags map[string]string // path in the file system → entity tag
}

// newPages reads every file once: embedded files have no times, so browsers revalidate by content.
func newPages(fsys fs.FS) (*pages, error) {
	if fsys == nil {
		return nil, nil
	}
	p := &pages{files: http.FileServerFS(fsys), etags: map[string]string{}}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		p.etags[name] = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: pages: %w", err)
	}
	return p, nil
}

func (g *Gateway) registerPages(mux *recorder) {
	if g.pages == nil {
		return
	}
	mux.HandleFunc("GET /{$}", toDemo)
	mux.HandleFunc("GET /demo", toDemo)
	mux.HandleFunc("GET /demo/", g.servePage)
	mux.HandleFunc("GET /sdk/", g.servePage)
}

// toDemo leads to the demo page and keeps the query, which says how to join.
func toDemo(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, (&url.URL{Path: "/demo/", RawQuery: r.URL.RawQuery}).String(), http.StatusFound)
}

func (g *Gateway) servePage(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	if strings.HasSuffix(r.URL.Path, "/") {
		name = path.Join(name, "index.html")
	}
	tag, ok := g.pages.etags[name]
	if !ok && !strings.HasSuffix(r.URL.Path, "/") {
		_, ok = g.pages.etags[path.Join(name, "index.html")] // the file server adds the slash
	}
	if !ok {
		writeProblem(w, newProblem(http.StatusNotFound, "no_such_path", "there is nothing at this path"))
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache") // ask again, by ETag
	if tag != "" {
		h.Set("ETag", tag)
	}
	if strings.HasPrefix(r.URL.Path, "/demo/") {
		h.Set("Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self)")
		h.Set("Content-Security-Policy", g.pagePolicy(r))
	} else {
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	g.pages.files.ServeHTTP(w, r)
}

// pagePolicy lets a page load only its own files, and talk to this and the cluster's other gateways:
// a client whose gateway went away goes on with the next.
func (g *Gateway) pagePolicy(r *http.Request) string {
	connect := []string{"'self'"}
	add := func(scheme, host string) {
		if u := (&url.URL{Scheme: scheme, Host: host}).String(); host != "" && !slices.Contains(connect, u) {
			connect = append(connect, u)
		}
	}
	if u, err := url.Parse("http://" + r.Host); err == nil && u.Host == r.Host && !strings.ContainsAny(r.Host, " ;,'\"") {
		add("ws", r.Host) // older browsers do not take ws: for 'self'
		add("wss", r.Host)
	}
	if c, err := g.view.cluster(r.Context()); err == nil {
		for _, n := range c.Nodes {
			if u, err := url.Parse(n.GatewayURL); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
				add(u.Scheme, u.Host)
				add(strings.Replace(u.Scheme, "http", "ws", 1), u.Host)
			}
		}
	}
	return "default-src 'self'; connect-src " + strings.Join(connect, " ") +
		"; img-src 'self' data: blob:; media-src 'self' blob: mediastream:; worker-src 'self' blob:" +
		"; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
}
