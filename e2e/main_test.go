//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Environment of the test binary when it runs itself again inside the namespace.
const (
	insideEnv = "ORAMA_E2E_INSIDE" // "namespace", or "host" where none could be made
	workEnv   = "ORAMA_E2E_WORK"   // a directory for the whole run, removed by the outer process
	binaryEnv = "ORAMA_BIN"        // the binary under test; built from this tree when unset
	chromium  = "chromium"
	firefox   = "firefox-esr"
)

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) == "" {
		os.Exit(outside())
	}
	os.Exit(inside(m))
}

// inside runs the tests and ends what they share.
func inside(m *testing.M) int {
	if os.Getenv(insideEnv) == "namespace" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: furnish the network namespace:", err)
			return 1
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go pressures.keep(ctx)
	code := m.Run()
	if shared.driver != nil {
		shared.driver.close()
	}
	if shared.cluster != nil {
		shared.cluster.end()
	}
	return code
}

// outside builds the binary, then runs this test binary again in a namespace of its own, and
// afterwards ends whatever still lives in there.
func outside() int {
	work, err := os.MkdirTemp("", "orama-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(work)
	// Other users get in here too: one test runs the cluster without root.
	if err := os.Chmod(work, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	bin, err := build(work)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: build the binary under test:", err)
		return 1
	}
	cmd, err := startInside(append(os.Environ(), workEnv+"="+work, binaryEnv+"="+bin))
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	netns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	err = cmd.Wait()
	sweep(netns)
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	return cmd.ProcessState.ExitCode()
}

// startInside starts this binary again, in new network and mount namespaces when that is allowed.
// The thread stays locked because the child dies with the thread that made it.
func startInside(env []string) (*exec.Cmd, error) {
	runtime.LockOSThread()
	self := func(mode string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Env = append(env, insideEnv+"="+mode)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	apart := self("namespace")
	apart.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	if os.Geteuid() != 0 {
		apart.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		apart.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		apart.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := apart.Start()
	if err == nil {
		return apart, nil
	}
	fmt.Fprintf(os.Stderr, "e2e: no network namespace (%v): running on this host's loopback\n", err)
	host := self("host")
	return host, host.Start()
}

func build(work string) (string, error) {
	if bin := os.Getenv(binaryEnv); bin != "" {
		return filepath.Abs(bin)
	}
	bin := filepath.Join(work, "orama")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/orama")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return bin, cmd.Run()
}

// furnish gives the namespace loopback, one interface with a default route (Chromium gathers no
// candidate without one), names for the relays, and a resolver that refuses at once, because a browser
// waits for the AAAA record of a name that only the hosts file knows.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, args := range []string{
		"link set lo up",
		"link add e0 type veth peer name e1",
		"addr add 203.0.113.1/24 dev e0",
		"link set e0 up",
		"link set e1 up",
		"route add default via 203.0.113.2",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	if err := nameRelays(nil); err != nil {
		return err
	}
	resolver := filepath.Join(os.Getenv(workEnv), "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	if err := mountOver("/etc/hosts", hostsFile()); err != nil {
		return err
	}
	return mountOver("/etc/resolv.conf", resolver)
}

func mountOver(target, file string) error {
	real, err := filepath.EvalSymlinks(target)
	if err != nil {
		return nil // nothing to hide
	}
	if err := syscall.Mount(file, real, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s over %s: %w", file, real, err)
	}
	return nil
}

func hostsFile() string { return filepath.Join(os.Getenv(workEnv), "hosts") }

// nameRelays writes the hosts file: localhost, and each name given to its address.
func nameRelays(names map[string]string) error {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for name, addr := range names {
		fmt.Fprintf(&b, "%s %s\n", addr, name)
	}
	return os.WriteFile(hostsFile(), []byte(b.String()), 0o644)
}

// sweep ends every process in the network namespace of the run. It is the last resort of a run that
// was cut short; tests that must leave nothing behind look for themselves.
func sweep(netns string) {
	if own, _ := os.Readlink("/proc/self/ns/net"); netns == "" || netns == own {
		return
	}
	for _, p := range processesIn(netns) {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}
