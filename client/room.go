package client

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// maxEvents bounds what waits for a slow handler; the oldest go first.
const maxEvents = 4096

// Room is one peer in one room. Close it when it is done with.
type Room struct {
	opts   Options
	http   *http.Client
	api    *webrtc.API
	relays *relayDialer

	ctx    context.Context //nolint:containedctx // the Room's own life
	cancel context.CancelFunc
	tasks  *mailbox[func()] // run by the loop
	events *mailbox[func()] // run by the dispatcher
	wg     sync.WaitGroup   // everything but loop and dispatcher
	joined chan struct{}    // closed with the first joined
	done   chan struct{}    // closed when the last goroutine has ended

	mu      sync.Mutex
	state   State         // guarded by mu, as all of the following
	changed chan struct{} // closed and replaced when state changes
	err     error         // why it closed
	here    *place        // where the Room is; changed by the loop alone

	// The following belong to the loop.
	move       *move    // nil unless it goes elsewhere
	left       []*place // places that it has moved from, and that it leaves a little later
	endpoints  []string // of gateways, not empty
	gateway    int      // which of them is dialled next
	locals     []*LocalTrack
	channels   []*DataChannel
	wanted     map[orama.TrackID]bool // asked for by Subscribe (true) or refused by Unsubscribe
	prefs      map[orama.TrackID]Preference
	lastN      *signal.LastN // as asked for; nil: never
	outage     *outage
	tick       *time.Ticker
	attempts   int       // dials since a join that lasted
	since      time.Time // of the latest joined
	tokens     int       // refused for their token, in a row
	leaving    bool
	generation int // of peers: rises when one is left behind
}

// link is a socket and whether the SFU has confirmed the join on it.
type link struct {
	socket
	joined bool
	gone   chan struct{} // closed when it has ended
}

// Join enters a room through the gateway at url, such as "https://ns-myapp.orama.network". It
// returns when the SFU has confirmed the join; use WaitState to wait for media. A refused join is
// an *orama.Error whose Kind says what to do about it. After Join, ctx has no meaning for the Room.
func Join(ctx context.Context, url string, o Options) (*Room, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	endpoint, err := o.endpoint(url)
	if err != nil {
		return nil, err
	}
	r, err := newRoom(endpoint, o)
	if err != nil {
		return nil, err
	}
	ws, err := r.dial(ctx, endpoint, r.joinFrame(r.here))
	if err != nil {
		r.cancel()
		r.http.CloseIdleConnections()
		return nil, err
	}
	go r.dispatch()
	go r.loop(ws)
	select {
	case <-r.joined:
		return r, nil
	case <-r.done:
		select {
		case <-r.joined: // and closed since, as Err tells
			return r, nil
		default:
			return nil, r.closedError()
		}
	case <-ctx.Done():
		r.Close() //nolint:errcheck // never fails
		return nil, ctx.Err()
	}
}

