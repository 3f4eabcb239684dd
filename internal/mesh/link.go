package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MTU of the interface, in bytes: 1500 less what WireGuard adds to a packet inside IPv6.
const MTU = 1420

// errNoKernel: this kernel has no WireGuard.
var errNoKernel = errors.New("this kernel has no WireGuard")

// links is what we ask of the kernel about interfaces, in this process's network namespace.
type links interface {
	// create makes a WireGuard interface in the kernel; errNoKernel where it cannot.
	create(name string) error
	// exists says whether there is an interface of that name.
	exists(name string) (bool, error)
	// shape gives the interface its address, and no other of the same family, its MTU, and sets it up.
	shape(name string, address netip.Prefix) error
	// up says whether the interface is up and has the address.
	up(name string, address netip.Addr) (bool, error)
}

// kernel is links for real.
type kernel struct{}

func (kernel) create(name string) error {
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: MTU}})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return errNoKernel
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("making an interface needs CAP_NET_ADMIN: %w", err)
	}
	return err
}

func (kernel) exists(name string) (bool, error) {
	_, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	return err == nil, err
}

func (kernel) shape(name string, address netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	want := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}}
	have, err := addresses(link, address.Addr())
	if err != nil {
		return err
	}
	there := false
	for _, a := range have {
		if a.Equal(*want) {
			there = true
			continue
		}
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("address %s: %w", a.IPNet, err)
		}
	}
	if !there {
		if err := netlink.AddrReplace(link, want); err != nil {
			return fmt.Errorf("address %s: %w", address, err)
		}
	}
	if link.Attrs().MTU != MTU {
		if err := netlink.LinkSetMTU(link, MTU); err != nil {
			return err
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return netlink.LinkSetUp(link)
	}
	return nil
}

func (kernel) up(name string, address netip.Addr) (bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, err
	}
	have, err := addresses(link, address)
	if err != nil {
		return false, err
	}
	for _, a := range have {
		if a.IP.Equal(address.AsSlice()) {
			return link.Attrs().Flags&net.FlagUp != 0, nil
		}
	}
	return false, nil
}

func addresses(link netlink.Link, family netip.Addr) ([]netlink.Addr, error) {
	f := netlink.FAMILY_V4
	if family.Is6() {
		f = netlink.FAMILY_V6
	}
	return netlink.AddrList(link, f)
}

// canBind reports whether an address is this host's.
func canBind(a netip.Addr) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return err
	}
	return c.Close()
}
