package sfu

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"orama.network/orama/internal/batch"
)

const (
	// gather is how long a sender waits for more before it sends: packets of one frame to one peer meet, and go as one train.
	gather = 2 * time.Millisecond
	// enough is how many datagrams are sent without waiting for more.
	enough = 384
	// maxWaiting bounds what one sender has not sent yet, in datagrams: 3 MB. A peer's share is maxWaitingPeer, so that
	// a flood to one leaves room for the others.
	maxWaiting     = 2048
	maxWaitingPeer = 512
	// keptBuffers is how many buffers an idle sender keeps.
	keptBuffers = 512
)

// outbox sends what the peers are sent, in few system calls: as many senders as there are processors, each with a part of
// the peers, so that what one peer is sent stays in order. Whoever puts something there never waits; what finds no room is lost,
// as datagrams may be, and counted.
type outbox struct {
	raw     syscall.RawConn
	lanes   []*lane
	next    atomic.Uint32
	lost    atomic.Uint64 // datagrams that found no room, or that the kernel did not take
	closing chan struct{}
	close   sync.Once
	wg      sync.WaitGroup
}

// lane is one sender.
type lane struct {
	box  *outbox
	wake chan struct{}
	full chan struct{} // enough waits

	mu      sync.Mutex
	waiting []datagram // guarded by mu
	spare   []*[maxPacket]byte
}

// datagram is one that waits.
type datagram struct {
	buf  *[maxPacket]byte
	n    int
	to   *destination
	from *outlet
}

// destination is an address as the kernel has it, and the sender's note of what it last put together for it.
type destination struct {
	at   netip.AddrPort
	addr batch.Addr
	hint batch.Hint // the lane's sender alone
}

// outlet is one peer's place in a lane.
type outlet struct {
	lane    *lane
	waiting int // datagrams; guarded by lane.mu
	to      atomic.Pointer[destination]
}

// newOutbox starts the senders of a socket. close ends them; it must come before the socket is closed.
func newOutbox(conn *net.UDPConn) (*outbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &outbox{raw: raw, closing: make(chan struct{})}
	for range runtime.GOMAXPROCS(0) {
		l := &lane{box: o, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
		o.lanes = append(o.lanes, l)
		o.wg.Go(l.run)
	}
	return o, nil
}

// outlet gives a new peer its place.
func (o *outbox) outlet() *outlet {
	return &outlet{lane: o.lanes[int(o.next.Add(1))%len(o.lanes)]}
}

// stop ends the senders and waits for them. What still waits is lost.
func (o *outbox) stop() {
	o.close.Do(func() { close(o.closing) })
	o.wg.Wait()
}

// put queues a copy of b, and reports whether there was room. It never blocks.
func (u *outlet) put(b []byte, to netip.AddrPort) bool {
	if len(b) > maxPacket {
		u.lane.box.lost.Add(1)
		return false
	}
	buf := u.buffer()
	next := u.send(buf, copy(buf[:], b), to)
	u.lane.keep(next)
	return next != buf
}

// buffer gives one to write a datagram in.
func (u *outlet) buffer() *[maxPacket]byte {
	u.lane.mu.Lock()
	defer u.lane.mu.Unlock()
	return u.lane.bufferLocked()
}

// send queues the first n bytes of buf, which is the lane's from now on, and gives another; where there is no room they are lost, and it gives
// buf back. It never blocks.
func (u *outlet) send(buf *[maxPacket]byte, n int, to netip.AddrPort) (next *[maxPacket]byte) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	d := u.to.Load()
	if d == nil || d.at != to {
		d = &destination{at: to, addr: batch.AddrOf(to)}
		u.to.Store(d)
	}
	l := u.lane
	l.mu.Lock()
	if len(l.waiting) >= maxWaiting || u.waiting >= maxWaitingPeer {
		l.mu.Unlock()
		l.box.lost.Add(1)
		return buf
	}
	next = l.bufferLocked()
	l.waiting = append(l.waiting, datagram{buf, n, d, u})
	u.waiting++
	wait := len(l.waiting)
	l.mu.Unlock()
	switch wait {
	case 1:
		signalOnce(l.wake)
	case enough:
		signalOnce(l.full)
		runtime.Gosched() // on one processor nobody sends while a large room's frame is put here
	}
	return next
}

func (l *lane) bufferLocked() *[maxPacket]byte {
	last := len(l.spare) - 1
	if last < 0 {
		return new([maxPacket]byte)
	}
	buf := l.spare[last]
	l.spare = l.spare[:last]
	return buf
}

// keep takes a buffer back.
func (l *lane) keep(buf *[maxPacket]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepLocked(buf)
}

func (l *lane) keepLocked(buf *[maxPacket]byte) {
	if len(l.spare) < keptBuffers {
		l.spare = append(l.spare, buf)
	}
}

func signalOnce(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run is the sender.
func (l *lane) run() {
	sender := batch.NewSender(enough)
	var taken []datagram
	round := uint32(0)
	flush := func(fd uintptr) {
		lost := sender.Lost
		for i := range taken {
			d := &taken[i]
			for !sender.Add(int(fd), &d.to.addr, &d.to.hint, round, nil, d.buf[:d.n]) { //nolint:gosec // a descriptor
				sender.Flush()
				round++
			}
		}
		sender.Flush()
		round++
		l.box.lost.Add(sender.Lost - lost)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-l.box.closing:
			return
		}
		timer.Reset(gather)
		select {
		case <-timer.C:
		case <-l.full:
		case <-l.box.closing:
			return
		}
		taken = l.take(taken)
		if l.box.raw.Control(flush) != nil {
			return // the socket is closed
		}
		l.give(taken)
	}
}

// take swaps what waits for an empty list.
func (l *lane) take(empty []datagram) []datagram {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.waiting
	l.waiting = empty[:0]
	select {
	case <-l.full: // of what is taken now
	default:
	}
	return taken
}

// give takes the buffers back.
func (l *lane) give(sent []datagram) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range sent {
		sent[i].from.waiting--
		l.keepLocked(sent[i].buf)
		sent[i] = datagram{}
	}
}