func newRoom(endpoint string, o Options) (*Room, error) {
	r := &Room{
		opts: o, endpoints: []string{endpoint}, http: o.HTTPClient,
		tasks: newMailbox[func()](0), events: newMailbox[func()](maxEvents),
		joined: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
		state: StateConnecting, wanted: map[orama.TrackID]bool{}, prefs: map[orama.TrackID]Preference{},
	}
	r.here = newPlace(r)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.relays = &relayDialer{ctx: r.ctx, dial: o.DialContext, config: o.TLSConfig}
	if r.http == nil {
		r.http = &http.Client{Transport: &http.Transport{
			DialContext: o.DialContext, TLSClientConfig: o.TLSConfig.Clone(), Proxy: http.ProxyFromEnvironment}}
	}
	var err error
	if r.api, err = newAPI(o.Logger, r.relays); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// loop owns the conversation: frames, pion's events, the callers' wishes and the clock come to it.
func (r *Room) loop(ws *websocket.Conn) {
	r.tick = time.NewTicker(watchEvery)
	defer r.tick.Stop()
	r.outage = &outage{since: time.Now(), next: time.Now().Add(firstRestart), deadline: time.Now().Add(restartsFor)}
	r.attach(r.here, ws)
	for {
		select {
		case <-r.ctx.Done():
			r.finish()
			return
		case <-r.tasks.wake:
			for _, task := range r.tasks.take() {
				task()
			}
		case <-r.tick.C:
			r.watch()
		}
	}
}

// finish ends everything in the order of dependence: socket, connection, who waits, handlers.
func (r *Room) finish() {
	for _, p := range append(r.places(), r.left...) {
		if p.sock != nil {
			p.sock.stop()
		}
		r.retire(p)
	}
	r.wg.Wait()
	for _, task := range r.tasks.take() { // a dial may have succeeded meanwhile
		task()
	}
	r.wg.Wait()
	for _, t := range r.locals {
		t.settle(errClosed)
	}
	r.setState(StateClosed, nil)
	if r.opts.HTTPClient == nil {
		r.http.CloseIdleConnections()
	}
	r.events.post(nil)
}

// dispatch runs the handlers, one after the other, and ends last.
func (r *Room) dispatch() {
	defer close(r.done)
	for range r.events.wake {
		for _, fn := range r.events.take() {
			if fn == nil {
				return
			}
			fn()
		}
	}
}

func (r *Room) emit(e Event) {
	if h := r.opts.OnEvent; h != nil {
		r.enqueue(func() { h(e) })
	}
}

func (r *Room) announce(t *RemoteTrack) {
	if h := r.opts.OnTrack; h != nil {
		r.enqueue(func() { h(t) })
	}
}

func (r *Room) enqueue(fn func()) {
	if r.events.post(fn) {
		r.opts.Logger.Warn("a handler is too slow: an event was dropped", "waiting", maxEvents)
	}
}

// do has the loop run fn and waits for it.
func (r *Room) do(ctx context.Context, fn func()) error {
	ran := make(chan struct{})
	r.tasks.post(func() {
		fn()
		close(ran)
	})
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return r.closedError()
	}
}

var errClosed = orama.Errorf(orama.KindUnavailable, "closed", "the room was closed")

func (r *Room) closedError() error {
	if err := r.Err(); err != nil {
		return err
	}
	return errClosed
}

// fail closes the Room for a reason. Called by the loop.
func (r *Room) fail(err error) {
	if r.leaving {
		err = nil
	}
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.cancel()
}

func (r *Room) setState(s State, reason error) {
	r.mu.Lock()
	if r.state == s || r.state == StateClosed {
		r.mu.Unlock()
		return
	}
	r.state = s
	if reason == nil && s == StateClosed {
		reason = r.err
	}
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	r.opts.Logger.Info("room", "state", string(s), "err", reason)
	r.emit(StateChanged{State: s, Err: reason})
}

// State is how the Room is doing.
func (r *Room) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// WaitState returns when the Room is in one of the states. A Room that closes instead gives the reason.
func (r *Room) WaitState(ctx context.Context, states ...State) error {
	for {
		r.mu.Lock()
		state, changed := r.state, r.changed
		r.mu.Unlock()
		if slices.Contains(states, state) {
			return nil
		}
		if state == StateClosed {
			return r.closedError()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Err is why the Room closed by itself; nil while it lives and when it was asked to close.
func (r *Room) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Done is closed when the Room has ended with all its goroutines.
func (r *Room) Done() <-chan struct{} { return r.done }

// PeerID is the Room's own peer. It changes when a recovery had to start over.
func (r *Room) PeerID() orama.PeerID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.here.peerID
}

// UserID is the subject of the token.
func (r *Room) UserID() orama.UserID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.here.userID
}

// Permissions are what the token allows in this room.
func (r *Room) Permissions() Permissions {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.here.perms
}

// Credentials are the latest for the relays.
func (r *Room) Credentials() Credentials {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.here.creds
}

// Peers lists the others with their tracks, ordered by peer id.
func (r *Room) Peers() []Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.here.othersLocked()
}

