package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/config"
)

const good = `node: node-1
base_domain: orama.test
public_ip: 127.0.0.11
mesh_ip: 127.10.0.1
mesh_cidr: 127.10.0.0/24
data_dir: /var/lib/orama
cluster_key: /var/lib/orama/cluster.key
store: {engine: sqlite, file: /var/lib/orama/cluster.db}
certificates: {mode: authority, authority: /var/lib/orama}
gateway:
  url: http://127.0.0.11:8080
  http: ["127.0.0.11:8080"]
  https: 127.0.0.11:8443
turn:
  urls: ip
`

func TestSaveAndLoadAgree(t *testing.T) {
	c, err := config.Parse("good", []byte(good))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "node.yaml")
	require.NoError(t, c.Save(path))
	back, err := config.Load(path)
	require.NoError(t, err)
	require.Equal(t, c, back)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestMistakesAreNamed(t *testing.T) {
	for _, tc := range []struct{ name, from, to, says string }{
		{"unknown key", "node: node-1", "node: node-1\ntypo: 1", "typo"},
		{"no node", "node: node-1", "node: \"\"", "node:"},
		{"slash in node", "node: node-1", "node: a/b", "node:"},
		{"mesh address outside", "mesh_ip: 127.10.0.1", "mesh_ip: 10.9.9.9", "mesh_ip"},
		{"unspecified public address", "public_ip: 127.0.0.11", "public_ip: 0.0.0.0", "public_ip"},
		{"no network", "mesh_cidr: 127.10.0.0/24", "mesh_cidr: nonsense", ""},
		{"relative path", "file: /var/lib/orama/cluster.db", "file: cluster.db", "absolute"},
		{"unknown store", "engine: sqlite", "engine: papyrus", "store"},
		{"rqlite without urls", "{engine: sqlite, file: /var/lib/orama/cluster.db}", "{engine: rqlite}", "urls"},
		{"password in a url", "{engine: sqlite, file: /var/lib/orama/cluster.db}", "{engine: rqlite, urls: [\"http://u:p@10.0.0.1:4001\"]}", "without a password"},
		{"files without key", "{mode: authority, authority: /var/lib/orama}", "{mode: files, cert: /c.pem}", "certificates"},
		{"unknown supervisor", "turn:", "supervisor: cron\nturn:", "supervisor"},
		{"unknown firewall", "turn:", "firewall: moat\nturn:", "firewall"},
		{"a mesh without key", "turn:", "mesh: {wireguard: auto}\nturn:", "private_key"},
		{"dns without an address", "turn:", "dns: {mode: serve}\nturn:", "listen"},
		{"dns without a port", "turn:", "dns: {mode: serve, listen: [\"203.0.113.1\"]}\nturn:", "HOST:PORT"},
		{"a dns program that is none", "turn:", "dns: {mode: program}\nturn:", "dns: mode program needs program"},
		{"a dns program somewhere", "turn:", "dns: {mode: program, program: [\"orama-dns --zone x\"]}\nturn:", "further items"},
		{"a dns program for nothing", "turn:", "dns: {mode: serve, listen: [\"203.0.113.1:53\"], program: [/bin/dns]}\nturn:", "of mode program"},
		{"a dns program elsewhere", "turn:", "dns: {mode: program, program: [/bin/dns], zone: ama.test}\nturn:", "orama.test is not in the zone ama.test"},
		{"an unknown dns mode", "turn:", "dns: {mode: carrier-pigeon}\nturn:", "\"program\""},
		{"olric without addresses", "turn:", "cache: {engine: olric}\nturn:", "addresses"},
		{"url style", "urls: ip", "urls: carrier-pigeon", "turn.urls"},
		{"no gateway", "url: http://127.0.0.11:8080", "url: \"\"", "gateway"},
		{"demo namespace", "turn:", "demo: {namespace: \"Not Valid\"}\nturn:", "demo.namespace"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Contains(t, good, tc.from)
			_, err := config.Parse("file", []byte(strings.Replace(good, tc.from, tc.to, 1)))
			require.ErrorContains(t, err, tc.says)
		})
	}
}

func TestDNSProgram(t *testing.T) {
	for _, zone := range []string{"", ", zone: orama.test", ", zone: Test."} {
		c, err := config.Parse("file", []byte(good+"dns: {mode: program, program: [/usr/local/bin/orama-dns, --token-file, /etc/orama/token]"+zone+"}\n"))
		require.NoError(t, err)
		require.Equal(t, []string{"/usr/local/bin/orama-dns", "--token-file", "/etc/orama/token"}, c.DNS.Program)
	}
}

func TestLargeFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	require.NoError(t, os.WriteFile(path, []byte(good+strings.Repeat("# comment\n", 10_000)), 0o600))
	_, err := config.Load(path)
	require.ErrorContains(t, err, "larger")
}
