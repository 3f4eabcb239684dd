// Package rqlitetest stands in for a cluster of RQLite in tests: as much of its HTTP API as the store uses, with the ways in
// which it surprises. Each node has its own SQLite in memory and does the same batches in the same order. There is
// no Raft: who leads, who lags and who is away is what the test says.
//
// What it does was seen at RQLite 10: errors inside a 200, at the top and per statement; 503 without a leader; texts that look
// like BLOBs made BLOBs; a statement of no row that fails nothing; stale answers to level none, and to level weak by a
// leader that does not know that it is none; a batch that is done although nobody hears of it, or later than thought.
package rqlitetest

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// Cluster is some nodes. Its methods may be called from any goroutine.
type Cluster struct {
	User, Password string // set before the first request; "": no authentication

	mu     sync.Mutex
	nodes  []*node   // the fields of each guarded by mu
	leader int       // guarded by mu; -1: none
	log    [][]step  // guarded by mu; what was committed
	next   []Fault   // guarded by mu; for the coming requests of data
	always Fault     // guarded by mu
	seen   []Request // guarded by mu
}

// Request is one that came, for data.
type Request struct {
	Node  int
	Path  string
	Level string // of a query
}

type node struct {
	c    *Cluster
	at   int
	addr string
	srv  *http.Server // nil while it is away
	done chan struct{}

	db       *sql.DB
	applied  int  // entries of the log
	lags     bool // it does not hear of new entries
	believes bool // it takes itself for the leader
}

// Start makes a cluster of n nodes on loopback, the first of which leads.
func Start(n int) (*Cluster, error) {
	c := &Cluster{}
	for i := range n {
		db, err := sql.Open("sqlite", ":memory:")
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		db.SetMaxOpenConns(1) // each connection would have a memory of its own
		nd := &node{c: c, at: i, addr: "127.0.0.1:0", db: db}
		c.nodes = append(c.nodes, nd)
		if err := nd.listen(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close ends all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for i := range c.nodes {
		c.Kill(i)
		errs = append(errs, c.nodes[i].db.Close())
	}
	return errors.Join(errs...)
}

func (n *node) listen() error {
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	n.addr = l.Addr().String()
	n.srv = &http.Server{Handler: http.HandlerFunc(n.serve), ReadHeaderTimeout: 5 * time.Second}
	n.done = make(chan struct{})
	go func(srv *http.Server, done chan struct{}) {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}(n.srv, n.done)
	return nil
}

// URLs are the nodes' addresses.
func (c *Cluster) URLs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, n := range c.nodes {
		out = append(out, "http://"+n.addr)
	}
	return out
}

// Lead makes a node the leader; -1 leaves the cluster without one.
func (c *Cluster) Lead(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = i
	if i >= 0 {
		c.nodes[i].lags = false
	}
	c.applyLocked()
}

// Lag keeps a node from hearing of what is committed from now on, or lets it hear of it.
func (c *Cluster) Lag(i int, lags bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i].lags = lags
	c.applyLocked()
}

// Believe makes a node take itself for the leader although it is not: one that was cut off, for the second until it notices.
func (c *Cluster) Believe(i int, believes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i].believes = believes
}

// Kill ends a node at once: its connections break, and new ones are refused.
func (c *Cluster) Kill(i int) {
	c.mu.Lock()
	srv, done := c.nodes[i].srv, c.nodes[i].done
	c.nodes[i].srv = nil
	c.mu.Unlock()
	if srv != nil {
		_ = srv.Close() // of a listener that is closed already
		<-done
	}
}

// Revive starts a killed node again, on the address it had.
func (c *Cluster) Revive(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].listen()
}

// Leader is the node that leads, or -1.
func (c *Cluster) Leader() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// Seen lists the requests for data since it was asked last.
func (c *Cluster) Seen() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.seen
	c.seen = nil
	return out
}

// Query asks a node's own database.
func (c *Cluster) Query(i int, query string) (text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.nodes[i].db.QueryRow(query).Scan(&text)
	return text, err
}

func (c *Cluster) leaderURLLocked() string { return "http://" + c.nodes[c.leader].addr }

// commitLocked does a batch everywhere, and gives the leader's results.
func (c *Cluster) commitLocked(batch []step, tx bool) ([]result, error) {
	if !tx {
		var out []result
		for _, s := range batch { // each is a batch of its own
			got, err := c.commitLocked([]step{s}, true)
			if err != nil {
				return nil, err
			}
			out = append(out, got...)
		}
		return out, nil
	}
	c.log = append(c.log, batch)
	lead := c.nodes[c.leader]
	if lead.applied != len(c.log)-1 {
		return nil, fmt.Errorf("the leader has %d of %d entries", lead.applied, len(c.log)-1)
	}
	got, err := lead.applyLocked()
	c.applyLocked()
	return got, err
}

func (c *Cluster) applyLocked() {
	for _, n := range c.nodes {
		for !n.lags && n.applied < len(c.log) {
			_, _ = n.applyLocked() // the leader's result counts
		}
	}
}
