package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A pion client that decrypts what it receives spends as much on a packet as the server that sends it, so the load
// would be saturated before the servers are. Here ICE, DTLS, RTCP and relays are pion's, but a packet of media goes no
// further than this socket: its header, which SRTP leaves in the clear, says all that is counted. Few people hand
// theirs on to pion, for the latency that is in the payload (person.probe).
//
// All people share one socket, which is bound to a port of every loopback address; each has an address of its own,
// named as the source of what it sends (IP_PKTINFO) and found as the target of what it gets. So one system call
// receives for many. UDP_GRO is off: trains are cut at the sender's cost, as a network device without that would.

const (
	peoplePort  = 9000
	mostPeople  = 1 << 13
	batch       = 64
	largest     = 2048     // bytes of a datagram
	control     = 128      // bytes of control messages, more than any need
	receiveWish = 64 << 20 // bytes asked of SO_RCVBUF: what is lost here would be counted against a server
	waiting     = 256      // datagrams for pion
)

// gathering is for how long arrivals gather when there were few. A reader that waits for each is woken at the cost of who
// sends it, which no network does, and has little time for anything else; the kernel has stamped them anyway.
const gathering = 500 * time.Microsecond

// addressOf gives each person a network (/24) of its own, for servers ration what they answer to one.
func addressOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 64 + byte(i>>8), byte(i), 7}) }

// indexOf is addressOf's opposite.
func indexOf(a []byte) int { return int(a[1]-64)<<8 | int(a[2]) }

// hub is the people's socket.
type hub struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	lines [mostPeople]atomic.Pointer[line]
	names [batch]unix.RawSockaddrInet4
	in    [batch]mmsghdr
	iov   [batch]unix.Iovec
	ctl   [batch][control]byte
	data  []byte // batch × largest
	done  chan struct{}
}

type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// newHub binds a port of every address; 0 is any.
func newHub(port int) (*hub, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	h := &hub{conn: conn, data: make([]byte, batch*largest), done: make(chan struct{})}
	if h.raw, err = conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	var failed error
	err = h.raw.Control(func(at uintptr) {
		fd := int(at)
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveWish) != nil {
			failed = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveWish)
		}
		// The kernel stamps arrivals, so that latency does not depend on when this process looks.
		failed = errors.Join(failed, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1), unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	for i := range batch {
		h.iov[i].Base = &h.data[i*largest]
		h.iov[i].SetLen(largest)
		m := &h.in[i].hdr
		m.Name, m.Iov, m.Control = (*byte)(unsafe.Pointer(&h.names[i])), &h.iov[i], &h.ctl[i][0]
		m.SetIovlen(1)
	}
	go h.run()
	return h, nil
}

