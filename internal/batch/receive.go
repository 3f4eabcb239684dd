package batch

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Slots is how many datagrams, or trains of them, a Receiver holds: enough that the packets of one flow meet in it under
	// load, and go on as a train.
	Slots = 256
	// Headroom is free before each of them, in bytes, for whoever puts a header there.
	Headroom = 64
	// slotSize is the most that GRO puts together, in bytes: what an IP packet can carry.
	slotSize = 1 << 16
)

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// Receiver holds what was received.
type Receiver struct {
	msgs  [Slots]mmsghdr
	iovs  [Slots]unix.Iovec
	names [Slots]Addr
	ctrls [Slots][64]byte
	bufs  []byte
	used  int
}

// NewReceiver makes one. Its 16 MB of buffers are touched only as far as datagrams are long.
func NewReceiver() *Receiver {
	r := &Receiver{bufs: make([]byte, Slots*(Headroom+slotSize))}
	for i := range r.msgs {
		r.iovs[i].Base = &r.bufs[i*(Headroom+slotSize)+Headroom]
		r.iovs[i].SetLen(slotSize)
		h := &r.msgs[i].Msghdr
		h.Name, h.Iov, h.Control = &r.names[i].raw[0], &r.iovs[i], &r.ctrls[i][0]
		h.SetIovlen(1)
	}
	return r
}

// Packet is one datagram, or several of one sender that the kernel put together.
type Packet struct {
	From *Addr
	// Whole has Headroom bytes before the data.
	Whole []byte
	Data  []byte
	// Segment is the length of each datagram but the last, which may be shorter; 0 means that Data is one.
	Segment int
	// Arrived is when the kernel had it, in Unix ns; 0: it was not asked to say (Stamp).
	Arrived int64
}

// Free is how many slots are left.
func (r *Receiver) Free() int { return Slots - r.used }

// Reset makes all slots free.
func (r *Receiver) Reset() { r.used = 0 }

// Receive takes what waits on a socket, at most so many, into free slots, and says which slots are filled: [first, end).
// It never blocks; what can be wrong is temporary, and means that nothing came.
func (r *Receiver) Receive(fd, most int) (first, end int) {
	first = r.used
	most = min(most, Slots-first)
	if most <= 0 {
		return first, first
	}
	for i := first; i < first+most; i++ {
		h := &r.msgs[i].Msghdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(len(r.ctrls[i]))
	}
	for range 4 { // an error that is reported once (such as ECONNREFUSED of an earlier send) hides what waits
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.msgs[first])), uintptr(most), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.used += int(n)
			return first, r.used
		case unix.EAGAIN, unix.EBADF, unix.ENOTSOCK:
			return first, first
		}
	}
	return first, first
}

// Packet gives the contents of a slot. ok is false for what was cut short.
func (r *Receiver) Packet(i int) (p Packet, ok bool) {
	m := &r.msgs[i]
	at := i * (Headroom + slotSize)
	p.Whole = r.bufs[at : at+Headroom+int(m.n)]
	p.Data = p.Whole[Headroom:]
	p.From = &r.names[i]
	p.From.len = m.Namelen
	if m.Controllen > 0 {
		p.Segment, p.Arrived = control(r.ctrls[i][:m.Controllen])
	}
	if p.Segment >= len(p.Data) {
		p.Segment = 0
	}
	return p, m.Flags&unix.MSG_TRUNC == 0
}

// control reads the control messages of UDP_GRO and SO_TIMESTAMPNS; 0 for what is not there.
func control(b []byte) (segment int, arrived int64) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		if h.Len < unix.SizeofCmsghdr || uint64(h.Len) > uint64(len(b)) {
			break
		}
		data := b[unix.CmsgLen(0):int(h.Len)] //nolint:gosec // at most len(b)
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			arrived = (*unix.Timespec)(unsafe.Pointer(&data[0])).Nano()
		}
		b = b[min(len(b), unix.CmsgSpace(len(data))):]
	}
	return segment, arrived
}
