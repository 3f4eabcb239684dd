package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
)

const (
	// gatewayMissed is how long after its last beat a node's gateway is still published: seven beats.
	gatewayMissed = 15 * time.Second
	// nameserverTTL is long: the zone above ours holds the same addresses and is changed by hand.
	nameserverTTL = 3600
)

// HostName is one node's own name, NODE.BASE, for who must reach this gateway and no other; "" for a node whose id is no
// host name, or could be a namespace's or a name server's.
func HostName(id orama.NodeID, baseDomain string) string {
	label := strings.ToLower(string(id))
	if !isLabel(label) || strings.HasPrefix(label, "ns-") || strings.HasPrefix(label, "dns-") || label == "turn" || strings.HasPrefix(label, "turn-") {
		return ""
	}
	return label + "." + baseDomain
}

// Hosts are the names of the base domain that follow from the nodes rather than from anything committed. The base
// domain and each namespace's ns-NAME lead to the gateway of every node that beat lately, NODE to that node alone; when none did, of
// all nodes, because an address that may answer is better than none.
func Hosts(c orama.Cluster, baseDomain string, now time.Time) []orama.DNSRecord {
	var live, all []netip.Addr
	for _, n := range c.Nodes {
		if !n.PublicIP.IsValid() {
			continue
		}
		if !slices.Contains(all, n.PublicIP) {
			all = append(all, n.PublicIP)
		}
		if now.Sub(n.Heartbeat) <= gatewayMissed && !slices.Contains(live, n.PublicIP) {
			live = append(live, n.PublicIP)
		}
	}
	if len(live) == 0 {
		live = all
	}
	names := []string{baseDomain}
	for _, n := range c.Namespaces {
		names = append(names, "ns-"+string(n.ID)+"."+baseDomain)
	}
	var out []orama.DNSRecord
	for _, n := range c.Nodes {
		if name := HostName(n.ID, baseDomain); name != "" && n.PublicIP.IsValid() {
			out = append(out, orama.DNSRecord{Name: name, Value: n.PublicIP, TTL: recordTTL})
		}
	}
	for _, name := range names {
		for _, a := range live {
			out = append(out, orama.DNSRecord{Name: name, Value: a, TTL: recordTTL})
		}
	}
	sortRecords(out)
	return out
}

// Nameservers are the base domain's NS names with the addresses of those that lie under it. Configured names are given
// the nodes in the order of their ids, beginning again where there are more names than nodes. Without any, each
// node is one, called dns-NODE: ns-NODE would be the gateway name of a namespace that is called like a node.
// They do not follow heartbeats: the zone above holds the same addresses, and resolvers pass over a server that is silent.
func Nameservers(c orama.Cluster, baseDomain string, configured []string) (names []string, hosts []orama.DNSRecord) {
	nodes := slices.DeleteFunc(slices.Clone(c.Nodes), func(n orama.Node) bool { return !n.PublicIP.IsValid() })
	slices.SortFunc(nodes, func(a, b orama.Node) int { return cmp.Compare(a.ID, b.ID) })
	if len(configured) == 0 {
		for _, n := range nodes {
			if label := strings.ToLower(string(n.ID)); isLabel("dns-" + label) {
				configured = append(configured, "dns-"+label+"."+baseDomain)
			}
		}
	}
	next := 0
	for _, name := range configured {
		name = strings.TrimSuffix(name, ".")
		if strings.HasSuffix(strings.ToLower(name), "."+strings.ToLower(baseDomain)) {
			if len(nodes) == 0 {
				continue
			}
			hosts = append(hosts, orama.DNSRecord{Name: name, Value: nodes[next%len(nodes)].PublicIP, TTL: nameserverTTL})
			next++
		}
		names = append(names, name)
	}
	return names, hosts
}

// isLabel reports whether a text is one label of a host name (RFC 1123 section 2.1).
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || strings.HasSuffix(s, "-") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

// CertificateNames are the host names that clients verify: the gateways', and all relays' of each namespace that is
// enabled. Each is to have its certificate.
func CertificateNames(c orama.Cluster, baseDomain string) []string {
	names := []string{baseDomain, "*." + baseDomain}
	for _, n := range c.Namespaces {
		if n.WebRTC != nil && !n.WebRTC.Disabling {
			names = append(names, "*.ns-"+string(n.ID)+"."+baseDomain)
		}
	}
	slices.Sort(names[2:])
	return names
}
