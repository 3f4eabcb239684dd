package cache_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/cache"
)

// The real one. It cannot be had as a module, so these tests run where an operator's olric-server is on the PATH.

// olricCluster is three members of the real one, each a process.
type olricCluster struct {
	dir     string
	members []cache.Olric
	procs   []*exec.Cmd
}

const realPassword = "of the test"

func startOlric(t *testing.T) *olricCluster {
	t.Helper()
	if _, err := exec.LookPath("olric-server"); err != nil {
		t.Skip("olric-server is not on the PATH: what the real Olric does is not tested here")
	}
	c := &olricCluster{dir: t.TempDir(), procs: make([]*exec.Cmd, 3)}
	var peers []netip.AddrPort
	for i := range c.procs {
		ip := fmt.Sprintf("127.77.5.%d", i+1)
		m := cache.Olric{Address: freePort(t, ip), Gossip: freePort(t, ip), Password: realPassword}
		c.members, peers = append(c.members, m), append(peers, m.Gossip)
	}
	t.Cleanup(func() {
		for i := range c.procs {
			c.kill(t, i)
			if t.Failed() {
				log, _ := os.ReadFile(c.file(i) + ".log")
				t.Logf("member %d:\n%s", i, log)
			}
		}
	})
	for i := range c.members {
		c.members[i].Peers = peers
		c.start(t, i)
	}
	return c
}

// freePort is free now; whoever takes it before olric-server does makes the test fail.
func freePort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (c *olricCluster) file(i int) string { return filepath.Join(c.dir, fmt.Sprintf("%d.yaml", i)) }

func (c *olricCluster) start(t *testing.T, i int) {
	t.Helper()
	require.NoError(t, os.WriteFile(c.file(i), cache.OlricConfig(c.members[i]), 0o600))
	log, err := os.OpenFile(c.file(i)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("olric-server", "-c", c.file(i))
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	c.procs[i] = cmd
}

// kill is kill -9.
func (c *olricCluster) kill(t *testing.T, i int) {
	t.Helper()
	if c.procs[i] == nil {
		return
	}
	require.NoError(t, c.procs[i].Process.Kill())
	_ = c.procs[i].Wait() // says that it was killed
	c.procs[i] = nil
}

func (c *olricCluster) addresses() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.Address.String())
	}
	return out
}

func (c *olricCluster) open(t *testing.T, first int) *cache.Cache {
	t.Helper()
	return openOlric(t, cache.Options{Addresses: rotate(c.addresses(), first), Password: realPassword, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// eventually asks until each member answers, and they are one cluster.
func (c *olricCluster) eventually(t *testing.T) {
	t.Helper()
	for i, addr := range c.addresses() {
		if c.procs[i] != nil {
			one := openOlric(t, cache.Options{Addresses: []string{addr}, Password: realPassword})
			require.Eventually(t, func() bool { return one.Check(t.Context()) == nil }, time.Minute, 50*time.Millisecond, addr)
		}
	}
	all := c.open(t, 0)
	require.Eventually(t, func() bool { return all.Check(t.Context()) == nil }, time.Minute, 50*time.Millisecond)
}

func TestContractOlric(t *testing.T) {
	c := startOlric(t)
	c.eventually(t)
	round := 0
	suite(t, func(t *testing.T) world {
		round++
		next := 0
		return world{
			open: func(t *testing.T) *cache.Cache {
				next++
				return c.open(t, next).Patient()
			},
			// Keys of one test must not meet another's.
			key:  func(k string) string { return fmt.Sprint(round, k) },
			pass: func(d time.Duration) { <-time.After(d) },
		}
	})
}

// What a gateway sees of a member that dies: no call waits, limits go on, and the values come back.
func TestOlricLosesAMember(t *testing.T) {
	c := startOlric(t)
	c.eventually(t)
	g := c.open(t, 0)
	var puts, gets, takes []time.Duration
	const keys = 300
	for i := range keys {
		begun := time.Now()
		require.NoError(t, g.Put(t.Context(), fmt.Sprint("k", i), "v", time.Hour))
		puts = append(puts, time.Since(begun))
		begun = time.Now()
		_, err := g.Get(t.Context(), fmt.Sprint("k", i))
		require.NoError(t, err)
		gets = append(gets, time.Since(begun))
		begun = time.Now()
		require.Zero(t, g.Take(fmt.Sprint("t", i), 2, 0.001))
		takes = append(takes, time.Since(begun))
	}
	t.Logf("put %v, get %v, take %v (medians)", median(puts), median(gets), median(takes))

	c.kill(t, 1)
	killed := time.Now()
	var slowest time.Duration
	for i := range keys {
		begun := time.Now()
		g.Take(fmt.Sprint("t", i), 2, 0.001)
		slowest = max(slowest, time.Since(begun))
	}
	require.Less(t, slowest, time.Second)
	all := func() bool {
		for i := range keys {
			if _, err := g.Get(t.Context(), fmt.Sprint("k", i)); err != nil {
				return false
			}
		}
		return true
	}
	require.Eventually(t, all, time.Minute, 20*time.Millisecond)
	t.Logf("the slowest limit took %v after a member was killed; all values could be read again %v after it", slowest, time.Since(killed))
	c.start(t, 1)
	c.eventually(t)
	require.True(t, all(), "nothing is lost when it comes back")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(10 * time.Microsecond)
}
