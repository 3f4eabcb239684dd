package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The program is started three times over: outer builds what is missing and makes a network namespace, inner runs
// there and makes the load, and pinned puts a process in its place and becomes it.
const (
	stageInner  = "inner"
	stagePinned = "pinned"
)

// nice is the priority of servers and generator alike, where this user may have it: other work of the machine
// then disturbs less.
const nice = -20

// What outer tells inner beside the flags.
const (
	envDir  = "BENCH_TURN_DIR"
	envOurs = "BENCH_TURN_ORAMA"
	envCore = "BENCH_TURN_CORE" // the servers'
)

// outer is what the user starts.
func outer(given []string) (err error) {
	s, err := parse(given)
	if err != nil {
		return err
	}
	ctx, stop := stopped()
	defer stop()
	if _, err := exec.LookPath("turnserver"); err != nil {
		return errors.New("coturn is missing: tools/install (make deps) installs it")
	}
	generator, servers, err := cores()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-turn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ours, err := build(ctx, s, dir)
	if err != nil {
		return err
	}
	// The child is killed with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd, err := pin(ctx, generator, self, append([]string{stageInner}, given...)...)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), envDir+"="+dir, envOurs+"="+ours, envCore+"="+strconv.Itoa(servers))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	if os.Getuid() != 0 { // a user namespace lets anyone have a network namespace
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return errors.New("the run ended early")
	} else if err != nil {
		return fmt.Errorf("no network namespace: %w", err)
	}
	return nil
}

// build gives the path of our server, made unless it was given.
func build(ctx context.Context, s settings, dir string) (string, error) {
	if s.null {
		return "", nil
	}
	if s.orama != "" {
		return filepath.Abs(s.orama)
	}
	out := filepath.Join(dir, "orama")
	fmt.Fprintln(os.Stderr, "bench-turn: building ./cmd/orama")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "orama.network/orama/cmd/orama")
	cmd.Stderr = os.Stderr
	return out, cmd.Run()
}

// inner runs in the namespace.
func inner(given []string) error {
	s, err := parse(given)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the servers are killed with the thread that started them
	ctx, stop := stopped()
	defer stop()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, path := range acceptsWhole {
		os.WriteFile(path, []byte("1"), 0) //nolint:errcheck // works without
	}
	core, err := strconv.Atoi(os.Getenv(envCore))
	if err != nil {
		return err
	}
	b, err := newBench(s, place{dir: os.Getenv(envDir), orama: os.Getenv(envOurs), core: core})
	if err != nil {
		return err
	}
	r, err := b.run(ctx)
	if err = errors.Join(err, b.close()); err != nil {
		return err
	}
	return r.print(os.Stdout, s.json)
}

// cores are the two that generator and servers are pinned to: the first ones that this process may use. The
// first is the generator's, for interrupts of devices mostly go there.
func cores() (generator, servers int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, err
	}
	if set.Count() < 2 {
		return 0, 0, errors.New("two cores are needed, one for the servers and one for the load")
	}
	first, second := -1, -1
	for cpu := 0; second < 0; cpu++ {
		switch {
		case !set.IsSet(cpu):
		case first < 0:
			first = cpu
		default:
			second = cpu
		}
	}
	return first, second, nil
}

// pin is a command on one core.
func pin(ctx context.Context, cpu int, path string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{stagePinned, strconv.Itoa(cpu), path}, args...)...)
	// A session is a group of the scheduler (sched_autogroup), within which alone a nice value counts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	return cmd, nil
}

// pinned becomes the program args[1:] on the core args[0].
func pinned(args []string) error {
	if len(args) < 2 {
		return io.ErrUnexpectedEOF
	}
	cpu, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	unix.Setpriority(unix.PRIO_PROCESS, 0, nice)                        //nolint:errcheck // measures without it
	os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0) //nolint:errcheck // likewise
	return syscall.Exec(args[1], args[1:], os.Environ())
}
