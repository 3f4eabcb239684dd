package testcluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "orama.test"

// lab is three hosts: their disks, their processes, and the records that they share.
type lab struct {
	*testing.T
	dir   string
	sites []*site
	keys  *auth.Keys
}

// site is what of a host outlives its agent.
type site struct {
	node orama.Node
	dir  string

	mu     sync.Mutex // guards the following fields
	procs  map[string]*proc
	starts int
}

type proc struct {
	node.Unit
	boot    string
	tenants []orama.NamespaceID
	ready   bool // was configured
}

// inLab runs a test in a lab, on a clock of its own.
func inLab(t *testing.T, f func(l *lab)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{T: t, dir: filepath.Join(dir, fmt.Sprint(time.Now().UnixNano())), keys: auth.NewKeys([32]byte{1})}
		for i := 1; i <= 3; i++ {
			n := orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", i)), PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
				MeshIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			s := &site{node: n, dir: filepath.Join(l.dir, string(n.ID)), procs: map[string]*proc{}}
			require.NoError(t, os.MkdirAll(s.dir, 0o700))
			l.sites = append(l.sites, s)
		}
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(l.dir)) })
		f(l)
	})
}

// later lets time pass in the lab, on its own clock.
func later(d time.Duration) { time.Sleep(d) }

// records opens the records, as one process does.
func (l *lab) records() *store.Store {
	s, err := store.Open(l.Context(), store.Options{File: filepath.Join(l.dir, "cluster.db")})
	require.NoError(l, err)
	return s
}

// host is a host's process: an agent and an operator. They share a life, which may be short.
type host struct {
	op   *operator.Operator
	stop func()
}

// start starts a host's process.
func (l *lab) start(s *site, life *life) *host {
	records := l.records()
	ctx, cancel := context.WithCancel(context.Background())
	life.kill = cancel
	m := mortal{store: records, site: s, life: life}
	a := node.New(node.Deps{
		Self: s.node,
		Local: plan.Local{BaseDomain: base, URLStyle: plan.StyleIP, MeshCIDR: netip.MustParsePrefix("10.0.0.0/24"), TicketKey: "key",
			Open: l.keys.Open},
		Store: m, Runner: m, Processes: m, Prober: clients{m}, Certificates: m,
		Save: func(st manifest.State) error {
			return doOnly(life, func() error { return manifest.Save(filepath.Join(s.dir, manifest.FileName), st) })
		},
		Log: slog.New(slog.DiscardHandler),
	})
	h := &host{op: operator.New(operator.Deps{Store: m, Keys: l.keys, BaseDomain: base, Wake: a.Wake})}
	var all sync.WaitGroup
	all.Go(func() { require.NoError(l, a.Run(ctx)) })
	all.Go(func() { require.NoError(l, h.op.Run(ctx)) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		_ = records.Close() // the test's verdict is of what they hold
	})
	l.Cleanup(h.stop)
	return h
}

// hosts starts the hosts of all sites. They end with the test.
func (l *lab) hosts() (hosts []*host) {
	for _, s := range l.sites {
		hosts = append(hosts, l.start(s, &life{left: -1}))
	}
	return hosts
}

func unit(role orama.Role, ns orama.NamespaceID) string { return string(role) + "/" + string(ns) }

// running lists what runs, on every site.
func (l *lab) running() (out []string) {
	for _, s := range l.sites {
		s.mu.Lock()
		for k := range s.procs {
			out = append(out, string(s.node.ID)+" "+k)
		}
		s.mu.Unlock()
	}
	slices.Sort(out)
	return out
}

func (l *lab) starts() (n int) {
	for _, s := range l.sites {
		s.mu.Lock()
		n += s.starts
		s.mu.Unlock()
	}
	return n
}

// cells are all values in the records, as "table.column: value".
func (l *lab) cells() (out []string) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(l.dir, "cluster.db"))
	require.NoError(l, err)
	defer db.Close()
	for _, table := range column(l, db, `SELECT name FROM sqlite_master WHERE type = 'table'`) {
		for _, name := range column(l, db, `SELECT name FROM pragma_table_info('`+table+`')`) {
			for _, v := range column(l, db, `SELECT coalesce(`+name+`, '') FROM `+table) {
				out = append(out, table+"."+name+": "+v)
			}
		}
	}
	return out
}

func column(l *lab, db *sql.DB, query string) (out []string) {
	rows, err := db.QueryContext(l.Context(), query)
	require.NoError(l, err)
	defer rows.Close()
	for rows.Next() {
		var v string
		require.NoError(l, rows.Scan(&v))
		out = append(out, v)
	}
	require.NoError(l, rows.Err())
	return out
}

// traces are the places where a namespace's name is found: in the records, in the sites' files, among their processes. What says
// that the tenant exists, and that it had WebRTC, is none.
func (l *lab) traces(ns orama.NamespaceID) (out []string) {
	for _, c := range l.cells() {
		where, v, _ := strings.Cut(c, ": ")
		tenant := where == "namespaces.id" || where == "api_keys.namespace" || where == "events.namespace" || where == "events.id"
		if strings.Contains(v, string(ns)) && !tenant || where == "events.kind" && strings.Contains(v, "webrtc.") && v != "webrtc.disabled" {
			out = append(out, c)
		}
	}
	require.NoError(l, filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "cluster.db") {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), string(ns)) || strings.Contains(d.Name(), string(ns)) {
			out = append(out, path)
		}
		return err
	}))
	for _, r := range l.running() {
		if strings.Contains(r, string(ns)) {
			out = append(out, r)
		}
	}
	return out
}

// mortal is what a host's process does to the world, as one that may die does it.
type mortal struct {
	store *store.Store
	site  *site
	life  *life
}

