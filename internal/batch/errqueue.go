package batch

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Error is what the kernel keeps of a datagram that did not arrive.
type Error struct {
	Peer       netip.AddrPort // whom it was sent to
	ICMP       bool           // the network said so, and not this host
	Type, Code uint8          // of the ICMP or ICMPv6 message; a type fits 7 bits for all errors of ICMP
	Data       uint32         // the next hop's MTU, where the message has one
}

// ReadError takes the oldest error of a socket that was opened with Options.Errors; ok is false without one.
func ReadError(fd int) (e Error, ok bool) {
	var data [1]byte
	var name Addr
	var ctrl [256]byte
	iov := unix.Iovec{Base: &data[0]}
	iov.SetLen(len(data))
	h := unix.Msghdr{Name: &name.raw[0], Namelen: unix.SizeofSockaddrInet6, Iov: &iov, Control: &ctrl[0]}
	h.SetIovlen(1)
	h.SetControllen(len(ctrl))
	_, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errno != 0 {
		return e, false
	}
	name.len = h.Namelen
	e.Peer = name.AddrPort()
	list, err := unix.ParseSocketControlMessage(ctrl[:h.Controllen])
	if err != nil {
		return e, true
	}
	for _, c := range list {
		if c.Header.Level != unix.IPPROTO_IP && c.Header.Level != unix.IPPROTO_IPV6 || len(c.Data) < 16 ||
			c.Header.Type != unix.IP_RECVERR && c.Header.Type != unix.IPV6_RECVERR {
			continue
		}
		// struct sock_extended_err: errno, origin, type, code, padding, info, data
		origin := c.Data[4]
		e.ICMP = origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6
		e.Type, e.Code = c.Data[5], c.Data[6]
		e.Data = binary.NativeEndian.Uint32(c.Data[8:])
	}
	return e, true
}
