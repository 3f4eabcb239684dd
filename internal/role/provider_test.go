package role

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/dns"
	"orama.network/orama/internal/store"
)

func programConfig(program ...string) config.Node {
	return config.Node{ID: "node-1", BaseDomain: "calls.example.org", DNS: config.DNS{Mode: "program", Program: program, Zone: "example.org"}}
}

// What the records say reaches the operator's program, and what it cannot do is in the node's report.
func TestNamesAreKeptByAProgram(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\ncat >>\"$1\"; echo >>\"$1\"\n[ -e \"$1.down\" ] && { echo the API is away >&2; exit 1; }\necho '{\"records\":[]}'\n"), 0o700)) //nolint:gosec // a program
	asked := filepath.Join(dir, "asked")
	records, err := store.Open(t.Context(), store.Options{File: filepath.Join(dir, "records.db")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, records.Close()) })
	now := time.Now()
	require.NoError(t, records.Heartbeat(t.Context(), orama.Node{ID: "node-1", PublicIP: netip.MustParseAddr("203.0.113.1"), MeshIP: netip.MustParseAddr("10.0.0.1")}, now))
	require.NoError(t, records.Commit(t.Context(), orama.Change{Base: revision(t, records), PutDNS: []orama.DNSRecord{{Name: "turn.ns-demo.calls.example.org", Value: netip.MustParseAddr("203.0.113.1"), TTL: 60}}}))

	var log bytes.Buffer
	n, err := openNames(programConfig(script, asked), records, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.True(t, n.serves())
	n.push(t.Context(), t.Context())
	require.NoError(t, n.check(t.Context()))
	text, err := os.ReadFile(asked)
	require.NoError(t, err)
	require.Contains(t, string(text), `{"version":1,"op":"get","zone":"example.org."}`)
	require.Contains(t, string(text), `{"name":"turn.ns-demo.calls","ttl":60,"type":"A","data":"203.0.113.1"}`)
	require.NotContains(t, string(text), `"name":"calls"`, "the base domain is its owner's")
	n.push(t.Context(), t.Context())
	again, err := os.ReadFile(asked)
	require.NoError(t, err)
	require.Equal(t, text, again, "it is compared once a minute, and when something changed")

	require.NoError(t, os.WriteFile(asked+".down", nil, 0o600))
	n.at = time.Now().Add(-2 * programEvery)
	n.push(t.Context(), t.Context())
	require.ErrorContains(t, n.check(t.Context()), "the API is away")
	require.Equal(t, 1, strings.Count(log.String(), "the zone of the dns program cannot be updated"))
}

func revision(t *testing.T, records *store.Store) int64 {
	t.Helper()
	c, err := records.Cluster(t.Context())
	require.NoError(t, err)
	return c.Revision
}

// A change is one node's first, and the next one's a while later. A node that is silent has no turn.
func TestTurnsOfAProgram(t *testing.T) {
	now := time.Now()
	c := orama.Cluster{Nodes: []orama.Node{{ID: "node-1", Heartbeat: now}, {ID: "node-2", Heartbeat: now.Add(-time.Minute)}, {ID: "node-3", Heartbeat: now}}}
	open := func(self orama.NodeID, mode func(*config.Node)) *names {
		cfg := programConfig("/bin/true")
		cfg.ID = self
		mode(&cfg)
		n, err := openNames(cfg, nil, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return n
	}
	program := func(*config.Node) {}
	one, two := []orama.DNSRecord{{Name: "a", TTL: 1}}, []orama.DNSRecord{{Name: "b", TTL: 1}}
	first, third := open("node-1", program), open("node-3", program)
	require.True(t, first.due(c, one, now))
	require.False(t, third.due(c, one, now))
	require.False(t, third.due(c, one, now.Add(programTurn-time.Second)))
	require.True(t, third.due(c, one, now.Add(programTurn)))
	third.at = now.Add(programTurn)
	require.False(t, third.due(c, one, now.Add(programTurn+time.Second)), "that was its turn")
	c.Nodes[0].Heartbeat = now.Add(programTurn)
	require.False(t, third.due(c, two, now.Add(programTurn+time.Second)))
	c.Nodes[0].Heartbeat = now.Add(2 * programTurn)
	require.True(t, third.due(c, two, now.Add(2*programTurn+time.Second)))

	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte("c2VjcmV0"), 0o600))
	server := open("node-3", func(c *config.Node) {
		c.DNS = config.DNS{Mode: "rfc2136", Server: "192.0.2.53:53", KeyName: "k", KeyFile: key}
	})
	require.True(t, server.due(c, one, now), "a name server takes the same update from all of them")
}

func TestChallengesGoWhereTheNamesAre(t *testing.T) {
	p, err := challenges(programConfig("/bin/true"), nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.IsType(t, &dns.Program{}, p.(*foreign).Provider)
	cfg := programConfig()
	cfg.DNS = config.DNS{Mode: "none"}
	_, err = challenges(cfg, nil, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "serve, rfc2136 or program")
	cfg.DNS = config.DNS{Mode: "rfc2136", KeyFile: "/nowhere/key"}
	_, err = challenges(cfg, nil, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
}
