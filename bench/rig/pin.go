package rig

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// StagePinned is the first argument of a benchmark that is to be Pinned.
const StagePinned = "pinned"

// nice is the priority of servers and generator alike, where this user may have it: other work of the machine
// then disturbs less.
const nice = -20

// Cores are the two that generator and servers are pinned to: the first ones that this process may use. The
// first is the generator's, for interrupts of devices mostly go there.
func Cores() (generator, servers int, err error) {
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

// Pin is a command on one core. It is killed with the thread that starts it.
func Pin(ctx context.Context, cpu int, path string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{StagePinned, strconv.Itoa(cpu), path}, args...)...)
	// A session is a group of the scheduler (sched_autogroup), within which alone a nice value counts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	return cmd, nil
}

// Pinned becomes the program args[1:] on the core args[0], and returns only when that fails.
func Pinned(args []string) error {
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

// Again runs this program once more with other arguments, on one core in a network namespace of its own that ends
// with it, and waits for it.
func Again(ctx context.Context, cpu int, env []string, args ...string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd, err := Pin(ctx, cpu, self, args...)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), env...)
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
		return errors.Join(errors.New("no network namespace"), err)
	}
	return nil
}

// Loopback turns the new namespace's one device on.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