func compare(a, b orama.PeerID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Publish adds a track to the room and returns when a section was negotiated for it: what is
// written from then on is sent. Cancelling ctx gives the track up.
func (r *Room) Publish(ctx context.Context, o TrackOptions) (*LocalTrack, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if !r.Permissions().Publish {
		return nil, orama.Errorf(orama.KindForbidden, "forbidden", "the token does not permit publishing")
	}
	t := newLocalTrack(r, o)
	if err := r.do(ctx, func() { r.addLocal(t) }); err != nil {
		return nil, err
	}
	select {
	case <-t.bound:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.err != nil {
			return nil, t.err
		}
		return t, nil
	case <-ctx.Done():
		r.tasks.post(func() { r.unpublish(t) })
		return nil, ctx.Err()
	case <-r.ctx.Done():
		return nil, r.closedError()
	}
}

// Subscribe asks for a track; its packets come through OnTrack.
func (r *Room) Subscribe(ctx context.Context, id orama.TrackID) error { return r.want(ctx, id, true) }

// Unsubscribe gives a track up.
func (r *Room) Unsubscribe(ctx context.Context, id orama.TrackID) error {
	return r.want(ctx, id, false)
}

func (r *Room) want(ctx context.Context, id orama.TrackID, want bool) error {
	return r.do(ctx, func() {
		r.wanted[id] = want
		r.here.subscribe(id, want)
		r.carry()
	})
}

// Preference says how a subscribed track is wanted; zero means no preference.
type Preference struct {
	MaxWidth int // pixels
	MaxFPS   int // frames a second
	Priority int // higher is served first
	Paused   bool
}

// Prefer tells the SFU how a track is wanted. It holds at another SFU that the room moves to, and is not repeated after a recovery that started over.
func (r *Room) Prefer(ctx context.Context, id orama.TrackID, p Preference) error {
	return r.do(ctx, func() {
		r.prefs[id] = p
		r.here.prefer(id, p)
		r.carry()
	})
}

// OpenData opens a data channel to everybody else and waits until it can be sent on.
func (r *Room) OpenData(ctx context.Context, label string, o DataOptions) (*DataChannel, error) {
	if len(label) > signal.MaxID {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_label", "a label is at most 128 bytes long")
	}
	if o.MaxRetransmits != nil && o.MaxLifetimeMS != nil {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_reliability", "retransmits and lifetime cannot both be limited")
	}
	d := &DataChannel{room: r, label: label, opts: o, open: make(chan struct{})}
	var failed error
	err := r.do(ctx, func() {
		r.channels = append(r.channels, d)
		if r.here.sess != nil {
			failed = d.attach(r.here.sess.pc)
		}
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		err = d.WaitOpen(ctx)
	}
	if err != nil {
		r.tasks.post(func() { r.closeData(d) })
		return nil, err
	}
	return d, nil
}

// Leave tells the room good-bye, so that the others know at once, and closes.
func (r *Room) Leave(ctx context.Context) error {
	var gone []chan struct{}
	err := r.do(ctx, func() {
		r.leaving = true
		for _, p := range append(r.places(), r.left...) {
			if l := p.sock; l != nil {
				gone = append(gone, l.gone)
				l.send(&signal.Leave{}) //nolint:errcheck // closing anyway
				l.bye()
			}
		}
	})
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for _, one := range gone {
			select {
			case <-one:
			case <-ctx.Done():
			}
		}
	}
	return r.Close()
}

// Close ends the Room without a word to the others and waits for all its goroutines, handlers
// included. The SFU keeps the peer for a while, as it would for one whose network failed.
func (r *Room) Close() error {
	r.cancel()
	<-r.done
	return nil
}

// Relay is the relayed address that media goes through now (RFC 8656), at the TURN server's side; the
// zero value while there is none.
func (r *Room) Relay() netip.AddrPort {
	var relay netip.AddrPort
	r.do(r.ctx, func() { //nolint:errcheck // a closed Room has none
		if r.here.sess != nil {
			relay = r.here.sess.relay()
		}
	})
	return relay
}
