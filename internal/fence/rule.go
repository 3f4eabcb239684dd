package fence

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Rule allows a range of ports on every address of a prefix, but for those addresses that have to be named: loopback,
// link-local, and IPv6 addresses that carry an IPv4 one inside are reached only by a rule that lies wholly inside such a
// block, so that 0.0.0.0/0 means the network and not this host. IPv4 prefixes allow IPv4 alone, IPv6 prefixes IPv6 alone;
// an IPv4-mapped IPv6 address is the IPv4 address.
type Rule struct {
	Prefix netip.Prefix `json:"prefix"` // without bits set behind its length
	First  uint16       `json:"first"`  // 1 or more
	Last   uint16       `json:"last"`   // First or more
}

// MaxRules bounds how many rules a set has: each packet of a peer that no exact entry names may be held against all.
const MaxRules = 256

// maxRuleText is longer than any rule: an IPv6 address with its prefix and two ports.
const maxRuleText = 80

// ParseRule reads what ReplaceRules takes:
//
//	10.0.0.5                     every port of an address
//	10.0.0.0/24                  every port of a prefix
//	10.0.0.5:20000               one port
//	10.0.0.0/24:20000-20499      a range of ports, both ends included
//	[2001:db8::5]:20000          IPv6 in brackets
//	[2001:db8::/32]:5000-6000
//	2001:db8::/32                the brackets may be left out of a prefix without ports
//
// A prefix with bits behind its length, such as 10.0.0.5/24, is refused: it may mean one address or all of them.
func ParseRule(text string) (Rule, error) {
	if len(text) > maxRuleText {
		return Rule{}, fmt.Errorf("fence: a rule is at most %d bytes long", maxRuleText)
	}
	r, err := parseRule(text)
	if err == nil {
		err = CheckRule(r)
	}
	if err != nil {
		return Rule{}, fmt.Errorf("fence: rule %q: %w", text, err)
	}
	return r, nil
}

func parseRule(text string) (Rule, error) {
	where, ports, hasPorts := text, "", false
	if inside, ok := strings.CutPrefix(text, "["); ok {
		var rest string
		if where, rest, ok = strings.Cut(inside, "]"); !ok {
			return Rule{}, errors.New("a bracket is not closed")
		}
		if ports, hasPorts = strings.CutPrefix(rest, ":"); !hasPorts && rest != "" {
			return Rule{}, errors.New("behind the bracket only :PORT or :FIRST-LAST may stand")
		}
		if !strings.Contains(where, ":") {
			return Rule{}, errors.New("brackets are for IPv6; write ADDRESS/BITS:FIRST-LAST")
		}
	} else if strings.Count(text, ":") < 2 {
		where, ports, hasPorts = strings.Cut(text, ":")
	} else if !strings.Contains(text, "/") {
		return Rule{}, errors.New("an IPv6 address stands in brackets, [ADDRESS] or [ADDRESS]:PORT, for its end may be taken for a port")
	}
	r := Rule{First: 1, Last: 65535}
	var err error
	if r.Prefix, err = parsePrefix(where); err != nil {
		return Rule{}, err
	}
	if hasPorts {
		r.First, r.Last, err = parsePorts(ports)
	}
	return r, err
}

func parsePrefix(text string) (netip.Prefix, error) {
	var p netip.Prefix
	if !strings.Contains(text, "/") {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return p, errors.New("there is no address or ADDRESS/BITS to read")
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, errors.New("there is no address or ADDRESS/BITS to read; IPv6 with ports stands in brackets, [ADDRESS/BITS]:PORT")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, errors.New("a prefix of IPv4-mapped addresses has 96 bits or more; write it as IPv4")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		return p, fmt.Errorf("it has bits behind its length; write %s, or %s for the one address", m, p.Addr())
	}
	return p, nil
}

func parsePorts(text string) (first, last uint16, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if first, err = parsePort(from); err != nil {
		return 0, 0, err
	}
	if !ranged {
		return first, first, nil
	}
	if last, err = parsePort(to); err != nil {
		return 0, 0, err
	}
	return first, last, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
		return 0, errors.New("a port is 1 to 65535, and a range FIRST-LAST")
	}
	return uint16(n), nil
}

// String gives the form that ParseRule reads.
func (r Rule) String() string {
	where := r.Prefix.String()
	if r.Prefix.IsSingleIP() {
		where = r.Prefix.Addr().String()
	}
	if r.Prefix.Addr().Is6() {
		where = "[" + where + "]"
	}
	switch {
	case r.First == 1 && r.Last == 65535:
		return where
	case r.First == r.Last:
		return fmt.Sprintf("%s:%d", where, r.First)
	}
	return fmt.Sprintf("%s:%d-%d", where, r.First, r.Last)
}