func (h *hub) port() uint16 { return h.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (h *hub) run() {
	defer close(h.done)
	for {
		n := 0
		err := h.raw.Read(func(fd uintptr) bool {
			n = h.receive(fd)
			return n > 0
		})
		if err != nil {
			return
		}
		for i := range n {
			to, at := parseControl(h.ctl[i][:h.in[i].hdr.Controllen])
			if to == nil || to[1] < 64 || indexOf(to) >= mostPeople {
				continue
			}
			if l := h.lines[indexOf(to)].Load(); l != nil {
				l.take(h.data[i*largest:][:h.in[i].len], &h.names[i], at)
			}
		}
		if n < batch {
			time.Sleep(gathering)
		}
	}
}

// receive gives how many datagrams were there. It does not wait.
func (h *hub) receive(fd uintptr) int {
	for i := range batch {
		h.in[i].hdr.Namelen = uint32(unsafe.Sizeof(h.names[i]))
		h.in[i].hdr.SetControllen(control)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&h.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// parseControl finds the address that a datagram was sent to, nil without one, and the time of its arrival in Unix nanoseconds.
func parseControl(b []byte) (to []byte, at int64) {
	for len(b) >= unix.SizeofCmsghdr {
		head := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(head.Len)
		if size < unix.SizeofCmsghdr || size > len(b) {
			break
		}
		value := b[unix.CmsgLen(0):size]
		switch {
		case head.Level == unix.SOL_SOCKET && head.Type == unix.SCM_TIMESTAMPNS && len(value) >= 16:
			at = int64(binary.NativeEndian.Uint64(value))*int64(time.Second) + int64(binary.NativeEndian.Uint64(value[8:]))
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_PKTINFO && len(value) >= unix.SizeofInet4Pktinfo:
			to = value[8:12] // ipi_addr
		}
		b = b[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(b)):]
	}
	return to, at
}

// dropped counts what the kernel threw away because this process did not read it in time.
func (h *hub) dropped() (n uint32) {
	const memInfo, drops = 55, 8 // SO_MEMINFO; SK_MEMINFO_DROPS
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	h.raw.Control(func(fd uintptr) { //nolint:errcheck // 0 then
		unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, memInfo, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return info[drops]
}

func (h *hub) close() error {
	err := h.conn.Close()
	<-h.done
	return err
}

// line is one person's end of the socket, as pion sees it: a net.PacketConn without media.
type line struct {
	hub     *hub
	index   int
	local   *net.UDPAddr
	source  []byte // the control message that names it
	media   func(rtp []byte, at int64) (wanted bool)
	in      chan datagram
	ended   chan struct{}
	endOnce sync.Once
}

type datagram struct {
	data []byte
	from *net.UDPAddr
}

// open gives person i its line. media is called for every packet of media, by one goroutine, and says whether pion wants it too.
func (h *hub) open(i int, media func(rtp []byte, at int64) bool) (*line, error) {
	if i >= mostPeople {
		return nil, fmt.Errorf("more than %d people", mostPeople)
	}
	a := addressOf(i)
	l := &line{hub: h, index: i, local: net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, h.port())), media: media,
		in: make(chan datagram, waiting), ended: make(chan struct{})}
	l.source = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	h.lines[i].Store(l)
	return l, nil
}

// take has one datagram, which is the hub's again afterwards.
func (l *line) take(b []byte, from *unix.RawSockaddrInet4, at int64) {
	if rtp := mediaOf(b); rtp != nil && !l.media(rtp, at) {
		return
	}
	port := from.Port<<8 | from.Port>>8
	d := datagram{append([]byte(nil), b...), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(from.Addr), port))}
	select {
	case l.in <- d:
	default: // pion is behind
	}
}

// mediaOf is the RTP packet in a datagram, bare or in a relay's channel data (RFC 8656, section 12.4), or nil.
func mediaOf(b []byte) []byte {
	if len(b) >= 4 && b[0]>>6 == 1 {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if 4+n > len(b) {
			return nil
		}
		b = b[4 : 4+n]
	}
	if len(b) < 12 || b[0]>>6 != 2 || b[1]&0x7f >= 64 && b[1]&0x7f < 96 { // RFC 5761, section 4: those are RTCP
		return nil
	}
	return b
}

// ReadFrom implements net.PacketConn.
func (l *line) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-l.in:
		return copy(b, d.data), d.from, nil
	case <-l.ended:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn.
func (l *line) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not UDP")
	}
	n, _, err := l.hub.conn.WriteMsgUDP(b, l.source, u)
	return n, err
}

// Close implements net.PacketConn.
func (l *line) Close() error {
	l.endOnce.Do(func() {
		l.hub.lines[l.index].CompareAndSwap(l, nil)
		close(l.ended)
	})
	return nil
}

// LocalAddr implements net.PacketConn.
func (l *line) LocalAddr() net.Addr { return l.local }

// SetDeadline does nothing: pion sets deadlines of sockets only to close them.
func (l *line) SetDeadline(time.Time) error { return nil }

// SetReadDeadline is SetDeadline's.
func (l *line) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is SetDeadline's.
func (l *line) SetWriteDeadline(time.Time) error { return nil }
