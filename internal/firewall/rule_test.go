package firewall

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	public = netip.MustParseAddr("203.0.113.1")
	mesh   = netip.MustParseAddr("10.0.0.1")
)

func ports(first, count uint16) orama.PortRange { return orama.PortRange{First: first, Count: count} }

// wanted is a node with a gateway, a mesh, TURN, and one namespace.
func wanted() []plan.Opening {
	return []plan.Opening{
		{Tag: "gateway", Proto: "tcp", Ports: ports(443, 1)},
		{Tag: "mesh", Proto: "udp", Ports: ports(51820, 1), To: public},
		{Tag: "store", Proto: "tcp", Ports: ports(4001, 1), To: mesh, Mesh: true},
		{Tag: "myapp:relay", Proto: "udp", Ports: ports(49152, 800), To: mesh, Mesh: true},
		{Tag: "myapp:sfu", Proto: "tcp", Ports: ports(30000, 1), To: mesh, Mesh: true},
		{Tag: "turn", Proto: "udp", Ports: ports(3478, 1), To: public},
		{Tag: "turn", Proto: "tcp", Ports: ports(3478, 1), To: netip.MustParseAddr("2001:db8::1")},
	}
}

func TestRulesAreWhatAnOperatorWouldType(t *testing.T) {
	var got []string
	for _, r := range Rules(wanted(), "orama0") {
		require.True(t, r.Ours())
		got = append(got, r.String())
	}
	require.Equal(t, []string{
		"allow to any port 443 proto tcp comment 'orama:gateway'",
		"allow to 203.0.113.1 port 51820 proto udp comment 'orama:mesh'",
		"allow in on orama0 to 10.0.0.1 port 4001 proto tcp comment 'orama:store'",
		"allow in on orama0 to 10.0.0.1 port 49152:49951 proto udp comment 'orama:myapp:relay'",
		"allow in on orama0 to 10.0.0.1 port 30000 proto tcp comment 'orama:myapp:sfu'",
		"allow to 203.0.113.1 port 3478 proto udp comment 'orama:turn'",
		"allow to 2001:db8::1 port 3478 proto tcp comment 'orama:turn'",
	}, got)
}

// listing is what ufw 0.36.2 printed for one rule of every shape; the same rules in its short form where it has one.
func listing(t testing.TB) string {
	text, err := os.ReadFile("testdata/show-added.txt")
	require.NoError(t, err)
	return string(text)
}

func TestParseReadsEveryShapeOfRule(t *testing.T) {
	var got []string
	for _, r := range Parse(listing(t)) {
		got = append(got, r.String())
	}
	require.Equal(t, []string{
		"allow to any port 3478 proto udp comment 'orama:turn'",
		"allow to any port 3478,5349 proto tcp comment 'orama:turn'",
		"allow in on orama0 to 10.0.0.1 port 49152:49951 proto udp comment 'orama:myapp:relay'",
		"allow in on orama0 from 10.0.0.0/24 to 10.0.0.1 port 20000 proto udp comment 'orama:myapp:sfu'",
		"allow out on orama0 from 10.0.0.1 to 10.0.0.0/24 port 20000 proto udp comment 'orama:x'",
		"allow to any port 22 proto tcp",
		"allow to 203.0.113.1 port 443 proto udp comment 'orama:turn'",
		"limit to any port 2222 proto tcp",
		"deny from 1.2.3.4 to any",
		"route allow in on eth0 out on orama0 to any",
		"allow log to any port 99 proto tcp",
		"allow to any proto esp",
		"reject out to any port 25 proto tcp",
		"allow to any app 'Nginx Full' comment 'web server'",
		"allow from 192.0.2.7 to 2001:db8::1 app WWW comment 'not orama: not ours'",
		"allow to any port 80",
	}, got)
}

func TestParseTakesNoRuleForOursThatIsNot(t *testing.T) {
	for _, line := range []string{
		"",
		"Added user rules (see 'ufw status' for running firewall):",
		"(None)",
		"allow 22/tcp comment 'orama:turn'", // without ufw before it
		"ufw allow 22/tcp comment",
		"ufw allow 22/tcp comment 'orama:turn",
		"ufw allow 22/tcp comment 'orama:turn' more",
		"ufw allow 22/tcp comment 'orama:'x",
		"ufw permit 22/tcp comment 'orama:turn'",
		"ufw allow from nowhere comment 'orama:turn'",
		"ufw allow to",
		"ufw allow in on",
		"ufw allow to any port",
		"ufw allow in on a'b comment 'orama:turn'",
	} {
		require.Empty(t, Parse(line+"\n"), line)
	}
	for _, line := range []string{"ufw allow 22/tcp comment 'see orama:turn'", "ufw allow 22/tcp comment 'Orama:turn'", "ufw allow 'orama:turn'"} {
		got := Parse(line)
		require.Len(t, got, 1)
		require.False(t, got[0].Ours(), line)
	}
}

