package role

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/turn"
)

const (
	// leaseBeat is how often a lease's holder hears that the server is there.
	leaseBeat = 5 * time.Second
	// leaseSilence is how long it may hear nothing before it asks anew.
	leaseSilence = 3 * leaseBeat
	// leaseWrite bounds one write to a holder that does not read.
	leaseWrite = 5 * time.Second
	// leaseRelease bounds how long a release may take: the server ends the namespace's relays.
	leaseRelease = 5 * time.Second
	// A server that does not answer is asked again, after firstLeaseRetry and up to lastLeaseRetry.
	firstLeaseRetry = 100 * time.Millisecond
	lastLeaseRetry  = 2 * time.Second
	// maxLeaseEvent bounds one event, in bytes.
	maxLeaseEvent = 64 << 10
)

func leasePath(ns orama.NamespaceID) string { return "/v1/leases/" + string(ns) }

// leaseRoutes lets whoever may use the control socket lease namespaces: POST takes one, for as long as the answer is
// read, and DELETE ends it.
func leaseRoutes(mux *http.ServeMux, srv *turn.Server) {
	mux.HandleFunc("POST "+leasePath("{namespace}"), func(w http.ResponseWriter, r *http.Request) {
		lease, err := srv.Lease(orama.NamespaceID(r.PathValue("namespace")))
		if err != nil {
			http.Error(w, err.Error(), orama.KindOf(err).HTTPStatus())
			return
		}
		streamLease(r.Context(), w, lease)
	})
	mux.HandleFunc("DELETE "+leasePath("{namespace}"), func(w http.ResponseWriter, r *http.Request) {
		srv.ReleaseNamespace(orama.NamespaceID(r.PathValue("namespace")))
		w.WriteHeader(http.StatusNoContent)
	})
}

// streamLease tells a holder what happens, a JSON object a line, until the lease ends or its holder is gone.
func streamLease(ctx context.Context, w http.ResponseWriter, lease *turn.Lease) {
	defer lease.Abandon() // nothing, when it has ended
	out, enc := http.NewResponseController(w), json.NewEncoder(w)
	tell := func(e turn.LeaseEvent) bool {
		return out.SetWriteDeadline(time.Now().Add(leaseWrite)) == nil && enc.Encode(e) == nil && out.Flush() == nil
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if !tell(lease.Now()) {
		return
	}
	beat := time.NewTicker(leaseBeat)
	defer beat.Stop()
	for {
		select {
		case e := <-lease.Events():
			if !tell(e) {
				return
			}
		case <-beat.C:
			if !tell(lease.Now()) {
				return
			}
		case <-ctx.Done():
			return
		case <-lease.Ended():
			for len(lease.Events()) > 0 && tell(<-lease.Events()) {
			}
			return
		}
	}
}

// leaseHolder holds one namespace's lease on this host's TURN server.
type leaseHolder struct {
	ns     orama.NamespaceID
	server unit
	out    io.Writer // the namespace's log
	log    *slog.Logger

	mu    sync.Mutex // guards the following field
	state string
}

// Lease is the life of one namespace's lease on this host's TURN server, whose control socket is given: while it runs the
// namespace is served, and what the server has to say of it is written to out, a line each. It comes back to a server
// that was restarted. When ctx ends it returns once the namespace is no longer served, and its relays have ended.
func Lease(ctx context.Context, ns orama.NamespaceID, control string, out io.Writer, log *slog.Logger) error {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return err
	}
	h := &leaseHolder{ns: ns, server: dialUnit(control), out: out, log: log, state: "waiting for the TURN server"}
	var told *notifier
	defer func() {
		if told != nil {
			told.close()
		}
	}()
	wait, complained := firstLeaseRetry, false
	for {
		err := h.hold(ctx, func() {
			if told == nil {
				told = notify(h.status)
			}
			wait, complained = firstLeaseRetry, false
			h.say("the lease begins")
		})
		if ctx.Err() != nil {
			if told != nil {
				told.ending()
			}
			if errors.Is(err, context.Canceled) {
				return nil // it ended between two tries: there was no lease to release
			}
			return err
		}
		h.set("waiting for the TURN server")
		if !complained {
			complained = true
			h.log.Warn("no lease of the TURN server; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, lastLeaseRetry)
		}
	}
}

// hold takes the lease and passes on what it hears. It gives nil when the lease was released because ctx ended.
func (h *leaseHolder) hold(ctx context.Context, begun func()) error {
	// The stream outlives ctx: the last lines come while the lease is released.
	stream, stop := context.WithCancel(context.Background())
	defer stop()
	body, err := h.ask(ctx, stream)
	if err != nil {
		return err
	}
	defer body.Close()
	begun()
	ended := make(chan error, 1)
	silence := time.AfterFunc(leaseSilence, stop)
	defer silence.Stop()
	go func() { ended <- h.listen(body, func() { silence.Reset(leaseSilence) }) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	h.set("ending")
	bounded, cancel := context.WithTimeout(context.Background(), leaseRelease)
	defer cancel()
	err = h.server.do(bounded, http.MethodDelete, leasePath(h.ns), nil, nil)
	if err != nil {
		stop()
	}
	select {
	case <-ended: //nolint:errcheck // the server closes the stream when all is said; how it ends is no news now
	case <-bounded.Done():
		stop()
		<-ended //nolint:errcheck // as above
	}
	if err != nil {
		return fmt.Errorf("the namespace may still be served: its lease could not be released: %w", err)
	}
	h.say("the lease has ended")
	return nil
}

// ask opens the stream of a lease. While it is opened it ends with ctx.
func (h *leaseHolder) ask(ctx, stream context.Context) (io.ReadCloser, error) {
	opening, cancel := context.WithCancel(stream)
	detach := context.AfterFunc(ctx, cancel)
	req, err := http.NewRequestWithContext(opening, http.MethodPost, "http://unit"+leasePath(h.ns), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := h.server.http.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if !detach() { // ctx ended just now: the lease may have been taken, and is released by its end
		cancel()
		resp.Body.Close()
		return nil, ctx.Err()
	}
	if resp.StatusCode != http.StatusOK {
		defer cancel()
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, errors.New(string(bytes.TrimSpace(text)))
	}
	return cancelling{resp.Body, cancel}, nil
}

// cancelling ends its request when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel func()
}

func (c cancelling) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}

var errLeaseEnded = errors.New("the TURN server ended the lease")

// listen writes the lines of the log until the stream ends.
func (h *leaseHolder) listen(body io.Reader, heard func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLeaseEvent)
	for lines.Scan() {
		heard()
		var e turn.LeaseEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("what the TURN server says cannot be read: %w", err)
		}
		if e.Lost > 0 {
			h.say(fmt.Sprintf("%d lines are lost: there were more than could be written", e.Lost))
		}
		if e.Text != "" {
			h.say(e.Text)
		}
		switch {
		case e.Served:
			h.set(fmt.Sprintf("serving, relays: %d", e.Allocations))
		default:
			h.set("leased; the node's agent has not configured this namespace")
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errLeaseEnded
}

func (h *leaseHolder) say(text string) {
	fmt.Fprintln(h.out, text) //nolint:errcheck // a journal that takes no lines cannot be told of it
}

func (h *leaseHolder) set(state string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = state
}

func (h *leaseHolder) status() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}
