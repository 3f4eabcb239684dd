package role

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/firewall"
	"orama.network/orama/internal/plan"
)

func TestUFWCommands(t *testing.T) {
	for _, ok := range []string{
		"show added", "status",
		"allow to 203.0.113.1 port 3478 proto udp comment orama:turn-myapp",
		"allow in on orama0 to any port 30000:30499 proto udp comment orama:sfu-myapp",
		"delete allow to any port 443 proto tcp comment orama:turn-myapp",
		"delete deny from 198.51.100.0/24 to any port 3478 proto udp comment orama:x",
		"route delete allow in on orama0 out on eth0 comment orama:x",
	} {
		require.NoError(t, allowedUFW(strings.Fields(ok)), ok)
	}
	for _, bad := range []string{
		"", "reset", "--force reset", "disable", "enable", "status verbose", "delete 1", "delete allow 22/tcp",
		"allow 22/tcp", "allow to any port 22 proto tcp comment ssh", "deny to any port 22 comment orama:x", "route allow in on a comment orama:x",
		"allow 22/tcp comment orama:x", "allow to any port 22 ; comment orama:x", "--dry-run allow to any port 22 comment orama:x",
		"allow to any port --force comment orama:x", "delete --force allow to any comment orama:x", "insert 1 allow to any port 1 comment orama:x",
		"allow to any port 22 comment orama:", "allow to any comment orama:x comment ssh", "allow to any port 22 23 comment orama:x",
	} {
		require.Error(t, allowedUFW(strings.Fields(bad)), bad)
	}
}

// What the firewall's keeper asks for is what the helper lets pass.
func TestUFWCommandsOfTheFirewall(t *testing.T) {
	want := []plan.Opening{
		{Tag: "turn", Proto: "udp", Ports: orama.PortRange{First: 3478, Count: 1}, To: netip.MustParseAddr("203.0.113.1")},
		{Tag: "turn", Proto: "tcp", Ports: orama.PortRange{First: 3478, Count: 1}, To: netip.MustParseAddr("2001:db8::1")},
		{Tag: "gateway", Proto: "tcp", Ports: orama.PortRange{First: 443, Count: 1}},
		{Tag: "my-app:relay", Proto: "udp", Ports: orama.PortRange{First: 49152, Count: 800}, To: netip.MustParseAddr("10.0.0.1"), Mesh: true},
	}
	asked := 0
	rules := []string{"ufw allow in on orama0 from 10.0.0.0/24 to 10.0.0.1 port 20000 proto udp comment 'orama:old:sfu'", "ufw allow 22/tcp"}
	u := firewall.New("orama0", func(_ context.Context, args ...string) (string, error) {
		asked++
		require.NoError(t, allowedUFW(args), "%q", args)
		if args[0] == "show" {
			return "Added user rules (see 'ufw status' for running firewall):\n" + strings.Join(rules, "\n") + "\n", nil
		}
		return "Status: active\n", nil
	}, slog.New(slog.DiscardHandler))
	require.Error(t, u.Apply(t.Context(), want), "this ufw takes no rule")
	require.GreaterOrEqual(t, asked, len(want)+1)
}

func FuzzUFWCommand(f *testing.F) {
	f.Add("allow to any port 22 proto tcp comment orama:x")
	f.Add("delete allow in on orama0 comment orama:x")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		if allowedUFW(args) != nil || ufwReads(args) {
			return
		}
		require.True(t, strings.HasPrefix(args[len(args)-1], "orama:"), "only rules that bear our name")
		for _, a := range args {
			require.False(t, strings.HasPrefix(a, "-"), "no option")
			require.NotContains(t, []string{"reset", "enable", "disable", "reload", "insert", "prepend"}, args[0])
		}
	})
}

func TestUFWHelper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ufw.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var ran []string
	run := func(_ context.Context, args ...string) (string, error) {
		ran = append(ran, strings.Join(args, " "))
		if args[0] == "delete" {
			return "", errors.New("ufw is broken")
		}
		return "Status: active\n", nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveUFW(ctx, l, run, time.Minute, slog.New(slog.DiscardHandler)) }()

	var command firewall.Command = ufwOver(path)
	out, err := command(t.Context(), "status")
	require.NoError(t, err)
	require.Equal(t, "Status: active\n", out)
	_, err = command(t.Context(), "reset")
	require.ErrorContains(t, err, "orama:")
	_, err = command(t.Context(), strings.Fields("delete allow to any port 1 comment orama:x")...)
	require.ErrorContains(t, err, "ufw is broken")
	require.ErrorContains(t, err, "journalctl -u orama-firewall")
	cancel()
	require.NoError(t, <-done)
	require.Len(t, ran, 2, "what is refused is not run")

	// Nobody asks: it ends by itself.
	l, err = net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, serveUFW(t.Context(), l, run, 10*time.Millisecond, slog.New(slog.DiscardHandler)))
	require.Error(t, Firewall(t.Context(), slog.New(slog.DiscardHandler)), "without a socket")
}
