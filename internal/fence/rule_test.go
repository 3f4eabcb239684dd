package fence

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func rules(t testing.TB, texts ...string) (out []Rule) {
	t.Helper()
	for _, text := range texts {
		r, err := ParseRule(text)
		require.NoError(t, err, text)
		out = append(out, r)
	}
	return out
}

func TestParseRule(t *testing.T) {
	for text, want := range map[string]string{ // as String words it
		"10.0.0.5":                           "10.0.0.5",
		"10.0.0.5/32":                        "10.0.0.5",
		"10.0.0.0/24":                        "10.0.0.0/24",
		"0.0.0.0/0":                          "0.0.0.0/0",
		"10.0.0.5:20000":                     "10.0.0.5:20000",
		"10.0.0.5:20000-20000":               "10.0.0.5:20000",
		"10.0.0.0/24:20000-20499":            "10.0.0.0/24:20000-20499",
		"10.0.0.0/24:1-65535":                "10.0.0.0/24",
		"[2001:db8::/32]:5000-6000":          "[2001:db8::/32]:5000-6000",
		"[2001:db8::1]:53":                   "[2001:db8::1]:53",
		"[2001:db8::1]":                      "[2001:db8::1]",
		"2001:db8::/32":                      "[2001:db8::/32]",
		"::/0":                               "[::/0]",
		"[::ffff:10.0.0.5]:1":                "10.0.0.5:1",
		"::ffff:10.0.0.0/120":                "10.0.0.0/24",
		"[::ffff:10.0.0.0/104]:20000-20499":  "10.0.0.0/8:20000-20499",
		"127.0.0.1:20000":                    "127.0.0.1:20000",
		"127.0.0.0/8":                        "127.0.0.0/8",
		"[::1]:20000":                        "[::1]:20000",
		"169.254.0.0/16":                     "169.254.0.0/16",
		"fe80::/10":                          "[fe80::/10]",
		"[::ffff:127.0.0.1]:7":               "127.0.0.1:7",
		"[2001:0db8:0000:0000::0001/128]:80": "[2001:db8::1]:80",
	} {
		r, err := ParseRule(text)
		require.NoError(t, err, text)
		require.Equal(t, want, r.String(), text)
		again, err := ParseRule(r.String())
		require.NoError(t, err, r)
		require.Equal(t, r, again)
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                              "no address",
		"nonsense":                      "no address",
		"10.0.0":                        "no address",
		"010.0.0.1":                     "no address",
		"10.0.0.0/33":                   "no address",
		"10.0.0.0/":                     "no address",
		"10.0.0.5/24":                   "write 10.0.0.0/24, or 10.0.0.5",
		"[2001:db8::5/32]:1":            "write 2001:db8::/32, or 2001:db8::5",
		"10.0.0.5:":                     "a port is",
		"10.0.0.5:0":                    "a port is",
		"10.0.0.5:00080":                "a port is",
		"10.0.0.5:+80":                  "a port is",
		"10.0.0.5:65536":                "a port is",
		"10.0.0.5:80-":                  "a port is",
		"10.0.0.5:-80":                  "a port is",
		"10.0.0.5:1-2-3":                "a port is",
		"10.0.0.5:90-80":                "smaller one first",
		"10.0.0.0/24:http":              "a port is",
		"2001:db8::1":                   "in brackets",
		"2001:db8::1:80":                "in brackets",
		"2001:db8::/32:5000":            "in brackets",
		"[2001:db8::1":                  "not closed",
		"[2001:db8::1]80":               ":PORT",
		"[10.0.0.5]:80":                 "brackets are for IPv6",
		"[]:80":                         "brackets are for IPv6",
		"[fe80::1%eth0]:80":             "no address",
		"[fe80::1%eth0/64]:80":          "no address",
		"::ffff:0:0/90":                 "write it as IPv4",
		"0.0.0.0":                       "may not be allowed",
		"0.0.0.0/8":                     "may not be allowed",
		"0.1.2.3:80":                    "may not be allowed",
		"224.0.0.0/4":                   "may not be allowed",
		"239.1.1.1:5004":                "may not be allowed",
		"255.255.255.255:9":             "may not be allowed",
		"[::]:80":                       "may not be allowed",
		"[ff02::1]:80":                  "may not be allowed",
		"ff00::/8":                      "may not be allowed",
		"[::ffff:0.0.0.0]:80":           "may not be allowed",
		"[::ffff:239.1.1.1]:80":         "may not be allowed",
		strings.Repeat("1", 81):         "at most 80 bytes",
		"10.0.0.0/24:20000 ":            "a port is",
		" 10.0.0.0/24":                  "no address",
		"10.0.0.0/24,10.1.0.0/24":       "no address",
		"[2001:db8::/32]:5000-6000:700": "a port is",
	} {
		_, err := ParseRule(text)
		require.ErrorContains(t, err, why, "%q", text)
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rules string
		yes   string
		no    string
	}{
		{"10.0.0.0/24",
			"10.0.0.0:1 10.0.0.255:65535 10.0.0.7:20000 [::ffff:10.0.0.7]:20000",
			"10.0.1.0:1 9.255.255.255:1 10.0.0.7:0 [::10.0.0.7]:20000 [64:ff9b::a00:7]:20000 127.0.0.1:20000"},
		{"10.0.0.5:20000", "10.0.0.5:20000 [::ffff:10.0.0.5]:20000", "10.0.0.5:20001 10.0.0.5:19999 10.0.0.6:20000"},
		{"10.0.0.0/24:20000-20499", "10.0.0.1:20000 10.0.0.1:20499", "10.0.0.1:19999 10.0.0.1:20500"},
		{"[::ffff:10.0.0.0/120]:20000", "10.0.0.9:20000 [::ffff:10.0.0.9]:20000", "10.0.1.9:20000"},
		{"[2001:db8::/32]:5000-6000", "[2001:db8::1]:5000 [2001:db8:ffff::]:6000", "[2001:db8::1]:4999 [2001:db9::]:5000 [2001:db8::1%eth0]:5000 10.0.0.1:5000"},
		{"10.0.0.0/24:80 10.0.1.0/24:90", "10.0.0.1:80 10.0.1.1:90", "10.0.0.1:90 10.0.1.1:80"},
		// The whole of a family is what is elsewhere: what is special has to be named.
		{"0.0.0.0/0 ::/0",
			"8.8.8.8:53 10.0.0.1:1 192.168.1.1:1 100.64.0.1:1 [2606:4700::1]:443 [fd00::1]:1 [2001:db8::1]:1 [2003::1]:1 [::ffff:8.8.8.8]:53",
			"127.0.0.1:80 127.255.255.255:80 169.254.169.254:80 0.0.0.0:80 0.0.0.1:80 224.0.0.1:80 239.255.255.250:1900 255.255.255.255:9 " +
				"[::ffff:127.0.0.1]:80 [::ffff:169.254.169.254]:80 [::ffff:0.0.0.0]:80 [::ffff:224.0.0.1]:80 " +
				"[::1]:80 [::]:80 [fe80::1]:80 [febf::1]:80 [fe80::1%eth0]:80 [ff02::1]:80 " +
				"[::127.0.0.1]:80 [::10.0.0.1]:80 [64:ff9b::7f00:1]:80 [64:ff9b::a9fe:a9fe]:80 [64:ff9b:1::7f00:1]:80 " +
				"[2002:7f00:1::]:80 [2001:0:1::1]:80 [::ffff:0:127.0.0.1]:80"},
		{"0.0.0.0/0", "10.0.0.1:1 [::ffff:10.0.0.1]:1", "[2606:4700::1]:443"},
		{"::/0", "[2606:4700::1]:443", "10.0.0.1:1 [::ffff:10.0.0.1]:1"},
		{"127.0.0.0/8:20000", "127.0.0.1:20000 127.9.9.9:20000 [::ffff:127.0.0.1]:20000", "127.0.0.1:80 [::1]:20000"},
		{"127.0.0.1", "127.0.0.1:1", "127.0.0.2:1"},
		{"126.0.0.0/7", "126.0.0.1:1", "127.0.0.1:1"},
		{"169.254.0.0/16", "169.254.169.254:80", "169.253.0.1:80 0.0.0.0:80"},
		{"[::1]:7 0.0.0.0/0", "[::1]:7", "[::]:7 127.0.0.1:7"},
		{"fe80::/10", "[fe80::1]:80", "[fe80::1%eth0]:80 [fec0::1]:80"},
		{"::/96", "[::10.0.0.1]:80", "[::1]:80 [::]:80 10.0.0.1:80"},
		{"64:ff9b::/96", "[64:ff9b::808:808]:53", "[64:ff9b:1::1]:53 8.8.8.8:53"},
		{"2002::/15", "[2003::1]:1", "[2002:808:808::]:1"},
	} {
		var s Set
		require.NoError(t, s.ReplaceRules(nil, rules(t, strings.Fields(c.rules)...)))
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for _, at := range strings.Fields(list) {
				ap := netip.MustParseAddrPort(at)
				require.Equal(t, want, s.Allows(ap), "%s, asked %s", c.rules, at)
				if want {
					require.True(t, s.AllowsIP(ap.Addr()), "%s, asked %s", c.rules, at)
				}
			}
		}
		require.False(t, s.AllowsIP(netip.Addr{}))
		require.False(t, s.Allows(netip.AddrPort{}))
	}
}

