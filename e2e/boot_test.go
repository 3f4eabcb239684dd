//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/store/rqlitetest"
)

// slowFor is how long the store is slow in TestColdBoot.
const slowFor = 30 * time.Second

// outage is how long the store is away in TestColdBoot; ORAMA_E2E_OUTAGE makes it another.
func outage(t testing.TB) time.Duration {
	t.Helper()
	d := 2 * time.Minute
	if v := os.Getenv("ORAMA_E2E_OUTAGE"); v != "" {
		var err error
		d, err = time.ParseDuration(v)
		require.NoError(t, err)
	}
	return d
}

// reboot takes power from every host at once, and starts them again.
func (l *lab) reboot(t testing.TB) {
	t.Helper()
	for _, h := range l.hosts {
		h.dies(t)
	}
	l.rebooted = time.Now()
	for _, h := range l.hosts {
		in(t, h.name, "ip link set eth0 up")
		require.NoError(t, os.Truncate(h.log, 0))
		h.start(t)
	}
}

// warned counts the log's warnings about records that cannot be reached or read.
func (h *labHost) warned(t testing.TB) int {
	t.Helper()
	raw, err := os.ReadFile(h.log)
	require.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, "records cannot be re") {
			n++
		}
	}
	return n
}

// Everything loses power, and comes back into every kind of trouble that the specification's cold boot knows.
func TestColdBoot(t *testing.T) {
	t.Parallel() // with TestExpiry: both spend most of their time waiting
	if browsersAreUp != nil {
		<-browsersAreUp
	}
	l := newLab(t)
	l.serveRecords(t)
	l.form(t)
	first := l.hosts[0]
	for _, ns := range []string{"myapp", "gone"} {
		eventually(t, 30*time.Second, func() string {
			out, errs, code := first.orama(t, "namespace", "create", ns)
			if code != 0 && !strings.Contains(errs, "there is a namespace") {
				return errs + out + first.tail()
			}
			return ""
		})
		first.must(t, "namespace", "enable", "webrtc", "--namespace", ns)
	}
	l.instancesAre(t, first, 30*time.Second, 2, 3)
	first.must(t, "namespace", "origins", "myapp", "http://127.0.0.1:8000")
	c := l.cluster(t)
	before := l.placed(t, first)

	t.Run("all well", func(t *testing.T) {
		l.reboot(t)
		started := time.Now()
		l.serves(t, started)
		require.Equal(t, before, l.placed(t, first))
	})
	t.Run("slow store", func(t *testing.T) {
		l.store.Always(rqlitetest.Hang)
		l.reboot(t)
		l.away(t, slowFor)
		l.store.Always(nil)
		l.serves(t, time.Now())
	})
	t.Run("store gone, and a namespace with it", func(t *testing.T) {
		l.reboot(t)
		l.serves(t, time.Now())
		// The last host is off while a namespace is disabled.
		last := l.hosts[2]
		last.dies(t)
		_, _, _ = first.orama(t, "namespace", "disable", "webrtc", "--namespace", "gone") // it waits in vain for the host that is off
		in(t, last.name, "ip link set eth0 up")
		last.start(t)
		m := c.meeting(t, "myapp", "boot")
		m.enter(chromium, "ada")
		m.enter(chromium, "bob")
		m.allMeet(30 * time.Second)
		l.store.Always(rqlitetest.Status(http.StatusServiceUnavailable, "leader not found"))
		l.reboot(t)
		l.away(t, outage(t))
		for _, h := range l.hosts {
			for _, p := range h.processes(t) {
				require.NotContains(t, strings.Join(p.argv, " "), "sfu run", "%s: nothing is started of what nobody confirms", h.name)
			}
		}
		l.store.Always(nil)
		back := time.Now()
		l.serves(t, back)
		m.watch()
		for _, p := range m.people {
			p.until(20*time.Second, "the call is back by itself", "__probe.gaps().watched > 500 && __probe.gaps().lag < 500")
			t.Logf("%s is in the call again %s after the store came back", p.user, ms(time.Since(back)))
		}
		eventually(t, 30*time.Second, func() string {
			out, _, _ := first.orama(t, "namespace", "list", "--json")
			if !strings.Contains(out, `"name":"gone","webrtc":false`) {
				return out
			}
			return ""
		})
		for _, h := range l.hosts {
			for _, p := range h.processes(t) {
				require.NotContains(t, strings.Join(p.argv, " "), "--namespace gone", h.name)
			}
		}
	})
	t.Run("damaged state file", func(t *testing.T) {
		state := filepath.Join(first.dir, "cluster_state.json")
		first.dies(t)
		require.NoError(t, os.WriteFile(state, []byte(`{"version":1,"node_id":`), 0o600))
		in(t, first.name, "ip link set eth0 up")
		first.start(t)
		_, err := first.agent.Process.Wait()
		require.NoError(t, err)
		require.Contains(t, first.tail(), state, "the file is named")
		raw, err := os.ReadFile(state)
		require.NoError(t, err)
		require.Equal(t, `{"version":1,"node_id":`, string(raw), "and kept")
		require.NoError(t, os.Rename(state, state+".damaged"))
		first.start(t)
		l.instancesAre(t, l.hosts[1], 30*time.Second, 2, 3)
	})
}

// serves waits until everything was used as a client would, and holds that to ten seconds from a moment.
func (l *lab) serves(t testing.TB, since time.Time) {
	t.Helper()
	l.instancesAre(t, l.hosts[1], 60*time.Second, 2, 3)
	took := time.Since(since)
	t.Logf("every relay and SFU serves %s after the store did", ms(took))
	if took >= 10*time.Second {
		require.Less(t, took, held(t, 10*time.Second, since))
	}
}

// away waits out the store's absence: one warning on each host, and no more.
func (l *lab) away(t testing.TB, d time.Duration) {
	t.Helper()
	<-time.After(d)
	for _, h := range l.hosts {
		require.Equal(t, 1, h.warned(t), "%s", h.tail())
	}
}
