//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Three hosts installed from the package, each with a systemd, a UFW and a WireGuard interface of its own: what one does
// is what the specification's commands show on it, and one that loses power comes back by itself.
func TestSystemdHosts(t *testing.T) {
	l := machines(t, 3)
	l.serveRecords(t)
	f := &fleet{lab: l}
	deb := debianPackage(t)
	begun := time.Now()
	for _, h := range l.hosts {
		f.all = append(f.all, newMachine(t, h))
	}
	for _, m := range f.all {
		m.bare(t)
	}
	f.each(t, func(m *machine) error {
		_, err := m.try("ufw", "--force", "enable") // with nothing open
		return errors.Join(err, m.install(deb))
	})
	t.Logf("three hosts booted and installed in %s", ms(time.Since(begun)))
	begun = time.Now()
	f.form(t)
	t.Logf("a cluster after %s", ms(time.Since(begun)))

	first := f.all[0]
	first.must(t, "orama", "namespace", "create", "myapp")
	begun = time.Now()
	first.must(t, "orama", "namespace", "enable", "webrtc", "--namespace", "myapp")
	f.are(t, 2, 3)
	t.Logf("WebRTC enabled in %s", ms(time.Since(begun)))
	f.unitsAre(t)

	lost := f.withTURN(t)
	lost.powerLoss(t)
	begun = time.Now()
	boot := lost.boot(t)
	eventually(t, 40*time.Second, func() string {
		for _, unit := range mediaServices {
			if out, err := lost.try("systemctl", "is-active", unit); err != nil {
				return unit + " is " + out + lost.journal("orama")
			}
		}
		return ""
	})
	f.are(t, 2, 3)
	t.Logf("%s lost power: booted in %s, serves as before after %s", lost.host.name, ms(boot), ms(time.Since(begun)))
	f.unitsAre(t)

	first.must(t, "orama", "namespace", "disable", "webrtc", "--namespace", "myapp")
	for _, m := range f.all {
		eventually(t, 20*time.Second, func() string {
			left := m.must(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "orama-namespace-*")
			for _, rule := range strings.Split(m.must(t, "ufw", "show", "added"), "\n") {
				if strings.Contains(rule, "myapp") {
					left += rule
				}
			}
			if left != "" {
				left = m.host.name + ": " + left + m.journal("orama")
			}
			return left
		})
	}
}

// fleet is the machines of one cluster.
type fleet struct {
	lab *lab
	all []*machine
}

// each does something on all machines at once.
func (f *fleet) each(t testing.TB, do func(*machine) error) {
	t.Helper()
	errs := make([]error, len(f.all))
	var all sync.WaitGroup
	for i, m := range f.all {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

// form makes a cluster: init on the first, join on the others, as an operator does.
func (f *fleet) form(t testing.TB) {
	t.Helper()
	var made struct{ Token string }
	for i, m := range f.all {
		args := []string{"orama", "node", "join", "--token", made.Token}
		if i == 0 {
			args = []string{"orama", "node", "init", "--base-domain", "orama.example", "--mesh", "userspace", "--firewall", "ufw",
				"--store", f.lab.storeURLs(), "--json"}
		}
		args = append(args, "--node", m.host.name, "--public-ip", m.host.public, "--mesh-interface", fmt.Sprintf("wg-%d", i+1))
		out := m.must(t, args...)
		if i == 0 {
			require.NoError(t, json.Unmarshal([]byte(out), &made), out)
		}
		m.must(t, "systemctl", "enable", "--now", "orama")
		require.Equal(t, "active\n", m.must(t, "systemctl", "is-active", fmt.Sprintf("orama-mesh@wg-%d", i+1)))
		if i+1 < len(f.all) && i > 0 {
			require.NoError(t, json.Unmarshal([]byte(f.all[0].must(t, "orama", "node", "invite", "--json")), &made))
		}
	}
}

// are waits until webrtc-status shows as many ready relays and SFUs.
func (f *fleet) are(t testing.TB, turn, sfu int) {
	t.Helper()
	eventually(t, 60*time.Second, func() string {
		var status struct{ Instances []instance }
		out, err := f.all[0].try("orama", "namespace", "webrtc-status", "--namespace", "myapp", "--json")
		if err != nil || json.Unmarshal([]byte(out), &status) != nil {
			return fmt.Sprint(out, err)
		}
		ready := map[string]int{}
		for _, i := range status.Instances {
			if i.State == "ready" {
				ready[i.Role]++
			}
		}
		if ready["turn"] != turn || ready["sfu"] != sfu {
			return out
		}
		return ""
	})
}

// unitsAre holds what runs to what was placed: three SFUs and two leases, with their rules.
func (f *fleet) unitsAre(t testing.TB) {
	t.Helper()
	leases := 0
	for _, m := range f.all {
		require.Equal(t, "active\n", m.must(t, "systemctl", "is-active", sfuService))
		require.Contains(t, m.must(t, "ufw", "status"), "orama:myapp:sfu")
		if _, err := m.try("systemctl", "is-active", leaseService); err == nil {
			leases++
			require.Contains(t, m.must(t, "ufw", "status"), "orama:myapp:relay")
			require.Contains(t, m.must(t, "journalctl", "-u", leaseService, "--no-pager"), "the lease begins")
		}
	}
	require.Equal(t, 2, leases)
}

// withTURN is a machine, not the first, on which the namespace has TURN.
func (f *fleet) withTURN(t testing.TB) *machine {
	t.Helper()
	for _, m := range f.all[1:] {
		if _, err := m.try("systemctl", "is-active", leaseService); err == nil {
			return m
		}
	}
	t.Fatal("no host but the first has TURN")
	return nil
}