func TestAllowsIPOfRules(t *testing.T) {
	var s Set
	require.NoError(t, s.ReplaceRules(nil, rules(t, "0.0.0.0/0:20000", "[2001:db8::/32]:1")))
	for ip, want := range map[string]bool{
		"10.0.0.1": true, "::ffff:10.0.0.1": true, "2001:db8::9": true,
		"127.0.0.1": false, "::ffff:127.0.0.1": false, "169.254.169.254": false, "2001:db9::": false, "::1": false,
	} {
		require.Equal(t, want, s.AllowsIP(netip.MustParseAddr(ip)), ip)
	}
}

func TestReplaceRulesRefusesAndKeeps(t *testing.T) {
	good, exact := netip.MustParseAddrPort("10.0.0.1:20000"), netip.MustParseAddrPort("10.1.0.1:1")
	var s Set
	require.NoError(t, s.ReplaceRules([]netip.AddrPort{exact}, rules(t, "10.0.0.0/24:20000")))
	for name, bad := range map[string]Rule{
		"zero":       {},
		"no ports":   {Prefix: netip.MustParsePrefix("10.2.0.0/24")},
		"turned":     {Prefix: netip.MustParsePrefix("10.2.0.0/24"), First: 2, Last: 1},
		"unmasked":   {Prefix: netip.MustParsePrefix("10.2.0.1/24"), First: 1, Last: 1},
		"mapped":     {Prefix: netip.MustParsePrefix("::ffff:10.2.0.0/120"), First: 1, Last: 1},
		"multicast":  {Prefix: netip.MustParsePrefix("224.0.0.0/8"), First: 1, Last: 1},
		"everything": {Prefix: netip.MustParsePrefix("0.0.0.0/8"), First: 1, Last: 1},
	} {
		require.Error(t, s.ReplaceRules(nil, append(rules(t, "10.3.0.0/24"), bad)), name)
	}
	require.Error(t, s.ReplaceRules(nil, make([]Rule, MaxRules+1)))
	require.Error(t, s.ReplaceRules([]netip.AddrPort{{}}, rules(t, "10.3.0.0/24")))
	require.True(t, s.Allows(good), "the set before a refused one stays")
	require.True(t, s.Allows(exact))
	require.False(t, s.Allows(netip.MustParseAddrPort("10.3.0.1:1")))
	require.NoError(t, s.Replace([]netip.AddrPort{exact}))
	require.False(t, s.Allows(good), "Replace leaves no rule")
}

