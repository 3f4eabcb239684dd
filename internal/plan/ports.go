package plan

import (
	"fmt"
	"net/netip"

	"orama.network/orama"
)

// A space is a range of ports that is given out in blocks of equal size on each mesh address.
type space struct {
	name        string
	first, last int // both belong to the space
	size        int // ports per block
}

// The specification's table of ports. 20 blocks of relay and of media ports limit a node to 20 namespaces.
var (
	relaySpace  = space{"relay", 49152, 65535, 800}
	signalSpace = space{"signalling", 30000, 30099, 1}
	mediaSpace  = space{"media", 20000, 29999, 500}
)

// blocks is how many whole blocks fit: 20 relay, 100 signalling, 20 media.
func (s space) blocks() int { return (s.last - s.first + 1) / s.size }

func (s space) block(i int) orama.PortRange {
	return orama.PortRange{First: uint16(s.first + i*s.size), Count: uint16(s.size)}
}

// full explains to an operator why a node cannot take one more.
func (s space) full() string {
	return fmt.Sprintf("all %d blocks of %s ports %d-%d are taken", s.blocks(), s.name, s.first, s.last)
}

// ports remembers which blocks are taken on which address. Everything that needs a block binds on the
// mesh address, so nodes that share one share its ports.
type ports map[netip.Addr][]orama.PortRange

// portsOf reads what is taken: every instance's blocks, whatever is wanted of it, for a block is free only
// when the row is gone; and what nodes found held by strangers.
func portsOf(c orama.Cluster, busy map[orama.NodeID][]orama.PortRange) ports {
	p := ports{}
	addr := map[orama.NodeID]netip.Addr{}
	for _, n := range c.Nodes {
		addr[n.ID] = n.MeshIP
		p[n.MeshIP] = append(p[n.MeshIP], busy[n.ID]...)
	}
	for _, i := range c.Instances {
		a := addr[i.Node]
		p[a] = append(p[a], i.Ports.Relay, i.Ports.Signal, i.Ports.Media)
	}
	return p
}

// take gives the lowest free block of a space on an address.
func (p ports) take(a netip.Addr, s space) (orama.PortRange, bool) {
	for i := range s.blocks() {
		if b := s.block(i); p.free(a, b) {
			p[a] = append(p[a], b)
			return b, true
		}
	}
	return orama.PortRange{}, false
}

func (p ports) free(a netip.Addr, b orama.PortRange) bool {
	for _, t := range p[a] {
		if overlap(t, b) {
			return false
		}
	}
	return true
}

func overlap(a, b orama.PortRange) bool {
	return int(a.First) < int(b.First)+int(b.Count) && int(b.First) < int(a.First)+int(a.Count)
}

// takeFor gives an instance of a role all the blocks it needs, or says which space is full.
func (p ports) takeFor(role orama.Role, a netip.Addr) (got orama.Ports, full string) {
	var ok bool
	if role == orama.RoleTURN {
		if got.Relay, ok = p.take(a, relaySpace); !ok {
			return orama.Ports{}, relaySpace.full()
		}
		return got, ""
	}
	if got.Signal, ok = p.take(a, signalSpace); !ok {
		return orama.Ports{}, signalSpace.full()
	}
	if got.Media, ok = p.take(a, mediaSpace); !ok {
		return orama.Ports{}, mediaSpace.full()
	}
	return got, ""
}
