package mesh

import (
	"context"
	"errors"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"orama.network/orama"
)

// RotateEvery is the usual age at which a node changes its key.
const RotateEvery = 30 * 24 * time.Hour

const (
	// readEvery is how often the records are read; also how soon an interface that vanished is made again.
	readEvery = time.Second
	// readTime bounds one reading.
	readTime = 5 * time.Second
	// watchEvery is how often the interface is looked at while a peer changes its key: until we see that it did, what it
	// sends is thrown away.
	watchEvery = 20 * time.Millisecond
)

// Loop is what Run keeps a mesh by.
type Loop struct {
	Self  orama.NodeID
	Nodes func(ctx context.Context) ([]orama.Node, error) // of the cluster's records
	// PeersFile remembers the peers, so that they are found at a cold boot before the records are.
	PeersFile   string
	RotateAfter time.Duration // age of our key; 0: only when asked to
}

// Run keeps the peers what the records say until ctx ends. While the records cannot be read, nothing changes; while
// they do not hold this node itself, nobody is removed. In mode existing it only waits.
func (m *Mesh) Run(ctx context.Context, l Loop) error {
	if m.Mode == ModeExisting {
		<-ctx.Done()
		return nil
	}
	r := &runner{m: m, l: l, log: m.Log}
	if peers, err := LoadPeers(l.PeersFile); err == nil {
		r.peers, r.saved = peers, peers
		r.apply(ctx)
	} else if !errors.Is(err, fs.ErrNotExist) {
		m.Log.Warn("the remembered mesh peers cannot be used", "error", err)
	}
	readings := make(chan reading)
	done := make(chan struct{})
	go func() { defer close(done); read(ctx, l.Nodes, readings) }()
	r.run(ctx, readings)
	<-done
	return nil
}

// reading is one look at the records.
type reading struct {
	nodes []orama.Node
	err   error
}

func read(ctx context.Context, nodes func(context.Context) ([]orama.Node, error), out chan<- reading) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, readTime)
		var r reading
		r.nodes, r.err = nodes(bounded)
		cancel()
		select {
		case out <- r:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// runner is Run's state, of its goroutine alone.
type runner struct {
	m       *Mesh
	l       Loop
	log     *slog.Logger
	peers   []Peer // wanted
	saved   []Peer // in the file
	known   bool   // the records were read once, and hold this node
	unread  bool   // the last reading failed
	trouble string // the last error of apply, so that it is logged once
}

func (r *runner) run(ctx context.Context, readings <-chan reading) {
	ensure := time.NewTicker(readEvery)
	defer ensure.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case got := <-readings:
			r.take(got)
			r.apply(ctx)
			r.turnKeys(ctx, got)
		case <-ensure.C:
			r.apply(ctx)
		case <-watch.C:
			if slices.ContainsFunc(r.peers, func(p Peer) bool { return len(p.Keys) > 1 }) {
				r.apply(ctx)
			}
		}
	}
}

func (r *runner) take(got reading) {
	if got.err != nil {
		if !r.unread {
			r.log.Debug("the records cannot be read; the mesh stays as it is", "error", got.err)
		}
		r.unread = true
		return
	}
	r.unread = false
	peers := PeersOf(got.nodes, r.l.Self, r.m.Address.Masked(), r.log)
	if !slices.ContainsFunc(got.nodes, func(n orama.Node) bool { return n.ID == r.l.Self }) {
		return // records that do not know us say nothing about who is gone
	}
	r.known, r.peers = true, peers
	if reflect.DeepEqual(r.peers, r.saved) {
		return
	}
	if err := SavePeers(r.l.PeersFile, r.peers); err != nil {
		r.log.Warn("the mesh peers cannot be remembered for the next boot", "error", err)
		return
	}
	r.saved = r.peers
}

