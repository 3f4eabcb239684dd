// Package gateway is the REST and WebSocket edge of a node: it authenticates, limits, finds the SFU
// that owns a room, and pipes a client's socket to it without reading what is said. It forwards no
// media, keeps no records of its own, and listens nowhere: whoever makes it serves its Handler.
package gateway

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// Config is what an operator decides.
type Config struct {
	Node           orama.NodeID   // this node; its own SFU is preferred among equals
	MeshIP         netip.Addr     // this node's on the mesh; SFUs are dialled from it. Zero: any address
	MeshCIDR       netip.Prefix   // the mesh: an operator's call from there needs no TLS of its own
	BaseDomain     string         // namespaces live at ns-NAME.BASE
	URLStyle       string         // plan.StyleIP or plan.StyleName: how relays are named to clients
	LocalOrigins   bool           // pages of http://localhost:* and http://127.0.0.1:* may call
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	Demo           Demo
}

// Demo opens one namespace to whoever holds an invitation. The zero value opens nothing.
type Demo struct {
	Namespace  orama.NamespaceID
	InviteHash string // hex SHA-256 of the invitation
}

// Store is what the gateway needs of the cluster's records. Lookups of what is not there give an
// error of orama.KindNotFound, a lost race one of orama.KindConflict.
type Store interface {
	Cluster(ctx context.Context) (orama.Cluster, error)
	APIKey(ctx context.Context, id string) (orama.APIKey, error)
	Room(ctx context.Context, ns orama.NamespaceID, id orama.RoomID) (orama.Room, error)
	Rooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error)
	// RoomCounts tells how many of the rooms each node has.
	RoomCounts(ctx context.Context, ns orama.NamespaceID) (map[orama.NodeID]int, error)
	// ClaimRoom inserts a room of epoch 1, or replaces the one of the epoch before.
	ClaimRoom(ctx context.Context, room orama.Room) error
	// DeleteRoom removes a room if its epoch is still this one; 0 means any.
	DeleteRoom(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, epoch int64) error
	// PutRoomState keeps what admins have made of a room, if it is newer than what is kept; else it gives a conflict.
	PutRoomState(ctx context.Context, ns orama.NamespaceID, id orama.RoomID, revision int64, state string) error
	PutKick(ctx context.Context, k orama.Kick) error
	// Kicked tells when a user was last kicked from a room.
	Kicked(ctx context.Context, ns orama.NamespaceID, room orama.RoomID, user orama.UserID) (time.Time, error)
}

// Rates counts events per key: burst at once, perSecond for ever.
type Rates interface {
	// Take counts one event and returns 0, or counts nothing and returns how long to wait.
	Take(key string, burst int, perSecond float64) time.Duration
	// Wait is what Take would return, without counting.
	Wait(key string, burst int, perSecond float64) time.Duration
}

// Deps are the parts that a gateway works with. Store, Keys, Rates and Log are needed.
type Deps struct {
	Store Store
	Keys  *auth.Keys
	Rates Rates
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
	Pages fs.FS            // holds demo/ and sdk/; nil serves neither

	Operator http.Handler // what an operator may ask, under /v1/; nil: nobody may from here
}

// Limits. A limit says in its name what it counts.
const (
	joinBurst          = 30 // sockets of one user
	joinsPerSecond     = 2
	credentialBurst    = 30 // TURN credentials for one user
	credentialsPerSec  = 2
	authFailureBurst   = 30 // bad credentials from one address
	authFailuresPerSec = 1
	demoBurst          = 60 // demo tokens for one address: a class room behind one NAT
	demoPerSecond      = 1
	moderateBurst      = 30 // changes of rooms by one user or key
	moderationsPerSec  = 5
	maxBody            = 16 << 10 // bytes of a request
	maxSockets         = 20_000   // of one gateway
	maxAPITokenTTL     = 24 * time.Hour
	defaultTokenTTL    = time.Hour
	demoTokenTTL       = 12 * time.Hour
)

