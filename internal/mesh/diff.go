package mesh

import (
	"bytes"
	"net"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// forgotten is after how long without a handshake a session is surely dead: WireGuard's REJECT_AFTER_TIME.
const forgotten = 180 * time.Second

// wanted is what an interface is to be.
type wanted struct {
	private   wgtypes.Key
	port      int
	peers     []peer
	endpoints map[wgtypes.Key]string // that were set last; changed by difference's caller
	keep      bool                   // peers that are not wanted stay
}

// difference works out what to change; false: nothing. A living peer is only ever updated, and an endpoint that it
// roamed to is left alone while its session lives, unless it was told a new one.
func difference(have *wgtypes.Device, w wanted, now time.Time) (cfg wgtypes.Config, changed bool) {
	if have.PrivateKey != w.private {
		cfg.PrivateKey, changed = &w.private, true
	}
	if have.ListenPort != w.port {
		cfg.ListenPort, changed = &w.port, true
	}
	there := map[wgtypes.Key]wgtypes.Peer{}
	for _, p := range have.Peers {
		there[p.PublicKey] = p
	}
	stay := map[wgtypes.Key]bool{}
	for _, p := range w.peers {
		own := owner(p.keys, there)
		// An address moves to its new owner when that one is given it, so the owner comes last.
		for _, k := range append(slices.DeleteFunc(slices.Clone(p.keys), func(k wgtypes.Key) bool { return k == own }), own) {
			stay[k] = true
			if pc, differs := peerDifference(there, k, k == own, p, w.endpoints[k], now); differs {
				cfg.Peers, changed = append(cfg.Peers, pc), true
			}
		}
	}
	for _, p := range have.Peers {
		if !stay[p.PublicKey] && !w.keep {
			cfg.Peers, changed = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: p.PublicKey, Remove: true}), true
		}
	}
	return cfg, changed
}

// owner is the key of a node that its addresses belong to: the one that it used last. Only its holder can finish a
// handshake with a key, and it never goes back to an old one, short of undoing the whole change.
func owner(keys []wgtypes.Key, there map[wgtypes.Key]wgtypes.Peer) wgtypes.Key {
	best := keys[0]
	for _, k := range keys[1:] {
		if there[k].LastHandshakeTime.After(there[best].LastHandshakeTime) {
			best = k
		}
	}
	return best
}

func peerDifference(there map[wgtypes.Key]wgtypes.Peer, k wgtypes.Key, owns bool, p peer, told string, now time.Time) (pc wgtypes.PeerConfig, differs bool) {
	have, known := there[k]
	pc = wgtypes.PeerConfig{PublicKey: k, UpdateOnly: known}
	allowed, keepalive := p.allowed, p.keepalive
	if !owns {
		allowed, keepalive = nil, 0
	}
	if !known || have.PersistentKeepaliveInterval != keepalive {
		pc.PersistentKeepaliveInterval, differs = &keepalive, true
	}
	if !sameNets(have.AllowedIPs, allowed) {
		pc.ReplaceAllowedIPs, pc.AllowedIPs, differs = true, allowed, true
	}
	if p.endpoint != nil && !sameEndpoint(have.Endpoint, p.endpoint) {
		moved := told != "" && told != p.endpoint.String()
		if have.Endpoint == nil || moved || now.Sub(have.LastHandshakeTime) > forgotten {
			pc.Endpoint, differs = p.endpoint, true
		}
	}
	return pc, differs || !known
}

func sameEndpoint(a, b *net.UDPAddr) bool {
	return a != nil && b != nil && a.IP.Equal(b.IP) && a.Port == b.Port
}

func sameNets(a, b []net.IPNet) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y net.IPNet) bool { return x.IP.Equal(y.IP) && bytes.Equal(x.Mask, y.Mask) }) {
			return false
		}
	}
	return true
}
