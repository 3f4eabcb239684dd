package store

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/store/rqlitetest"
)

func TestContractRQLiteStandIn(t *testing.T) {
	suite(t, func(t *testing.T) world {
		c := standIn(t, 2)
		next := 0
		return world{rooms: 100, open: func(t *testing.T) *Store {
			next++
			return openRQLite(t, rotate(c.URLs(), next))
		}}
	})
}

func standIn(t *testing.T, nodes int) *rqlitetest.Cluster {
	t.Helper()
	c, err := rqlitetest.Start(nodes)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func rotate(urls []string, by int) []string {
	by %= len(urls)
	return append(urls[by:len(urls):len(urls)], urls[:by]...)
}

func openRQLite(t *testing.T, urls []string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Engine: "rqlite", URLs: urls})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// filledRQLite has three nodes behind it.
func filledRQLite(t *testing.T) (*rqlitetest.Cluster, *Store) {
	t.Helper()
	c := standIn(t, 3)
	s := filled(t, world{open: func(t *testing.T) *Store { return openRQLite(t, c.URLs()) }})
	c.Seen()
	return c, s
}

// impatient makes an outage be waited for no longer.
func impatient(s *Store) { s.engine.(*rqlite).patience = 0 }

// Whatever becomes of a request and of its answer, the commit is made once, and its caller is told so.
func TestACommitIsMadeOnceWhateverBecomesOfItsAnswer(t *testing.T) {
	for name, faults := range map[string][]rqlitetest.Fault{
		"the request is lost":                {rqlitetest.LoseRequest},
		"the answer is lost":                 {rqlitetest.LoseAnswer},
		"the answer is lost, and the next":   {rqlitetest.LoseAnswer, rqlitetest.LoseAnswer, rqlitetest.LoseRequest, rqlitetest.LoseAnswer},
		"the answer is cut":                  {rqlitetest.CutAnswer},
		"an error at the top":                {rqlitetest.Top("leadership lost while committing log")},
		"no leader":                          {rqlitetest.Status(http.StatusServiceUnavailable, "leader not found")},
		"a gateway's page":                   {rqlitetest.Status(http.StatusBadGateway, "<html>")},
		"an answer that is no JSON":          {func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { fmt.Fprint(w, "hello") }},
		"an answer to nothing":               {func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { fmt.Fprint(w, `{"results":[]}`) }},
		"done, and an answer of another one": {lying(http.StatusServiceUnavailable)},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := filledRQLite(t)
			before := cluster(t, s)
			c.Next(faults...)
			ch := orama.Change{Base: before.Revision, PutNamespaces: []orama.Namespace{{ID: "new", CreatedAt: t0}},
				Events: []orama.Event{{ID: "e", Kind: "k"}}}
			require.NoError(t, s.Commit(t.Context(), ch))
			require.Equal(t, before.Revision+1, cluster(t, s).Revision)
			require.ErrorIs(t, s.Commit(t.Context(), ch), orama.ErrConflict, "the same change again is another one")
		})
	}
}

// lying does what is asked and says that it did not.
func lying(status int) rqlitetest.Fault {
	return func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		answer(httptest.NewRecorder(), r)
		http.Error(w, "it failed", status)
	}
}

// A claim whose answer was lost, and that is refused when it is sent again, may still be on its way. Once its caller was told
// that it came second, it must not be done, even when the room is free again.
func TestARefusalIsFinal(t *testing.T) {
	c, s := filledRQLite(t)
	when, done := make(chan struct{}), make(chan struct{})
	first := orama.Room{Namespace: "demo", ID: "r", Node: "node-2", Epoch: 1}
	require.NoError(t, s.ClaimRoom(t.Context(), first))
	c.Next(rqlitetest.Late(when, done))
	mine := first
	mine.Node = "node-1"
	require.ErrorIs(t, s.ClaimRoom(t.Context(), mine), orama.ErrConflict)
	require.NoError(t, s.DeleteRoom(t.Context(), "demo", "r", 1))
	close(when)
	<-done
	_, err := s.Room(t.Context(), "demo", "r")
	require.ErrorIs(t, err, orama.ErrNotFound)
}

// The other order: what was thought lost is done while we ask again, and counts.
func TestALateCommitIsOurOwn(t *testing.T) {
	c, s := filledRQLite(t)
	when, done := make(chan struct{}), make(chan struct{})
	base := cluster(t, s).Revision
	c.Next(rqlitetest.Late(when, done), func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		close(when)
		<-done
		answer(w, r)
	})
	require.NoError(t, s.Commit(t.Context(), orama.Change{Base: base, PutNamespaces: []orama.Namespace{{ID: "new", CreatedAt: t0}}}))
	require.Equal(t, base+1, cluster(t, s).Revision)
}