func (r *runner) apply(ctx context.Context) {
	err := r.m.apply(ctx, r.peers, !r.known)
	switch {
	case err == nil && r.trouble != "":
		r.log.Info("the mesh is well again")
		r.trouble = ""
	case err != nil && ctx.Err() == nil && err.Error() != r.trouble:
		r.log.Error("the mesh cannot be made what it is to be; trying on", "error", err)
		r.trouble = err.Error()
	}
}

// turnKeys begins a change of our key when it is time, and takes one that was begun further.
func (r *runner) turnKeys(ctx context.Context, got reading) {
	if got.err != nil {
		return
	}
	i := slices.IndexFunc(got.nodes, func(n orama.Node) bool { return n.ID == r.l.Self })
	if i < 0 {
		return
	}
	if r.due() {
		if err := r.m.beginTurn(); err != nil {
			r.log.Error("the mesh key cannot be changed", "error", err)
		}
	}
	if err := r.m.stepTurn(ctx, got.nodes[i].MeshKey); err != nil && ctx.Err() == nil {
		r.log.Error("the change of the mesh key waits", "error", err)
	}
}

// due says whether our key is old enough and nobody else changes theirs. Nodes that were made on the same day are
// spread, by up to a thirtieth.
func (r *runner) due() bool {
	if r.l.RotateAfter == 0 || slices.ContainsFunc(r.peers, func(p Peer) bool { return len(p.Keys) > 1 }) {
		return false
	}
	info, err := os.Stat(r.m.PrivateKeyFile)
	if err != nil {
		return false
	}
	h := fnv.New32a()
	h.Write([]byte(r.l.Self)) //nolint:errcheck // never fails
	spread := r.l.RotateAfter / 30 * time.Duration(h.Sum32()%1000) / 1000
	return r.m.now().Sub(info.ModTime()) > r.l.RotateAfter+spread
}

// turning is a change of our key on its way.
type turning struct {
	shown  time.Time       // the record was seen to announce the next key; zero: not yet
	at     time.Time       // when the key was changed
	living [][]wgtypes.Key // keys of the peers that lived then
	done   chan struct{}   // closed when it is over; nil: nobody waits
	err    error           // set before done is closed
}

const (
	// tellTime is how long the next key is in the records before it is used: three readings of every node.
	tellTime = 3 * readEvery
	// backAfter is when a change that nobody answered is undone.
	backAfter = 15 * time.Second
	// leastOld and mostOld bound how long the old key stays announced.
	leastOld = 5 * time.Second
	mostOld  = 10 * time.Minute
)

var errNoKey = orama.Errorf(orama.KindConflict, "mesh_not_ours", "this node's mesh is made by somebody else, so its key is not ours to change")

// Rotate changes this node's key and returns when the others use the new one. Run must be running.
func (m *Mesh) Rotate(ctx context.Context) error {
	if m.Mode == ModeExisting {
		return errNoKey
	}
	done, err := m.beginAwaited()
	if err != nil {
		return err
	}
	select {
	case <-done:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.turn.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Mesh) beginAwaited() (done <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.beginTurnLocked(); err != nil {
		return nil, err
	}
	if m.turn.done == nil {
		m.turn.done = make(chan struct{})
	}
	return m.turn.done, nil
}

func (m *Mesh) beginTurn() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beginTurnLocked()
}

// beginTurnLocked makes the next key, unless a change is on its way.
func (m *Mesh) beginTurnLocked() error {
	if m.keys.next != nil || m.keys.old != nil {
		return nil
	}
	if err := m.keys.begin(); err != nil {
		return err
	}
	m.turn = turning{}
	m.Log.Info("the mesh key is about to change", "next", m.keys.next.PublicKey())
	return nil
}

