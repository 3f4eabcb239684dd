package turn

import (
	"net/netip"
	"sync/atomic"
	"time"

	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/fence"
)

const (
	permissionLives = 5 * time.Minute  // RFC 8656 section 9
	channelLives    = 10 * time.Minute // section 12
	// maxPermissions and maxChannels bound what one allocation keeps, and searches for its packets. A client has one SFU.
	maxPermissions = 32
	maxChannels    = 32

	// Channel numbers: RFC 8656 section 12 ends at 0x4FFF, for the sake of what else may share a client's socket. Clients of
	// RFC 5766, coturn's among them, take any up to 0x7FFE; nothing else that comes here begins with those bits.
	firstChannel, lastChannel = 0x4000, 0x7FFE
)

// permission lets an address send to the client.
type permission struct {
	host    batch.Key // of ip
	ip      netip.Addr
	expires atomic.Int64 // Unix ns
}

// channel is a short name for a peer. It belongs to the goroutine that reads its client, but for what says otherwise.
type channel struct {
	number  uint16
	peer    netip.AddrPort
	key     batch.Key
	to      batch.Addr
	sock    *sock
	expires atomic.Int64 // Unix ns
	up      fence.Checked
	down    fence.Checked // the worker's
	hint    batch.Hint
}

// peers are whom a relay may talk to. A list is never changed once published, so that it is read without a lock.
type peers struct {
	permissions []*permission
	channels    []*channel
}

func (p *peers) permission(host batch.Key) *permission {
	for _, x := range p.permissions {
		if x.host == host {
			return x
		}
	}
	return nil
}

// permits reports whether a host has a permission now, in Unix ns.
func (p *peers) permits(host batch.Key, now int64) bool {
	x := p.permission(host)
	return x != nil && x.expires.Load() > now
}

func (p *peers) channel(number uint16) *channel {
	for _, c := range p.channels {
		if c.number == number {
			return c
		}
	}
	return nil
}

func (p *peers) channelOf(key batch.Key) *channel {
	for _, c := range p.channels {
		if c.key == key {
			return c
		}
	}
	return nil
}

// pruned is p without what has expired, with room for more.
func (p *peers) pruned(now int64) *peers {
	next := &peers{}
	for _, c := range p.channels {
		if c.expires.Load() > now {
			next.channels = append(next.channels, c)
		}
	}
	for _, x := range p.permissions {
		if x.expires.Load() > now {
			next.permissions = append(next.permissions, x)
		}
	}
	return next
}

// permit gives every address a permission, or none when they are too many.
func (r *relay) permit(ips []netip.Addr, now int64) bool {
	next := r.peers.Load().pruned(now)
	for _, ip := range ips {
		host := batch.KeyOf(netip.AddrPortFrom(ip, 0))
		if next.permission(host) != nil {
			continue
		}
		x := &permission{host: host, ip: ip}
		x.expires.Store(now + int64(permissionLives))
		next.permissions = append(next.permissions, x)
	}
	if len(next.permissions) > maxPermissions {
		return false
	}
	r.peers.Store(next)
	for _, ip := range ips {
		next.permission(batch.KeyOf(netip.AddrPortFrom(ip, 0))).expires.Store(now + int64(permissionLives))
	}
	r.permitted.Store(true)
	return true
}

// What bind found.
type bound uint8

const (
	boundNow       bound = iota
	boundOtherwise       // the number or the peer is taken by another (RFC 8656 section 12.3: 400)
	boundFull
)

// bind names a peer, or prolongs its name, and permits its address.
func (r *relay) bind(number uint16, peer netip.AddrPort, s *sock, now int64) bound {
	next, key := r.peers.Load().pruned(now), batch.KeyOf(peer)
	c, same := next.channel(number), next.channelOf(key)
	switch {
	case c != same:
		return boundOtherwise
	case c == nil && len(next.channels) >= maxChannels:
		return boundFull
	}
	r.peers.Store(next)
	if !r.permit([]netip.Addr{peer.Addr()}, now) {
		return boundFull
	}
	next = r.peers.Load()
	if c == nil {
		c = &channel{number: number, peer: peer, key: key, to: batch.AddrOf(peer), sock: s}
		next = &peers{permissions: next.permissions, channels: append(next.channels[:len(next.channels):len(next.channels)], c)}
	}
	c.expires.Store(now + int64(channelLives))
	r.peers.Store(next)
	return boundNow
}