// timing holds the durations that tests shorten.
type timing struct {
	viewFor     time.Duration // how long a reading of the cluster serves
	viewStale   time.Duration // how long it serves when the store does not answer
	countFor    time.Duration // how long a count of the rooms serves
	storeWithin time.Duration // for one reading of the store
	dialWithin  time.Duration // for one SFU; a dead node does not refuse, it is silent
	joinWithin  time.Duration // for all SFUs that are tried
	askWithin   time.Duration // for asking all SFUs who is in their rooms
	firstWithin time.Duration // for the first frame, where it names the room
	pingEvery   time.Duration // of a client
	pongWithin  time.Duration // pingEvery + pongWithin is the silence that ends a socket
	sfuEvery    time.Duration // likewise of an SFU
	sfuWithin   time.Duration
	writeWithin time.Duration // for one frame
	closeWithin time.Duration // for a close handshake
	sweepEvery  time.Duration // how often pipes are compared with the rooms' records
}

var defaultTiming = timing{
	viewFor: 250 * time.Millisecond, viewStale: 5 * time.Second, countFor: time.Second, storeWithin: 2 * time.Second,
	dialWithin: 1500 * time.Millisecond, joinWithin: 3 * time.Second, askWithin: time.Second,
	firstWithin: 10 * time.Second, pingEvery: 10 * time.Second, pongWithin: 15 * time.Second,
	sfuEvery: 3 * time.Second, sfuWithin: 7 * time.Second,
	writeWithin: 10 * time.Second, closeWithin: time.Second, sweepEvery: 2 * time.Second,
}

// Gateway is one node's edge. Make it with New, serve its Handler, Close it.
type Gateway struct {
	cfg     Config
	store   Store
	keys    *auth.Keys
	rates   Rates
	log     *slog.Logger
	now     func() time.Time
	timing  timing
	view    *view
	spread  spread
	sfus    *sfus
	pages   *pages
	handler http.Handler
	metrics metrics

	operator http.Handler // nil: not served
	routes   []string     // patterns of the mux

	stop    context.CancelFunc // ends stopped
	stopped context.Context    // done when Close was called
	wg      sync.WaitGroup     // the sweep and every pipe

	mu      sync.Mutex
	closed  bool               // guarded by mu
	sockets int                // guarded by mu; those that dial included
	pipes   map[*pipe]struct{} // guarded by mu
}

// New makes a gateway and starts its sweep.
func New(cfg Config, deps Deps) (*Gateway, error) { return newGateway(cfg, deps, defaultTiming) }

func newGateway(cfg Config, deps Deps, tm timing) (*Gateway, error) {
	if deps.Store == nil || deps.Keys == nil || deps.Rates == nil || deps.Log == nil {
		return nil, errors.New("gateway: Store, Keys, Rates and Log are needed")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	pages, err := newPages(deps.Pages)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, store: deps.Store, keys: deps.Keys, rates: deps.Rates, log: deps.Log, now: deps.Now, timing: tm,
		view: newView(deps.Store, deps.Now, tm), spread: spread{of: map[orama.NamespaceID]*counted{}},
		sfus:  newSFUs(deps.Keys, deps.Now, tm.dialWithin, cfg.MeshIP),
		pages: pages, operator: deps.Operator, pipes: map[*pipe]struct{}{}, metrics: newMetrics(),
	}
	g.stopped, g.stop = context.WithCancel(context.Background())
	g.handler = g.newHandler()
	g.wg.Go(g.sweepLoop)
	return g, nil
}

// Handler serves every path of the gateway.
func (g *Gateway) Handler() http.Handler { return g.handler }

// Close ends every client's socket with signal.CloseGone and waits for them. Later joins get 503.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.stop()
	g.wg.Wait()
	g.sfus.close()
}

// admit counts a socket in, or says why not. Whoever is let in calls the leave it gives.
func (g *Gateway) admit() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, unavailable("draining", "this gateway is going away; use another one", time.Second)
	}
	if g.sockets >= maxSockets {
		return nil, unavailable("gateway_full", "this gateway serves as many sockets as it may; use another one", 5*time.Second)
	}
	g.wg.Add(1)
	g.sockets++
	return func() {
		g.mu.Lock()
		g.sockets--
		g.mu.Unlock()
		g.wg.Done()
	}, nil
}
