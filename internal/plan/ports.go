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
	// tolerates is how many ports of a block strangers may hold if no block without them is left. A relay's port is any
	// free one of its block, so that a few less do no harm; of the other blocks the first port is the one that counts.
	tolerates int
}

// The specification's table of ports. 20 blocks of relay and of media ports limit a node to 20 namespaces.
var (
	relaySpace  = space{"relay", 49152, 65535, 800, 80}
	signalSpace = space{"signalling", 30000, 30099, 1, 0}
	mediaSpace  = space{"media", 20000, 29999, 500, 0}
)

// blocks is how many whole blocks fit: 20 relay, 100 signalling, 20 media.
func (s space) blocks() int { return (s.last - s.first + 1) / s.size }

func (s space) block(i int) orama.PortRange {
	return orama.PortRange{First: uint16(s.first + i*s.size), Count: uint16(s.size)}
}

// ports remembers which blocks are taken on which address. Everything that needs a block binds on the
// mesh address, so nodes that share one share its ports.
type ports struct {
	owned map[netip.Addr][]orama.PortRange // by instances
	busy  map[netip.Addr][]orama.PortRange // by strangers, as nodes found them
}

// portsOf reads what is taken: every instance's blocks, whatever is wanted of it, for a block is free only
// when the row is gone; and what nodes found held by strangers.
func portsOf(c orama.Cluster) ports {
	p := ports{map[netip.Addr][]orama.PortRange{}, map[netip.Addr][]orama.PortRange{}}
	addr := map[orama.NodeID]netip.Addr{}
	for _, n := range c.Nodes {
		addr[n.ID] = n.MeshIP
		p.busy[n.MeshIP] = append(p.busy[n.MeshIP], n.Report.Busy...)
	}
	for _, i := range c.Instances {
		a := addr[i.Node]
		p.owned[a] = append(p.owned[a], i.Ports.Relay, i.Ports.Signal, i.Ports.Media)
	}
	return p
}

// find gives the lowest block of a space that nobody holds a port of on an address; or, where the space tolerates
// it, one of those that strangers hold the fewest ports of.
func (p ports) find(a netip.Addr, s space) (orama.PortRange, bool) {
	best, fewest := orama.PortRange{}, s.tolerates+1
	for i := range s.blocks() {
		b := s.block(i)
		if shared(p.owned[a], b) > 0 {
			continue
		}
		if held := shared(p.busy[a], b); held < fewest {
			best, fewest = b, held
		}
		if fewest == 0 {
			break
		}
	}
	return best, best.Count > 0
}

// unowned counts the blocks of a space that no instance has on an address.
func (p ports) unowned(a netip.Addr, s space) (n int) {
	for i := range s.blocks() {
		if shared(p.owned[a], s.block(i)) == 0 {
			n++
		}
	}
	return n
}

// shared counts the ports that b has in common with the ranges, which may count a port more than once.
func shared(ranges []orama.PortRange, b orama.PortRange) (n int) {
	for _, r := range ranges {
		n += max(0, min(end(r), end(b))-max(int(r.First), int(b.First)))
	}
	return n
}

// end is the first port after a range.
func end(r orama.PortRange) int { return int(r.First) + int(r.Count) }

// findFor gives an instance of a role all the blocks it needs, or says which space is full.
func (p ports) findFor(role orama.Role, a netip.Addr) (got orama.Ports, full string) {
	needs := []struct {
		s    space
		into *orama.PortRange
	}{{relaySpace, &got.Relay}}
	if role == orama.RoleSFU {
		needs[0].s, needs[0].into = signalSpace, &got.Signal
		needs = append(needs, needs[0])
		needs[1].s, needs[1].into = mediaSpace, &got.Media
	}
	for _, n := range needs {
		b, ok := p.find(a, n.s)
		if !ok {
			return orama.Ports{}, p.full(a, n.s)
		}
		*n.into = b
	}
	return got, ""
}

// take remembers that an instance has blocks.
func (p ports) take(a netip.Addr, got orama.Ports) {
	p.owned[a] = append(p.owned[a], got.Relay, got.Signal, got.Media)
}

// full explains to an operator why an address cannot have one more.
func (p ports) full(a netip.Addr, s space) string {
	all := fmt.Sprintf("all %d blocks of %s ports %d-%d are taken", s.blocks(), s.name, s.first, s.last)
	if free := p.unowned(a, s); free > 0 {
		return fmt.Sprintf("%s, %d by namespaces and %d by other programs' sockets", all, s.blocks()-free, free)
	}
	return all
}

// Ranges are the ports that instances bind on mesh addresses: over UDP those of relays and of SFUs' media, over TCP
// those of SFUs' signalling.
func Ranges() (udp, tcp []orama.PortRange) {
	whole := func(s space) orama.PortRange {
		return orama.PortRange{First: uint16(s.first), Count: uint16(s.last - s.first + 1)}
	}
	return []orama.PortRange{whole(mediaSpace), whole(relaySpace)}, []orama.PortRange{whole(signalSpace)}
}