// A hundred commits while leaders die, answers are lost and nodes come back: none is lost and none is done twice.
func TestLeadersLostDuringAHundredCommits(t *testing.T) {
	c, s := filledRQLite(t)
	before := cluster(t, s).Revision
	const commits = 100
	for i := range commits {
		dead := -1
		switch i % 10 {
		case 3: // the leader dies with the answer
			leader := c.Leader()
			c.Next(func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
				answer(httptest.NewRecorder(), r)
				c.Lead((leader + 1) % 3)
				panic(http.ErrAbortHandler)
			})
		case 6: // the leader is gone before it is asked, and nobody leads for a while
			dead = c.Leader()
			c.Lead(-1)
			c.Kill(dead)
			c.Next(nil, rqlitetest.Status(http.StatusServiceUnavailable, "leader not found"))
			go c.Lead((dead + 1) % 3)
		case 8:
			c.Next(rqlitetest.LoseAnswer, rqlitetest.Top("leadership lost while committing log"))
		}
		rev := before + int64(i)
		err := s.Commit(t.Context(), orama.Change{Base: rev, PutNamespaces: []orama.Namespace{{ID: orama.NamespaceID(fmt.Sprintf("n%02d", i)), CreatedAt: t0}}})
		require.NoError(t, err, "commit %d", i)
		if dead >= 0 {
			require.NoError(t, c.Revive(dead))
		}
	}
	got := cluster(t, s)
	require.Equal(t, before+commits, got.Revision)
	require.Len(t, got.Namespaces, commits+1)
	for i := range 3 {
		n, err := c.Query(i, `SELECT count(*) FROM namespaces`)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(commits+1), n, "node %d", i)
	}
}

// No guard stays behind, and the ids of writes are bounded.
func TestTheEnginesOwnTablesStaySmall(t *testing.T) {
	c, s := filledRQLite(t)
	require.ErrorIs(t, s.Commit(t.Context(), orama.Change{Base: 99, PutNamespaces: []orama.Namespace{{ID: "x"}}}), orama.ErrConflict)
	n, err := c.Query(0, `SELECT count(*) FROM guard`)
	require.NoError(t, err)
	require.Equal(t, "0", n)
	require.NoError(t, s.write(t.Context(), []statement{stmt(1, `INSERT INTO writes (seq, id) VALUES (?, 'far')`, int64(10*keptWrites))}))
	n, err = c.Query(0, `SELECT count(*) FROM writes`)
	require.NoError(t, err)
	require.Equal(t, "1", n)
}

func TestNoReadIsAnsweredByWhoeverIsAsked(t *testing.T) {
	c, s := filledRQLite(t)
	_ = cluster(t, s)
	_, _ = s.Room(t.Context(), "demo", "r")
	_, _ = s.Rooms(t.Context(), "demo")
	_, _ = s.Revision(t.Context())
	for _, r := range c.Seen() {
		require.Equal(t, "linearizable", r.Level, r.Path)
	}
	_, _ = s.APIKey(t.Context(), "k")
	_, _ = s.Events(t.Context(), "", 1)
	for _, r := range c.Seen() {
		require.Equal(t, "weak", r.Level, r.Path)
	}
}

// A leader that was cut off and does not know it answers the weak, from what it had. It must not answer what matters.
func TestALeaderThatWasCutOffAnswersNothingThatMatters(t *testing.T) {
	c, s := filledRQLite(t)
	c.Lag(0, true)
	c.Believe(0, true)
	c.Lead(1)
	other := openRQLite(t, rotate(c.URLs(), 1))
	commit(t, other, orama.Change{PutNamespaces: []orama.Namespace{{ID: "later", CreatedAt: t0}}, PutKeys: []orama.APIKey{{ID: "k", Namespace: "later"}}})
	_, err := s.APIKey(t.Context(), "k")
	require.ErrorIs(t, err, orama.ErrNotFound, "weak: what it had")
	require.Equal(t, cluster(t, other), cluster(t, s))
	_, err = s.APIKey(t.Context(), "k")
	require.NoError(t, err, "another node answers from now on")
}

// A node that comes back is not asked until it has caught up.
func TestANodeThatLagsIsNotAsked(t *testing.T) {
	c := standIn(t, 3)
	c.Lag(1, true)
	first := openRQLite(t, c.URLs())
	commit(t, first, orama.Change{PutNamespaces: []orama.Namespace{demo(true)}})
	c.Seen()
	s := openRQLite(t, rotate(c.URLs(), 1))
	require.Len(t, cluster(t, s).Namespaces, 1)
	for _, r := range c.Seen() {
		require.NotEqual(t, 1, r.Node)
	}
	c.Lag(1, false)
	again := openRQLite(t, rotate(c.URLs(), 1))
	require.Len(t, cluster(t, again).Namespaces, 1)
	require.Equal(t, 1, c.Seen()[0].Node)

	c.Lag(1, true) // and so one that has failed since
	commit(t, first, orama.Change{PutNamespaces: []orama.Namespace{{ID: "later", CreatedAt: t0}}})
	c.Seen()
	c.Next(rqlitetest.LoseRequest, rqlitetest.LoseRequest, nil, rqlitetest.LoseRequest)
	require.Len(t, cluster(t, again).Namespaces, 2)
	require.Len(t, cluster(t, again).Namespaces, 2)
	var asked []int
	for _, r := range c.Seen() {
		asked = append(asked, r.Node)
	}
	require.Equal(t, []int{1, 2, 0, 0, 2}, asked)
}

