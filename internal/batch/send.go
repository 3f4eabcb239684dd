package batch

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// pieces is how many parts a message has at most: two for each segment.
	pieces = 2 * segments
	// segments is how many datagrams the kernel takes in one message (UDP_MAX_SEGMENTS was 64 at first).
	segments = 64
	// maxRefused trains in a row mean that the kernel takes none: it is older than 4.18. One way that takes none (no checksums
	// in hardware, a small MTU) is no reason, as long as others do.
	maxRefused = 64
	// trainSize bounds a message in bytes: an IP packet with room for its headers.
	trainSize = 65000
)

// Sender collects datagrams and sends them with as few system calls as it can: those for one socket in one call, and those
// of one size for one destination as one message that the kernel cuts (GSO).
type Sender struct {
	msgs  []mmsghdr
	iovs  [][pieces]unix.Iovec
	ctrls [][24]byte
	state []message
	n     int

	// Plain turns GSO off: every datagram is a message. A Sender turns it on when the kernel has none.
	Plain bool
	// refused counts trains that the kernel did not take since the last one that it took.
	refused int
	// Lost counts datagrams that the kernel did not take.
	Lost uint64
}

// message is what the kernel's header does not say.
type message struct {
	fd      int
	to      *Addr
	seg     int  // of each datagram but the last, in bytes
	size    int  // of all
	count   int  // datagrams
	iov     int  // parts
	settled bool // the last was shorter, so no more fit
}

// NewSender makes one that collects so many messages, each of which may be a train of datagrams, before it must be flushed.
// It takes 2 kB for each.
func NewSender(messages int) *Sender {
	s := &Sender{
		msgs: make([]mmsghdr, messages), iovs: make([][pieces]unix.Iovec, messages), ctrls: make([][24]byte, messages), state: make([]message, messages),
	}
	for i := range s.msgs {
		h := &s.msgs[i].Msghdr
		h.Iov = &s.iovs[i][0]
		c := (*unix.Cmsghdr)(unsafe.Pointer(&s.ctrls[i]))
		c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.SetLen(unix.CmsgLen(2))
	}
	return s
}

// Hint remembers the last message for one destination, so that what follows can join it. The zero value has none.
type Hint struct {
	slot  int // plus one
	round uint32
}

// Add takes one datagram: a head, which may be empty, and a body. Both, and to, must stay as they are until Flush. It
// reports false when there is no room; then Flush, and call again.
func (s *Sender) Add(fd int, to *Addr, h *Hint, round uint32, head, body []byte) bool {
	size := len(head) + len(body)
	if h != nil && h.round == round && h.slot > 0 && !s.Plain {
		if s.join(h.slot-1, fd, to, head, body, size) {
			return true
		}
	}
	if s.n == len(s.msgs) {
		return false
	}
	i := s.n
	s.n++
	s.state[i] = message{fd: fd, to: to, seg: size, size: size, count: 1}
	s.part(i, head)
	s.part(i, body)
	if h != nil {
		h.slot, h.round = i+1, round
	}
	return true
}

func (s *Sender) join(i, fd int, to *Addr, head, body []byte, size int) bool {
	m := &s.state[i]
	if i >= s.n || m.fd != fd || m.to != to || m.settled || size > m.seg || size == 0 || m.count == segments || m.size+size > trainSize {
		return false
	}
	m.size += size
	m.count++
	m.settled = size < m.seg
	s.part(i, head)
	s.part(i, body)
	return true
}

func (s *Sender) part(i int, b []byte) {
	if len(b) == 0 {
		return
	}
	m := &s.state[i]
	v := &s.iovs[i][m.iov]
	v.Base = &b[0]
	v.SetLen(len(b))
	m.iov++
}

// Empty reports whether there is nothing to flush.
func (s *Sender) Empty() bool { return s.n == 0 }

// Discard forgets everything instead.
func (s *Sender) Discard() { s.n = 0 }

// Flush sends everything. What the kernel does not take now is lost, as datagrams may be: nobody waits here.
func (s *Sender) Flush() {
	for first := 0; first < s.n; {
		end := first + 1
		for end < s.n && s.state[end].fd == s.state[first].fd {
			end++
		}
		s.send(first, end)
		first = end
	}
	s.n = 0
}

func (s *Sender) send(first, end int) {
	for i := first; i < end; i++ {
		s.address(i)
	}
	for failed := 0; first < end; {
		n, errno := s.call(first, end)
		if errno == 0 {
			if s.state[first].count > 1 {
				s.refused = 0
			}
			first += n
			failed = 0
			continue
		}
		switch {
		case errno == unix.EINTR:
		case failed == 0 && reported(errno):
			failed++ // an ICMP error of something sent before, told once; this was not sent
		case s.state[first].count > 1 && (errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE || errno == unix.EOPNOTSUPP):
			s.single(first) // no GSO on this way, or segments longer than its MTU
			s.refused++
			s.Plain = s.Plain || s.refused >= maxRefused
			first++
			failed = 0
		default:
			s.Lost += uint64(s.state[first].count) //nolint:gosec // positive
			first++
			failed = 0
		}
	}
}

// address fills in the kernel's header of a message.
func (s *Sender) address(i int) {
	m, h := &s.state[i], &s.msgs[i].Msghdr
	h.Name, h.Namelen = &m.to.raw[0], m.to.len
	h.SetIovlen(m.iov)
	h.Control = nil
	h.SetControllen(0)
	if m.count > 1 {
		binary.NativeEndian.PutUint16(s.ctrls[i][unix.CmsgLen(0):], uint16(m.seg)) //nolint:gosec // below trainSize
		h.Control = &s.ctrls[i][0]
		h.SetControllen(len(s.ctrls[i]))
	}
}

// reported are errors that the kernel keeps from an earlier datagram.
func reported(e unix.Errno) bool {
	return e == unix.ECONNREFUSED || e == unix.EHOSTUNREACH || e == unix.ENETUNREACH || e == unix.EPROTO || e == unix.EHOSTDOWN || e == unix.ENOPROTOOPT
}

// call sends what it can of [first, end) in one system call. A datagram in one piece goes by sendto, for the kernel copies
// three structures less than for sendmsg: a fifth of the cost of a send.
func (s *Sender) call(first, end int) (int, unix.Errno) {
	if m := &s.state[first]; m.count == 1 && m.iov == 1 && end == first+1 {
		v := &s.iovs[first][0]
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(m.fd), uintptr(unsafe.Pointer(v.Base)), uintptr(v.Len),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(m.to.sockaddr()), uintptr(m.to.len))
		return 1, errno
	}
	if end == first+1 {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.state[first].fd), uintptr(unsafe.Pointer(&s.msgs[first])), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return 1, errno
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.state[first].fd), uintptr(unsafe.Pointer(&s.msgs[first])), uintptr(end-first), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// single sends the datagrams of a message one by one.
func (s *Sender) single(i int) {
	m, h := &s.state[i], s.msgs[i].Msghdr
	h.Control = nil
	h.SetControllen(0)
	for at, left := 0, m.size; left > 0; {
		end, size := at, 0
		for end < m.iov && size < min(m.seg, left) {
			size += int(s.iovs[i][end].Len) //nolint:gosec // a datagram's length
			end++
		}
		h.Iov = &s.iovs[i][at]
		h.SetIovlen(end - at)
		if _, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(m.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); errno != 0 {
			s.Lost++
		}
		at, left = end, left-size
	}
}
