package turn

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// coturn's turnutils_uclient asks for an even port every other time, even with -c, and so needs EVEN-PORT.

// Channels and Send indications over each way in, to coturn's own peer.
func TestUclient(t *testing.T) {
	peers := foreignPeer(t)
	h := newHost(t, func(h *host) { h.tenant(alpha).Allow = peers })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, []byte(h.spec.CertPEM), 0o600))
	udp, tcp, tls := foreignWays[0], foreignWays[1], foreignWays[2]
	runs := []foreignRun{
		{"certificate checked", tls, []string{"-c", "-E", ca}},
		{"odd lengths", udp, []string{"-c", "-l", "77"}},
		{"padded", udp, []string{"-c", "-l", "77", "-D"}},
		{"odd lengths", tcp, []string{"-c", "-l", "77"}},
		{"long", udp, []string{"-c", "-l", "1200"}},
		{"not to be cut", udp, []string{"-c", "-s", "-g"}},
		{"extra permissions and channels", udp, []string{"-c", "-G"}},
		{"IPv4 by name", udp, []string{"-c", "-X"}},
	}
	for _, way := range foreignWays {
		runs = append(runs, foreignRun{"channels", way, []string{"-c"}}, foreignRun{"indications", way, []string{"-c", "-s"}}, foreignRun{"RTCP on a reserved port", way, nil})
	}
	for i := range runs {
		runs[i].flags = append(runs[i].flags, "-m", "4", "-n", "20", "-e", peers[0].Addr().String(), "-r", "3480")
	}
	for name, said := range h.uclients(t, time.Minute, runs) {
		t.Run(name, func(t *testing.T) {
			least := 80
			if strings.HasPrefix(name, "tls") {
				least = 56 // the tool's reading of TLS loses some, from coturn's own server too, and the more the busier the machine is
			}
			delivered(t, said, 80, least)
		})
	}
}

// Two clients who reach each other through their relays: the fence lets a namespace's own relays through where it
// names them. Not over TLS: there the tool loses a fifth with coturn's own server.
func TestUclientToClient(t *testing.T) {
	h := newHost(t, func(h *host) {
		a := h.tenant(alpha)
		a.Relay.Count, a.Allow = 64, nil
		for i := range a.Relay.Count {
			a.Allow = append(a.Allow, netip.AddrPortFrom(h.spec.RelayIP, a.Relay.First+i))
		}
	})
	var runs []foreignRun
	for _, way := range foreignWays {
		if way.name != "tls" {
			runs = append(runs, foreignRun{"channels", way, []string{"-y", "-c", "-m", "4", "-n", "20"}}, foreignRun{"indications", way, []string{"-y", "-c", "-s", "-m", "4", "-n", "20"}})
		}
	}
	for name, said := range h.uclients(t, time.Minute, runs) {
		t.Run(name, func(t *testing.T) { delivered(t, said, 80, 80) })
	}
}