func TestRulesCostNoAllocation(t *testing.T) {
	var s Set
	require.NoError(t, s.ReplaceRules([]netip.AddrPort{netip.MustParseAddrPort("10.9.0.1:1")},
		rules(t, "10.0.0.0/24:20000-20499", "[2001:db8::/32]:5000", "127.0.0.0/8:9")))
	asked := []netip.AddrPort{
		netip.MustParseAddrPort("10.0.0.1:20000"), netip.MustParseAddrPort("[::ffff:10.0.0.1]:20000"),
		netip.MustParseAddrPort("[2001:db8::1]:5000"), netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("[::1]:9"),
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, ap := range asked {
			s.Allows(ap)
			s.AllowsIP(ap.Addr())
		}
	}))
}

func genIP(t *rapid.T, name string) netip.Addr {
	// Where blocks begin and end, most bugs live.
	interesting := []string{"10.0.0.1", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "::2", "fe80::1", "ff02::1",
		"64:ff9b::a00:1", "2002:a00:1::", "2001::1", "2001:db8::1", "2003::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:7f00:1"}
	switch rapid.IntRange(0, 2).Draw(t, name+" form") {
	case 0:
		return netip.MustParseAddr(rapid.SampledFrom(interesting).Draw(t, name))
	case 1:
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)))
	}
	return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)))
}

func genRule(t *rapid.T) Rule {
	ip := genIP(t, "rule").Unmap()
	first := rapid.Uint16Range(1, 4).Draw(t, "first")
	return Rule{netip.PrefixFrom(ip, rapid.IntRange(0, ip.BitLen()).Draw(t, "bits")).Masked(), first, rapid.Uint16Range(first, 5).Draw(t, "last")}
}