func TestWithoutALeaderNothingIsAnswered(t *testing.T) {
	c, s := filledRQLite(t)
	impatient(s)
	before := cluster(t, s)
	require.NoError(t, s.Check(t.Context()))
	c.Lead(-1)
	_, err := s.Cluster(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.ErrorContains(t, err, "leader not found")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(s.Commit(t.Context(), orama.Change{Base: before.Revision, PutNamespaces: []orama.Namespace{{ID: "x"}}})))
	err = s.Check(t.Context())
	for _, u := range c.URLs() {
		require.ErrorContains(t, err, u)
	}
	c.Lead(2)
	require.Equal(t, before, cluster(t, s))
	require.NoError(t, s.Check(t.Context()))
}

func TestRedirectsLeadToKnownNodesOnly(t *testing.T) {
	c, s := filledRQLite(t)
	impatient(s)
	before := cluster(t, s)
	c.Next(rqlitetest.Redirect(c.URLs()[2]))
	c.Seen()
	require.Equal(t, before, cluster(t, s))
	require.Equal(t, 2, c.Seen()[1].Node)

	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger was asked") }))
	defer stranger.Close()
	c.Always(rqlitetest.Redirect(stranger.URL))
	_, err := s.Cluster(t.Context())
	require.ErrorContains(t, err, "not among the store's urls")
	c.Always(rqlitetest.Redirect("https://" + strings.TrimPrefix(c.URLs()[1], "http://")))
	_, err = s.Cluster(t.Context())
	require.ErrorContains(t, err, "not among the store's urls")
}

