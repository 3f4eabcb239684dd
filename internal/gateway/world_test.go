package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Store in memory with the compare-and-set of the real one.
type memory struct {
	mu      sync.Mutex
	cluster orama.Cluster
	keys    map[string]orama.APIKey
	rooms   map[orama.RoomID]orama.Room // of every namespace: the tests use one name once
	err     error                       // what every call gives, if set
	reads   int                         // of the cluster
	keyAsks int
	claims  int
	kicks   map[orama.UserID]time.Time // of every room: likewise
}

func (m *memory) Cluster(context.Context) (orama.Cluster, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	c := m.cluster
	c.Instances, c.Namespaces, c.Nodes = slices.Clone(c.Instances), slices.Clone(c.Namespaces), slices.Clone(c.Nodes)
	return c, m.err
}

func (m *memory) APIKey(_ context.Context, id string) (orama.APIKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keyAsks++
	k, ok := m.keys[id]
	if m.err == nil && !ok {
		return k, orama.ErrNotFound
	}
	return k, m.err
}

func (m *memory) Room(_ context.Context, ns orama.NamespaceID, id orama.RoomID) (orama.Room, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rooms[id]
	if m.err == nil && (!ok || r.Namespace != ns) {
		return orama.Room{}, orama.ErrNotFound
	}
	return r, m.err
}

func (m *memory) Rooms(_ context.Context, ns orama.NamespaceID) ([]orama.Room, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []orama.Room
	for _, r := range m.rooms {
		if r.Namespace == ns {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b orama.Room) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out, m.err
}

func (m *memory) RoomCounts(ctx context.Context, ns orama.NamespaceID) (map[orama.NodeID]int, error) {
	rooms, err := m.Rooms(ctx, ns)
	out := map[orama.NodeID]int{}
	for _, r := range rooms {
		out[r.Node]++
	}
	return out, err
}

func (m *memory) ClaimRoom(_ context.Context, r orama.Room) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.claims++
	if m.err != nil {
		return m.err
	}
	if have, ok := m.rooms[r.ID]; ok != (r.Epoch > 1) || ok && have.Epoch != r.Epoch-1 {
		return orama.ErrConflict
	}
	m.rooms[r.ID] = r
	return nil
}

func (m *memory) DeleteRoom(_ context.Context, _ orama.NamespaceID, id orama.RoomID, epoch int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, ok := m.rooms[id]
	switch {
	case m.err != nil:
		return m.err
	case !ok:
		return orama.ErrNotFound
	case epoch != 0 && have.Epoch != epoch:
		return orama.ErrConflict
	}
	delete(m.rooms, id)
	return nil
}

func (m *memory) PutRoomState(_ context.Context, _ orama.NamespaceID, id orama.RoomID, revision int64, state string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rooms[id]
	switch {
	case m.err != nil:
		return m.err
	case !ok || r.StateRevision >= revision:
		return orama.ErrConflict
	}
	r.State, r.StateRevision = state, revision
	m.rooms[id] = r
	return nil
}

func (m *memory) PutKick(_ context.Context, k orama.Kick) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.kicks[k.User] = k.At
	}
	return m.err
}

func (m *memory) Kicked(_ context.Context, _ orama.NamespaceID, _ orama.RoomID, user orama.UserID) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.kicks[user]
	if m.err == nil && !ok {
		return at, orama.ErrNotFound
	}
	return at, m.err
}

