package dns

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"orama.network/orama"
)

const (
	// updateTimeout bounds one exchange, and a whole transfer.
	updateTimeout = 15 * time.Second
	tsigFudge     = 300 // seconds by which clocks may differ (RFC 8945 section 10)
	// maxTransfer bounds how many records of a zone are read.
	maxTransfer = 200_000
	// updateBatch is how many records one message carries; it stays below 64 KiB.
	updateBatch = 200
)

// UpdaterOptions say which server takes updates, and with which key.
type UpdaterOptions struct {
	Server    string // host:port, spoken to over TCP
	KeyName   string
	Secret    string // base64
	Algorithm string // "hmac-sha256" (as for "") or "hmac-sha512"
}

// Updater changes the zones of an existing server by dynamic updates (RFC 2136), each signed with a key (TSIG, RFC 8945).
// It is what libdns calls a provider: what it does for one call's records happens as a whole, or, for more than 200 of
// them, 200 at a time.
type Updater struct {
	server, key, algorithm string
	secret                 map[string]string
}

var (
	_ libdns.RecordGetter   = (*Updater)(nil)
	_ libdns.RecordAppender = (*Updater)(nil)
	_ libdns.RecordSetter   = (*Updater)(nil)
	_ libdns.RecordDeleter  = (*Updater)(nil)
)

// LoadKey reads a TSIG secret from a file; one that everybody may read is refused.
func LoadKey(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("dns key: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("dns key: everybody may read %s; chmod o= it", path)
	}
	if info.Size() > 4096 {
		return "", fmt.Errorf("dns key: %s is larger than 4 KiB", path)
	}
	body, err := os.ReadFile(path)
	return strings.TrimSpace(string(body)), err
}

// NewUpdater makes an updater; it does not speak to the server yet.
func NewUpdater(o UpdaterOptions) (*Updater, error) {
	algorithms := map[string]string{"": dns.HmacSHA256, "hmac-sha256": dns.HmacSHA256, "hmac-sha512": dns.HmacSHA512}
	algorithm, ok := algorithms[o.Algorithm]
	if !ok {
		return nil, fmt.Errorf("dns: the key's algorithm %q is not hmac-sha256 or hmac-sha512", o.Algorithm)
	}
	key, err := canonical(o.KeyName)
	if err != nil {
		return nil, fmt.Errorf("dns: the key's name: %w", err)
	}
	if raw, err := base64.StdEncoding.DecodeString(o.Secret); err != nil || len(raw) == 0 {
		return nil, errors.New("dns: the key's secret is not base64") // and is not shown
	}
	return &Updater{server: o.Server, key: key, algorithm: algorithm, secret: map[string]string{key: o.Secret}}, nil
}

// FindZone asks the server which of its zones a name is in.
func (u *Updater) FindZone(ctx context.Context, name string) (string, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeSOA)
	q.RecursionDesired = false
	m, err := u.exchange(ctx, q)
	if err != nil && (m == nil || m.Rcode != dns.RcodeNameError) {
		return "", err
	}
	for _, rr := range append(m.Answer, m.Ns...) {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, dns.Fqdn(name)) {
			return dns.CanonicalName(soa.Hdr.Name), nil
		}
	}
	return "", orama.Errorf(orama.KindNotFound, "no_zone", "the name server %s has no zone for %s", u.server, name)
}

// GetRecords reads a whole zone by a transfer (AXFR, RFC 5936), which the server must allow this key.
func (u *Updater) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	c, err := u.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	q := new(dns.Msg)
	q.SetAxfr(dns.Fqdn(zone))
	q.SetTsig(u.key, u.algorithm, tsigFudge, time.Now().Unix())
	t := &dns.Transfer{Conn: &dns.Conn{Conn: c}, TsigSecret: u.secret, ReadTimeout: updateTimeout, WriteTimeout: updateTimeout}
	in, err := t.In(q, u.server)
	if err != nil {
		return nil, u.failed("transfer of "+zone, err)
	}
	defer func() {
		c.Close()
		for range in { // the sender waits for us
		}
	}()
	var out []libdns.Record
	for e := range in {
		if e.Error != nil {
			return nil, u.failed("transfer of "+zone+" (the server must allow it to the key)", e.Error)
		}
		for _, rr := range e.RR {
			out = append(out, fromRR(zone, rr))
		}
		if len(out) > maxTransfer {
			return nil, fmt.Errorf("dns: zone %s has more than %d records", zone, maxTransfer)
		}
	}
	return out, nil
}

func (u *Updater) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.server)
	if err != nil {
		return nil, u.failed("connection", err)
	}
	return c, nil
}

func (u *Updater) failed(what string, err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "dns_server", Err: err, Message: fmt.Sprintf("name server %s: %s", u.server, what)}
}

// AppendRecords adds records; those that are there already stay as they are, but for the TTL.
func (u *Updater) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	return recs, u.update(ctx, zone, recs, func(m *dns.Msg, rrs []dns.RR) { m.Insert(rrs) })
}

// SetRecords makes the given records the only ones of their names and types.
func (u *Updater) SetRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	if len(recs) > updateBatch {
		return nil, libdns.AtomicErr(fmt.Errorf("dns: at most %d records can be set at once", updateBatch))
	}
	return recs, u.update(ctx, zone, recs, func(m *dns.Msg, rrs []dns.RR) {
		m.RemoveRRset(rrs)
		m.Insert(rrs)
	})
}

