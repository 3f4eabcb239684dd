// Package dns makes the base domain's names known: by an authoritative server of our own, or by updates
// pushed to somebody else's. It serves what it is given and nothing else. It is not a resolver, signs nothing
// (no DNSSEC), transfers no zones out, and does not decide which names there are.
package dns

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"orama.network/orama"
)

// Times of the zone, in seconds. Only secondary servers read refresh, retry and expire, and we have none.
const (
	soaTTL     = 3600
	soaRefresh = 3600
	soaRetry   = 600
	soaExpire  = 7 * 24 * 3600
	// negativeTTL is how long a resolver may believe that a name is not there (RFC 2308 section 5): short, because
	// names appear when a namespace is enabled, and somebody may have asked just before.
	negativeTTL = 30
	nsTTL       = 3600
	caaTTL      = 3600
	maxTTL      = 24 * 3600
)

// Zone is everything the server answers for.
type Zone struct {
	Base        string   // the zone's name, such as "example.org"
	Nameservers []string // its NS names; one that lies under Base needs an address among Records
	Serial      uint32   // raised by the server when the content changes and this does not
	Records     []orama.DNSRecord
	TXT         []orama.TXTRecord
	Issuers     []string // CAA: who alone may issue certificates, such as "letsencrypt.org"; none: whoever
}

// zone is a Zone made ready for answering. It is not changed once it serves.
type zone struct {
	apex   string // lower case, with the trailing dot
	serial uint32
	soa    *dns.SOA
	// names holds every name that exists, in canonical form. A name without records is there because
	// something exists below it (an empty non-terminal, RFC 4592 section 2.2.2).
	names map[string]map[uint16][]dns.RR
}

// compile makes a zone. What cannot be served is left out and named in the error; the rest is served.
func compile(in Zone) (*zone, error) {
	apex, err := canonical(in.Base)
	if err != nil {
		return nil, fmt.Errorf("dns: the zone's name: %w", err)
	}
	if len(in.Nameservers) == 0 {
		return nil, fmt.Errorf("dns: zone %s has no name server; a zone needs at least one", in.Base)
	}
	z := &zone{apex: apex, serial: in.Serial, names: map[string]map[uint16][]dns.RR{apex: {}}}
	var bad []error
	for _, r := range in.Records {
		bad = append(bad, z.addAddress(r))
	}
	for _, r := range in.TXT {
		bad = append(bad, z.addTXT(r))
	}
	for _, ns := range in.Nameservers {
		bad = append(bad, z.addNameserver(ns))
	}
	for _, ca := range in.Issuers {
		rr := &dns.CAA{Hdr: header(apex, dns.TypeCAA, caaTTL), Tag: "issue", Value: ca}
		z.add(apex, rr)
	}
	servers := z.names[apex][dns.TypeNS]
	if len(servers) == 0 {
		return nil, errors.Join(append(bad, fmt.Errorf("dns: zone %s has no usable name server", in.Base))...)
	}
	mailbox := "hostmaster." + apex
	if _, ok := dns.IsDomainName(mailbox); !ok {
		mailbox = "." // the longest of base domains leaves no room
	}
	z.soa = &dns.SOA{Hdr: header(apex, dns.TypeSOA, soaTTL), Ns: servers[0].(*dns.NS).Ns, Mbox: mailbox,
		Serial: in.Serial, Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: negativeTTL}
	z.names[apex][dns.TypeSOA] = []dns.RR{z.soa}
	return z, errors.Join(bad...)
}

// canonical gives a name of ordinary labels in lower case with its trailing dot. Escapes and wildcards are refused:
// a name here means itself.
func canonical(name string) (string, error) {
	if name == "" || strings.ContainsAny(name, `\*`) {
		return "", fmt.Errorf("%.80q is not a plain domain name", name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == '"' || c == '(' || c == ')' || c == ';' || c == '@' || c == '$' {
			return "", fmt.Errorf("%.80q is not a plain domain name", name)
		}
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return "", fmt.Errorf("%.80q is not a domain name", name)
	}
	return dns.CanonicalName(name), nil
}

func header(name string, typ uint16, ttl int) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: uint32(min(max(ttl, 0), maxTTL))} //nolint:gosec // bounded
}

