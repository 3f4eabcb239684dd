package turn

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"

	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/turn/wire"
)

// worker is one goroutine that waits for sockets and relays what comes: from the clients of its share of the UDP port, and
// from the peers of its relays. What it reads it sends on before it reads again, so that a packet lies in one buffer from
// the kernel to the kernel. Everything here belongs to it, but for what says otherwise: no lock is shared between clients.
//
// The kernel spreads the clients of one port over the workers by their addresses, and keeps each where it is.
type worker struct {
	srv    *Server
	events *batch.Events
	recv   *batch.Receiver
	send   *batch.Sender
	engine *engine

	doors   []*door
	clients map[batch.Key]*relay
	socks   []*sock // by descriptor
	now     int64   // Unix ns, of this round
	round   uint32  // of the sender: hints of an earlier one mean nothing
	lost    uint64  // of send.Lost, counted already

	heads   []byte    // where the headers of ChannelData are written, until the sender is flushed
	text    []byte    // the same for other messages
	waiting []*outbox // connections whose queues have something new
	ready   []batch.Event
	collect func(batch.Event) // appends to ready
	chance  rand.ChaCha8      // for transaction ids of indications, which nobody answers

	mu    sync.Mutex // guards the following
	tasks []func()
	ended bool
}

// door is a UDP socket that clients send to.
type door struct {
	fd   int
	in   int // what is read: fd, or, while the process before this one still reads that, what it passes on
	pass int // where goes what is of nobody here, to the process after this one; -1: it is ours
}

func newDoor(fd int) *door { return &door{fd: fd, in: fd, pass: -1} }

const (
	headsSize = 16 << 10
	textSize  = 256 << 10
	// socketBuffer is asked for the sockets that UDP clients share: a burst of keyframes to many clients passes through one.
	socketBuffer = 4 << 20
	// fromOne is how many datagrams, or trains of them, are read from one relay socket before the others have their turn.
	fromOne = 16
)

func newWorker(s *Server) (*worker, error) {
	events, err := batch.NewEvents()
	if err != nil {
		return nil, err
	}
	w := &worker{
		srv: s, events: events, recv: batch.NewReceiver(), send: batch.NewSender(batch.Slots), clients: map[batch.Key]*relay{},
		engine: &engine{srv: s, transport: transportUDP, replays: newReplays()},
		heads:  make([]byte, 0, headsSize), text: make([]byte, 0, textSize), round: 1,
		chance: *rand.NewChaCha8([32]byte([]byte(randomHex(16)))),
	}
	w.collect = func(ev batch.Event) { w.ready = append(w.ready, ev) }
	return w, nil
}

// post has the worker do something soon, in order. From any goroutine.
func (w *worker) post(task func()) {
	w.mu.Lock()
	ended := w.ended
	if !ended {
		w.tasks = append(w.tasks, task)
	}
	w.mu.Unlock()
	if ended {
		return
	}
	w.events.Wake()
}

func (d *door) close() {
	batch.Close(d.fd)
	if d.in != d.fd {
		batch.Close(d.in)
	}
	if d.pass >= 0 {
		batch.Close(d.pass)
	}
}

// open listens on an address, beside the other workers.
func (w *worker) open(d *door) error {
	w.doors = append(w.doors, d)
	return w.events.Add(d.in)
}

// inherit reads the socket itself, once the process before has ended.
func (w *worker) inherit(d *door) {
	batch.Close(d.in)
	d.in = d.fd
	if err := w.events.Add(d.fd); err != nil {
		w.srv.log.Error("turn: a listener cannot be read", "err", err)
	}
}

// run works until stop.
func (w *worker) run() {
	for {
		w.ready = w.ready[:0]
		woken, err := w.events.Wait(w.collect)
		if err != nil {
			w.srv.log.Error("turn: a worker has ended", "err", err)
			return
		}
		w.now = w.srv.now().UnixNano()
		for _, ev := range w.ready {
			w.fromRelay(ev)
		}
		for _, ev := range w.ready { // after it: what a peer sent before it was permitted is judged before
			w.fromDoor(ev)
		}
		w.flush()
		if woken && !w.work() {
			return
		}
	}
}