// special is written by the words of the documentation, not by the code's table.
func special(ip netip.Addr) (forbidden bool, home string) {
	switch {
	case ip.IsMulticast(), ip.IsUnspecified(), ip.Is4() && ip.As4()[0] == 0, ip == netip.MustParseAddr("255.255.255.255"):
		return true, ""
	case ip.Is4() && ip.IsLoopback():
		return false, "127.0.0.0/8"
	case ip.IsLoopback():
		return false, "::1/128"
	case ip.Is4() && ip.IsLinkLocalUnicast():
		return false, "169.254.0.0/16"
	case ip.IsLinkLocalUnicast():
		return false, "fe80::/10"
	}
	for _, b := range []string{"::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"} {
		if netip.MustParsePrefix(b).Contains(ip) {
			return false, b
		}
	}
	return false, ""
}

// An address is allowed exactly when a rule has its prefix and port, and names what is special about it.
func TestRulesAreTheListTheyWereGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []Rule
		for _, r := range rapid.SliceOfN(rapid.Custom(genRule), 0, 6).Draw(t, "rules") {
			if CheckRule(r) == nil {
				list = append(list, r)
			}
		}
		var s Set
		require.NoError(t, s.ReplaceRules(nil, list))
		ips := []netip.Addr{genIP(t, "ip")}
		for _, r := range list {
			ips = append(ips, r.Prefix.Addr())
		}
		port := rapid.Uint16Range(0, 6).Draw(t, "port")
		for _, ip := range ips {
			plain := ip.Unmap()
			forbidden, home := special(plain)
			want, wantIP := false, false
			for _, r := range list {
				named := home == "" || netip.MustParsePrefix(home).Overlaps(r.Prefix) && netip.MustParsePrefix(home).Bits() <= r.Prefix.Bits()
				if forbidden || !named || !r.Prefix.Contains(plain) {
					continue
				}
				wantIP = true
				want = want || r.First <= port && port <= r.Last
			}
			require.Equal(t, want, s.Allows(netip.AddrPortFrom(ip, port)), "%v, asked %s:%d", list, ip, port)
			require.Equal(t, want, s.Allows(netip.AddrPortFrom(netip.AddrFrom16(ip.As16()), port)))
			require.Equal(t, wantIP, s.AllowsIP(ip), "%v, asked %s", list, ip)
			require.Equal(t, within(netip.PrefixFrom(plain, plain.BitLen())), classOf(plain), "the short way is the long one")
		}
	})
}

// Whatever text becomes a rule is worded so that it reads the same, and never opens what may never be allowed.
func FuzzParseRule(f *testing.F) {
	for _, text := range []string{"10.0.0.0/24", "10.0.0.5:20000", "10.0.0.0/24:20000-20499", "[2001:db8::/32]:5000-6000", "::/0", "0.0.0.0/0",
		"[::ffff:10.0.0.0/104]:1-2", "127.0.0.0/8:9", "[::1]:7", "169.254.169.254:80", "224.0.0.0/3", "[fe80::1%eth0]:80", "10.0.0.5/24", "[::]:1", "1.2.3.4:1-0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err != nil {
			if r != (Rule{}) {
				t.Fatalf("%q: a refused rule is not empty", text)
			}
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Fatalf("%q reads as %v and that as %v: %v", text, r, again, err)
		}
		var s Set
		if err := s.ReplaceRules(nil, []Rule{r}); err != nil {
			t.Fatalf("%q was read and then refused: %v", text, err)
		}
		for _, ip := range []string{"0.0.0.0", "0.255.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0", "::ffff:224.0.0.1"} {
			if s.AllowsIP(netip.MustParseAddr(ip)) {
				t.Fatalf("%q opens %s", text, ip)
			}
		}
		for _, ip := range []string{"127.0.0.1", "169.254.169.254", "::1", "fe80::1"} {
			at := netip.MustParseAddr(ip)
			if named := within(r.Prefix)&(classLoopback|classLinkLocal) != 0; s.AllowsIP(at) && !(named && r.Prefix.Contains(at)) {
				t.Fatalf("%q opens %s without naming it", text, ip)
			}
		}
		if first := netip.AddrPortFrom(r.Prefix.Addr(), r.First); classOf(first.Addr())&never == 0 && !s.Allows(first) &&
			classOf(first.Addr())&^within(r.Prefix) == 0 {
			t.Fatalf("%q does not open its own first address", text)
		}
	})
}