func (m *memory) change(f func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func (m *memory) room(id orama.RoomID) orama.Room {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rooms[id]
}

// fakeSFU answers as an SFU's signalling port does, and hands its sockets to the test.
type fakeSFU struct {
	node     orama.NodeID
	boot     string
	addr     netip.AddrPort
	verifier *auth.TicketVerifier
	srv      *http.Server
	joins    chan *joined

	status   atomic.Int64 // what to answer instead of joining; 0: join
	present  map[orama.RoomID]int
	slow     chan struct{} // if set, GET /v1/rooms waits for it
	mu       sync.Mutex
	tickets  []auth.Ticket  // guarded by mu
	closed   []orama.RoomID // guarded by mu
	asked    []string       // guarded by mu; frames of owners
	view     signal.RoomView
	refusals int // guarded by mu
}

// joined is one client's socket as the SFU has it. The test ends it.
type joined struct {
	ticket auth.Ticket
	header http.Header
	*websocket.Conn
	done chan struct{}
}

func newFakeSFU(t *testing.T, keys *auth.Keys, node orama.NodeID, boot string) *fakeSFU {
	t.Helper()
	v, err := auth.NewTicketVerifier(keys.TicketKey())
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fakeSFU{node: node, boot: boot, verifier: v, joins: make(chan *joined, 64), present: map[orama.RoomID]int{},
		addr: netip.MustParseAddrPort(l.Addr().String())}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/signal", f.signal)
	mux.HandleFunc("GET /v1/rooms", f.list)
	mux.HandleFunc("DELETE /v1/rooms/{id}", f.remove)
	mux.HandleFunc("GET /v1/rooms/{id}", f.read)
	mux.HandleFunc("POST /v1/rooms/{id}", f.act)
	f.srv = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute} // a busy machine is no lost SFU
	done := make(chan struct{})
	go func() { defer close(done); f.srv.Serve(l) }() //nolint:errcheck // it ends by Close
	t.Cleanup(func() { f.srv.Close(); <-done })
	return f
}

