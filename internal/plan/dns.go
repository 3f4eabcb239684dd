package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"orama.network/orama"
)

// recordTTL is how long a resolver may keep a TURN address, in seconds.
const recordTTL = 60

// turnName is the specification's name of a namespace's relays; k = 0 is all of them, k = 1.. the k-th.
func turnName(ns orama.NamespaceID, base string, k int) string {
	if k == 0 {
		return fmt.Sprintf("turn.ns-%s.%s", ns, base)
	}
	return fmt.Sprintf("turn-%d.ns-%s.%s", k, ns, base)
}

// recordNamespace tells whose relay a name belongs to, or "" for a name that is not of turnName's form.
func recordNamespace(name string) orama.NamespaceID {
	host, rest, _ := strings.Cut(name, ".")
	label, _, _ := strings.Cut(rest, ".")
	ns, ok := strings.CutPrefix(label, "ns-")
	if !ok {
		return ""
	}
	if k, numbered := strings.CutPrefix(host, "turn-"); numbered {
		if n, err := strconv.Atoi(k); err != nil || n < 1 {
			return ""
		}
	} else if host != "turn" {
		return ""
	}
	return orama.NamespaceID(ns)
}

// relay is one TURN instance that is to run, with its number among the namespace's.
type relay struct {
	k    int
	node orama.Node
	inst orama.Instance
}

// relaysOf lists a namespace's TURN instances that are to run, by node id. The number does not depend on what was
// observed, so that a name keeps its address while a process restarts.
func relaysOf(c orama.Cluster, ns orama.NamespaceID) []relay {
	var out []relay
	for _, i := range c.Instances {
		if i.Namespace != ns || i.Role != orama.RoleTURN || i.Desired != orama.DesiredRun {
			continue
		}
		if n, ok := nodeOf(c, i.Node); ok {
			out = append(out, relay{node: n, inst: i})
		}
	}
	slices.SortFunc(out, func(a, b relay) int { return cmp.Compare(a.node.ID, b.node.ID) })
	for i := range out {
		out[i].k = i + 1
	}
	return out
}

func (r relay) ready() bool { return r.inst.Observed.State == orama.StateReady }

// DNS decides which relay addresses to publish and which to withdraw. A relay is published once it was seen ready.
// As long as a namespace is enabled and the name is one of its names, the name's last address stays.
func DNS(c orama.Cluster, baseDomain string) (put, del []orama.DNSRecord) {
	want := map[string][]netip.Addr{} // by name; a name that should exist but has no ready relay is there, empty
	for _, n := range c.Namespaces {
		if n.WebRTC == nil || n.WebRTC.Disabling {
			continue
		}
		for _, r := range relaysOf(c, n.ID) {
			for _, name := range []string{turnName(n.ID, baseDomain, 0), turnName(n.ID, baseDomain, r.k)} {
				addrs := want[name]
				if r.ready() && !slices.Contains(addrs, r.node.PublicIP) {
					addrs = append(addrs, r.node.PublicIP)
				}
				want[name] = addrs
			}
		}
	}
	have := map[string][]netip.Addr{}
	for _, r := range c.DNS {
		if recordNamespace(r.Name) == "" {
			continue // not one of ours
		}
		addrs, known := want[r.Name]
		keepLast := known && len(addrs) == 0
		if keepLast || slices.Contains(addrs, r.Value) && r.TTL == recordTTL {
			have[r.Name] = append(have[r.Name], r.Value)
		} else if !slices.Contains(addrs, r.Value) {
			del = append(del, r)
		}
	}
	for name, addrs := range want {
		for _, a := range addrs {
			if !slices.Contains(have[name], a) {
				put = append(put, orama.DNSRecord{Name: name, Value: a, TTL: recordTTL})
			}
		}
	}
	sortRecords(put)
	sortRecords(del)
	return put, del
}

func sortRecords(rs []orama.DNSRecord) {
	slices.SortFunc(rs, func(a, b orama.DNSRecord) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Value.Compare(b.Value))
	})
}
