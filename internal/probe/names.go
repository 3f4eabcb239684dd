package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// Lookup asks one name server for the A records of a name, over UDP and again over TCP when the answer does not fit. A
// name that does not exist, or has no address, has none.
func Lookup(ctx context.Context, server, name string) ([]netip.Addr, error) {
	if _, _, err := net.SplitHostPort(server); err != nil {
		return nil, fmt.Errorf("%q is no HOST:PORT", server)
	}
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	q.SetEdns0(1232, false) // the size that fits everywhere, by DNS flag day 2020
	answer, _, err := (&dns.Client{Net: "udp"}).ExchangeContext(ctx, q, server)
	if err == nil && answer.Truncated {
		answer, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, q, server)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, errors.New("no answer")
	case err != nil:
		return nil, fmt.Errorf("no answer: %w", cause(err))
	case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("it answers %s", dns.RcodeToString[answer.Rcode])
	}
	var out []netip.Addr
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			if ip, ok := netip.AddrFromSlice(a.A.To4()); ok {
				out = append(out, ip)
			}
		}
	}
	return out, nil
}