func (f *fakeSFU) ticket(w http.ResponseWriter, r *http.Request) (auth.Ticket, bool) {
	t, err := f.verifier.Verify(strings.TrimPrefix(r.Header.Get("Authorization"), "Ticket "), time.Now())
	switch {
	case err != nil || t.Node != f.node:
		http.Error(w, "bad ticket", http.StatusUnauthorized)
	case t.Boot != f.boot:
		http.Error(w, `{"code":"wrong_boot"}`, http.StatusConflict)
	case f.status.Load() != 0:
		http.Error(w, "as told", int(f.status.Load()))
	default:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tickets = append(f.tickets, t)
		return t, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusals++
	return t, false
}

func (f *fakeSFU) signal(w http.ResponseWriter, r *http.Request) {
	t, ok := f.ticket(w, r)
	if !ok {
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	c.SetReadLimit(-1)
	j := &joined{ticket: t, header: r.Header.Clone(), Conn: c, done: make(chan struct{})}
	f.joins <- j
	<-j.done
	c.CloseNow()
}

func (f *fakeSFU) list(w http.ResponseWriter, r *http.Request) {
	if _, ok := f.ticket(w, r); !ok {
		return
	}
	if f.slow != nil {
		<-f.slow
	}
	type room struct {
		ID orama.RoomID `json:"room_id"`
		N  int          `json:"participants"`
	}
	out := []room{}
	for id, n := range f.present {
		out = append(out, room{id, n})
	}
	json.NewEncoder(w).Encode(map[string]any{"rooms": out}) //nolint:errcheck // a test's server
}

func (f *fakeSFU) remove(w http.ResponseWriter, r *http.Request) {
	t, ok := f.ticket(w, r)
	if !ok {
		return
	}
	if !t.Admin || t.Room != "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	f.mu.Lock()
	f.closed = append(f.closed, orama.RoomID(r.PathValue("id")))
	f.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeSFU) read(w http.ResponseWriter, r *http.Request) {
	if _, ok := f.ticket(w, r); !ok {
		return
	}
	if _, here := f.present[orama.RoomID(r.PathValue("id"))]; !here {
		http.Error(w, `{"code":"not_found"}`, http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(f.view) //nolint:errcheck // a test's server
}

// act does what a set-room says, knows the peer p_bob alone, and notes all that it is asked.
func (f *fakeSFU) act(w http.ResponseWriter, r *http.Request) {
	if _, ok := f.ticket(w, r); !ok {
		return
	}
	frame, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, string(frame))
	m, err := signal.Decode(frame)
	if _, here := f.present[orama.RoomID(r.PathValue("id"))]; !here {
		http.Error(w, `{"code":"not_found"}`, http.StatusNotFound)
		return
	}
	permit, ok := m.(*signal.Permit)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusUnprocessableEntity)
		json.NewEncoder(w).Encode(signal.Error{Code: signal.CodeInvalid, Message: err.Error()}) //nolint:errcheck // a test's server
		return
	case ok && permit.PeerID != "p_bob":
		w.WriteHeader(http.StatusUnprocessableEntity)
		json.NewEncoder(w).Encode(signal.Error{Code: signal.CodeNotFound, Message: "there is no such peer"}) //nolint:errcheck // a test's server
		return
	}
	if set, ok := m.(*signal.SetRoom); ok && f.view.State.Settings.Set(set) {
		f.view.State.Revision++
	}
	json.NewEncoder(w).Encode(f.view.State) //nolint:errcheck // a test's server
}

// join waits for the next client.
func (f *fakeSFU) join(t *testing.T) *joined {
	t.Helper()
	select {
	case j := <-f.joins:
		t.Cleanup(func() {
			select {
			case <-j.done:
			default:
				close(j.done)
			}
		})
		return j
	case <-time.After(5 * time.Second):
		t.Fatalf("nobody joined %s", f.node)
		return nil
	}
}

// joinAll waits for all clients that were let in so far.
func (f *fakeSFU) joinAll(t *testing.T) (all []*joined) {
	t.Helper()
	f.mu.Lock()
	n := len(f.tickets)
	f.mu.Unlock()
	for range n {
		all = append(all, f.join(t))
	}
	return all
}

// world is a cluster of fakes with gateways before it.
type world struct {
	t      *testing.T
	store  *memory
	keys   *auth.Keys
	clock  *clock
	logs   *logs
	owner  string // API keys
	member string
	other  string // of another namespace
	sfus   []*fakeSFU
}

type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

const ns = orama.NamespaceID("myapp")

func newWorld(t *testing.T, sfuCount int) *world {
	t.Helper()
	w := &world{t: t, keys: auth.NewKeys([32]byte{1, 2, 3}), clock: &clock{}, logs: &logs{}}
	cfg := &orama.WebRTCConfig{SealedSecret: w.keys.Seal("s3cret", plan.SecretAAD(ns)), CredentialTTL: 10 * time.Minute}
	w.store = &memory{keys: map[string]orama.APIKey{}, rooms: map[orama.RoomID]orama.Room{}, kicks: map[orama.UserID]time.Time{}, cluster: orama.Cluster{
		Namespaces: []orama.Namespace{
			{ID: ns, WebRTC: cfg, AllowedOrigins: []string{"https://app.example"}},
			{ID: "other", WebRTC: cfg, AllowedOrigins: []string{"https://other.example"}},
			{ID: "bare"},
		},
	}}
	w.owner = w.addKey(ns, auth.RoleOwner)
	w.member = w.addKey(ns, auth.RoleMember)
	w.other = w.addKey("other", auth.RoleOwner)
	for i := range sfuCount {
		w.addSFU(orama.NodeID(fmt.Sprintf("node-%d", i+1)), "boot-1")
	}
	w.store.cluster.Instances = append(w.store.cluster.Instances, orama.Instance{Namespace: ns, Node: "node-1", Role: orama.RoleTURN,
		Desired: orama.DesiredRun, Observed: orama.Observation{State: orama.StateReady, At: time.Now()}})
	return w
}

func (w *world) addKey(ns orama.NamespaceID, role string) string {
	shown, key := auth.NewAPIKey(ns, role)
	w.store.keys[key.ID] = key
	return shown
}

func (w *world) addSFU(node orama.NodeID, boot string) *fakeSFU {
	f := newFakeSFU(w.t, w.keys, node, boot)
	w.sfus = append(w.sfus, f)
	w.store.change(func(m *memory) {
		m.cluster.Nodes = append(m.cluster.Nodes, orama.Node{ID: node, MeshIP: f.addr.Addr(),
			PublicIP: netip.MustParseAddr(fmt.Sprintf("127.0.0.%d", 10+len(w.sfus))), GatewayURL: fmt.Sprintf("http://127.0.0.%d:8080", 10+len(w.sfus))})
		m.cluster.Instances = append(m.cluster.Instances, orama.Instance{Namespace: ns, Node: node, Role: orama.RoleSFU, Desired: orama.DesiredRun,
			Ports:    orama.Ports{Signal: orama.PortRange{First: f.addr.Port(), Count: 1}},
			Observed: orama.Observation{State: orama.StateReady, Boot: boot, At: time.Now()}})
	})
	return f
}

// observe changes what was seen of a node's SFU.
func (w *world) observe(node orama.NodeID, f func(*orama.Instance)) {
	w.store.change(func(m *memory) {
		for i := range m.cluster.Instances {
			if in := &m.cluster.Instances[i]; in.Node == node && in.Role == orama.RoleSFU {
				f(in)
			}
		}
	})
}

// testTiming is short where a test waits, and long where it must not matter.
func testTiming() timing {
	tm := defaultTiming
	tm.viewFor, tm.countFor, tm.closeWithin, tm.sweepEvery = 0, 0, 500*time.Millisecond, time.Hour
	return tm
}

type edge struct {
	*Gateway
	url string
	t   *testing.T
}

func (w *world) gateway(changes ...func(*Config, *Deps, *timing)) *edge {
	w.t.Helper()
	cfg := Config{Node: "node-1", BaseDomain: "orama.test", URLStyle: plan.StyleIP,
		Demo: Demo{Namespace: ns, InviteHash: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}} // "foo"
	deps := Deps{Store: w.store, Keys: w.keys, Rates: cache.NewRates(0, w.clock.now), Now: w.clock.now,
		Log:   slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Pages: fstest.MapFS{"demo/index.html": {Data: []byte("<!doctype html>hello")}, "demo/main.js": {Data: []byte("x()")}, "sdk/orama.js": {Data: []byte("y()")}}}
	tm := testTiming()
	for _, c := range changes {
		c(&cfg, &deps, &tm)
	}
	g, err := newGateway(cfg, deps, tm)
	require.NoError(w.t, err)
	srv := httptest.NewServer(g.Handler())
	w.t.Cleanup(func() { g.Close(); srv.Close() })
	return &edge{Gateway: g, url: srv.URL, t: w.t}
}

// logs is what all gateways of a test logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (w *world) token(change ...func(*auth.Token)) string {
	w.t.Helper()
	t := auth.Token{Namespace: ns, User: "alice", Expires: w.clock.now().Add(time.Hour), Publish: true, Subscribe: true, Data: true}
	for _, c := range change {
		c(&t)
	}
	raw, err := w.keys.MintToken(t)
	require.NoError(w.t, err)
	return raw
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) code() string {
	var p Problem
	_ = json.Unmarshal(a.body, &p) // no problem has no code
	return p.Code
}

