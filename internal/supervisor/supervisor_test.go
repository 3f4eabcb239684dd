package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the children that the tests supervise, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		helper(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func helper(kind string, args []string) {
	switch kind {
	case "serve": // says on its log that it runs, ends on SIGTERM
		term := make(chan os.Signal, 1)
		signal.Notify(term, unix.SIGTERM)
		fmt.Println("serving")
		<-term
		fmt.Println("bye")
	case "upgrade": // has another process take its place, and ends on SIGTERM
		next := exec.Command(os.Args[0], "helper", "serve")
		next.Stdout, next.SysProcAttr = os.Stdout, &unix.SysProcAttr{Setsid: true}
		if err := next.Start(); err != nil {
			panic(err)
		}
		fmt.Println("next is", next.Process.Pid)
		term := make(chan os.Signal, 1)
		signal.Notify(term, unix.SIGTERM)
		<-term
	case "stubborn": // does not end on SIGTERM
		signal.Ignore(unix.SIGTERM)
		fmt.Println("serving")
		select {}
	case "crash":
		fmt.Fprintln(os.Stderr, "first line")
		fmt.Fprintln(os.Stderr, "bind: address\x1b in use")
		os.Exit(3)
	case "stdin":
		text, err := io.ReadAll(os.Stdin)
		fmt.Println("got", len(text), err, strings.HasPrefix(string(text), "secret"))
		select {}
	case "fds": // names every descriptor it has
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			to, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil {
				fmt.Println("fd", e.Name(), to)
			}
		}
		fmt.Println("end")
		select {}
	case "supervisor": // keeps one unit, says its number, and waits to be killed
		c := New(args[0], slog.New(slog.DiscardHandler))
		if err := c.Ensure(context.Background(), unit(args[0], "serve")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if len(args) > 1 { // as if killed before the record was written
			os.Remove(c.path("u"))
		}
		fmt.Println(c.List()[0].PID)
		select {}
	}
}

func unit(dir, kind string) Unit {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Unit{Name: "u", Args: []string{exe, "helper", kind}, Log: filepath.Join(dir, "u.log")}
}

const long = 20 * time.Second // more than any test needs, less than go test's own limit

func start(t *testing.T, dir string) *Children {
	t.Helper()
	c := New(dir, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), long)
		defer cancel()
		for _, u := range c.List() { // also when the test detached it
			if c.closed {
				_ = unix.Kill(u.PID, unix.SIGKILL)
			}
		}
		require.NoError(t, c.Close(ctx, time.Second))
	})
	return c
}

func state(t *testing.T, c *Children) UnitState {
	t.Helper()
	l := c.List()
	require.Len(t, l, 1)
	return l[0]
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, long, 5*time.Millisecond, what)
}

func logHas(t *testing.T, u Unit, text string) {
	t.Helper()
	eventually(t, "log has "+text, func() bool {
		got, _ := os.ReadFile(u.Log)
		return bytes.Contains(got, []byte(text))
	})
}

func lives(pid int) bool {
	s, err := readStat(pid)
	return err == nil && !s.dead()
}

func TestAUnitRunsUntilItIsStopped(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "serve")
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "serving")
	pid := state(t, c).PID
	s, err := readStat(pid)
	require.NoError(t, err)
	require.Equal(t, pid, s.session, "the child leads a session of its own")

	require.NoError(t, c.Ensure(t.Context(), u), "again is no change")
	require.Equal(t, pid, state(t, c).PID)

	require.NoError(t, c.Stop(t.Context(), "u", long))
	_, err = readStat(pid)
	require.Error(t, err, "neither a process nor a zombie is left")
	require.Empty(t, c.List())
	require.NoFileExists(t, c.path("u"))
	logHas(t, u, "bye")
	require.NoError(t, c.Stop(t.Context(), "u", long), "nobody by that name is no error")
}