// work does what was posted; false after stop.
func (w *worker) work() bool {
	w.mu.Lock()
	tasks := w.tasks
	w.tasks = nil
	w.mu.Unlock()
	for _, task := range tasks {
		task()
	}
	w.flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.ended
}

// stop ends run, after everything that was posted before.
func (w *worker) stop() {
	w.post(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended = true
	})
}

// close gives back what the worker held. It has ended, or never ran.
func (w *worker) close() {
	for _, d := range w.doors {
		d.close()
	}
	for _, s := range w.socks {
		if s != nil {
			s.release()
		}
	}
	w.events.Close()
}

func (w *worker) fromDoor(ev batch.Event) {
	for _, d := range w.doors {
		if d.in == ev.FD {
			w.fromClients(d)
		}
	}
}

func (w *worker) fromRelay(ev batch.Event) {
	if ev.FD >= len(w.socks) || w.socks[ev.FD] == nil {
		return
	}
	s := w.socks[ev.FD]
	if ev.Failed {
		w.icmp(s)
	}
	w.fromPeers(s)
}

// register makes the worker read a relay's sockets.
func (w *worker) register(r *relay) {
	if r.over.Load() {
		return // its end was posted before
	}
	for _, s := range r.socks {
		for len(w.socks) <= s.fd {
			w.socks = append(w.socks, nil)
		}
		w.socks[s.fd] = s
		if err := w.events.Add(s.fd); err != nil {
			w.srv.log.Error("turn: a relay cannot be read", "port", s.at.Port(), "err", err)
		}
	}
	if r.out == nil {
		w.clients[r.to.Key()] = r
	}
}

// forget lets go of a relay that has ended.
func (w *worker) forget(r *relay) {
	for _, s := range r.socks {
		if s.fd < len(w.socks) && w.socks[s.fd] == s {
			w.socks[s.fd] = nil
		}
		s.release()
	}
	if r.out == nil && w.clients[r.to.Key()] == r {
		delete(w.clients, r.to.Key())
	}
}

// release gives the number of a closed socket back.
func (s *sock) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.gone = true
		batch.Close(s.fd)
	}
}

// flush sends everything that was collected. After it, all buffers are free.
func (w *worker) flush() {
	w.flushSends()
	w.recv.Reset()
}

func (w *worker) flushSends() {
	if !w.send.Empty() {
		w.send.Flush()
		w.round++
		if lost := w.send.Lost; lost != w.lost {
			w.srv.metrics.dropped[dropSocket].Add(float64(lost - w.lost))
			w.lost = lost
		}
	}
	w.heads, w.text = w.heads[:0], w.text[:0]
	for i, o := range w.waiting {
		o.marked = false
		o.signal()
		w.waiting[i] = nil
	}
	w.waiting = w.waiting[:0]
}

func (w *worker) fromClients(d *door) {
	if w.recv.Free() < batch.Slots/2 {
		w.flush()
	}
	var last batch.Key
	var r *relay
	passed := d.in != d.fd
	first, end := w.recv.Receive(d.in, batch.Slots)
	for i := first; i < end; i++ {
		var p batch.Packet
		var ok, ended bool
		if passed {
			p, ok, ended = w.recv.Passed(i)
		} else {
			p, ok = w.recv.Packet(i)
		}
		if ended {
			w.inherit(d)
			return
		}
		if !ok {
			continue
		}
		if key := p.From.Key(); key != last || i == first {
			last = key
			if r = w.clients[key]; r != nil && r.over.Load() {
				r = nil
			}
		}
		if r == nil && d.pass >= 0 {
			if !batch.Pass(d.pass, &p) {
				w.srv.metrics.dropped[dropSocket].Add(float64(datagrams(&p)))
			}
			continue
		}
		if p.Segment == 0 {
			r = w.datagram(d, r, p.From, p.Data)
			continue
		}
		for rest := p.Data; len(rest) > 0; {
			n := min(p.Segment, len(rest))
			r = w.datagram(d, r, p.From, rest[:n])
			rest = rest[n:]
		}
	}
}