func (z *zone) within(name string) (string, error) {
	n, err := canonical(name)
	if err != nil {
		return "", fmt.Errorf("dns: %w", err)
	}
	if !dns.IsSubDomain(z.apex, n) {
		return "", fmt.Errorf("dns: %s is not under %s", name, z.apex)
	}
	return n, nil
}

func (z *zone) addAddress(r orama.DNSRecord) error {
	name, err := z.within(r.Name)
	if err != nil {
		return err
	}
	if !r.Value.IsValid() || r.Value.Zone() != "" {
		return fmt.Errorf("dns: %s has no usable address", r.Name)
	}
	z.add(name, address(name, r.Value, r.TTL))
	return nil
}

// address is an A or an AAAA record, as the address is.
func address(name string, a netip.Addr, ttl int) dns.RR {
	if a = a.Unmap(); a.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA, ttl), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: a.AsSlice()}
}

func (z *zone) addTXT(r orama.TXTRecord) error {
	name, err := z.within(r.Name)
	if err != nil {
		return err
	}
	if r.Value == "" || len(r.Value) > 255 {
		return fmt.Errorf("dns: the text at %s has %d bytes; 1 to 255 fit", r.Name, len(r.Value))
	}
	z.add(name, &dns.TXT{Hdr: header(name, dns.TypeTXT, r.TTL), Txt: []string{escape(r.Value)}})
	return nil
}

// escape writes text the way the library keeps it: `\` begins an escape there.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
}

func (z *zone) addNameserver(ns string) error {
	name, err := canonical(ns)
	if err != nil {
		return fmt.Errorf("dns: name server: %w", err)
	}
	if here, ok := z.names[name]; dns.IsSubDomain(z.apex, name) && (!ok || len(here[dns.TypeA])+len(here[dns.TypeAAAA]) == 0) {
		return fmt.Errorf("dns: name server %s has no address", ns)
	}
	z.add(z.apex, &dns.NS{Hdr: header(z.apex, dns.TypeNS, nsTTL), Ns: name})
	return nil
}

// add puts a record at a name once, and makes the names between it and the apex exist.
func (z *zone) add(name string, rr dns.RR) {
	typ := rr.Header().Rrtype
	for n := name; ; {
		if z.names[n] == nil {
			z.names[n] = map[uint16][]dns.RR{}
		}
		if n == z.apex {
			break
		}
		off, _ := dns.NextLabel(n, 0)
		n = n[off:]
	}
	set := z.names[name][typ]
	if slices.ContainsFunc(set, func(have dns.RR) bool { return dns.IsDuplicate(have, rr) }) {
		return
	}
	set = append(set, rr)
	// One set has one time to live (RFC 2181 section 5.2): the least.
	least := slices.MinFunc(set, func(a, b dns.RR) int { return int(a.Header().Ttl) - int(b.Header().Ttl) }).Header().Ttl
	for _, r := range set {
		r.Header().Ttl = least
	}
	z.names[name][typ] = set
}

// same reports whether two zones answer alike but for the serial.
func (z *zone) same(o *zone) bool {
	if o == nil || z.apex != o.apex || len(z.names) != len(o.names) {
		return false
	}
	text := func(z *zone) []string {
		var out []string
		for name, types := range z.names {
			out = append(out, name)
			for typ, set := range types {
				if typ == dns.TypeSOA {
					continue
				}
				for _, rr := range set {
					out = append(out, rr.String())
				}
			}
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(text(z), text(o))
}

// withSerial is the zone under another serial.
func (z *zone) withSerial(serial uint32) *zone {
	soa := *z.soa
	soa.Serial = serial
	out := &zone{apex: z.apex, serial: serial, soa: &soa, names: maps.Clone(z.names)}
	out.names[z.apex] = maps.Clone(z.names[z.apex])
	out.names[z.apex][dns.TypeSOA] = []dns.RR{&soa}
	return out
}
