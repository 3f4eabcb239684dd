package batch

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Addr is a socket address as the kernel has it: a sockaddr_in or sockaddr_in6.
type Addr struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uint32
}

// Key is an Addr as a map's key, small and quick to hash. An IPv4-mapped address is that IPv4 address.
type Key struct {
	hi, lo uint64
	port   uint16
}

// mapped begins an IPv4-mapped IPv6 address, in the upper half of a Key's lo.
const mapped = 0xFFFF << 32

// AddrOf gives the kernel's form.
func AddrOf(ap netip.AddrPort) (a Addr) {
	if ip := ap.Addr(); ip.Is4() {
		binary.NativeEndian.PutUint16(a.raw[:], unix.AF_INET)
		v := ip.As4()
		copy(a.raw[4:], v[:])
		a.len = unix.SizeofSockaddrInet4
	} else {
		binary.NativeEndian.PutUint16(a.raw[:], unix.AF_INET6)
		v := ip.As16()
		copy(a.raw[8:], v[:])
		a.len = unix.SizeofSockaddrInet6
	}
	binary.BigEndian.PutUint16(a.raw[2:], ap.Port())
	return a
}

func (a *Addr) family() uint16 { return binary.NativeEndian.Uint16(a.raw[:]) }

// AddrPort gives Go's form.
func (a *Addr) AddrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.raw[2:])
	switch a.family() {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.raw[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a.raw[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// Key gives the key of an address.
func (a *Addr) Key() Key {
	port := binary.BigEndian.Uint16(a.raw[2:])
	if a.family() == unix.AF_INET {
		return Key{0, mapped | uint64(binary.BigEndian.Uint32(a.raw[4:])), port}
	}
	return Key{binary.BigEndian.Uint64(a.raw[8:]), binary.BigEndian.Uint64(a.raw[16:]), port}
}

// KeyOf gives the key of an address in Go's form.
func KeyOf(ap netip.AddrPort) Key {
	v := ap.Addr().As16()
	return Key{binary.BigEndian.Uint64(v[:]), binary.BigEndian.Uint64(v[8:]), ap.Port()}
}

// Host is the key without its port.
func (k Key) Host() Key { return Key{hi: k.hi, lo: k.lo} }

func (a *Addr) sockaddr() unsafe.Pointer { return unsafe.Pointer(&a.raw) }
