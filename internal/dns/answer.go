package dns

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// udpSize is the largest datagram we send: it crosses every ordinary path in one piece (DNS Flag Day 2020).
	udpSize = 1232
	// maxExtra is how many additional records a query may have: an OPT and a signature.
	maxExtra = 2
)

// reply answers one message as received, or gives nil where nothing must be sent. Over UDP the answer is
// no longer than the client can take. A slip asks the client to come again over TCP, whatever it asked.
func (z *zone) reply(query []byte, udp, slip bool) []byte {
	if len(query) < headerSize || query[2]&0x80 != 0 { // no answer to an answer, or two servers talk for ever
		return nil
	}
	if opcode := int(query[2]>>3) & 0xf; opcode != dns.OpcodeQuery {
		return bare(query, dns.RcodeNotImplemented)
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(query[4+2*i:])) }
	if count(0) != 1 || count(1) != 0 || count(2) != 0 || count(3) > maxExtra {
		return bare(query, dns.RcodeFormatError)
	}
	var q dns.Msg
	if err := q.Unpack(query); err != nil || len(q.Question) != 1 { // the library lets a header alone promise a question
		return bare(query, dns.RcodeFormatError)
	}
	limit := dns.MaxMsgSize - 1
	if udp {
		limit = dns.MinMsgSize
	}
	m := new(dns.Msg)
	m.SetReply(&q)
	m.Question = q.Question // as it was written: resolvers check the case they sent
	opt, ok := edns(&q)
	switch {
	case !ok:
		return bare(query, dns.RcodeFormatError)
	case opt != nil:
		m.SetEdns0(udpSize, opt.Do()) // DO is copied (RFC 3225 section 3), though nothing is signed
		if udp {
			limit = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
	}
	switch {
	case opt != nil && opt.Version() != 0:
		m.Rcode = dns.RcodeBadVers // RFC 6891 section 6.1.3
	case slip:
		m.Truncated = true
	default:
		z.answer(m)
	}
	m.Truncate(limit)
	m.Compress = true
	out, err := m.Pack()
	if err != nil || len(out) > limit {
		return bare(query, dns.RcodeServerFailure)
	}
	return out
}

// edns finds the query's OPT record; false when it is not as RFC 6891 section 6.1.1 wants it.
func edns(q *dns.Msg) (*dns.OPT, bool) {
	var opt *dns.OPT
	for _, rr := range q.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			if opt != nil || o.Hdr.Name != "." {
				return nil, false
			}
			opt = o
		}
	}
	return opt, true
}

// bare is an answer of a header alone, for a query that is better not repeated.
func bare(query []byte, rcode int) []byte {
	out := make([]byte, headerSize)
	copy(out, query[:2])
	out[2] = 0x80 | query[2]&0x79 // an answer, with the query's opcode and RD
	out[3] = byte(rcode)          //nolint:gosec // a constant below 16
	return out
}

// answer fills m for its question.
func (z *zone) answer(m *dns.Msg) {
	q := m.Question[0]
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY:
		m.Rcode = dns.RcodeRefused
		return
	}
	name := dns.CanonicalName(q.Name)
	switch {
	case z == nil:
		m.Rcode = dns.RcodeServerFailure // nothing is known yet: let the resolver ask another of the servers
		return
	case q.Qclass != dns.ClassINET, !dns.IsSubDomain(z.apex, name): // version.bind is of class CH
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	types, exists := z.names[name]
	if exists && q.Qtype == dns.TypeANY {
		// RFC 8482 section 4.2: whoever asks for everything gets next to nothing.
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO, nsTTL), Cpu: "RFC8482"}}
		return
	}
	if set := types[q.Qtype]; len(set) > 0 {
		m.Answer = rotated(set, q.Name)
		if q.Qtype == dns.TypeNS {
			m.Extra = append(z.glue(set), m.Extra...)
		}
		return
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	soa := *z.soa
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl) // RFC 2308 section 3
	m.Ns = []dns.RR{&soa}
}

// rotated copies a set under the name as it was asked, beginning anywhere: clients take the first address.
func rotated(set []dns.RR, name string) []dns.RR {
	out := make([]dns.RR, len(set))
	first := rand.IntN(len(set)) //nolint:gosec // spreads load, guards nothing
	for i, rr := range set {
		c := dns.Copy(rr)
		c.Header().Name = name
		out[(first+i)%len(set)] = c
	}
	return out
}

// glue is the addresses of the name servers that are of this zone.
func (z *zone) glue(servers []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range servers {
		types := z.names[rr.(*dns.NS).Ns]
		out = append(append(out, types[dns.TypeA]...), types[dns.TypeAAAA]...)
	}
	return out
}