func TestAStubbornUnitIsKilledAfterItsGrace(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "stubborn")
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "serving")
	pid := state(t, c).PID

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := c.Stop(ctx, "u", 300*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, lives(pid))
	require.ErrorContains(t, c.Ensure(t.Context(), u), "being stopped")
	require.NoError(t, c.Stop(t.Context(), "u", time.Hour), "the first request's grace holds")
	require.False(t, lives(pid))
}

func TestAUnitThatDiesIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	require.NoError(t, c.Ensure(t.Context(), unit(dir, "serve")))
	first := state(t, c)
	require.NoError(t, unix.Kill(first.PID, unix.SIGKILL))
	eventually(t, "another process", func() bool { s := state(t, c); return s.PID != 0 && s.PID != first.PID })
	s := state(t, c)
	require.Equal(t, 1, s.Restarts)
	require.Contains(t, s.LastExit, "signal: killed")
	_, err := readStat(first.PID)
	require.Error(t, err, "the first was reaped")
}

// upgraded starts a unit that has started its successor, and gives both processes.
func upgraded(t *testing.T, c *Children, dir string) (before UnitState, after int) {
	t.Helper()
	u := unit(dir, "upgrade")
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "serving")
	logHas(t, u, "next is")
	text, err := os.ReadFile(u.Log)
	require.NoError(t, err)
	_, text, _ = bytes.Cut(text, []byte("next is "))
	_, err = fmt.Sscan(string(text), &after)
	require.NoError(t, err)
	return state(t, c), after
}

func TestASuccessorIsTheUnit(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	before, after := upgraded(t, c, dir)
	require.NoError(t, unix.Kill(before.PID, unix.SIGTERM))
	eventually(t, "the successor is the unit", func() bool { return state(t, c).PID != before.PID })
	s := state(t, c)
	require.Equal(t, after, s.PID)
	require.Zero(t, s.Restarts)
	require.Empty(t, s.LastExit)
	require.True(t, lives(after))

	// It is kept as the first was, by the next supervisor too.
	c.Detach()
	c = start(t, dir)
	require.NoError(t, c.Ensure(t.Context(), unit(dir, "serve")))
	require.Equal(t, after, state(t, c).PID)
	require.NoError(t, unix.Kill(after, unix.SIGKILL))
	eventually(t, "another process", func() bool { s := state(t, c); return s.PID != 0 && s.PID != after })
	require.Equal(t, 1, state(t, c).Restarts)
}

func TestAUnitIsStoppedWithItsSuccessor(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	before, after := upgraded(t, c, dir)
	require.NoError(t, c.Stop(t.Context(), "u", long))
	require.False(t, lives(before.PID))
	require.False(t, lives(after))
	require.Empty(t, c.List())
	require.NoFileExists(t, c.path("u"))
}

func TestACrashLoopIsSeenAndSlowsDown(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "crash")
	require.NoError(t, c.Ensure(t.Context(), u))
	eventually(t, "three restarts", func() bool { return state(t, c).Restarts >= 3 })
	require.Equal(t, "exit 3: bind: address  in use", strings.ReplaceAll(state(t, c).LastExit, "\x1b", "?"))
	started := time.Now()
	eventually(t, "one more", func() bool { return state(t, c).Restarts >= 4 })
	require.Less(t, time.Since(started), lastBackoff)
	require.NoError(t, c.Stop(t.Context(), "u", time.Hour), "a unit without a process stops at once")
}

func TestAnExecutableThatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := Unit{Name: "u", Args: []string{filepath.Join(dir, "missing")}}
	require.ErrorIs(t, c.Ensure(t.Context(), u), os.ErrNotExist)
	require.Contains(t, state(t, c).LastExit, "no such file")
	u.Args = unit(dir, "serve").Args
	require.NoError(t, c.Ensure(t.Context(), u))
	eventually(t, "the next start is as the unit says now", func() bool { return state(t, c).PID != 0 })
}

