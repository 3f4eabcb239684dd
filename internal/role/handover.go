package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orama.network/orama"
	"orama.network/orama/internal/turn"
)

const (
	// inheritVar tells a new process what the one before it leaves, as JSON.
	inheritVar = "ORAMA_TURN_HANDOVER"
	// comeUp is how long a new process may take until it listens.
	comeUp = 30 * time.Second
	// serveOutMost bounds how long the old one serves what it has: longer than any relay lives.
	serveOutMost = 25 * time.Hour
	// metricsBequest is the listener of --metrics in an estate.
	metricsBequest = "metrics"
	// beforeSuffix ends the path of the control socket of a process that has handed over.
	beforeSuffix = ".before"
)

// inheritance is what a process is left by the one that it takes the place of, which is its parent.
type inheritance struct {
	Estate turn.Estate `json:"estate"`
	Ready  int         `json:"ready"` // a pipe: one byte says that we listen
	Parent int         `json:"parent"`
}

// inherit reads what this process was left; nil for nothing. Children of ours are left nothing of it.
func inherit() (*inheritance, error) {
	text, there := os.LookupEnv(inheritVar)
	if !there {
		return nil, nil //nolint:nilnil // as documented
	}
	os.Unsetenv(inheritVar) //nolint:errcheck // the name is a good one
	var in inheritance
	if err := json.Unmarshal([]byte(text), &in); err != nil || in.Parent != os.Getppid() {
		return nil, orama.Errorf(orama.KindInvalid, "bad_handover", "%s is set, and not by a process that this one takes the place of", inheritVar)
	}
	unix.CloseOnExec(in.Ready)
	for _, b := range in.Estate {
		unix.CloseOnExec(b.FD)
		if b.Passed >= 0 {
			unix.CloseOnExec(b.Passed)
		}
	}
	return &in, nil
}

// ready tells the process before that this one listens.
func (in *inheritance) ready() error {
	f := os.NewFile(uintptr(in.Ready), "ready") //nolint:gosec // a descriptor
	_, err := f.Write([]byte{1})
	return errors.Join(err, f.Close())
}

// served reports whether the process before still lives: we are its child until it ends.
func (in *inheritance) served() bool { return in != nil && os.Getppid() == in.Parent }

// ownProgram is the path that this process was started by, where an upgrade puts another file.
func ownProgram() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return os.Executable()
	}
	return filepath.Abs(path)
}

// succeed starts the program at path as this process was started, leaves it the estate, and returns its number once it listens.
func succeed(ctx context.Context, path string, estate turn.Estate, log *slog.Logger) (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	in := inheritance{Parent: os.Getpid()}
	files := []uintptr{0, 1, 2}
	place := func(fd int) int {
		files = append(files, uintptr(fd)) //nolint:gosec // a descriptor
		return len(files) - 1
	}
	for _, b := range estate {
		b.FD = place(b.FD)
		if b.Passed >= 0 {
			b.Passed = place(b.Passed)
		}
		in.Estate = append(in.Estate, b)
	}
	end, err := descriptorOf(w)
	if err != nil {
		w.Close()
		return 0, err
	}
	in.Ready = place(end)
	text, err := json.Marshal(in)
	if err != nil {
		w.Close()
		return 0, err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WATCHDOG_PID=") }) // that is this process
	// Not os/exec: it would make the sockets, which are ours too, blocking ones. A session of its own is how a supervisor knows its process.
	pid, err = syscall.ForkExec(path, os.Args, &syscall.ProcAttr{Env: append(env, inheritVar+"="+string(text)), Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true}})
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return 0, err
	}
	ended := make(chan string, 1)
	go func() {
		state, err := process.Wait()
		ended <- fmt.Sprint(state)
		log.Info("turn: the next process has ended", "pid", pid, "state", fmt.Sprint(state), "err", err)
	}()
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) }) //nolint:errcheck // a pipe has them
	defer stop()
	r.SetReadDeadline(time.Now().Add(comeUp)) //nolint:errcheck // as above
	if n, err := r.Read(make([]byte, 1)); n == 1 {
		return pid, nil
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		process.Kill() //nolint:errcheck // it has ended then
		return 0, fmt.Errorf("it did not listen within %s", comeUp)
	}
	return 0, fmt.Errorf("it ended: %s", <-ended)
}

// descriptorOf is f's own, which stays in f's mode.
func descriptorOf(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(own uintptr) { fd = int(own) }) //nolint:gosec // a descriptor
	return fd, err
}

// mainProcess tells systemd which process the unit is from now on.
func mainProcess(pid int) { say(fmt.Sprintf("MAINPID=%d", pid)) }

// controlSocket is a listener whose path may become another's.
type controlSocket struct {
	*net.UnixListener
	path string
}

// listenControl listens at path. With inherited, the process before listens there: its socket is at path+beforeSuffix afterwards,
// and nobody finds none meanwhile.
func listenControl(path string, mode os.FileMode, inherited bool) (*controlSocket, error) {
	at := path
	if inherited {
		at = path + ".next"
	}
	l, err := listenUnix(at, mode)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("%s: a %T", path, l)
	}
	u.SetUnlinkOnClose(false)
	c := &controlSocket{u, path}
	if !inherited {
		return c, nil
	}
	os.Remove(path + beforeSuffix) //nolint:errcheck // of one that was killed
	err = os.Link(path, path+beforeSuffix)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = os.Rename(at, path)
	}
	if err != nil {
		os.Remove(at) //nolint:errcheck // the error that led here is told
		c.Close()
		return nil, err
	}
	return c, nil
}

// handed notes that path is another process's now.
func (c *controlSocket) handed() { c.path += beforeSuffix }

// restore takes the path back from a process that did not come up.
func (c *controlSocket) restore() {
	for _, err := range []error{
		os.Rename(c.path+beforeSuffix, c.path),
		os.Remove(c.path + beforeSuffix), // a rename of one socket to itself leaves both names
		os.Remove(c.path + ".next"),
	} {
		_ = err // it may not have come so far
	}
}

// remove takes the path away.
func (c *controlSocket) remove() { os.Remove(c.path) } //nolint:errcheck // somebody else did
