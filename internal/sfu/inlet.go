package sfu

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"orama.network/orama/internal/batch"
)

// inlet reads the media socket in few system calls: what waits is taken at once, trains that the kernel put together included. It has
// one reader, pion's mux.
type inlet struct {
	raw  syscall.RawConn
	recv *batch.Receiver

	next, end int // slots of recv that were not looked at
	train     []byte
	segment   int // the length of each datagram in train but the last
	from      netip.AddrPort
	now, at   time.Time  // when fill returned, and when the kernel had what is in train
	sender    batch.Addr // of which from is Go's form
}

// waitedMost is the longest that something can have waited in the socket.
const waitedMost = time.Second

func newInlet(conn *net.UDPConn) (*inlet, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := raw.Control(func(fd uintptr) { batch.Merge(int(fd)); batch.Stamp(int(fd)) }); err != nil { //nolint:gosec // a descriptor
		return nil, err
	}
	return &inlet{raw: raw, recv: batch.NewReceiver()}, nil
}

// read copies the next datagram of somebody that may send to b. What others sent is dropped, and counted at once: there may be nothing to return for long.
// at is when it came to this host.
func (i *inlet) read(b []byte, may func(netip.AddrPort) bool, dropped *atomic.Uint64) (n int, from netip.AddrPort, at time.Time, err error) {
	for {
		if len(i.train) > 0 {
			cut := len(i.train)
			if i.segment > 0 {
				cut = min(i.segment, cut)
			}
			n = copy(b, i.train[:cut])
			i.train = i.train[cut:]
			return n, i.from, i.at, nil
		}
		if i.next == i.end {
			if err := i.fill(); err != nil {
				return 0, netip.AddrPort{}, time.Time{}, err
			}
		}
		p, ok := i.recv.Packet(i.next)
		i.next++
		if !ok || len(p.Data) == 0 {
			continue
		}
		if *p.From != i.sender {
			i.sender, i.from = *p.From, p.From.AddrPort()
		}
		if !may(i.from) {
			dropped.Add(1)
			if p.Segment > 0 {
				dropped.Add(uint64((len(p.Data) - 1) / p.Segment))
			}
			continue
		}
		i.train, i.segment, i.at = p.Data, p.Segment, i.now
		if p.Arrived != 0 { // by another clock, which may be set meanwhile
			i.at = i.now.Add(-min(max(time.Duration(i.now.UnixNano()-p.Arrived), 0), waitedMost))
		}
	}
}

// fill waits until something has come.
func (i *inlet) fill() error {
	i.recv.Reset()
	err := i.raw.Read(func(fd uintptr) bool {
		i.next, i.end = i.recv.Receive(int(fd), batch.Slots) //nolint:gosec // a descriptor
		return i.end > i.next
	})
	i.now = time.Now()
	return err
}
