package store

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// The real one. It cannot be had as a module, so these tests run where an operator's rqlited is on the PATH.

// rqlitedCluster is three nodes of the real one, each a process.
type rqlitedCluster struct {
	nodes []Rqlited
	procs []*exec.Cmd
}

func rqlitedOn(ip string, http, raft uint16) Rqlited {
	a := netip.MustParseAddr(ip)
	return Rqlited{HTTP: netip.AddrPortFrom(a, http), Raft: netip.AddrPortFrom(a, raft)}
}

const (
	realUser     = "orama"
	realPassword = "of the test"
)

func startRqlited(t *testing.T) *rqlitedCluster {
	t.Helper()
	if _, err := exec.LookPath("rqlited"); err != nil {
		t.Skip("rqlited is not on the PATH: what the real RQLite does is not tested here")
	}
	dir := t.TempDir()
	auth := filepath.Join(dir, "auth.json")
	require.NoError(t, os.WriteFile(auth, RqlitedAuth(realUser, realPassword), 0o600))
	c := &rqlitedCluster{}
	var members []netip.AddrPort
	for i := range 3 {
		ip := fmt.Sprintf("127.77.4.%d", i+1)
		n := rqlitedOn(ip, freePort(t, ip), freePort(t, ip))
		n.Node, n.DataDir, n.Auth, n.User = fmt.Sprintf("n%d", i+1), filepath.Join(dir, fmt.Sprint(i)), auth, realUser
		c.nodes, members = append(c.nodes, n), append(members, n.Raft)
	}
	c.procs = make([]*exec.Cmd, 3)
	t.Cleanup(func() {
		for i := range c.procs {
			c.kill(t, i)
		}
		if t.Failed() {
			for _, n := range c.nodes {
				log, _ := os.ReadFile(n.DataDir + ".log")
				t.Logf("%s:\n%s", n.Node, log)
			}
		}
	})
	for i := range c.nodes {
		c.nodes[i].Members = members
		c.start(t, i)
	}
	return c
}

// freePort is free now; whoever takes it before rqlited does makes the test fail.
func freePort(t *testing.T, ip string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	require.NoError(t, err)
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func (c *rqlitedCluster) start(t *testing.T, i int) {
	t.Helper()
	log, err := os.OpenFile(c.nodes[i].DataDir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("rqlited", RqlitedArgs(c.nodes[i])...)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	c.procs[i] = cmd
}

// kill is kill -9.
func (c *rqlitedCluster) kill(t *testing.T, i int) {
	t.Helper()
	if c.procs[i] == nil {
		return
	}
	require.NoError(t, c.procs[i].Process.Kill())
	_ = c.procs[i].Wait() // says that it was killed
	c.procs[i] = nil
}

func (c *rqlitedCluster) urls() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, "http://"+n.HTTP.String())
	}
	return out
}

func (c *rqlitedCluster) open(t *testing.T, first int) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Engine: "rqlite", URLs: rotate(c.urls(), first), User: realUser, Password: realPassword})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// eventually asks until the store answers.
func eventually(t *testing.T, s *Store) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Check(t.Context()) == nil }, time.Minute, 50*time.Millisecond)
}

