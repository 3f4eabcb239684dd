package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Go net.UDPConn, or one socket for every client, would be saturated before the servers are. So all clients share
// one socket, which is bound to a port of every loopback address and names the client's own as the source of each
// datagram (IP_PKTINFO); a batch of different clients is one sendmmsg.
//
// To send and receive a datagram costs the kernel nearly what it costs a good server to pass one on, so every part of
// it counts. Single datagrams are put on the loopback device with their headers, by a packet socket, which spares a
// fifth; the server's socket gets the same. Bursts go by UDP_SEGMENT. BenchmarkGenerator says what comes of it.

const (
	batch       = 32       // messages a system call
	received    = 64 << 10 // bytes of one message received: GRO's limit
	sentAtMost  = 16 << 10 // bytes of one message sent: eight of the largest, and headers
	control     = 128      // bytes of control messages, more than any need
	receiveWish = 32 << 20 // bytes asked of SO_RCVBUF: what is lost here would be counted against a server
)

// wire is one UDP socket, not safe for concurrent use.
type wire struct {
	fd      int
	packets int  // the packet socket, -1 where this user may have none
	whole   bool // messages go with their headers by the packet socket
	bound   netip.AddrPort
	out, in [batch]unix.Mmsghdr
	outIov  [batch]unix.Iovec
	inIov   [batch]unix.Iovec
	to      [batch]unix.RawSockaddrInet4
	outCtl  [batch][control]byte
	inCtl   [batch][control]byte
	sending []byte // batch × sentAtMost
	arrived []byte // batch × received
	sourced bool   // messages name their source
}

// listen binds a socket. With an unspecified address its messages name their source.
func listen(at netip.AddrPort) (*wire, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &wire{fd: fd, packets: packetSocket(), bound: at, sourced: at.Addr().IsUnspecified(), sending: make([]byte, batch*sentAtMost), arrived: make([]byte, batch*received)}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveWish) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveWish)
	}
	// The kernel stamps arrivals, so that latency does not depend on when this process looks.
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	for i := range batch {
		out, in := &w.out[i].Hdr, &w.in[i].Hdr
		out.Iov, in.Iov = &w.outIov[i], &w.inIov[i]
		out.SetIovlen(1)
		in.SetIovlen(1)
		w.inIov[i].Base = &w.arrived[i*received]
		w.inIov[i].SetLen(received)
		in.Control = &w.inCtl[i][0]
	}
	w.shape(0)
	return w, nil
}

// acceptsWhole are lo's settings without which it drops packets that no socket of this host has sent.
var acceptsWhole = []string{"/proc/sys/net/ipv4/conf/lo/route_localnet", "/proc/sys/net/ipv4/conf/lo/accept_local"}

// packetSocket sends whole packets through lo, where it can, or is -1. It hears nothing, having no protocol.
func packetSocket() int {
	for _, path := range acceptsWhole {
		if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) != "1" {
			return -1
		}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	lo, err := net.InterfaceByName("lo")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: lo.Index})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

func (w *wire) close() error {
	if w.packets >= 0 {
		unix.Close(w.packets)
	}
	return unix.Close(w.fd)
}

// shapeWhole has what is sent next be single datagrams by the packet socket, if there is one.
func (w *wire) shapeWhole() {
	w.shape(0)
	if w.packets < 0 {
		return
	}
	w.whole = true
	for i := range batch {
		w.outIov[i].Base = &w.sending[i*sentAtMost]
		h := &w.out[i].Hdr
		h.Name, h.Namelen, h.Control = nil, 0, nil
		h.SetControllen(0)
		b := w.sending[i*sentAtMost:]
		clear(b[:headers])
		b[12], b[13] = 0x08, 0x00 // Ethernet: IPv4
		ip := b[14:]
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_UDP // version and length, don't fragment, hops
	}
}

// shape lays out the control messages of what is sent next: datagrams of segment bytes each, or a message as one
// datagram when segment is 0.
func (w *wire) shape(segment int) {
	w.whole = false
	for i := range batch {
		w.outIov[i].Base = &w.sending[i*sentAtMost+headers]
		w.out[i].Hdr.Name, w.out[i].Hdr.Namelen = (*byte)(unsafe.Pointer(&w.to[i])), uint32(unsafe.Sizeof(w.to[i]))
		ctl := w.outCtl[i][:0]
		if w.sourced {
			ctl = appendControl(ctl, unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, unix.SizeofInet4Pktinfo))
		}
		if segment > 0 {
			ctl = appendControl(ctl, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, uint16(segment)))
		}
		h := &w.out[i].Hdr
		h.Control = nil
		if len(ctl) > 0 {
			h.Control = &ctl[0]
		}
		h.SetControllen(len(ctl))
	}
}