func TestTheStoreNeedNotBeThereAndComesByItself(t *testing.T) {
	c := standIn(t, 3)
	for i := range 3 {
		c.Kill(i)
	}
	var said strings.Builder
	s, err := Open(t.Context(), Options{Engine: "rqlite", URLs: c.URLs(), User: "u", Password: "top secret", Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	defer s.Close()
	for range 3 {
		_, err = s.Cluster(t.Context())
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.NotContains(t, err.Error(), "secret")
	}
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.NotContains(t, said.String(), "secret")
	require.NoError(t, c.Revive(1))
	c.Lead(1)
	_, err = s.Cluster(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(said.String(), "\n"), said.String())
}

func TestManyOpenAnEmptyStoreAtOnce(t *testing.T) {
	c := standIn(t, 3)
	var wg sync.WaitGroup
	for i := range 8 {
		s := openRQLite(t, rotate(c.URLs(), i))
		wg.Go(func() {
			if err := commitUntilDone(context.Background(), s, orama.NamespaceID(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, cluster(t, openRQLite(t, c.URLs())).Namespaces, 8)
}

func TestWhoMayNotIsToldAtOnce(t *testing.T) {
	c := standIn(t, 1)
	c.User, c.Password = "orama", "right"
	for password, ok := range map[string]bool{"right": true, "wrong": false} {
		s, err := Open(t.Context(), Options{Engine: "rqlite", URLs: c.URLs(), User: "orama", Password: password})
		require.NoError(t, err)
		err = s.Check(t.Context())
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "password is wrong")
			require.NotContains(t, err.Error(), password+`"`)
		}
		require.NoError(t, s.Close())
	}
}

func TestANodeThatHangsIsLeft(t *testing.T) {
	c, s := filledRQLite(t)
	before := cluster(t, s)
	s.engine.(*rqlite).attempt = 50 * time.Millisecond
	c.Next(rqlitetest.Hang)
	require.Equal(t, before, cluster(t, s))

	c.Always(rqlitetest.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	_, err := s.Cluster(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
}

// A host that has died is silent: another node is asked beside it, soon, and what is written is written once.
func TestASilentNodeIsNotWaitedFor(t *testing.T) {
	c, s := filledRQLite(t)
	s.engine.(*rqlite).attempt = time.Hour
	before := cluster(t, s)
	c.Next(rqlitetest.Hang)
	began := time.Now()
	require.Equal(t, before, cluster(t, s))
	require.GreaterOrEqual(t, time.Since(began), rqliteBeside)
	c.Next(rqlitetest.Hang)
	require.NoError(t, s.Commit(t.Context(), orama.Change{Base: before.Revision, PutNamespaces: []orama.Namespace{{ID: "once"}}}))
	late, done := make(chan struct{}), make(chan struct{}, 1)
	c.Next(rqlitetest.Late(late, done)) // it is done after the other, which was asked beside it
	require.NoError(t, s.Commit(t.Context(), orama.Change{Base: before.Revision + 1, PutNamespaces: []orama.Namespace{{ID: "twice"}}}))
	close(late)
	<-done
	after := cluster(t, s)
	require.Equal(t, before.Revision+2, after.Revision)
	require.Len(t, after.Namespaces, len(before.Namespaces)+2)
}

func TestAnAnswerIsBounded(t *testing.T) {
	c, s := filledRQLite(t)
	impatient(s)
	s.engine.(*rqlite).limit = 1000
	c.Always(func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		fmt.Fprintf(w, `{"results":[]}%1000s`, "")
	})
	_, err := s.Cluster(t.Context())
	require.ErrorContains(t, err, "longer than")
}

// A refusal of SQLite's that is no constraint is not somebody else's change.
func TestAnErrorOfAStatementIsNoConflict(t *testing.T) {
	c, s := filledRQLite(t)
	before := cluster(t, s)
	c.Next(rqlitetest.Says("database or disk is full"))
	err := s.Commit(t.Context(), orama.Change{Base: before.Revision, PutNamespaces: []orama.Namespace{{ID: "x"}}})
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	c.Next(rqlitetest.Says("no such table: meta"))
	_, err = s.Cluster(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.Equal(t, before, cluster(t, s))
}

func TestURLsOfRQLiteAreChecked(t *testing.T) {
	for _, urls := range [][]string{nil, {"10.0.0.1:4001"}, {"ftp://h"}, {"http://u:p@h:1"}, {"http://"}, {"%"}} {
		_, err := Open(t.Context(), Options{Engine: "rqlite", URLs: urls})
		require.Error(t, err, "%q", urls)
		require.NotContains(t, err.Error(), "u:p")
	}
	_, err := Open(t.Context(), Options{Engine: "etcd"})
	require.ErrorContains(t, err, "etcd")
}

func TestRqlitedArgs(t *testing.T) {
	var nodes []Rqlited
	for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		nodes = append(nodes, rqlitedOn(a, RQLiteHTTPPort, RQLiteRaftPort))
	}
	n := nodes[0]
	n.Node, n.DataDir, n.Auth, n.User = "node-1", "/var/lib/rqlite", "/etc/rqlite/auth.json", "orama"
	for _, m := range nodes {
		n.Members = append(n.Members, m.Raft)
	}
	require.Equal(t, strings.Fields(`-node-id node-1 -http-addr 10.0.0.1:4001 -raft-addr 10.0.0.1:4002 -auth /etc/rqlite/auth.json -join-as orama
		-bootstrap-expect 3 -join 10.0.0.1:4002,10.0.0.2:4002,10.0.0.3:4002 /var/lib/rqlite`), RqlitedArgs(n))
	alone := rqlitedOn("10.0.0.1", RQLiteHTTPPort, RQLiteRaftPort)
	alone.Node, alone.DataDir, alone.Members = "a", "/d", []netip.AddrPort{alone.Raft}
	require.Equal(t, strings.Fields(`-node-id a -http-addr 10.0.0.1:4001 -raft-addr 10.0.0.1:4002 /d`), RqlitedArgs(alone))
	require.JSONEq(t, `[{"username":"orama","password":"p\"w","perms":["execute","query","ready","join"]}]`, string(RqlitedAuth("orama", `p"w`)))
}

// FuzzAnswer holds the reader of answers to: an error, or as many results as were asked for.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"results":[{"columns":["a","b"],"types":["text","integer"],"values":[["x",9007199254740993],[null,-1]]}]}`), 1)
	f.Add([]byte(`{"results":[{"rows_affected":1},{"error":"CHECK constraint failed: met = 1"}]}`), 5)
	f.Add([]byte(`{"results":[],"error":"leadership transfer in progress"}`), 1)
	f.Add([]byte(`{"results":[{"columns":["a"],"values":[[1,2],[2e+06],[{}]]}]}`), 1)
	f.Fuzz(func(t *testing.T, body []byte, statements int) {
		got, err := decode(body, statements)
		if at, _ := failure(got); err == nil && at < 0 && len(got) != statements {
			t.Fatalf("%d results for %d statements", len(got), statements)
		}
		for _, res := range got {
			rows, err := res.rows()
			for _, r := range rows {
				if err == nil && len(r) != len(res.Columns) {
					t.Fatalf("a row of %d cells for %d columns", len(r), len(res.Columns))
				}
				for i := range r {
					_, _, _, _ = r.str(i), r.int(i), r.bool(i), r.time(i)
				}
			}
		}
	})
}