// What is read and written again is the same rule: so what is deleted is what was seen.
func FuzzParse(f *testing.F) {
	for line := range strings.Lines(listing(f)) {
		f.Add(line)
	}
	f.Add("ufw allow in on from to to port port proto proto comment 'comment'")
	f.Add("ufw route deny out on a log-all 'x y'")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range Parse(text) {
			again := Parse("ufw " + r.String())
			if len(again) != 1 || again[0] != r {
				t.Fatalf("%q reads as %+v, written %q, read again %+v", text, r, r, again)
			}
		}
	})
}

func rules(lines ...string) []Rule {
	return Parse("ufw " + strings.Join(lines, "\nufw "))
}

func TestCompare(t *testing.T) {
	const turn = "allow to 203.0.113.1 port 3478 proto udp comment 'orama:turn'"
	for name, tc := range map[string]struct{ have, want, add, del, clash []string }{
		"nothing wanted, nothing there":     {},
		"missing":                           {want: []string{turn}, add: []string{turn}},
		"there":                             {have: []string{turn}, want: []string{turn}},
		"wanted twice":                      {want: []string{turn, turn}, add: []string{turn}},
		"not wanted any more":               {have: []string{turn}, del: []string{turn}},
		"another tag is a change, no gap":   {have: []string{strings.Replace(turn, "turn", "old", 1)}, want: []string{turn}, add: []string{turn}},
		"denied though it is ours":          {have: []string{strings.Replace(turn, "allow", "deny", 1)}, want: []string{turn}, add: []string{turn}},
		"somebody else allows the same":     {have: []string{"allow to 203.0.113.1 port 3478 proto udp"}, want: []string{turn}},
		"somebody else's is not wanted":     {have: []string{"allow 3478/udp comment 'mine'", "allow 22/tcp", "route allow in on a out on b"}},
		"somebody else denies the same":     {have: []string{"deny to 203.0.113.1 port 3478 proto udp"}, want: []string{turn}, clash: []string{"deny to 203.0.113.1 port 3478 proto udp"}},
		"somebody else's, wider, is beside": {have: []string{"allow 3478/udp"}, want: []string{turn}, add: []string{turn}},
		"one half ours, the other theirs":   {have: []string{"allow 80/tcp comment 'orama:gateway'", "allow 80/tcp comment 'mine'"}},
		"two halves with marks of ours":     {have: []string{turn, strings.Replace(turn, "turn", "old", 1)}, want: []string{turn}, add: []string{turn}},
		"one goes, one comes": {have: []string{turn, "allow 22/tcp"}, want: []string{"allow 443/tcp comment 'orama:gateway'"},
			add: []string{"allow to any port 443 proto tcp comment 'orama:gateway'"}, del: []string{turn}},
	} {
		t.Run(name, func(t *testing.T) {
			d := Compare(rules(tc.have...), rules(tc.want...))
			text := func(rs []Rule) (out []string) {
				for _, r := range rs {
					out = append(out, r.String())
				}
				return out
			}
			require.Equal(t, tc.add, text(d.Add), "added")
			require.Equal(t, tc.del, text(d.Delete), "deleted")
			require.Equal(t, tc.clash, text(d.Clash), "in the way")
		})
	}
}

// genRule draws from few values, so that rules meet.
func genRule(t *rapid.T, tags ...string) Rule {
	r := Rule{Action: "allow"}
	r.Proto = rapid.SampledFrom([]string{"udp", "tcp"}).Draw(t, "proto")
	r.To.Port = rapid.SampledFrom([]string{"22", "443", "3478", "49152:49951"}).Draw(t, "port")
	if rapid.Bool().Draw(t, "mesh") {
		r.InOn, r.To.Net = "orama0", netip.PrefixFrom(mesh, 32)
	}
	r.Comment = rapid.SampledFrom(tags).Draw(t, "comment")
	return r
}

// From any state, whatever others have done to it, what is wanted is reached; theirs stays as it was; and then there is nothing to do.
func TestApplyingTheDifferenceReachesWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := &fakeUFW{}
		for range rapid.IntRange(0, 12).Draw(t, "have") {
			r := genRule(t, "", "mine", "orama:turn", "orama:old")
			r.Action = rapid.SampledFrom([]string{"allow", "allow", "deny", "limit"}).Draw(t, "action")
			u.put(r)
		}
		theirs := u.theirs()
		var want []Rule
		for range rapid.IntRange(0, 8).Draw(t, "want") {
			want = append(want, genRule(t, "orama:turn", "orama:myapp:relay"))
		}
		d := Compare(u.rules, want)
		for _, r := range d.Add {
			u.put(r)
		}
		for _, r := range d.Delete {
			u.remove(r)
		}
		require.Equal(t, theirs, u.theirs(), "somebody else's rules")
		require.True(t, Compare(u.rules, want).Empty(), "nothing is left to do")
		for _, r := range u.rules {
			if r.Ours() {
				require.True(t, slices.ContainsFunc(want, func(w Rule) bool { return w == r }), "%s is ours and not wanted", r)
			}
		}
		for _, w := range want {
			require.True(t, slices.ContainsFunc(u.rules, func(r Rule) bool { return r.Match == w.Match }), "%s is wanted and not there", w)
		}
	})
}
