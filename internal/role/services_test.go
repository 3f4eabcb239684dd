package role

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/config"
)

// A host that runs its own store and cache binds them to its mesh address, and knows the others by the configuration.
func TestServicesOfAHost(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"rqlited", "olric-server"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755))
	}
	t.Setenv("PATH", bin)
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte("a secret\n"), 0o600))
	cfg := config.Node{ID: "node-2", DataDir: dir, MeshIP: netip.MustParseAddr("10.0.0.2"),
		Store: config.Store{Engine: "rqlite", Run: true, User: "orama", PasswordFile: password, URLs: []string{"http://10.0.0.2:4001", "http://10.0.0.1:4001"}},
		Cache: config.Cache{Engine: "olric", Run: true, PasswordFile: password, Addresses: []string{"10.0.0.2:3320", "10.0.0.1:3320"}}}
	u, err := rqlitedUnit(cfg)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(bin, "rqlited"), "-node-id", "node-2", "-http-addr", "10.0.0.2:4001", "-raft-addr", "10.0.0.2:4002",
		"-auth", filepath.Join(dir, "rqlite-users.json"), "-join-as", "orama", "-bootstrap-expect", "2", "-join", "10.0.0.2:4002,10.0.0.1:4002",
		filepath.Join(dir, "rqlite")}, u.Args)
	o, err := olricUnit(cfg)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(bin, "olric-server"), "-c", filepath.Join(dir, "olric.yaml")}, o.Args)
	for _, file := range []string{"rqlite-users.json", "olric.yaml"} {
		info, err := os.Stat(filepath.Join(dir, file))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), file)
	}

	for name, change := range map[string]func(*config.Node){
		"no URL of its own":  func(c *config.Node) { c.Store.URLs = c.Store.URLs[1:] },
		"a name in a URL":    func(c *config.Node) { c.Store.URLs = []string{"http://store:4001"} },
		"no password's file": func(c *config.Node) { c.Store.PasswordFile = "/nowhere" },
	} {
		bad := cfg
		change(&bad)
		_, err := rqlitedUnit(bad)
		require.Error(t, err, name)
	}
	t.Setenv("PATH", "")
	_, err = rqlitedUnit(cfg)
	require.ErrorContains(t, err, "not installed")
	_, err = olricUnit(cfg)
	require.ErrorContains(t, err, "not installed")
}
