//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// machine is one of the lab's hosts with a systemd of its own: a container whose root is this machine's, what it writes
// going elsewhere, and whose network is the host's. It outlives a power loss: boot starts it again.
type machine struct {
	host   *labHost
	root   string // as seen from here
	ns     string // a path of the host's network namespace outside /run, which the container has for itself
	log    string
	nspawn *exec.Cmd
	leader int // the container's PID 1
}

// machines are hosts for machines on one bridge with a client, as the lab's, but with nothing on them.
func machines(t testing.TB, n int) *lab {
	t.Helper()
	if os.Getenv(insideEnv) != "namespace" || os.Geteuid() != 0 {
		t.Skip("hosts are network namespaces, which this user may not make")
	}
	for program, pkg := range map[string]string{"systemd-nspawn": "systemd-container", "dbus-daemon": "dbus", "pkaction": "polkitd", "ufw": "ufw"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (package %s)", program, pkg)
		}
	}
	l := &lab{client: labClient, dir: dataDir(t)}
	require.NoError(t, os.MkdirAll("/run/netns", 0o755))
	require.NoError(t, syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, "")) // of our mount namespace alone
	t.Cleanup(func() { _ = syscall.Unmount("/run/netns", syscall.MNT_DETACH) })
	ip(t, "netns add "+labSwitch)
	t.Cleanup(func() { l.end(t) })
	in(t, labSwitch, "ip link add br0 type bridge")
	in(t, labSwitch, "ip link set br0 up")
	for i := 1; i <= n; i++ {
		h := &labHost{name: fmt.Sprintf("host-%d", i), public: fmt.Sprintf(labBridge, i), mesh: fmt.Sprintf("10.0.0.%d", i)}
		h.dir = filepath.Join(l.dir, h.name)
		require.NoError(t, os.MkdirAll(h.dir, 0o755))
		plug(t, h.name, i, h.public)
		l.hosts = append(l.hosts, h)
	}
	plug(t, labClient, 9, fmt.Sprintf(labBridge, 9))
	return l
}

// newMachine prepares a host and powers it on; up waits for it.
func newMachine(t testing.TB, h *labHost) *machine {
	t.Helper()
	dir := filepath.Join(h.dir, "machine")
	m := &machine{host: h, root: filepath.Join(dir, "root"), ns: filepath.Join(dir, "ns"), log: filepath.Join(dir, "console.log")}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1g")) // an overlay's upper layer cannot be on an overlay
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	for _, d := range []string{"upper", "work", "root"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", dir, dir)
	require.NoError(t, syscall.Mount("overlay", m.root, "overlay", 0, layers))
	t.Cleanup(func() { _ = syscall.Unmount(m.root, syscall.MNT_DETACH) })
	require.NoError(t, os.WriteFile(m.ns, nil, 0o600))
	require.NoError(t, syscall.Mount("/run/netns/"+h.name, m.ns, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(m.ns, syscall.MNT_DETACH) })
	m.strip(t)
	t.Cleanup(func() { m.powerLoss(t) })
	m.powerOn(t)
	return m
}

// strip takes away what this machine would start, so that nothing runs but systemd and what is installed later.
func (m *machine) strip(t testing.TB) {
	t.Helper()
	for _, pattern := range []string{"etc/systemd/system/*.wants", "etc/rc?.d", "etc/init.d", "etc/orama", "var/lib/orama"} {
		found, err := filepath.Glob(filepath.Join(m.root, pattern))
		require.NoError(t, err)
		for _, path := range found {
			require.NoError(t, os.RemoveAll(path))
		}
	}
	require.NoError(t, os.MkdirAll(filepath.Join(m.root, "var/log/journal"), 0o755))
	for file, text := range map[string]string{
		"etc/machine-id": "", "etc/hostname": m.host.name + "\n", "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 0\n",
		"etc/tmpfiles.d/tun.conf": "c! /dev/net/tun 0666 root root - 10:200\n", // as udev has it where there is one
	} {
		path := filepath.Join(m.root, file)
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
}

// boot starts the machine and waits until it is up.
func (m *machine) boot(t testing.TB) time.Duration {
	t.Helper()
	begun := time.Now()
	m.powerOn(t)
	require.NoError(t, m.up())
	return time.Since(begun)
}

// powerOn starts the machine.
func (m *machine) powerOn(t testing.TB) {
	t.Helper()
	console, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer console.Close()
	// systemd-nspawn needs a /run of its own that is no disk, and must not look for a systemd out here. Machines in one
	// control group would take each other's processes for their own.
	const prepare = `mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/systemd || exit 1
		for group in $1; do mkdir -p $group && echo $$ >$group/cgroup.procs || echo "no group $group"; done
		shift; exec "$@"`
	m.nspawn = exec.Command("unshare", "-m", "sh", "-c", prepare, "sh", strings.Join(m.groups(), " "),
		"systemd-nspawn", "-D", m.root, "-M", m.host.name, "--register=no", "--keep-unit", "--network-namespace-path="+m.ns,
		"--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--resolv-conf=off", "-b")
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, m.nspawn.Start())
}

// groups are control groups of the machine's own, one in each hierarchy that there is.
func (m *machine) groups() (out []string) {
	name := fmt.Sprintf("orama-e2e-%d-%s", os.Getpid(), m.host.name)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		return []string{"/sys/fs/cgroup/" + name}
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, h := range hierarchies {
		if filepath.Base(filepath.Dir(h)) != "cpuset" { // whose groups take nobody before they are told of processors
			out = append(out, filepath.Join(filepath.Dir(h), name))
		}
	}
	return out
}

// ungroup takes the control groups away, innermost first. A group with a process in it stays.
func (m *machine) ungroup() {
	for _, group := range m.groups() {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			_ = syscall.Rmdir(dir)
		}
	}
}