// datagram takes what a client sent. It gives the client's relay afterwards.
func (w *worker) datagram(d *door, r *relay, from *batch.Addr, b []byte) *relay {
	if len(b) >= wire.ChannelSize && b[0]>>6 == 1 {
		if r != nil {
			w.up(r, b)
		}
		return r
	}
	if isSend(b) {
		if r != nil {
			w.indication(r, b)
		}
		return r
	}
	a := asker{from: from.AddrPort(), relay: r, seat: func(r *relay) {
		r.worker, r.door, r.to = w, d.fd, *from
	}}
	if answer := w.engine.handle(b, &a); answer != nil {
		w.say(d.fd, from, answer)
	}
	switch {
	case a.relay != nil && a.relay.over.Load():
		return nil
	case a.relay != r:
		w.register(a.relay)
	}
	return a.relay
}

// say sends a message of our own. It is copied; to must stay until the flush.
func (w *worker) say(fd int, to *batch.Addr, b []byte) {
	if len(w.text)+len(b) > cap(w.text) {
		w.flushSends()
	}
	at := len(w.text)
	w.text = append(w.text, b...)
	w.add(fd, to, nil, nil, w.text[at:])
}

func (w *worker) add(fd int, to *batch.Addr, h *batch.Hint, head, body []byte) {
	if !w.send.Add(fd, to, h, w.round, head, body) {
		w.send.Flush() // and not the rest: body may lie in what is still to be sent
		w.round++
		w.send.Add(fd, to, h, w.round, head, body)
	}
}

// up relays ChannelData.
func (w *worker) up(r *relay, b []byte) {
	if c, data := r.onChannel(b, w.now); c != nil {
		w.add(c.sock.fd, &c.to, &c.hint, nil, data)
	}
}

// onChannel finds where ChannelData goes, and counts it; nil for nowhere.
func (r *relay) onChannel(b []byte, now int64) (*channel, []byte) {
	number, data, ok := wire.Channel(b)
	if !ok {
		return nil, nil
	}
	list := r.peers.Load()
	c := list.channel(number)
	switch {
	case c == nil || c.expires.Load() <= now || !list.permits(c.key.Host(), now) || c.sock.dead.Load():
		r.up.unpermitted.Add(1)
	case !c.up.Allows(&r.tenant.fence, c.peer):
		r.up.fenced.Add(1)
	case !r.affords(len(data), now):
		r.up.limited.Add(1)
	default:
		r.up.add(len(data))
		return c, data
	}
	return nil, nil
}

// affords takes a payload out of the quotas of the client and the namespace.
func (r *relay) affords(size int, now int64) bool {
	return r.share.quota.Load().take(size, now) && r.tenant.quota.Load().take(size, now)
}

func (w *worker) indication(r *relay, b []byte) {
	s, to, data, unfragmented, ok := w.engine.sendIndication(b, r, w.now)
	if !ok {
		return
	}
	if !r.affords(len(data), w.now) {
		r.up.limited.Add(1)
		return
	}
	r.up.add(len(data))
	addr := batch.AddrOf(to)
	if unfragmented { // RFC 8656 section 15; rare enough for two system calls
		w.flushSends()
		batch.DontFragment(s.fd, to.Addr().Is6(), true)
		defer batch.DontFragment(s.fd, to.Addr().Is6(), false)
		defer w.flushSends()
	}
	w.add(s.fd, &addr, nil, nil, data)
}

// fromPeers relays what came to a relay's socket.
func (w *worker) fromPeers(s *sock) {
	if w.recv.Free() == 0 {
		w.flush()
	}
	r := s.relay
	first, end := w.recv.Receive(s.fd, min(fromOne, w.recv.Free()))
	for i := first; i < end; i++ {
		p, ok := w.recv.Packet(i)
		if !ok {
			continue
		}
		w.fromPeer(r, &p)
	}
}