// stepTurn takes a change of our key one step further; announced is what the records say our keys are.
func (m *Mesh) stepTurn(ctx context.Context, announced string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	switch {
	case m.keys.next != nil && announced != joinKeys(m.keys.announced()):
		m.turn.shown = time.Time{}
		return nil
	case m.keys.next != nil && m.turn.shown.IsZero():
		m.turn.shown = now
		return nil
	case m.keys.next != nil && now.Sub(m.turn.shown) >= tellTime:
		return m.switchLocked(ctx, now)
	case m.keys.old != nil:
		return m.confirmLocked(ctx, now)
	}
	return nil
}

// switchLocked uses the next key from now on. Sessions end for sending; what others send by them is still understood,
// so only our own way is interrupted, for one handshake and until the others have seen it.
func (m *Mesh) switchLocked(ctx context.Context, now time.Time) error {
	d, err := m.deviceLocked(ctx)
	if err != nil {
		return err
	}
	if err := m.keys.turn(); err != nil {
		return err
	}
	m.turn.at, m.turn.living = now, m.livingLocked(d, now)
	return m.useKeyLocked(ctx)
}

// livingLocked lists the peers that have a session.
func (m *Mesh) livingLocked(d *wgtypes.Device, now time.Time) [][]wgtypes.Key {
	var out [][]wgtypes.Key
	for _, p := range m.peers {
		if now.Sub(lastHandshake(d, p.keys)) < forgotten {
			out = append(out, p.keys)
		}
	}
	return out
}

func lastHandshake(d *wgtypes.Device, of []wgtypes.Key) time.Time {
	var last time.Time
	for _, p := range d.Peers {
		if slices.Contains(of, p.PublicKey) && p.LastHandshakeTime.After(last) {
			last = p.LastHandshakeTime
		}
	}
	return last
}

// useKeyLocked gives the interface our key, and has every peer hear of it at once rather than with the next packet: a
// keepalive that is turned on is sent at once.
func (m *Mesh) useKeyLocked(ctx context.Context) error {
	if err := m.applyLocked(ctx, m.peers, true); err != nil {
		return err
	}
	d, err := m.deviceLocked(ctx)
	if err != nil {
		return err
	}
	var off, on wgtypes.Config
	for _, p := range d.Peers {
		other := Keepalive
		if p.PersistentKeepaliveInterval != 0 {
			other = 0
		}
		same := p.PersistentKeepaliveInterval
		off.Peers = append(off.Peers, wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true, PersistentKeepaliveInterval: &other})
		on.Peers = append(on.Peers, wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true, PersistentKeepaliveInterval: &same})
	}
	if err := m.configureLocked(ctx, off); err != nil {
		return err
	}
	return m.configureLocked(ctx, on)
}

// confirmLocked ends a change: when everybody who lived has answered to the new key; or undoes it when nobody has.
func (m *Mesh) confirmLocked(ctx context.Context, now time.Time) error {
	d, err := m.deviceLocked(ctx)
	if err != nil {
		return err
	}
	answered := 0
	for _, keys := range m.turn.living {
		if lastHandshake(d, keys).After(m.turn.at) {
			answered++
		}
	}
	age := now.Sub(m.turn.at)
	switch {
	case answered == len(m.turn.living) && age >= leastOld, answered > 0 && age >= mostOld:
		if err := m.keys.settle(); err != nil {
			return err
		}
		m.Log.Info("the mesh key has changed", "key", m.keys.now.PublicKey(), "answered", answered, "lived", len(m.turn.living))
		m.endTurnLocked(nil)
	case answered == 0 && age >= backAfter:
		if err := m.keys.back(); err != nil {
			return err
		}
		m.Log.Error("no peer answers to the new mesh key; the change is undone")
		m.endTurnLocked(orama.Errorf(orama.KindUnavailable, "rotation_undone", "no peer answered to the new key, so the old one is used on; look at 'orama inspector' and try again"))
		return m.useKeyLocked(ctx)
	}
	return nil
}

func (m *Mesh) endTurnLocked(err error) {
	done := m.turn.done
	m.turn = turning{err: err}
	if done != nil {
		close(done)
	}
}