// up waits until the machine has started all that it starts, at most 60 s.
func (m *machine) up() error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for late := time.Now().Add(60 * time.Second); ; <-look.C {
		state, err := "", errors.New("there is no container")
		if m.leader = child(m.nspawn.Process.Pid); m.leader > 0 {
			state, err = m.try("systemctl", "is-system-running")
		}
		switch state = strings.TrimSpace(state); {
		case state == "running" || state == "degraded":
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%s does not come up: it is %q: %w: %s", m.host.name, state, err, m.console())
		}
	}
}

// bare waits until a machine with nothing of ours on it is up. Where systemd does not come up in a container, that is not
// ours to test.
func (m *machine) bare(t testing.TB) {
	t.Helper()
	if err := m.up(); err != nil {
		t.Skipf("systemd does not come up in a container here: %v", err)
	}
}

// child is the first child of a process, or 0.
func child(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	first, _, _ := strings.Cut(string(text), " ")
	n, bad := strconv.Atoi(first)
	if err != nil || bad != nil {
		return 0
	}
	return n
}

func (m *machine) console() string {
	text, _ := os.ReadFile(m.log)
	return string(text[max(0, len(text)-2000):])
}

// powerLoss ends everything at once.
func (m *machine) powerLoss(t testing.TB) {
	t.Helper()
	if m.nspawn == nil || m.nspawn.ProcessState != nil {
		return
	}
	if m.leader > 0 {
		_ = syscall.Kill(m.leader, syscall.SIGKILL)
	} else {
		_ = m.nspawn.Process.Kill()
	}
	_ = m.nspawn.Wait()
	m.leader = 0
	m.ungroup()
}

// try runs a command on the machine, within 90 s.
func (m *machine) try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(m.leader), "-m", "-u", "-i", "-n", "-p", "--"}, argv...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER="}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), err
}

// must is try for what has to succeed.
func (m *machine) must(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := m.try(argv...)
	require.NoError(t, err, "%s: %s: %s\n%s", m.host.name, strings.Join(argv, " "), out, m.journal("orama"))
	return out
}

// journal is the end of a unit's journal.
func (m *machine) journal(unit string) string {
	out, err := m.try("journalctl", "-u", unit, "-n", "60", "--no-pager", "-o", "cat")
	return fmt.Sprintf("journal of %s: %v\n%s", unit, err, out)
}

// property is one property of a unit.
func (m *machine) property(t testing.TB, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(m.must(t, "systemctl", "show", "-P", name, unit))
}

// debianPackage builds the package of the binary under test, once.
func debianPackage(t testing.TB) []byte {
	t.Helper()
	deb := filepath.Join(os.Getenv(workEnv), "orama.deb")
	if _, err := os.Stat(deb); errors.Is(err, os.ErrNotExist) {
		out, err := exec.Command("make", "-C", "..", "deb", "BINARY="+os.Getenv(binaryEnv), "DEB="+deb).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	text, err := os.ReadFile(deb)
	require.NoError(t, err)
	return text
}

// install installs a package.
func (m *machine) install(deb []byte) error {
	if err := os.WriteFile(filepath.Join(m.root, "var/cache/orama.deb"), deb, 0o644); err != nil {
		return err
	}
	_, err := m.try("dpkg", "-i", "/var/cache/orama.deb")
	return err
}
