package dns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libdns/libdns"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// What every provider must do for Pusher and for ACME, each with a zone orama.test of its own that has a record which is
// not ours.
func TestProviders(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) Provider{
		"memory": func(*testing.T) Provider {
			return &memory{all: []libdns.Record{libdns.Address{Name: "www", IP: netip.MustParseAddr("192.0.2.1"), TTL: time.Minute}}}
		},
		"rfc2136": func(t *testing.T) Provider {
			_, addr := startElsewhere(t, "www.orama.test. 60 IN A 192.0.2.1")
			return updater(t, addr, nil)
		},
		"program": func(t *testing.T) Provider {
			zone := filepath.Join(t.TempDir(), "zone.json")
			require.NoError(t, os.WriteFile(zone, []byte(`[{"name":"www","ttl":60,"type":"A","data":"192.0.2.1"}]`), 0o600))
			return program(t, "zone", zone)
		},
		"documented program": documentedProgram,
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("records", func(t *testing.T) { testProviderRecords(t, open(t)) })
			t.Run("pushes", func(t *testing.T) { testProviderPushes(t, open(t)) })
		})
	}
}

func zoneLines(t *testing.T, p Provider) []string {
	t.Helper()
	all, err := p.GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	var out []string
	for _, r := range all {
		rr := r.RR()
		if rr.Type != "SOA" {
			out = append(out, fmt.Sprintf("%s %s %s", rr.Name, rr.Type, rr.Data))
		}
	}
	slices.Sort(out)
	return out
}

func testProviderRecords(t *testing.T, p Provider) {
	const www = "www A 192.0.2.1"
	require.Equal(t, []string{www}, zoneLines(t, p))
	// As certmagic does: one record at a time, two at one name, and each is taken back alone.
	var proofs []libdns.Record
	for _, text := range []string{"one", `two "quoted" \ 256 ` + strings.Repeat("x", 256)} {
		added, err := p.AppendRecords(t.Context(), "orama.test.", []libdns.Record{libdns.RR{Name: "_acme-challenge.ns-demo", Type: "TXT", Data: text, TTL: 10 * time.Second}})
		require.NoError(t, err)
		require.Len(t, added, 1, "certmagic takes anything else for a failure")
		proofs = append(proofs, added[0])
	}
	require.Len(t, zoneLines(t, p), 3)
	all, err := p.GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	i := slices.IndexFunc(all, func(r libdns.Record) bool { return r.RR().Data == "one" })
	require.IsType(t, libdns.TXT{}, all[max(i, 0)], "libdns's own types, not the bare record")
	_, err = p.DeleteRecords(t.Context(), "orama.test.", proofs[:1])
	require.NoError(t, err)
	require.Equal(t, []string{"_acme-challenge.ns-demo TXT " + proofs[1].RR().Data, www}, zoneLines(t, p))
	_, err = p.DeleteRecords(t.Context(), "orama.test.", proofs)
	require.NoError(t, err, "what is not there is gone")
	require.Equal(t, []string{www}, zoneLines(t, p))

	several := []libdns.Record{libdns.Address{Name: "turn.ns-demo", IP: netip.MustParseAddr("203.0.113.1"), TTL: time.Minute},
		libdns.Address{Name: "turn.ns-demo", IP: netip.MustParseAddr("2001:db8::1"), TTL: time.Minute}, libdns.Address{Name: "@", IP: netip.MustParseAddr("203.0.113.9"), TTL: time.Minute}}
	several, err = p.AppendRecords(t.Context(), "orama.test.", several)
	require.NoError(t, err)
	require.Len(t, several, 3)
	require.Equal(t, []string{"@ A 203.0.113.9", "turn.ns-demo A 203.0.113.1", "turn.ns-demo AAAA 2001:db8::1", www}, zoneLines(t, p))
	_, err = p.DeleteRecords(t.Context(), "orama.test.", several)
	require.NoError(t, err)
	require.Equal(t, []string{www}, zoneLines(t, p))
}

