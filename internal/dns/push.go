package dns

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"orama.network/orama"
)

// Provider is somebody else's zone that can be read and changed. Updater is one, Program is another that leads to the
// eighty or so of libdns.
type Provider interface {
	libdns.RecordGetter
	libdns.RecordAppender
	libdns.RecordDeleter
}

// A namespace's names in somebody else's zone are marked as ours by a text below them. What is not marked is never
// changed, though it be called like one of ours.
const (
	markHost = "_orama"
	markText = "kept by orama; remove this and the addresses beside it together"
	markTTL  = 300 * time.Second

	challengeHost = "_acme-challenge" // of orders that ended before they could be cleaned up
)

// Pusher keeps the namespaces' addresses in a zone that others keep the rest of: ns-NAME.BASE, turn.ns-NAME.BASE and
// turn-K.ns-NAME.BASE. BASE itself is the zone's owner's.
type Pusher struct {
	Provider Provider
	Zone     string // that BASE is in
	Base     string
}

// label is one namespace's names in the zone.
type label struct {
	marks  []libdns.Record  // as the zone has them
	have   []libdns.Address // of the names that can be ours
	proofs []libdns.Record  // answers to challenges
	want   []orama.DNSRecord
}

func (l *label) marked() bool { return len(l.marks) > 0 }

// Push makes the zone's addresses what they should be, and says how many records that changed. Nothing is sent when all
// is right, so any node may push as often as it likes. Names outside the namespaces' are passed over. An error of kind
// conflict names a namespace whose names are taken; the others have been seen to.
func (p *Pusher) Push(ctx context.Context, want []orama.DNSRecord) (changed int, err error) {
	have, err := p.Provider.GetRecords(ctx, p.Zone)
	if err != nil {
		return 0, err
	}
	labels := p.sort(have, want)
	var add, del []libdns.Record
	var taken []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		l := labels[name]
		if !l.marked() && len(l.have) > 0 && len(l.want) > 0 {
			taken = append(taken, name)
			continue
		}
		a, d := p.difference(name, l)
		add, del = append(add, a...), append(del, d...)
	}
	// Addresses come before others go, so that a name that only moves is never without one.
	if len(add) > 0 {
		if _, err := p.Provider.AppendRecords(ctx, p.Zone, add); err != nil {
			return 0, err
		}
	}
	if len(del) > 0 {
		if _, err := p.Provider.DeleteRecords(ctx, p.Zone, del); err != nil {
			return len(add), err
		}
	}
	if len(taken) > 0 {
		err = orama.Errorf(orama.KindConflict, "names_taken",
			"the zone %s has addresses at %s that are not ours; remove them, or name the namespace otherwise", p.Zone, strings.Join(taken, ", "))
	}
	return len(add) + len(del), err
}

// sort puts what there is and what there should be to the namespaces' labels.
func (p *Pusher) sort(have []libdns.Record, want []orama.DNSRecord) map[string]*label {
	labels := map[string]*label{}
	at := func(name string) *label {
		if labels[name] == nil {
			labels[name] = &label{}
		}
		return labels[name]
	}
	for _, r := range have {
		name := libdns.AbsoluteName(r.RR().Name, dns.Fqdn(p.Zone))
		host, ns := p.ours(name)
		if ns == "" {
			continue
		}
		switch r := r.(type) {
		case libdns.Address:
			if hostsAddresses(host) {
				at(ns).have = append(at(ns).have, r)
			}
		case libdns.TXT:
			switch {
			case host == markHost && r.Text == markText:
				at(ns).marks = append(at(ns).marks, r)
			case host == challengeHost:
				at(ns).proofs = append(at(ns).proofs, r)
			}
		}
	}
	for _, r := range want {
		if host, ns := p.ours(r.Name); ns != "" && hostsAddresses(host) && r.Value.IsValid() {
			at(ns).want = append(at(ns).want, r)
		}
	}
	return labels
}

// ours takes a name of a namespace apart: the host in it ("" for ns-NAME itself, turn, turn-K, the mark, or the
// challenges') and ns-NAME. ns is "" for all others.
func (p *Pusher) ours(name string) (host, ns string) {
	rest, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), "."+strings.ToLower(p.Base))
	if !ok {
		return "", ""
	}
	ns = rest
	if h, below, ok := strings.Cut(rest, "."); ok {
		host, ns = h, below
	}
	if !strings.HasPrefix(ns, "ns-") || strings.Contains(ns, ".") {
		return "", ""
	}
	if k, numbered := strings.CutPrefix(host, "turn-"); numbered {
		if n, err := strconv.Atoi(k); err == nil && n > 0 {
			return host, ns
		}
		return "", ""
	}
	switch host {
	case "", "turn", markHost, challengeHost:
		return host, ns
	}
	return "", ""
}

func hostsAddresses(host string) bool { return host != markHost && host != challengeHost }

// difference is what to add and to delete at one namespace's names. The mark comes first and goes last.
func (p *Pusher) difference(ns string, l *label) (add, del []libdns.Record) {
	relative := func(name string) string { return libdns.RelativeName(dns.Fqdn(name), dns.Fqdn(p.Zone)) }
	if len(l.want) > 0 && !l.marked() {
		add = append(add, libdns.TXT{Name: relative(markHost + "." + ns + "." + p.Base), TTL: markTTL, Text: markText})
	}
	var want []libdns.Address
	for _, r := range l.want {
		w := libdns.Address{Name: strings.ToLower(relative(r.Name)), TTL: time.Duration(r.TTL) * time.Second, IP: r.Value.Unmap()}
		if contains(want, w) {
			continue
		}
		want = append(want, w)
		if !contains(l.have, w) {
			add = append(add, w)
		}
	}
	if !l.marked() {
		return add, nil
	}
	for _, h := range l.have {
		if !contains(want, h) {
			del = append(del, h)
		}
	}
	if len(want) == 0 {
		del = append(append(del, l.proofs...), l.marks...) // with the TTL that the zone gave them: deletion goes by it, too
	}
	return add, del
}

// contains compares without the TTL: providers round it.
func contains(all []libdns.Address, a libdns.Address) bool {
	return slices.ContainsFunc(all, func(b libdns.Address) bool { return strings.EqualFold(a.Name, b.Name) && a.IP.Unmap() == b.IP.Unmap() })
}