func (m mortal) Cluster(ctx context.Context) (orama.Cluster, error) {
	return do(m.life, func() (orama.Cluster, error) { return m.store.Cluster(ctx) })
}

func (m mortal) Commit(ctx context.Context, ch orama.Change) error {
	return doOnly(m.life, func() error { return m.store.Commit(ctx, ch) })
}

func (m mortal) Revision(ctx context.Context) (int64, error) { return m.store.Revision(ctx) }

func (m mortal) Heartbeat(ctx context.Context, n orama.Node, now time.Time) error {
	return doOnly(m.life, func() error { return m.store.Heartbeat(ctx, n, now) })
}

func (m mortal) Observe(ctx context.Context, seen []orama.Observed) error {
	return doOnly(m.life, func() error { return m.store.Observe(ctx, seen) })
}

func (m mortal) Rooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error) {
	return m.store.Rooms(ctx, ns)
}

func (m mortal) ClaimRoom(ctx context.Context, r orama.Room) error { return m.store.ClaimRoom(ctx, r) }

func (m mortal) DeleteRoom(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, epoch int64) error {
	return m.store.DeleteRoom(ctx, ns, id, epoch)
}

func (m mortal) PutRoomState(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, revision int64, state string) error {
	return m.store.PutRoomState(ctx, ns, id, revision, state)
}

func (m mortal) PutKick(ctx context.Context, k orama.Kick) error { return m.store.PutKick(ctx, k) }

func (m mortal) Run(_ context.Context, role orama.Role, ns orama.NamespaceID) error {
	return doOnly(m.life, func() error {
		m.site.mu.Lock()
		defer m.site.mu.Unlock()
		if m.site.procs[unit(role, ns)] == nil {
			m.site.starts++
			m.site.procs[unit(role, ns)] = &proc{Unit: node.Unit{Role: role, Namespace: ns, PID: m.site.starts, Since: time.Now()}, boot: fmt.Sprint(m.site.starts)}
		}
		return nil
	})
}

func (m mortal) Stop(_ context.Context, role orama.Role, ns orama.NamespaceID) error {
	return doOnly(m.life, func() error {
		m.site.mu.Lock()
		defer m.site.mu.Unlock()
		delete(m.site.procs, unit(role, ns))
		return nil
	})
}

func (m mortal) Units() (out []node.Unit) {
	m.site.mu.Lock()
	defer m.site.mu.Unlock()
	for _, p := range m.site.procs {
		out = append(out, p.Unit)
	}
	return out
}

// with has a process do something.
func (m mortal) with(role orama.Role, ns orama.NamespaceID, what func(p *proc)) error {
	return doOnly(m.life, func() error {
		m.site.mu.Lock()
		defer m.site.mu.Unlock()
		p := m.site.procs[unit(role, ns)]
		if p == nil {
			return errors.New("no such process")
		}
		what(p)
		return nil
	})
}

func (m mortal) TURN(context.Context) (st node.Status, err error) {
	err = m.with(orama.RoleTURN, "", func(p *proc) { st = node.Status{Boot: p.boot, Configured: p.ready, Tenants: p.tenants} })
	return st, err
}

func (m mortal) SFU(_ context.Context, ns orama.NamespaceID) (st node.Status, err error) {
	err = m.with(orama.RoleSFU, ns, func(p *proc) { st = node.Status{Boot: p.boot, Configured: p.ready} })
	return st, err
}

func (m mortal) ApplyTURN(_ context.Context, spec plan.TURNSpec) error {
	return m.with(orama.RoleTURN, "", func(p *proc) {
		p.ready, p.tenants = true, nil
		for _, t := range spec.Tenants {
			p.tenants = append(p.tenants, t.Namespace)
		}
	})
}

func (m mortal) ApplySFU(_ context.Context, spec plan.SFUSpec) error {
	return m.with(orama.RoleSFU, spec.Namespace, func(p *proc) { p.ready = true })
}

func (m mortal) InHand(context.Context, orama.NamespaceID) (map[orama.RoomID]int, error) {
	return nil, nil
}

func (m mortal) MoveRoom(context.Context, orama.NamespaceID, orama.RoomID, string) error { return nil }

func (m mortal) For([]orama.NamespaceID) (certPEM, keyPEM []byte, err error) { return nil, nil, nil }

// clients are those of the processes.
type clients struct{ mortal }

func (c clients) TURN(_ context.Context, _ plan.TURNSpec, _ plan.TenantSpec) error {
	return c.with(orama.RoleTURN, "", func(*proc) {})
}

func (c clients) SFU(_ context.Context, spec plan.SFUSpec, _ string) error {
	return c.with(orama.RoleSFU, spec.Namespace, func(*proc) {})
}

// life is that of a process which is killed at one of the things it does: before it is done, or after it was done and before
// the process hears of it. From then on it does nothing.
type life struct {
	left int // things it still does; negative: it lives for ever
	late bool
	kill context.CancelFunc

	mu   sync.Mutex // guards the following field, and left
	dead bool
}

var errDead = errors.New("this process is dead")

// do does one thing, unless the process is dead.
func do[T any](l *life, what func() (T, error)) (T, error) {
	l.mu.Lock()
	last, dead := l.left == 0, l.dead
	l.left--
	if last {
		l.dead = true
		l.kill()
	}
	l.mu.Unlock()
	var zero T
	if dead || last && !l.late {
		return zero, errDead
	}
	v, err := what()
	if last {
		return zero, errDead
	}
	return v, err
}

func doOnly(l *life, what func() error) error {
	_, err := do(l, func() (struct{}, error) { return struct{}{}, what() })
	return err
}