// DeleteRecords removes records; those that are not there are none the less gone. A record without data stands for all of
// its name and type.
func (u *Updater) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	return recs, u.update(ctx, zone, recs, func(m *dns.Msg, rrs []dns.RR) {
		for _, rr := range rrs {
			if _, all := rr.(*dns.ANY); all {
				m.RemoveRRset([]dns.RR{rr})
			} else {
				m.Remove([]dns.RR{rr})
			}
		}
	})
}

func (u *Updater) update(ctx context.Context, zone string, recs []libdns.Record, fill func(*dns.Msg, []dns.RR)) error {
	for len(recs) > 0 {
		n := min(len(recs), updateBatch)
		var rrs []dns.RR
		for _, r := range recs[:n] {
			rr, err := toRR(zone, r)
			if err != nil {
				return err
			}
			rrs = append(rrs, rr)
		}
		m := new(dns.Msg)
		m.SetUpdate(dns.Fqdn(zone))
		fill(m, rrs)
		if _, err := u.exchange(ctx, m); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

// exchange signs and sends one message. An answer with a code of failure is an error, and given as well.
func (u *Updater) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	m.SetTsig(u.key, u.algorithm, tsigFudge, time.Now().Unix())
	c := &dns.Client{Net: "tcp", TsigSecret: u.secret, Timeout: updateTimeout}
	in, _, err := c.ExchangeContext(ctx, m, u.server)
	switch {
	case in != nil && in.Rcode == dns.RcodeNotAuth:
		return in, u.failed("it does not accept the key "+u.key+" (its name, its secret, the clocks), or does not serve the zone", errors.Join(err, rcode(in)))
	case err != nil:
		return in, u.failed("exchange", err)
	case in.Rcode == dns.RcodeRefused:
		return in, u.failed("it does not allow the key "+u.key+" to do this", rcode(in))
	case in.Rcode != dns.RcodeSuccess:
		return in, u.failed("it answers", rcode(in))
	case in.IsTsig() == nil:
		return in, u.failed("its answer is not signed", errors.New("no TSIG"))
	}
	return in, nil
}

func rcode(m *dns.Msg) error { return errors.New(dns.RcodeToString[m.Rcode]) }

// toRR makes a record of the wire of libdns's.
func toRR(zone string, r libdns.Record) (dns.RR, error) {
	rr := r.RR()
	name, err := canonical(libdns.AbsoluteName(rr.Name, dns.Fqdn(zone)))
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	if !dns.IsSubDomain(dns.Fqdn(zone), name) {
		return nil, fmt.Errorf("dns: %s is not in zone %s", name, zone)
	}
	ttl := int(rr.TTL.Seconds())
	typ, known := dns.StringToType[rr.Type]
	switch {
	case !known:
		return nil, fmt.Errorf("dns: %s has the unknown type %q", name, rr.Type)
	case rr.Data == "":
		return &dns.ANY{Hdr: header(name, typ, ttl)}, nil
	case typ == dns.TypeA || typ == dns.TypeAAAA:
		a, err := netip.ParseAddr(rr.Data)
		if err != nil {
			return nil, fmt.Errorf("dns: %s: %w", name, err)
		}
		return address(name, a, ttl), nil
	case typ == dns.TypeTXT:
		var parts []string
		for rest := rr.Data; rest != ""; {
			n := min(len(rest), 255)
			parts = append(parts, escape(rest[:n]))
			rest = rest[n:]
		}
		return &dns.TXT{Hdr: header(name, typ, ttl), Txt: parts}, nil
	}
	out, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", name, ttl, rr.Type, rr.Data))
	if err != nil {
		return nil, fmt.Errorf("dns: %s: %w", name, err)
	}
	return out, nil
}

// fromRR makes libdns's record of the wire's.
func fromRR(zone string, rr dns.RR) libdns.Record {
	h := rr.Header()
	name := libdns.RelativeName(dns.CanonicalName(h.Name), dns.CanonicalName(zone))
	ttl := time.Duration(h.Ttl) * time.Second
	switch rr := rr.(type) {
	case *dns.A:
		a, _ := netip.AddrFromSlice(rr.A.To4())
		return libdns.Address{Name: name, TTL: ttl, IP: a}
	case *dns.AAAA:
		a, _ := netip.AddrFromSlice(rr.AAAA.To16())
		return libdns.Address{Name: name, TTL: ttl, IP: a}
	case *dns.TXT:
		return libdns.TXT{Name: name, TTL: ttl, Text: unescape(strings.Join(rr.Txt, ""))}
	}
	return libdns.RR{Name: name, TTL: ttl, Type: dns.TypeToString[h.Rrtype], Data: strings.TrimPrefix(rr.String(), h.String())}
}

// unescape undoes the library's writing of text: `\` before a byte, or before its three decimal digits.
func unescape(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if i+2 < len(s) && digit(s[i]) && digit(s[i+1]) && digit(s[i+2]) {
			out = append(out, (s[i]-'0')*100+(s[i+1]-'0')*10+s[i+2]-'0')
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func digit(b byte) bool { return b >= '0' && b <= '9' }
