package turn

import (
	"encoding/binary"
	"net/netip"

	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/turn/wire"
)

// maxICMP bounds how many ICMP errors are read from one relay socket before others have their turn.
const maxICMP = 8

// icmp passes on what the network said of packets that a relay sent, to clients that may hear of that peer (RFC 8656
// section 11.5).
func (w *worker) icmp(s *sock) {
	for range maxICMP {
		e, ok := batch.ReadError(s.fd)
		if !ok {
			return
		}
		if !e.ICMP || !s.relay.hears(e.Peer, w.now) {
			continue
		}
		var v [8]byte // section 18.13: reserved, 7 bits of type and 9 of code, data
		binary.BigEndian.PutUint16(v[2:], uint16(e.Type)<<9|uint16(e.Code))
		binary.BigEndian.PutUint32(v[4:], e.Data)
		out := &w.engine.out
		out.Begin(wire.Data, wire.Indication, w.transaction())
		out.AddAddress(wire.AttrXORPeerAddress, e.Peer)
		out.Add(wire.AttrICMP, v[:])
		w.toClient(s.relay, -1, out.Bytes(), nil, "")
	}
}

// hears reports whether a peer is permitted and inside the fence.
func (r *relay) hears(peer netip.AddrPort, now int64) bool {
	return r.peers.Load().permits(batch.KeyOf(peer).Host(), now) && r.tenant.fence.Allows(peer)
}
