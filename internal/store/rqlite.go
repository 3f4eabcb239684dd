package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
)

// The engine's patience. A leader that dies is followed by another after 1.8 to 3.2 s with RQLite's own settings.
const (
	rqlitePatience = 15 * time.Second       // for how long an outage is waited for, by all calls of it together
	rqliteAttempt  = 3 * time.Second        // for an answer of one node, which may hang; asking again is safe
	rqliteBeside   = 300 * time.Millisecond // until another node is asked beside one that does not answer
	rqlitePause    = 25 * time.Millisecond  // after asking every node in vain; doubled each time
	rqlitePauseMax = 400 * time.Millisecond // so that a new leader is found soon
)

// keptWrites is how many ids of writes are kept. RQLite takes some 1700 writes a second, so they cover twice the patience.
const keptWrites = 1 << 16

// rqliteTables are the engine's own. In guard no row is ever kept: to insert one is to fail the batch.
// In writes there is an id for each batch that was done: it is unique, so a batch that is sent again, because
// nobody knows what became of it, fails at its first statement instead of being done twice.
var rqliteTables = []statement{
	stmt(anyRows, `CREATE TABLE IF NOT EXISTS guard (met INTEGER NOT NULL CHECK (met = 1))`),
	stmt(anyRows, `CREATE TABLE IF NOT EXISTS writes (seq INTEGER NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE)`),
}

// rqlite is the engine that asks a cluster of RQLite over its HTTP API. RQLite has no transaction that spans requests, so a batch
// is one request, and its expectations are statements of it.
type rqlite struct {
	nodes    []*rqliteNode
	http     *http.Client
	user     string
	password string
	now      func() time.Time
	patience time.Duration
	attempt  time.Duration
	beside   time.Duration
	limit    int64 // of an answer, in bytes

	mu    sync.Mutex
	first int       // guarded by mu; the node that answered last
	since time.Time // guarded by mu; when no node has answered since, zero while one does
}

// A request is a body that each node can be sent.
type request struct {
	path       string
	body       []byte
	statements int  // that it asks for an answer to
	again      bool // a node may have had it before
}

func execution(batch []statement) *request {
	return &request{path: executePath, body: encode(batch), statements: len(batch)}
}

func question(level string, queries []statement) *request {
	return &request{path: queryPath + level, body: encode(queries), statements: len(queries)}
}

// rqliteNode is one of the cluster's nodes.
type rqliteNode struct {
	url string

	mu    sync.Mutex
	ready bool // guarded by mu; it has said that it caught up with the leader, and has not failed since
}

func newRQLite(o Options) (*rqlite, error) {
	transport := o.transport
	if transport == nil {
		transport = &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DialContext: dialer.DialContext,
			TLSHandshakeTimeout: 2 * time.Second, Proxy: nil}
	}
	// Before the first answer no outage is new: nobody waits for a store that may not be there yet.
	r := &rqlite{user: o.User, password: o.Password, now: time.Now, patience: rqlitePatience, attempt: rqliteAttempt, beside: rqliteBeside, limit: maxAnswer,
		since: time.Unix(0, 0),
		http:  &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	for _, raw := range o.URLs {
		u, err := url.Parse(raw)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			return nil, errors.New("a URL of rqlite has the form http://HOST:PORT, without a password")
		}
		r.nodes = append(r.nodes, &rqliteNode{url: u.Scheme + "://" + u.Host})
	}
	if len(r.nodes) == 0 {
		return nil, errors.New("rqlite needs at least one URL, such as http://10.0.0.1:4001")
	}
	return r, nil
}

func (r *rqlite) close() error {
	r.http.CloseIdleConnections()
	return nil
}

// prepare makes the engine's tables, then the records'. Every statement of the first batch may be repeated.
func (r *rqlite) prepare(ctx context.Context) error {
	got, err := r.persist(ctx, execution(rqliteTables))
	if err != nil {
		return unavailable(err)
	}
	if at, reason := failure(got); at >= 0 {
		return unavailable(saidBy(reason))
	}
	return prepareSchema(ctx, r)
}

func (r *rqlite) read(ctx context.Context, queries ...statement) ([][]row, error) {
	level := "weak"
	for _, q := range queries {
		if !q.weak {
			level = "linearizable"
		}
	}
	got, err := r.persist(ctx, question(level, queries))
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([][]row, len(queries))
	for i, res := range got {
		if res.Error != "" {
			return nil, unavailable(fmt.Errorf("query %d: %w", i, saidBy(res.Error)))
		}
		if out[i], err = res.rows(); err != nil {
			return nil, unavailable(err)
		}
	}
	return out, nil
}

func (r *rqlite) write(ctx context.Context, batch []statement) error {
	id := rand.Text()
	req := execution(guard(id, batch))
	got, err := r.persist(ctx, req)
	if err != nil {
		return unavailable(err)
	}
	at, reason := failure(got)
	switch {
	case at < 0:
		return nil
	case !isConstraint(reason):
		return unavailable(saidBy(reason))
	case at == 0:
		return nil // an earlier sending of this very batch was done
	case !req.again:
		return orama.ErrConflict
	}
	return r.settle(ctx, id)
}

// settle makes a refusal final: an earlier sending may still be on its way through a leader that lost its office, and could
// be done after the record that refused this one has changed again. With its id taken, it cannot. If the id is
// taken already, the earlier sending was done meanwhile.
func (r *rqlite) settle(ctx context.Context, id string) error {
	got, err := r.persist(ctx, execution([]statement{takeID(id)}))
	if err != nil {
		return unavailable(err)
	}
	at, reason := failure(got)
	switch {
	case at < 0:
		return orama.ErrConflict
	case !isConstraint(reason):
		return unavailable(saidBy(reason))
	}
	return nil
}