func (e *edge) do(method, path, credential, body string, change ...func(*http.Request)) answer {
	e.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, e.url+path, r)
	require.NoError(e.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	for _, c := range change {
		c(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	require.NoError(e.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(e.t, err)
	return answer{resp, b}
}

func header(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }

// dial joins as a client does.
func (e *edge) dial(path, credential string, change ...func(*websocket.DialOptions)) (*websocket.Conn, *http.Response, error) {
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if credential != "" {
		opts.HTTPHeader.Set("Authorization", "Bearer "+credential)
	}
	for _, c := range change {
		c(opts)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	opts.HTTPClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c, resp, err := websocket.Dial(ctx, e.url+path, opts)
	if err == nil {
		c.SetReadLimit(-1)
		e.t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, err
}

// mustDial joins and returns both ends.
func (e *edge) mustDial(sfu *fakeSFU, path, credential string) (*websocket.Conn, *joined) {
	e.t.Helper()
	c, _, err := e.dial(path, credential)
	require.NoError(e.t, err)
	return c, sfu.join(e.t)
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func closeOf(t *testing.T, c *websocket.Conn) (int, string) {
	t.Helper()
	for {
		_, _, err := c.Read(within(t))
		if err == nil {
			continue
		}
		var ce websocket.CloseError
		if !asClose(err, &ce) {
			return 0, err.Error()
		}
		return int(ce.Code), ce.Reason
	}
}