func testProviderPushes(t *testing.T, provider Provider) {
	p := &Pusher{Provider: provider, Zone: "orama.test.", Base: "orama.test"}
	before := zoneLines(t, provider)
	want := []orama.DNSRecord{rec("turn.ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-demo.orama.test", "203.0.113.2"), rec("turn-1.ns-demo.orama.test", "2001:db8::1")}
	changed, err := p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, 4, changed)
	require.Contains(t, zoneLines(t, provider), "turn-1.ns-demo AAAA 2001:db8::1")
	changed, err = p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Zero(t, changed)
	_, err = p.Push(t.Context(), want[:1])
	require.NoError(t, err)
	require.NotContains(t, zoneLines(t, provider), "turn.ns-demo A 203.0.113.2")
	_, err = p.Push(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, before, zoneLines(t, provider))
}

// program is a provider whose program is this test binary, doing what TestMain finds for it.
func program(t *testing.T, does ...string) *Program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return NewProgram(append([]string{self, beTheProgram}, does...), nil)
}

// documentedProgram is the one that docs/operations.md shows, with a provider of ours in the place of its own.
func documentedProgram(t *testing.T) Provider {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```go\npackage main\n")
	require.True(t, found)
	source, _, _ := strings.Cut(rest, "```")
	dir := t.TempDir()
	for _, swap := range [][2]string{{`"github.com/libdns/cloudflare"; `, ""}, {"/etc/orama/cloudflare.token", filepath.Join(dir, "token")},
		{"&cloudflare.Provider{APIToken: strings.TrimSpace(string(token))}", "&provider{file: strings.TrimSpace(string(token))}"}} {
		require.Contains(t, source, swap[0])
		source = strings.Replace(source, swap[0], swap[1], 1)
	}
	zone := filepath.Join(dir, "zone")
	for name, text := range map[string]string{"main.go": "package main\n" + source, "provider.go": fileProvider, "token": zone + "\n",
		"zone": `[{"name":"www","ttl":60000000000,"type":"A","data":"192.0.2.1"}]`} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	build := exec.Command(tool(t, "go"), "build", "-o", filepath.Join(dir, "program"), filepath.Join(dir, "main.go"), filepath.Join(dir, "provider.go"))
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return NewProgram([]string{filepath.Join(dir, "program")}, nil)
}

// fileProvider is one of libdns's, with its zone in a file.
const fileProvider = `package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"

	"github.com/libdns/libdns"
)

type provider struct{ file string }

func (p *provider) zone() (all []libdns.RR) {
	text, _ := os.ReadFile(p.file)
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	return all
}

func (p *provider) keep(all []libdns.RR, touched []libdns.Record) ([]libdns.Record, error) {
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return touched, os.WriteFile(p.file, text, 0o600)
}

func (p *provider) GetRecords(context.Context, string) (out []libdns.Record, err error) {
	for _, rr := range p.zone() {
		r, err := rr.Parse()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (p *provider) AppendRecords(_ context.Context, _ string, recs []libdns.Record) ([]libdns.Record, error) {
	all := p.zone()
	for _, r := range recs {
		all = append(all, r.RR())
	}
	return p.keep(all, recs)
}

func (p *provider) DeleteRecords(_ context.Context, _ string, recs []libdns.Record) ([]libdns.Record, error) {
	all := p.zone()
	for _, r := range recs {
		all = slices.DeleteFunc(all, func(h libdns.RR) bool { return h == r.RR() })
	}
	return p.keep(all, recs)
}
`

const beTheProgram = "be-the-dns-program"

// beProgram is what an operator's program does, and what a bad one does. It gives the exit code.
func beProgram(does []string) int {
	switch does[0] {
	case "zone":
		if err := serveZone(does[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "say": // to stdout, to stderr, and the exit code
		fmt.Print(does[1])
		fmt.Fprint(os.Stderr, does[2])
		return len(does) - 3
	case "flood":
		for {
			if _, err := fmt.Println(strings.Repeat("x", 64<<10)); err != nil {
				return 1
			}
		}
	case "leave": // with a child that holds what it has open
		fmt.Print(`{"records":[]}`)
		if _, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}}); err != nil {
			return 1
		}
	case "hang":
		fmt.Fprintln(os.Stderr, "asking")
		p, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
		if err != nil {
			return 1
		}
		if err := os.WriteFile(does[1], fmt.Append(nil, p.Pid), 0o600); err != nil {
			return 1
		}
		_, _ = p.Wait() // never
	case "environment":
		answer := programAnswer{}
		for _, kv := range os.Environ() {
			answer.Records = append(answer.Records, programRecord{Name: "e", Type: "TXT", Data: kv})
		}
		return exitCode(json.NewEncoder(os.Stdout).Encode(answer))
	}
	return 0
}