// appendControl adds one control message, padded as CMSG_SPACE is.
func appendControl(to []byte, level, kind int32, value []byte) []byte {
	var h unix.Cmsghdr
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(value)))
	to = append(to, unsafe.Slice((*byte)(unsafe.Pointer(&h)), unix.SizeofCmsghdr)...)
	to = append(to, value...)
	return append(to, make([]byte, unix.CmsgSpace(len(value))-unix.CmsgLen(len(value)))...)
}

// message is the room of message i of the next batch.
func (w *wire) message(i int) []byte { return w.sending[i*sentAtMost+headers : (i+1)*sentAtMost] }

// headers are Ethernet's, IPv4's and UDP's, in bytes.
const headers = 14 + 20 + 8

// address says where message i goes, how long it is, and on a socket of many addresses where it comes from.
func (w *wire) address(i int, to netip.AddrPort, from netip.Addr, length int) {
	port := to.Port()
	if w.whole {
		if !w.sourced {
			from = w.bound.Addr()
		}
		head(w.sending[i*sentAtMost+14:], netip.AddrPortFrom(from, w.bound.Port()), to, length)
		w.outIov[i].SetLen(headers + length)
		return
	}
	w.to[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: to.Addr().As4()}
	w.outIov[i].SetLen(length)
	if w.sourced { // the first control message is IP_PKTINFO: interface, source, destination
		source := from.As4()
		copy(w.outCtl[i][unix.CmsgLen(0)+4:], source[:])
	}
}

// head fills in what differs in the IPv4 and UDP headers. UDP over IPv4 may do without a checksum.
func head(b []byte, from, to netip.AddrPort, length int) {
	source, target := from.Addr().As4(), to.Addr().As4()
	binary.BigEndian.PutUint16(b[2:], uint16(length+28))
	binary.BigEndian.PutUint16(b[10:], 0)
	copy(b[12:], source[:])
	copy(b[16:], target[:])
	var sum uint32
	for k := 0; k < 20; k += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[k:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(length+8))
}

// send gives the first n messages to the kernel and reports how many it took.
func (w *wire) send(n int) (int, error) {
	sent, fd := 0, w.fd
	if w.whole {
		fd = w.packets
	}
	for sent < n {
		k, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&w.out[sent])), uintptr(n-sent), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN, errno == unix.ENOBUFS:
			return sent, nil
		case errno != 0:
			return sent, fmt.Errorf("sendmmsg: %w", errno)
		default:
			sent += int(k)
		}
	}
	return sent, nil
}

// receive calls visit for each datagram that is there, up to one batch of messages, with the time of its arrival in
// Unix nanoseconds. It does not wait.
func (w *wire) receive(visit func(datagram []byte, at int64)) error {
	for i := range batch {
		w.in[i].Hdr.SetControllen(control)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(w.fd), uintptr(unsafe.Pointer(&w.in[0])), batch, 0, 0, 0)
	switch {
	case errno == unix.EAGAIN, errno == unix.EINTR, errno == unix.ECONNREFUSED:
		return nil
	case errno != 0:
		return fmt.Errorf("recvmmsg: %w", errno)
	}
	for i := range int(n) {
		m := w.arrived[i*received:][:w.in[i].Len]
		segment, at := parseControl(w.inCtl[i][:w.in[i].Hdr.Controllen])
		if segment == 0 {
			segment = len(m)
		}
		for len(m) > 0 {
			k := min(segment, len(m))
			visit(m[:k], at)
			m = m[k:]
		}
	}
	return nil
}

// parseControl finds what receive needs: the size of the datagrams put together, 0 of a single one, and the time of arrival.
func parseControl(b []byte) (segment int, at int64) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(b) {
			break
		}
		value := b[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(value) >= 16:
			at = int64(binary.NativeEndian.Uint64(value))*int64(time.Second) + int64(binary.NativeEndian.Uint64(value[8:]))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(value) >= 4:
			segment = int(binary.NativeEndian.Uint32(value))
		}
		b = b[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(b)):]
	}
	return segment, at
}
