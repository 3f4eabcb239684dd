package batch

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PassHead stands before a datagram that is passed on: who sent it (a sockaddr), that address's length, and the length of each
// datagram where the kernel had put several together. In bytes.
const PassHead = 40

const (
	passLen     = unix.SizeofSockaddrInet6
	passSegment = passLen + 4
)

// Pair makes a way for datagrams from one process to another that shares a socket with it: what Pass puts into ours comes out
// of theirs, whole and in order, and the end of the one is seen by the other.
func Pair(buffer int) (ours, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	if unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer) != nil {
		unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, buffer) //nolint:errcheck // works with less
	}
	return fds[0], fds[1], nil
}

// Dup gives a second descriptor of what fd is.
func Dup(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return n, os.NewSyscallError("fcntl", err)
}

// Pass puts a received packet into a Pair; false means that there was no room, or nobody reads. It never blocks, and writes
// into the packet's headroom.
func Pass(fd int, p *Packet) bool {
	return PassFrom(fd, p.From, p.Segment, p.Whole[Headroom-PassHead:])
}

// PassFrom is Pass for a datagram that lies behind PassHead bytes of room.
func PassFrom(fd int, from *Addr, segment int, roomy []byte) bool {
	copy(roomy[:passLen], from.raw[:])
	binary.NativeEndian.PutUint32(roomy[passLen:], from.len)
	binary.NativeEndian.PutUint32(roomy[passSegment:], uint32(segment)) //nolint:gosec // a datagram's length
	binary.NativeEndian.PutUint32(roomy[passSegment+4:], 0)
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&roomy[0])), uintptr(len(roomy)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return errno == 0
}

// ReadPass reads what came out of a Pair: who sent the datagram, how long each one in it is (0: it is one), and the rest.
func ReadPass(b []byte) (from Addr, segment int, data []byte, ok bool) {
	if len(b) <= PassHead {
		return from, 0, nil, false
	}
	copy(from.raw[:], b[:passLen])
	from.len = binary.NativeEndian.Uint32(b[passLen:])
	segment, data = int(binary.NativeEndian.Uint32(b[passSegment:])), b[PassHead:]
	if segment >= len(data) {
		segment = 0
	}
	family := from.family()
	return from, segment, data, family == unix.AF_INET && from.len == unix.SizeofSockaddrInet4 || family == unix.AF_INET6 && from.len == unix.SizeofSockaddrInet6
}

// Passed gives the contents of a slot that was received from a Pair. ended says that the other side is gone, and nothing comes after it.
func (r *Receiver) Passed(i int) (p Packet, ok, ended bool) {
	m := &r.msgs[i]
	if m.n == 0 {
		return p, false, true
	}
	at := i * (Headroom + slotSize)
	from, segment, data, ok := ReadPass(r.bufs[at+Headroom : at+Headroom+int(m.n)])
	if !ok || m.Flags&unix.MSG_TRUNC != 0 {
		return p, false, false
	}
	r.names[i] = from
	p.Whole, p.Data, p.From, p.Segment = r.bufs[at+PassHead:at+Headroom+int(m.n)], data, &r.names[i], segment
	return p, true, false
}