func (w *worker) fromPeer(r *relay, p *batch.Packet) {
	key := p.From.Key()
	list := r.peers.Load()
	if !list.permits(key.Host(), w.now) {
		w.stranger(r, p)
		return
	}
	c := list.channelOf(key)
	if c != nil && c.expires.Load() <= w.now {
		c = nil
	}
	if c != nil && !c.down.Allows(&r.tenant.fence, c.peer) || c == nil && !r.tenant.fence.Allows(p.From.AddrPort()) {
		r.down.fenced.Add(uint64(datagrams(p))) //nolint:gosec // positive
		return
	}
	if p.Segment == 0 {
		head := p.Whole[batch.Headroom-wire.ChannelSize:]
		w.toChannel(r, c, p, p.Data, head)
		return
	}
	for at := 0; at < len(p.Data); at += p.Segment {
		w.toChannel(r, c, p, p.Data[at:min(at+p.Segment, len(p.Data))], nil)
	}
}

// toChannel sends the client one datagram of a peer that may, by its channel if it has one. framed is nil, or the datagram
// with room for a header before it.
func (w *worker) toChannel(r *relay, c *channel, p *batch.Packet, data, framed []byte) {
	switch {
	case !r.affords(len(data), w.now):
		r.down.limited.Add(1)
	case c == nil:
		w.downIndication(r, p.From.AddrPort(), data)
	default:
		w.down(r, c, data, framed)
	}
}

// stranger counts what nobody permitted: by the fence if that alone would have kept it out.
func (w *worker) stranger(r *relay, p *batch.Packet) {
	n := uint64(datagrams(p)) //nolint:gosec // positive
	if r.tenant.fence.Allows(p.From.AddrPort()) {
		r.down.unpermitted.Add(n)
	} else {
		r.down.fenced.Add(n)
	}
}

func datagrams(p *batch.Packet) int {
	if p.Segment == 0 {
		return 1
	}
	return (len(p.Data) + p.Segment - 1) / p.Segment
}

// down sends ChannelData to the client. framed is as in toChannel: with it, header and data lie together.
func (w *worker) down(r *relay, c *channel, data, framed []byte) {
	if r.out != nil {
		if !r.out.channel(c.number, data) {
			r.down.limited.Add(1)
			return
		}
		r.down.add(len(data))
		w.wait(r.out)
		return
	}
	r.down.add(len(data))
	head := framed
	if head == nil {
		if len(w.heads)+wire.ChannelSize > cap(w.heads) {
			w.send.Flush()
			w.round++
			w.heads = w.heads[:0]
		}
		w.heads = w.heads[:len(w.heads)+wire.ChannelSize]
		head = w.heads[len(w.heads)-wire.ChannelSize:]
	}
	binary.BigEndian.PutUint16(head, c.number)
	binary.BigEndian.PutUint16(head[2:], uint16(len(data))) //nolint:gosec // a datagram's length
	if framed != nil {
		w.add(r.door, &r.to, &r.hint, nil, framed)
		return
	}
	w.add(r.door, &r.to, &r.hint, head, data)
}

// wait has a connection's writer woken at the flush.
func (w *worker) wait(o *outbox) {
	if !o.marked {
		o.marked = true
		w.waiting = append(w.waiting, o)
	}
}

// downIndication sends a Data indication (RFC 8656 section 11.4).
func (w *worker) downIndication(r *relay, from netip.AddrPort, data []byte) {
	out := &w.engine.out
	head := out.DataHead(w.transaction(), from, len(data))
	w.toClient(r, len(data), head, data, "\x00\x00\x00"[:-len(data)&3])
}

func (w *worker) transaction() []byte {
	var id [12]byte
	w.chance.Read(id[:]) //nolint:errcheck // never fails
	return id[:]
}

// toClient sends a message in parts, and counts its payload, if it has one.
func (w *worker) toClient(r *relay, payload int, head, body []byte, padding string) {
	if r.out != nil {
		if !r.out.put(head, body, padding) {
			r.down.limited.Add(1)
			return
		}
		w.wait(r.out)
	} else {
		n := len(head) + len(body) + len(padding)
		if len(w.text)+n > cap(w.text) {
			w.send.Flush()
			w.round++
			w.text = w.text[:0]
		}
		at := len(w.text)
		w.text = append(append(append(w.text, head...), body...), padding...)
		w.add(r.door, &r.to, nil, nil, w.text[at:])
	}
	if payload >= 0 {
		r.down.add(payload)
	}
}
