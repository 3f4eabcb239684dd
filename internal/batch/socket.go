package batch

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options are how a socket is opened.
type Options struct {
	ReusePort bool // several sockets share the address, and the kernel spreads the flows over them
	Buffer    int  // asked for in each direction, in bytes; 0: the system's
	Errors    bool // ICMP errors are kept for Errors to read
	Fragment  bool // long datagrams are fragmented, whatever is known of the path (RFC 8656 section 12.4)
}

// Open binds a UDP socket to an address and returns its descriptor, which is non-blocking. Errors are the system's.
func Open(at netip.AddrPort, o Options) (fd int, err error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := prepare(fd, family, at, o); err != nil {
		unix.Close(fd) //nolint:errcheck // the error that led here is told
		return -1, err
	}
	return fd, nil
}

func prepare(fd, family int, at netip.AddrPort, o Options) error {
	six := family == unix.AF_INET6
	if six {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if o.ReusePort {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if o.Buffer > 0 { // works with less
		for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], o.Buffer) != nil {
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], o.Buffer) //nolint:errcheck // see above
			}
		}
	}
	if o.Errors {
		if six {
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1) //nolint:errcheck // works without
		} else {
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) //nolint:errcheck // works without
		}
	}
	if o.Fragment {
		DontFragment(fd, six, false)
	}
	Merge(fd)
	a := AddrOf(at)
	if _, _, e := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(a.sockaddr()), uintptr(a.len)); e != 0 {
		return os.NewSyscallError("bind", e)
	}
	return nil
}

// Merge has the kernel put datagrams of one sender together where it can. Without it, or before Linux 5.0, they come one by one.
func Merge(fd int) { unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) } //nolint:errcheck // see above

// Stamp has the kernel say of each datagram when it came (Packet.Arrived), which is before whoever reads it got a processor.
func Stamp(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) } //nolint:errcheck // works without

// DontFragment says whether what is sent from now on may be fragmented: with yes it is not, and the path's limit is not
// asked for.
func DontFragment(fd int, six, yes bool) {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if six {
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
	}
	if yes {
		value = unix.IP_PMTUDISC_PROBE // the same number for both
	}
	unix.SetsockoptInt(fd, level, option, value) //nolint:errcheck // a hint
}

// Null is a descriptor that takes the place of a socket that is to be closed while others may still use its number:
// what they do with it fails harmlessly. See Replace.
func Null() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return fd, os.NewSyscallError("eventfd", err)
}

// Replace closes the socket behind fd at once, from any goroutine: its port is free, and it is in no epoll. The number
// stays taken, by null, until Close.
func Replace(fd, null int) error {
	for {
		switch err := unix.Dup3(null, fd, unix.O_CLOEXEC); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EBUSY):
		default:
			return fmt.Errorf("batch: %w", os.NewSyscallError("dup3", err))
		}
	}
}

// Close gives a descriptor back.
func Close(fd int) { unix.Close(fd) } //nolint:errcheck // nothing could be done

// Events is an epoll with a way to wake its one waiter.
type Events struct {
	fd, wake int
	ready    [256]unix.EpollEvent
}

// NewEvents makes one.
func NewEvents() (*Events, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd) //nolint:errcheck // the error that led here is told
		return nil, os.NewSyscallError("eventfd", err)
	}
	e := &Events{fd: fd, wake: wake}
	if err := e.Add(wake); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Add has a descriptor waited for, until it is closed or replaced. From any goroutine.
func (e *Events) Add(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)} //nolint:gosec // a descriptor
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &ev))
}

// Wake ends the wait. From any goroutine.
func (e *Events) Wake() {
	one := uint64(1)
	unix.Write(e.wake, (*[8]byte)(unsafe.Pointer(&one))[:]) //nolint:errcheck // full means that it is woken already
}

// Event is a descriptor that can be read, or has an error to be read.
type Event struct {
	FD     int
	Failed bool
}

// Wait blocks until there is something, and calls each for it; woken says whether somebody called Wake.
func (e *Events) Wait(each func(Event)) (woken bool, err error) {
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.ready)), uintptr(len(e.ready)), ^uintptr(0), 0, 0)
	if errno == unix.EINTR {
		return false, nil
	}
	if errno != 0 {
		return false, os.NewSyscallError("epoll_wait", errno)
	}
	for i := range e.ready[:n] {
		ev := &e.ready[i]
		if int(ev.Fd) == e.wake {
			var b [8]byte
			unix.Read(e.wake, b[:]) //nolint:errcheck // non-blocking
			woken = true
			continue
		}
		each(Event{FD: int(ev.Fd), Failed: ev.Events&unix.EPOLLERR != 0})
	}
	return woken, nil
}

// Close ends it.
func (e *Events) Close() {
	unix.Close(e.wake) //nolint:errcheck // nothing could be done
	unix.Close(e.fd)   //nolint:errcheck // nothing could be done
}