func TestUnitsThatAreRefused(t *testing.T) {
	c := start(t, t.TempDir())
	for _, u := range []Unit{{}, {Name: "u"}, {Name: "u", Args: []string{"true"}}, {Name: "../u", Args: []string{"/bin/true"}},
		{Name: "u.json", Args: []string{"/bin/true"}}, {Name: "-u", Args: []string{"/bin/true"}}} {
		require.Error(t, c.Ensure(t.Context(), u), "%+v", u)
	}
	require.Error(t, c.Stop(t.Context(), "../u", 0))
}

func TestStandardInputIsGivenToEachProcess(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "stdin")
	u.Stdin = []byte("secret" + strings.Repeat("x", 200_000)) // more than a pipe holds
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "got 200006 <nil> true")
	require.NoError(t, unix.Kill(state(t, c).PID, unix.SIGKILL))
	eventually(t, "given again", func() bool {
		got, _ := os.ReadFile(u.Log)
		return bytes.Count(got, []byte("got 200006")) == 2
	})
	text, err := os.ReadFile(c.path("u"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "secret")
}

func TestChildrenInheritNoDescriptors(t *testing.T) {
	leak, err := unix.Open("/dev/zero", unix.O_RDONLY, 0) // without close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "fds")
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "end")
	text, err := os.ReadFile(u.Log)
	require.NoError(t, err)
	var open []string
	for line := range strings.Lines(strings.TrimSuffix(string(text), "end\n")) {
		f := strings.Fields(line)
		// The child's own poller and listing, and its runtime's look at its limits, are not inherited.
		own := func(prefix string) bool { return len(f) == 3 && strings.HasPrefix(f[2], prefix) }
		if !own("anon_inode:") && !own("/proc/") && !own("/sys/fs/cgroup/") {
			open = append(open, f[len(f)-1])
		}
	}
	require.Equal(t, []string{"/dev/null", u.Log, u.Log}, open)
}

func TestALargeLogIsSetAside(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "serve")
	require.NoError(t, os.WriteFile(u.Log, make([]byte, maxLog+1), 0o600))
	require.NoError(t, c.Ensure(t.Context(), u))
	logHas(t, u, "serving")
	info, err := os.Stat(u.Log)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(1000))
	require.FileExists(t, u.Log+".1")
}

func TestDetachLeavesProcessesForTheNext(t *testing.T) {
	dir := t.TempDir()
	one := start(t, dir)
	u := unit(dir, "serve")
	require.NoError(t, one.Ensure(t.Context(), u))
	pid := state(t, one).PID
	one.Detach()
	require.ErrorIs(t, one.Ensure(t.Context(), u), errClosed)
	require.True(t, lives(pid))

	two := start(t, dir)
	require.Equal(t, pid, state(t, two).PID, "it is listed before it is kept")
	require.NoError(t, two.Ensure(t.Context(), u))
	require.Equal(t, pid, state(t, two).PID)
	require.NoError(t, two.Close(t.Context(), long))
	require.False(t, lives(pid))
	var status unix.WaitStatus
	_, _ = unix.Wait4(pid, &status, 0, nil) // ours since the first supervisor
}

// killedSupervisor starts a supervisor process with one unit, kills it, and returns the unit's process.
func killedSupervisor(t *testing.T, dir string, args ...string) int {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, append([]string{"helper", "supervisor", dir}, args...)...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.True(t, lives(pid), "the unit outlives its supervisor")
	return pid
}

func TestAUnitOutlivesItsSupervisorAndIsAdopted(t *testing.T) {
	for name, args := range map[string][]string{"recorded": nil, "killed before the record was written": {"norecord"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pid := killedSupervisor(t, dir, args...)
			c := start(t, dir)
			u := unit(dir, "serve")
			require.NoError(t, c.Ensure(t.Context(), u))
			require.Equal(t, pid, state(t, c).PID)
			require.Zero(t, state(t, c).Restarts)

			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			eventually(t, "an adopted unit that dies is started again", func() bool { s := state(t, c); return s.PID != 0 && s.PID != pid })
			require.Contains(t, state(t, c).LastExit, "ended")
		})
	}
}

