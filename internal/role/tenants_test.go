package role

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
)

func TestParseTenants(t *testing.T) {
	got, err := parseTenants([]byte(`# who may relay
---
myapp: a-secret-of-myapp
another: "0123456789"
third:
  secret: a-secret-of-third
  allocations: 100
  bytes_per_second: 12500000
  burst_bytes: 25000000
  client_allocations: 4
  client_bytes_per_second: 500000
  client_burst_bytes: 1000000
  allow: ["10.0.0.0/24:20000-20499", "[2001:db8::1]:7"]
none: {secret: a-secret-of-none, allow: []}
`))
	require.NoError(t, err)
	require.Equal(t, []fileTenant{
		{ns: "another", secret: "0123456789"},
		{ns: "myapp", secret: "a-secret-of-myapp"},
		{ns: "none", secret: "a-secret-of-none", own: true},
		{ns: "third", secret: "a-secret-of-third", own: true,
			rules: []fence.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), First: 20000, Last: 20499}, {Prefix: netip.MustParsePrefix("2001:db8::1/128"), First: 7, Last: 7}},
			limits: plan.TenantLimits{Allocations: 100, BytesPerSecond: 12_500_000, BurstBytes: 25_000_000,
				ClientAllocations: 4, ClientBytesPerSecond: 500_000, ClientBurstBytes: 1_000_000}},
	}, got)
}

// Every mistake is named, and no word of a secret is in what is said.
func TestParseTenantsRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                                    "no tenant in it",
		"# nothing\n":                         "no tenant in it",
		"{}":                                  "no tenant in it",
		"hunter2":                             "mapping is expected",
		"- hunter2":                           "mapping is expected",
		"hunter2: x\nhunter2: y":              "already defined",
		"myapp: hunter2\nmyapp: hunter2":      "already defined",
		"hunter2\": hunter2":                  "a name that is none",
		"myapp: [hunter2":                     "[1:",
		"myapp: hunter2: hunter2":             "[1:",
		"myapp: 'hunter2":                     "[1:",
		"myapp: hunter2\n---\nother: hunter2": "second document",
		"---\nmyapp: hunter2\n---\nother: x":  "second document",
		"hunter2!: myapp":                     "a name that is none",
		"hunter2\\: {secret: myapp}":          "a name that is none",
		"Myapp: hunter2":                      "a name that is none",
		"a: hunter2":                          "a name that is none",
		"myapp: 12345678":                     "put it in quotes",
		"myapp: true":                         "put it in quotes",
		"myapp: 1.5":                          "put it in quotes",
		"myapp:":                              "has no secret",
		"myapp: ''":                           "empty",
		"myapp: \"hunter2 \"":                 "white space",
		"myapp: |\n  hunter2\n":               "control character",
		"myapp: " + strings.Repeat("hunter2", 200):              "longer than 1024",
		"myapp: [hunter2]":                                      "put it in quotes",
		"myapp: {allocations: 1}":                               "has no secret",
		"myapp: {secret: 7}":                                    "put it in quotes",
		"myapp: {hunter2: x, secret: y}":                        "these are: allocations",
		"myapp: {secret: x, allocations: hunter2}":              "allocations: it is to be a whole number",
		"myapp: {secret: x, allocations: 1.5}":                  "whole number",
		"myapp: {secret: x, allocations: -1}":                   "allocations is 0 to",
		"myapp: {secret: x, burst_bytes: 18446744073709551615}": "whole number",
		"myapp: {secret: x, burst_bytes: 2000000000000}":        "burst_bytes is 0 to",
		"myapp: {secret: x, client_allocations: 70000}":         "client_allocations is 0 to",
		"myapp: {secret: x, allow: 10.0.0.0/8}":                 "it is a list",
		"myapp: {secret: x, allow: [7]}":                        "put it in quotes",
		"myapp: {secret: x, allow: [0.0.0.0/8]}":                "may not be allowed",
		"myapp: !!hunter2 [":                                    "[1:",
		strings.Repeat("#", maxTenantsFile+1):                   "larger than",
	} {
		_, err := parseTenants([]byte(text))
		require.ErrorContains(t, err, why, "%.80q", text)
		require.NotContains(t, err.Error(), "hunter2", "%.80q", text)
	}
	var many strings.Builder
	for i := range maxTenants + 1 {
		fmt.Fprintf(&many, "t%04d: x\n", i)
	}
	_, err := parseTenants([]byte(many.String()))
	require.ErrorContains(t, err, "too many")
}

func TestTenantsWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	w := tenantsWatch{path: path}
	_, _, err := w.read()
	require.ErrorContains(t, err, "tenants.yaml: no such file")
	write("myapp: secret-one")
	_, fresh, err := w.read()
	require.NoError(t, err)
	require.True(t, fresh)

	settled := func(what string) ([]fileTenant, error) {
		t.Helper()
		_, fresh, _ := w.changed()
		require.False(t, fresh, "what was seen once may be half written: %s", what)
		got, fresh, err := w.changed()
		require.True(t, fresh, what)
		_, fresh, _ = w.changed()
		require.False(t, fresh, "nothing is told twice: %s", what)
		return got, err
	}
	for range 3 {
		_, fresh, _ = w.changed()
		require.False(t, fresh, "nothing has changed")
	}
	write("myapp: secret-two")
	got, err := settled("another text")
	require.NoError(t, err)
	require.Equal(t, "secret-two", got[0].secret)

	// A copy that keeps the times, as long as the file before it.
	before, err := os.Stat(path)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // the kernel's clock for files goes in steps
		write("myapp: secret-tri")
		after, err := os.Stat(path)
		return err == nil && after.ModTime().After(before.ModTime())
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, os.Chtimes(path, time.Time{}, before.ModTime()))
	got, err = settled("a text with the old time and size")
	require.NoError(t, err)
	require.Equal(t, "secret-tri", got[0].secret)

	require.NoError(t, os.Remove(path))
	_, err = settled("it is gone")
	require.ErrorContains(t, err, "no such file")
	write("myapp: [")
	_, err = settled("it is damaged")
	require.Error(t, err)

	// Touched, and as it was judged before.
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	for range 3 {
		_, fresh, _ = w.changed()
		require.False(t, fresh)
	}
	require.NoError(t, os.Rename(path, path+".old"))
	require.NoError(t, os.Mkdir(path, 0o700))
	_, _, err = w.read()
	require.ErrorContains(t, err, "is a directory")
}

func TestDivide(t *testing.T) {
	all := orama.PortRange{First: 50000, Count: 100}
	named := func(names ...orama.NamespaceID) (out []fileTenant) {
		for _, n := range names {
			out = append(out, fileTenant{ns: n})
		}
		return out
	}
	old, err := divide(all, 25, nil, named("bb", "cc"))
	require.NoError(t, err)
	require.Equal(t, map[orama.NamespaceID]orama.PortRange{"bb": {First: 50000, Count: 25}, "cc": {First: 50025, Count: 25}}, old)
	now, err := divide(all, 25, old, named("aa", "cc", "dd"))
	require.NoError(t, err)
	require.Equal(t, map[orama.NamespaceID]orama.PortRange{"aa": {First: 50000, Count: 25}, "cc": {First: 50025, Count: 25}, "dd": {First: 50050, Count: 25}}, now)
	now, err = divide(all, 40, old, named("bb", "cc", "dd", "ee", "ff"))
	require.NoError(t, err)
	require.Equal(t, orama.PortRange{First: 50050, Count: 40}, now["dd"])
	require.Equal(t, orama.PortRange{First: 50090, Count: 5}, now["ee"], "half of what is left")
	require.Equal(t, orama.PortRange{First: 50095, Count: 3}, now["ff"])
	_, err = divide(orama.PortRange{First: 50000, Count: 1}, 1, nil, named("aa", "bb"))
	require.ErrorContains(t, err, "no relay ports left for tenant bb")
	require.ErrorContains(t, err, "--relay-ports")
}

// Whoever comes and goes: blocks lie inside the range, apart from each other, and a tenant that stays keeps its own.
func TestDivideKeepsBlocksApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 200).Draw(t, "count")
		all := orama.PortRange{First: uint16(rapid.IntRange(1024, 65536-count).Draw(t, "first")), Count: uint16(count)}
		size := rapid.IntRange(1, count).Draw(t, "size")
		blocks := map[orama.NamespaceID]orama.PortRange{}
		for range 8 {
			names := rapid.SliceOfNDistinct(rapid.SampledFrom([]orama.NamespaceID{"a", "b", "c", "d", "e", "f", "g"}), 1, 7, rapid.ID).Draw(t, "names")
			slices.Sort(names)
			var tenants []fileTenant
			for _, n := range names {
				tenants = append(tenants, fileTenant{ns: n})
			}
			next, err := divide(all, size, blocks, tenants)
			if err != nil {
				continue // and the old ones stay
			}
			require.ElementsMatch(t, names, slices.Collect(maps.Keys(next)))
			used := map[int]orama.NamespaceID{}
			for n, b := range next {
				require.Positive(t, b.Count)
				for p := int(b.First); p < int(b.First)+int(b.Count); p++ {
					require.True(t, all.Contains(uint16(p)), "%s: %v", n, b)
					require.Empty(t, used[p], "%s and %s share %d", n, used[p], p)
					used[p] = n
				}
				if old, ok := blocks[n]; ok {
					require.Equal(t, old, b, "%s keeps its block", n)
				}
			}
			blocks = next
		}
	})
}