func takeID(id string) statement { return stmt(anyRows, `INSERT INTO writes (id) VALUES (?)`, id) }

// guard adds what makes a batch whole, and done once: its id first, and after each statement with an expectation one that fails
// unless it was met. A statement that touches no row is no error to RQLite, nor to SQLite.
func guard(id string, batch []statement) []statement {
	out := make([]statement, 0, 2*len(batch)+2)
	out = append(out, takeID(id))
	for _, s := range batch {
		out = append(out, s)
		if s.expect != anyRows {
			out = append(out, stmt(anyRows, `INSERT INTO guard (met) SELECT 0 WHERE changes() <> ?`, s.expect))
		}
	}
	return append(out, stmt(anyRows, `DELETE FROM writes WHERE seq <= (SELECT max(seq) FROM writes) - ?`, int64(keptWrites)))
}

// failure is the first statement that failed and why, or -1. In a transaction it is the last one that was tried.
func failure(results []result) (at int, reason string) {
	for i, res := range results {
		if res.Error != "" {
			return i, res.Error
		}
	}
	return -1, ""
}

// isConstraint recognises the refusal by a CHECK or UNIQUE. RQLite hands on nothing of SQLite's error but its text; the
// contract suite runs against the real one to see that it stays.
func isConstraint(reason string) bool { return strings.Contains(reason, " constraint failed: ") }

// check asks every node once, in turn, until one has a leader with a quorum.
func (r *rqlite) check(ctx context.Context) error {
	got, err := r.round(ctx, question("linearizable", []statement{stmt(anyRows, `SELECT 1`)}))
	if err != nil {
		return unavailable(err)
	}
	if at, reason := failure(got); at >= 0 {
		return unavailable(saidBy(reason))
	}
	return nil
}

// persist asks the nodes in rounds until one has given a whole answer, or the patience or ctx ends. A node may do what it is
// asked although its answer is lost.
func (r *rqlite) persist(ctx context.Context, req *request) ([]result, error) {
	for pause := rqlitePause; ; pause = min(2*pause, rqlitePauseMax) {
		got, err := r.round(ctx, req)
		if err == nil || ctx.Err() != nil || errors.Is(err, errRefused) || r.away() > r.patience {
			return got, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(pause/2 + mathrand.N(pause)):
		}
	}
}

// away is for how long no node has answered.
func (r *rqlite) away() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		return 0
	}
	return r.now().Sub(r.since)
}

// reply is one node's answer in a round.
type reply struct {
	at   int
	got  []result
	sent bool // the node may have done what it was asked
	err  error
}

// round asks each node once, the one that answered last first. Another is asked beside one that takes rqliteBeside: a host
// that has died does not refuse, it is silent, and people wait for the answer.
func (r *rqlite) round(ctx context.Context, req *request) ([]result, error) {
	r.mu.Lock()
	first := r.first
	r.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	replies := make(chan reply, len(r.nodes))
	asked, waiting := 0, 0
	defer func() {
		cancel()
		for ; waiting > 0; waiting-- {
			<-replies
		}
	}()
	next := func() {
		at := (first + asked) % len(r.nodes)
		req.again = req.again || waiting > 0
		asked++
		waiting++
		go func() {
			got, sent, err := r.ask(ctx, r.nodes[at], req)
			replies <- reply{at, got, sent, err}
		}()
	}
	next()
	beside := time.NewTicker(r.beside)
	defer beside.Stop()
	var errs []error
	for {
		select {
		case <-beside.C:
			if asked < len(r.nodes) {
				next()
			}
		case got := <-replies:
			waiting--
			if got.err == nil {
				r.answered(got.at)
				return got.got, nil
			}
			req.again = req.again || got.sent
			errs = append(errs, fmt.Errorf("%s: %w", r.nodes[got.at].url, got.err))
			switch {
			case ctx.Err() != nil:
				return nil, errors.Join(errs...)
			case asked < len(r.nodes):
				next()
				beside.Reset(r.beside)
			case waiting == 0:
				r.unanswered()
				return nil, errors.Join(errs...)
			}
		}
	}
}

// answered notes that the node is the one to ask first.
func (r *rqlite) answered(at int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first, r.since = at, time.Time{}
}

// unanswered notes that no node answers.
func (r *rqlite) unanswered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = r.now()
	}
}

// ask asks one node, once it has caught up. A redirect is followed once, to another of the cluster's known nodes. sent
// says that the node may have done what it was asked, although there is an error.
func (r *rqlite) ask(ctx context.Context, n *rqliteNode, req *request) (got []result, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.attempt)
	defer cancel()
	if err := r.caughtUp(ctx, n); err != nil {
		return nil, false, err
	}
	got, err = r.post(ctx, n.url, req)
	var elsewhere errElsewhere
	if errors.As(err, &elsewhere) {
		if !r.knows(string(elsewhere)) {
			return nil, false, fmt.Errorf("it sends us to %s, which is not among the store's urls", string(elsewhere))
		}
		got, err = r.post(ctx, string(elsewhere), req)
	}
	if err != nil {
		n.set(false)
	}
	return got, err != nil, err
}

func (r *rqlite) knows(base string) bool {
	for _, n := range r.nodes {
		if n.url == base {
			return true
		}
	}
	return false
}

// caughtUp asks a node that was not asked before, or failed, whether it has all that its leader has committed: one
// that comes back answers before it has read its own log.
func (r *rqlite) caughtUp(ctx context.Context, n *rqliteNode) error {
	n.mu.Lock()
	ready := n.ready
	n.mu.Unlock()
	if ready {
		return nil
	}
	if err := r.get(ctx, n.url+readyPath); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	n.set(true)
	return nil
}

func (n *rqliteNode) set(ready bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = ready
}