// wipe removes everything, so that the next test finds a store that nobody has prepared.
func (c *rqlitedCluster) wipe(t *testing.T) {
	t.Helper()
	s := c.open(t, 0)
	eventually(t, s)
	got, err := s.read(t.Context(), stmt(anyRows, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'`))
	require.NoError(t, err)
	var batch []statement
	for _, r := range got[0] {
		batch = append(batch, stmt(anyRows, `DROP TABLE "`+r.str(0)+`"`))
	}
	results, err := s.engine.(*rqlite).persist(t.Context(), execution(batch))
	require.NoError(t, err)
	_, reason := failure(results)
	require.Empty(t, reason)
}

func (c *rqlitedCluster) leader(t *testing.T) int {
	t.Helper()
	for i := range c.nodes {
		if c.procs[i] == nil {
			continue
		}
		status, err := c.ask(i, "/db/query?redirect&level=weak&q=SELECT+1")
		if err == nil && status == 200 {
			return i
		}
	}
	require.Fail(t, "nobody leads")
	return -1
}

// ask is a GET that follows nothing.
func (c *rqlitedCluster) ask(i int, path string) (int, error) {
	r, err := newRQLite(Options{URLs: []string{c.urls()[i]}, User: realUser, Password: realPassword})
	if err != nil {
		return 0, err
	}
	defer r.close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := r.get(ctx, c.urls()[i]+path); err != nil {
		return 0, err
	}
	return 200, nil
}

func TestContractRqlited(t *testing.T) {
	c := startRqlited(t)
	suite(t, func(t *testing.T) world {
		c.wipe(t)
		next := 0
		return world{rooms: 1000, open: func(t *testing.T) *Store {
			next++
			return c.open(t, next)
		}}
	})
}

// A hundred commits while the leader is killed three times: none is lost, none is made twice, and each is answered.
func TestRqlitedLosesItsLeader(t *testing.T) {
	c := startRqlited(t)
	s := c.open(t, 0)
	eventually(t, s)
	before := cluster(t, s).Revision
	const commits = 100
	var usual, after []time.Duration
	dead := -1
	for i := range commits {
		kill := i%33 == 10
		if kill {
			if dead >= 0 { // two of three must be there
				c.start(t, dead)
				require.Eventually(t, func() bool { _, err := c.ask(dead, readyPath); return err == nil }, 30*time.Second, 20*time.Millisecond)
			}
			dead = c.leader(t)
			c.kill(t, dead)
		}
		begun := time.Now()
		err := s.Commit(t.Context(), orama.Change{Base: before + int64(i),
			PutNamespaces: []orama.Namespace{{ID: orama.NamespaceID(fmt.Sprintf("n%02d", i)), CreatedAt: t0}}})
		require.NoError(t, err, "commit %d", i)
		if took := time.Since(begun); kill {
			after = append(after, took)
		} else {
			usual = append(usual, took)
		}
	}
	got := cluster(t, s)
	require.Equal(t, before+commits, got.Revision)
	require.Len(t, got.Namespaces, commits)
	t.Logf("a commit takes %v (median), %v when the leader was killed", median(usual), after)

	var reads []time.Duration
	for range 200 {
		begun := time.Now()
		_ = cluster(t, s)
		reads = append(reads, time.Since(begun))
	}
	t.Logf("a read of the whole cluster of %d namespaces takes %v (median)", commits, median(reads))

	c.kill(t, c.leader(t))
	impatient(s)
	_, err := s.Cluster(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err), "one of three is no quorum")
	require.Error(t, s.Check(t.Context()))
	begun := time.Now()
	for i := range c.nodes {
		if c.procs[i] == nil {
			c.start(t, i)
		}
	}
	eventually(t, s)
	t.Logf("it answers %v after two dead nodes were started again", time.Since(begun))
	require.Equal(t, got, cluster(t, s))
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(10 * time.Microsecond)
}

// A leader that is killed with a hundred commits of many callers under way: each that was told so is there, once.
func TestRqlitedLosesItsLeaderUnderLoad(t *testing.T) {
	c := startRqlited(t)
	eventually(t, c.open(t, 0))
	type outcome struct {
		id  orama.RoomID
		err error
	}
	setup := c.open(t, 0)
	commit(t, setup, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	const callers, each = 5, 60
	results := make(chan outcome, callers*each)
	for i := range callers {
		s := c.open(t, i)
		go func() {
			for j := range each {
				r := orama.Room{Namespace: "demo", ID: orama.RoomID(fmt.Sprintf("%d-%d", i, j)), Node: "node-1", Epoch: 1}
				results <- outcome{r.ID, s.ClaimRoom(context.Background(), r)}
			}
		}()
	}
	for n := range callers * each {
		if n == 60 {
			c.kill(t, c.leader(t))
		}
		got := <-results
		require.NoError(t, got.err, "%s: nobody else claims it, so nothing but success is true", got.id)
	}
	rooms, err := setup.Rooms(t.Context(), "demo")
	require.NoError(t, err)
	require.Len(t, rooms, callers*each)
}

// A leader that stops answering without dying, as behind a cable that was pulled, is left within an attempt; when it runs again
// it says nothing old. A node that comes later joins with the same command line as the first.
func TestRqlitedLeaderHangsAndANodeComesLater(t *testing.T) {
	c := startRqlited(t)
	s := c.open(t, 0)
	eventually(t, s)
	commit(t, s, orama.Change{PutNamespaces: []orama.Namespace{{ID: "before", CreatedAt: t0}}})
	old := c.leader(t)
	stuck := c.open(t, old) // asks the old leader first
	require.Len(t, cluster(t, stuck).Namespaces, 1)
	require.NoError(t, c.procs[old].Process.Signal(syscall.SIGSTOP))
	begun := time.Now()
	commit(t, stuck, orama.Change{PutNamespaces: []orama.Namespace{{ID: "during", CreatedAt: t0}}})
	t.Logf("a commit took %v when the leader hung", time.Since(begun))
	require.NoError(t, c.procs[old].Process.Signal(syscall.SIGCONT))
	require.Len(t, cluster(t, c.open(t, old)).Namespaces, 2)

	late := rqlitedOn("127.77.4.4", freePort(t, "127.77.4.4"), freePort(t, "127.77.4.4"))
	late.Node, late.DataDir, late.Auth, late.User, late.Members = "n4", c.nodes[0].DataDir+"-late", c.nodes[0].Auth, realUser, c.nodes[0].Members
	c.nodes, c.procs = append(c.nodes, late), append(c.procs, nil)
	c.start(t, 3)
	require.Eventually(t, func() bool { _, err := c.ask(3, readyPath); return err == nil }, 30*time.Second, 50*time.Millisecond)
	require.Len(t, cluster(t, c.open(t, 3)).Namespaces, 2)
}
