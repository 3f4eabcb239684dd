package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"orama.network/orama"
)

// How TURN servers are named to clients. A local cluster's addresses have no names that a browser could resolve.
const (
	StyleIP   = "ip"
	StyleName = "name"
)

// Transports that a client may ask for in ?transports=.
const (
	TransportUDP  = "udp"
	TransportTCP  = "tcp"
	TransportTLS  = "tls"
	TransportDTLS = "dtls"
)

// Servers lists how clients reach a namespace's relays, fastest first: those that were seen ready, or all that
// are to run when none was. BaseDomain and URLStyle of l are used.
func Servers(c orama.Cluster, ns orama.NamespaceID, l Local) []orama.TURNServer {
	rs := relaysOf(c, ns)
	if ready := slices.DeleteFunc(slices.Clone(rs), func(r relay) bool { return !r.ready() }); len(ready) > 0 {
		rs = ready
	}
	if len(rs) == 0 {
		return nil
	}
	named := make([]string, 0, len(rs)) // per relay, for TLS: browsers take no certificate for an address
	plain := make([]string, 0, len(rs)+1)
	if l.URLStyle == StyleName {
		plain = append(plain, turnName(ns, l.BaseDomain, 0)+":3478")
	}
	for _, r := range rs {
		host := turnName(ns, l.BaseDomain, r.k)
		named = append(named, host)
		if l.URLStyle == StyleName {
			plain = append(plain, host+":3478")
		} else {
			plain = append(plain, netip.AddrPortFrom(r.node.PublicIP, 3478).String())
		}
	}
	secure := named
	if l.URLStyle == StyleName {
		secure = append([]string{turnName(ns, l.BaseDomain, 0)}, named...)
	}
	return list(plain, named, secure, l.URLStyle == StyleName, l.NoTCP443)
}

// list writes the URLs (RFC 7065). 5349 and DTLS are only for who asks: Chromium and Firefox speak
// TLS over TCP to `turns:HOST:443?transport=udp`, and each further URL costs a browser an allocation.
func list(plain, named, secure []string, tlsByDefault, noTCP443 bool) []orama.TURNServer {
	var out []orama.TURNServer
	add := func(transport, format string, def bool, hosts []string) {
		for _, h := range hosts {
			out = append(out, orama.TURNServer{URL: fmt.Sprintf(format, h), Transport: transport, Default: def})
		}
	}
	add(TransportUDP, "turn:%s?transport=udp", true, plain)
	add(TransportDTLS, "turns:%s:443?transport=udp", false, named)
	add(TransportTCP, "turn:%s?transport=tcp", true, plain)
	if noTCP443 {
		add(TransportTLS, "turns:%s:5349?transport=tcp", tlsByDefault, secure)
		return out
	}
	add(TransportTLS, "turns:%s:5349?transport=tcp", false, named)
	add(TransportTLS, "turns:%s:443?transport=tcp", tlsByDefault, secure)
	return out
}

// Select gives the URLs for a client that asked for some transports, or the default ones for a client that
// asked for none. The order stays.
func Select(servers []orama.TURNServer, transports []string) []string {
	urls := []string{}
	for _, s := range servers {
		if len(transports) == 0 && s.Default || slices.Contains(transports, s.Transport) {
			urls = append(urls, s.URL)
		}
	}
	return urls
}