// CheckRule refuses rules that are damaged, and those inside a block that no tenant may ever be allowed to reach:
// unspecified (0.0.0.0/8, ::), multicast and broadcast addresses.
func CheckRule(r Rule) error {
	p := r.Prefix
	switch {
	case !p.IsValid() || p.Addr().Zone() != "" || p.Addr().Is4In6() || p.Masked() != p:
		return errors.New("its prefix is damaged")
	case r.First == 0 || r.Last < r.First:
		return errors.New("its ports are no range: FIRST-LAST, the smaller one first, 1 to 65535")
	case within(p)&never != 0:
		return errors.New("it may not be allowed: it is unspecified, multicast or broadcast")
	}
	return nil
}

// class says in which special blocks an address lies, a bit each.
type class uint16

const (
	classThis      class = 1 << iota // 0.0.0.0/8 and ::, which many hosts take for themselves
	classMulticast                   // 224.0.0.0/4, ff00::/8
	classBroadcast                   // 255.255.255.255
	classLoopback                    // 127.0.0.0/8, ::1
	classLinkLocal                   // 169.254.0.0/16, where clouds keep credentials, and fe80::/10
	classEmbedded                    // IPv4 inside IPv6: a gateway on the way may unpack it, and reach what IPv4 rules keep out

	never = classThis | classMulticast | classBroadcast
)

// blocks are the special ones. An address may lie in several: ::1 is also in ::/96. One class has one block of a family,
// or blocks for which a rule inside any of them stands for the class.
var blocks = []struct {
	prefix netip.Prefix
	class  class
}{
	{netip.MustParsePrefix("0.0.0.0/8"), classThis},
	{netip.MustParsePrefix("224.0.0.0/4"), classMulticast},
	{netip.MustParsePrefix("255.255.255.255/32"), classBroadcast},
	{netip.MustParsePrefix("127.0.0.0/8"), classLoopback},
	{netip.MustParsePrefix("169.254.0.0/16"), classLinkLocal},
	{netip.MustParsePrefix("::/128"), classThis},
	{netip.MustParsePrefix("ff00::/8"), classMulticast},
	{netip.MustParsePrefix("::1/128"), classLoopback},
	{netip.MustParsePrefix("fe80::/10"), classLinkLocal},
	{netip.MustParsePrefix("::/96"), classEmbedded},           // IPv4-compatible, RFC 4291 section 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0:0/96"), classEmbedded}, // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), classEmbedded},    // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), classEmbedded},  // NAT64 of one's own, RFC 8215
	{netip.MustParsePrefix("2001::/32"), classEmbedded},       // Teredo, RFC 4380
	{netip.MustParsePrefix("2002::/16"), classEmbedded},       // 6to4, RFC 3056
}

// within are the classes of the blocks that hold the whole prefix: those that a rule names.
func within(p netip.Prefix) (c class) {
	for _, b := range blocks {
		if b.prefix.Bits() <= p.Bits() && b.prefix.Contains(p.Addr()) {
			c |= b.class
		}
	}
	return c
}

// classOf is within for one address. It is asked for packets, and gives most addresses after looking at one byte.
func classOf(ip netip.Addr) class {
	if ip.Is4() {
		if b := ip.As4(); b[0] != 0 && b[0] != 127 && b[0] != 169 && b[0] < 224 {
			return 0
		}
	} else if b := ip.As16(); b[0] == 0x20 && b[1] > 0x02 || b[0] > 0x20 && b[0] < 0xfe {
		return 0
	}
	return within(netip.PrefixFrom(ip, ip.BitLen()))
}

// compiled is a rule as packets are held against it.
type compiled struct {
	Rule
	named class
}

func compile(rules []Rule) ([]compiled, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("fence: %d rules are too many; %d may be", len(rules), MaxRules)
	}
	out := make([]compiled, 0, len(rules))
	for _, r := range rules {
		if err := CheckRule(r); err != nil {
			return nil, fmt.Errorf("fence: rule %s: %w", r, err)
		}
		out = append(out, compiled{r, within(r.Prefix)})
	}
	return out, nil
}

// match reports whether a rule allows the address, on the port if that is not 0.
func (t *table) match(ip netip.Addr, port uint16) bool {
	if len(t.rules) == 0 || !ip.IsValid() {
		return false
	}
	special := classOf(ip)
	for i := range t.rules {
		r := &t.rules[i]
		if (port == 0 || r.First <= port && port <= r.Last) && special&^r.named == 0 && r.Prefix.Contains(ip) {
			return true
		}
	}
	return false
}