func exitCode(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// serveZone is a provider with its zone in a file. It goes by libdns's contract, TTL and all, and answers with the TTL
// that it makes of what it is given, as some providers do.
func serveZone(file string) error {
	var q programRequest
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil {
		return err
	}
	if q.Version != 1 || q.Zone != "orama.test." {
		return fmt.Errorf("version %d and zone %s are not known", q.Version, q.Zone)
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	zone := []programRecord{}
	if err := json.Unmarshal(text, &zone); len(text) > 0 && err != nil {
		return err
	}
	answer := programAnswer{Records: []programRecord{}}
	switch q.Op {
	case "get":
		answer.Records = zone
	case "append":
		for _, r := range q.Records {
			r.TTL = max(r.TTL, 120)
			zone, answer.Records = append(zone, r), append(answer.Records, r)
		}
	case "delete":
		for _, r := range q.Records {
			zone = slices.DeleteFunc(zone, func(h programRecord) bool { return h == r })
		}
	default:
		answer.Error = "unknown op " + q.Op
	}
	if text, err = json.Marshal(zone); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file, text, 0o600), json.NewEncoder(os.Stdout).Encode(answer))
}

func TestProgramsThatFail(t *testing.T) {
	lines := strings.Repeat("trying again\n", 50)
	for _, tc := range []struct {
		name string
		does []string
		says string
	}{
		{"an exit code, and why", []string{"say", `{"records":[]}`, "first\n\x1b[31mthe token has \x07 expired\n\n", ""}, "exit status 1: [31mthe token has   expired"},
		{"an exit code and an error", []string{"say", `{"error":"no such zone"}`, "", ""}, "exit status 1: no such zone"},
		{"an exit code alone", []string{"say", ``, "", "", ""}, "exit status 2"},
		{"an error", []string{"say", `{"error":"rate limited"}`, "x\n"}, "rate limited"},
		{"nothing", []string{"say", "", ""}, "it gave no answer"},
		{"talk", []string{"say", "Hello!\n{}", ""}, "its answer cannot be read"},
		{"too many answers", []string{"say", `{"records":[]}{}`, ""}, "more than one JSON object"},
		{"no records", []string{"say", `{}`, ""}, "an empty zone is []"},
		{"records without end", []string{"flood"}, "longer than 1048576 bytes"},
		{"a child", []string{"leave"}, "a child of it"},
		{"fifty lines", []string{"say", ``, lines}, "no answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			p := program(t, tc.does...)
			p.log = logTo(&log)
			_, err := p.GetRecords(t.Context(), "orama.test.")
			require.ErrorContains(t, err, tc.says)
			require.ErrorContains(t, err, "dns program")
			require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
			require.LessOrEqual(t, strings.Count(log.String(), "\n"), maxProgramLines+1)
			if tc.name == "fifty lines" {
				require.Contains(t, log.String(), "30 lines more")
			}
			require.NotContains(t, log.String(), "\x1b")
		})
	}
	_, err := NewProgram([]string{"/nowhere/orama-dns"}, nil).GetRecords(t.Context(), "orama.test.")
	require.ErrorContains(t, err, "dns program /nowhere/orama-dns: get")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// One that hangs is ended with all that it started.
func TestProgramIsBounded(t *testing.T) {
	child := filepath.Join(t.TempDir(), "child")
	p := program(t, "hang", child)
	p.timeout = 2 * time.Second
	_, err := p.GetRecords(t.Context(), "orama.test.")
	require.ErrorContains(t, err, "not done within 2s: asking")
	text, err := os.ReadFile(child)
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z ")) // of whoever adopted it
	}, 5*time.Second, 10*time.Millisecond, "its child lives")
	require.Error(t, syscall.Kill(-pid, 0))
}