func TestStopReachesUnitsOfAnEarlierSupervisor(t *testing.T) {
	for name, args := range map[string][]string{"recorded": nil, "unrecorded": {"norecord"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pid := killedSupervisor(t, dir, args...)
			c := start(t, dir)
			require.NoError(t, c.Stop(t.Context(), "u", long))
			require.False(t, lives(pid))
			require.NoFileExists(t, c.path("u"))
			require.Empty(t, c.List())
		})
	}
}

// A number that was given to another process, another boot, a damaged record: none is taken for the unit.
func TestARecordOfAnotherProcessIsNotBelieved(t *testing.T) {
	other := exec.Command("/bin/sleep", "1000")
	require.NoError(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	s, err := readStat(other.Process.Pid)
	require.NoError(t, err)
	right := record{PID: other.Process.Pid, StartTime: s.startTime, BootID: bootID()}
	wrong := map[string]func(*record){
		"start time": func(r *record) { r.StartTime-- },
		"boot":       func(r *record) { r.BootID = "another" },
		"pid":        func(r *record) { r.PID = 1 },
	}
	check := func(t *testing.T, text []byte, want bool) {
		c := New(t.TempDir(), slog.New(slog.DiscardHandler))
		require.NoError(t, os.WriteFile(c.path("u"), text, 0o600))
		_, ok := c.alive("u")
		require.Equal(t, want, ok)
		if !want {
			require.NoError(t, c.Stop(t.Context(), "u", 0))
			require.True(t, lives(other.Process.Pid))
		}
	}
	t.Run("right", func(t *testing.T) {
		text, _ := json.Marshal(right)
		check(t, text, true)
	})
	for name, spoil := range wrong {
		t.Run(name, func(t *testing.T) {
			r := right
			spoil(&r)
			text, _ := json.Marshal(r)
			check(t, text, false)
		})
	}
	t.Run("damaged", func(t *testing.T) { check(t, []byte(`{"pid":`), false) })
}

func TestCloseStopsAllAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	var pids []int
	for i := range 4 {
		u := unit(dir, "stubborn")
		u.Name = fmt.Sprint("u", i)
		u.Log = filepath.Join(dir, u.Name+".log")
		require.NoError(t, c.Ensure(t.Context(), u))
		logHas(t, u, "serving")
	}
	for _, s := range c.List() {
		pids = append(pids, s.PID)
	}
	began := time.Now()
	require.NoError(t, c.Close(t.Context(), 500*time.Millisecond))
	require.Less(t, time.Since(began), 1500*time.Millisecond)
	for _, pid := range pids {
		require.False(t, lives(pid))
	}
}

// Everybody at once: no process is left, none is started twice.
func TestEnsureAndStopMayRace(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	u := unit(dir, "serve")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				if i%2 == 0 {
					_ = c.Ensure(context.Background(), u) // may be refused while it is stopped
				} else if err := c.Stop(context.Background(), "u", long); err != nil {
					t.Error(err)
				}
				c.List()
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Stop(t.Context(), "u", long))
	_, found := c.unrecorded("u")
	require.False(t, found)
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (a b) c) S 0 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1 2")
	f.Add("")
	f.Add("1 (")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseStat(text)
	})
}

func TestParseStat(t *testing.T) {
	s, err := parseStat("1 (a b) c) S 0 1 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1 2")
	require.NoError(t, err)
	require.Equal(t, stat{state: 'S', session: 7, startTime: 42}, s)
	for _, bad := range []string{"", ")", "1 (x) S 0", "1 (x) S 0 1 x 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42", "1 (x) S 0 1 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x"} {
		_, err := parseStat(bad)
		require.Error(t, err, bad)
	}
}
