// Package fence is the tenant boundary of the relay: the exact addresses and ports that one
// tenant's relay sockets may talk to, or for a relay that stands alone rules by prefix and port. It uses
// the standard library only, opens no socket and knows no TURN: who moves packets asks for each of them.
package fence

import (
	"fmt"
	"net/netip"
	"sync/atomic"
)

// Set is which peers a tenant may reach. The zero value allows nobody. It may be replaced while
// it is asked: each packet sees either the old set or the new one, never a mixture.
type Set struct {
	table atomic.Pointer[table]
}

// table is immutable once published.
type table struct {
	peers map[netip.AddrPort]struct{}
	ips   map[netip.Addr]struct{}
	rules []compiled
}

// Replace makes allow the whole set. If any entry is one that may never be allowed (see Check)
// nothing is changed and the error says which.
func (s *Set) Replace(allow []netip.AddrPort) error { return s.ReplaceRules(allow, nil) }

// ReplaceRules makes the set what exact and rules allow together. If any of them is one that may never be
// allowed (see Check and CheckRule) nothing is changed and the error says which.
func (s *Set) ReplaceRules(exact []netip.AddrPort, rules []Rule) error {
	t := &table{
		peers: make(map[netip.AddrPort]struct{}, len(exact)),
		ips:   make(map[netip.Addr]struct{}, len(exact)),
	}
	var err error
	if t.rules, err = compile(rules); err != nil {
		return err
	}
	for _, ap := range exact {
		if err := Check(ap); err != nil {
			return err
		}
		ap = normal(ap)
		t.peers[ap] = struct{}{}
		t.ips[ap.Addr()] = struct{}{}
	}
	s.table.Store(t)
	return nil
}

// Check refuses what no tenant may ever be allowed: unspecified, multicast and broadcast
// addresses, addresses with a zone, invalid ones, and port 0.
func Check(ap netip.AddrPort) error {
	ip := ap.Addr().Unmap()
	switch {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "":
	case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
	case ap.Port() == 0:
	default:
		return nil
	}
	return fmt.Errorf("fence: %s may not be allowed", ap)
}

// Allows reports whether exactly this address and port are in the set. IPv4-mapped IPv6
// addresses are the IPv4 addresses they map.
func (s *Set) Allows(ap netip.AddrPort) bool {
	t := s.table.Load()
	return t != nil && t.allows(ap)
}

func (t *table) allows(ap netip.AddrPort) bool {
	if ap.Port() == 0 {
		return false
	}
	ap = normal(ap)
	_, exact := t.peers[ap]
	return exact || t.match(ap.Addr(), ap.Port())
}

// AllowsIP reports whether some port of the address is in the set. It is for permission
// requests, which carry no meaningful port (RFC 8656 section 9.2); packets are still held to
// exact ports.
func (s *Set) AllowsIP(ip netip.Addr) bool {
	t := s.table.Load()
	if t == nil {
		return false
	}
	ip = ip.Unmap()
	if _, ok := t.ips[ip]; ok {
		return true
	}
	return t.match(ip, 0)
}

func normal(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