func TestProgramEnvironment(t *testing.T) {
	t.Setenv("ORAMA_SECRET", "s")
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	t.Setenv("https_proxy", "http://proxy.test:3128")
	got, err := program(t, "environment").GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	require.Contains(t, got, libdns.Record(libdns.TXT{Name: "e", Text: "https_proxy=http://proxy.test:3128"}))
	for _, r := range got {
		require.NotContains(t, r.RR().Data, "SECRET")
		require.NotContains(t, r.RR().Data, "NOTIFY")
	}
}

func TestParseAnswer(t *testing.T) {
	got, said, err := parseAnswer("orama.test.", []byte(`{"records":[
		{"name":"a","ttl":60,"type":"A","data":"192.0.2.1"}, {"name":"a.orama.test.","ttl":60,"type":"aaaa","data":"2001:db8::1"},
		{"name":"","type":"TXT","data":"text"}, {"name":"odd","type":"A","data":"not an address"}, {"name":"odd","type":"A","data":"2001:db8::1"},
		{"name":"m","ttl":1,"type":"MX","data":"10 mail"}], "extra": {"of":["a later version"]}}
	`))
	require.NoError(t, err)
	require.True(t, said)
	require.Equal(t, []libdns.Record{
		libdns.Address{Name: "a", TTL: time.Minute, IP: netip.MustParseAddr("192.0.2.1")}, libdns.Address{Name: "a", TTL: time.Minute, IP: netip.MustParseAddr("2001:db8::1")},
		libdns.TXT{Name: "@", Text: "text"}, libdns.RR{Name: "odd", Type: "A", Data: "not an address"}, libdns.RR{Name: "odd", Type: "A", Data: "2001:db8::1"},
		libdns.RR{Name: "m", TTL: time.Second, Type: "MX", Data: "10 mail"},
	}, got)
	for answer, says := range map[string]string{
		`{"records":[{"name":"a","data":"x"}]}`:                                               "has no type",
		`{"records":[{"name":"a","type":"A","ttl":60000000000}]}`:                             "in seconds",
		`{"records":[{"name":"a","type":"A","ttl":-1}]}`:                                      "in seconds",
		`{"records":[{"name":"` + strings.Repeat("a", 256) + `","type":"A"}]}`:                "longer than",
		`{"records":[{"name":"a","type":"TXT","data":"` + strings.Repeat("a", 65536) + `"}]}`: "longer than",
		`{"records":{}}`: "cannot be read", `[]`: "cannot be read", `{"error":"` + strings.Repeat("a\\n", 9999) + `"}`: "a a",
	} {
		_, _, err := parseAnswer("orama.test.", []byte(answer))
		require.ErrorContains(t, err, says)
		require.Less(t, len(err.Error()), 600)
	}
}

func FuzzProgramAnswer(f *testing.F) {
	f.Add([]byte(`{"records":[{"name":"turn.ns-demo","ttl":60,"type":"A","data":"203.0.113.1"},{"name":"@","ttl":1,"type":"TXT","data":"x"}]}`))
	f.Add([]byte(`{"error":"no"}`))
	f.Add([]byte(`{"records":[{"name":"x.orama.test.","type":"AAAA","data":"::ffff:192.0.2.1%eth0"}]} {}`))
	f.Add([]byte(`{"records":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		recs, said, err := parseAnswer("orama.test.", text)
		if err != nil || !said {
			require.Empty(t, recs)
			return
		}
		// What was read can be told back, and the pusher can use it.
		var again programAnswer
		again.Records = []programRecord{}
		for _, r := range recs {
			rr := r.RR()
			require.NotEmpty(t, rr.Name)
			again.Records = append(again.Records, programRecord{Name: rr.Name, TTL: int64(rr.TTL.Seconds()), Type: rr.Type, Data: rr.Data})
		}
		back, err := json.Marshal(again)
		require.NoError(t, err)
		same, _, err := parseAnswer("orama.test.", back)
		require.NoError(t, err)
		require.Len(t, same, len(recs))
		(&Pusher{Zone: "orama.test.", Base: "orama.test"}).sort(recs, nil)
	})
}
