package deploy_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/cli"
	"orama.network/orama/internal/config"
)

// unit is a unit file: section, key, and the values in order.
type unit map[string]map[string][]string

func (u unit) last(section, key string) string {
	v := u[section][key]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

func (u unit) duration(t *testing.T, key string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(u.last("Service", key))
	require.NoError(t, err, key)
	return d
}

func units(t *testing.T) map[string]unit {
	t.Helper()
	files, err := filepath.Glob("systemd/*.*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[string]unit{}
	for _, path := range files {
		out[filepath.Base(path)] = parse(t, path)
	}
	return out
}

func parse(t *testing.T, path string) unit {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	u, section := unit{}, ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		require.True(t, ok, "%s: %q", path, line)
		u[section][key] = append(u[section][key], value)
	}
	return u
}

func services(t *testing.T) map[string]unit {
	out := units(t)
	for name := range out {
		if !strings.HasSuffix(name, ".service") {
			delete(out, name)
		}
	}
	return out
}

// Every service has these, whatever else it needs.
var hardening = map[string]string{
	"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "ProtectProc": "invisible", "ProtectClock": "yes",
	"ProtectHostname": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes",
	"ProtectControlGroups": "yes", "PrivateTmp": "yes", "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes",
	"RemoveIPC": "yes", "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "KeyringMode": "private", "UMask": "0077",
	"SystemCallArchitectures": "native",
}

func TestServicesAreHardened(t *testing.T) {
	for name, u := range services(t) {
		for key, want := range hardening {
			require.Equal(t, []string{want}, u["Service"][key], "%s: %s", name, key)
		}
		require.Equal(t, "@system-service", u["Service"]["SystemCallFilter"][0], name)
		require.NotEmpty(t, u.last("Service", "LimitNOFILE"), name)
		require.NotEmpty(t, u.last("Service", "User"), name)
		if name == "orama-mesh@.service" {
			require.Equal(t, "/dev/net/tun rw", u.last("Service", "DeviceAllow"))
			require.Equal(t, "closed", u.last("Service", "DevicePolicy"))
			continue
		}
		require.Equal(t, "yes", u.last("Service", "PrivateDevices"), name)
	}
}

func TestCapabilities(t *testing.T) {
	want := map[string][]string{
		"orama.service":                 {"CAP_NET_BIND_SERVICE CAP_NET_ADMIN"}, // the mesh's interface is the agent's to configure
		"orama-turn.service":            {"CAP_NET_BIND_SERVICE"},
		"orama-namespace-turn@.service": {""},
		"orama-namespace-sfu@.service":  {""},
		"orama-mesh@.service":           {"CAP_NET_ADMIN"},
		"orama-firewall.service":        {"CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH"},
	}
	all := services(t)
	require.Len(t, all, len(want))
	for name, caps := range want {
		require.Equal(t, caps, all[name]["Service"]["CapabilityBoundingSet"], name)
		if name != "orama-firewall.service" { // which is root's
			require.Equal(t, caps, all[name]["Service"]["AmbientCapabilities"], name)
			require.NotEqual(t, "root", all[name].last("Service", "User"), name)
		}
	}
}

// The agent may come and go: nothing else does with it. And of who runs as whom depends who reaches which socket.
func TestWhoDependsOnWhom(t *testing.T) {
	all := units(t)
	for name, u := range all {
		for _, key := range []string{"PartOf", "BindsTo", "Requires", "Requisite", "ConsistsOf", "PropagatesStopTo", "StopPropagatedFrom"} {
			for _, v := range u["Unit"][key] {
				require.Equal(t, "orama-firewall.socket", v, "%s: %s", name, key)
			}
		}
	}
	require.Equal(t, "orama-turn orama-sfu", all["orama.service"].last("Service", "SupplementaryGroups"))
	for name, who := range map[string]string{
		"orama.service": "orama", "orama-mesh@.service": "orama", "orama-turn.service": "orama-turn",
		"orama-namespace-turn@.service": "orama-turn", "orama-namespace-sfu@.service": "orama-sfu",
	} {
		require.Equal(t, who, all[name].last("Service", "User"), name)
		require.Equal(t, who, all[name].last("Service", "Group"), name)
		if name != "orama.service" {
			require.Empty(t, all[name]["Service"]["SupplementaryGroups"], name)
		}
	}
	for _, name := range []string{"orama-turn.service", "orama-namespace-sfu@.service"} {
		require.Equal(t, "0750", all[name].last("Service", "RuntimeDirectoryMode"), name)
	}
	socket := all["orama-firewall.socket"]
	require.Equal(t, "orama", socket.last("Socket", "SocketUser"))
	require.Equal(t, "0600", socket.last("Socket", "SocketMode"))
}

func TestServicesComeBack(t *testing.T) {
	for name, u := range services(t) {
		if name == "orama-firewall.service" {
			continue
		}
		require.Equal(t, "on-failure", u.last("Service", "Restart"), name)
		require.LessOrEqual(t, u.duration(t, "RestartSec"), time.Second, name)
		if name == "orama-mesh@.service" {
			continue
		}
		require.Equal(t, "notify", u.last("Service", "Type"), name)
		require.Equal(t, map[bool]string{true: "all", false: "main"}[name == "orama-turn.service"], u.last("Service", "NotifyAccess"), name)
		require.Positive(t, u.duration(t, "WatchdogSec"), name)
	}
}

// The commands are those of the program, and end in the time that they are given.
func TestCommands(t *testing.T) {
	for name, u := range services(t) {
		argv := strings.Fields(strings.ReplaceAll(u.last("Service", "ExecStart"), "%i", "myapp"))
		require.Equal(t, "/usr/bin/orama", argv[0], name)
		var said strings.Builder
		require.Zero(t, cli.Run(t.Context(), append(argv[1:], "--help"), io.Discard, &said), "%s: %s", name, said.String())
		if i := slices.Index(argv, "--drain"); i > 0 {
			drain, err := time.ParseDuration(argv[i+1])
			require.NoError(t, err)
			require.GreaterOrEqual(t, u.duration(t, "TimeoutStopSec"), drain+2*time.Second, name)
		}
	}
}

func TestPolkitLetsTheAgentHaveItsUnits(t *testing.T) {
	text, err := os.ReadFile("polkit.rules")
	require.NoError(t, err)
	found := regexp.MustCompile(`ours = /(.*)/\.test`).FindStringSubmatch(string(text))
	require.NotNil(t, found)
	ours := regexp.MustCompile(found[1])
	for _, ok := range []string{"orama-turn.service", "orama-namespace-sfu@my-app.service", "orama-namespace-turn@a1.service", "orama-mesh@orama0.service"} {
		require.True(t, ours.MatchString(ok), ok)
	}
	for _, not := range []string{"ssh.service", "orama.service", "orama-turn.socket", "orama-turn.service.d", "x-orama-turn.service",
		"orama-namespace-sfu@.service", "orama-namespace-other@a.service", "orama-firewall.service", "orama-namespace-sfu@a/../b.service"} {
		require.False(t, ours.MatchString(not), not)
	}
}

func TestExampleIsAConfiguration(t *testing.T) {
	c, err := config.Load("node.yaml.example")
	require.NoError(t, err)
	require.Equal(t, "systemd", c.Supervisor)
	require.Equal(t, "/run/"+units(t)["orama.service"].last("Service", "RuntimeDirectory"), c.RunDir)
}

func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("debian/*.sh")
	require.NoError(t, err)
	require.Len(t, scripts, 3)
	packaged, err := os.ReadFile("nfpm.yaml")
	require.NoError(t, err)
	for _, s := range scripts {
		out, err := exec.Command("sh", "-n", s).CombinedOutput()
		require.NoError(t, err, "%s: %s", s, out)
		require.Contains(t, string(packaged), "deploy/"+s)
	}
}

func TestSystemdReadsTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (package systemd)")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "usr/lib/systemd/system")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, program := range []string{"usr/bin/orama", "usr/bin/chown", "bin/sh"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, program)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, program), []byte("#!/bin/sh\n"), 0o755))
	}
	// What our units name beside themselves; systemd brings them.
	for _, other := range []string{"sysinit.target", "basic.target", "shutdown.target", "network-online.target", "multi-user.target", "sockets.target"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, other), []byte("[Unit]\nDescription=stands in\n"), 0o644))
	}
	args := []string{"--root=" + root, "--man=no", "verify"}
	for name := range units(t) {
		text, err := os.ReadFile(filepath.Join("systemd", name))
		require.NoError(t, err)
		// The documentation is a file of the package.
		text = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAll(text, nil)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
		args = append(args, strings.Replace(name, "@.", "@myapp.", 1))
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	require.NoError(t, err, string(out))
	for line := range strings.SplitSeq(string(out), "\n") {
		require.NotContains(t, line, "orama", "systemd warns of a unit")
	}
}
