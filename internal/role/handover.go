package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"orama.network/orama/internal/plan"
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
	Estate turn.Estate         `json:"estate"`
	Leases []orama.NamespaceID `json:"leases,omitempty"` // that were held there
	Ready  int                 `json:"ready"`            // a pipe: one byte says that we listen; of an agent's server follow lists of tenants, see teller
	Parent int                 `json:"parent"`

	line *os.File // Ready, open while we live
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
	in.line = os.NewFile(uintptr(in.Ready), "ready") //nolint:gosec // a descriptor
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
	_, err := in.line.Write([]byte{1})
	return err
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

// heir is the process that takes the place of this one.
type heir struct {
	*os.Process
	says  *os.File              // the other end of inheritance.Ready
	ended chan *os.ProcessState // one value, when it has; nil in it for one of which nothing is known
}

// succeed starts the program at path as this process was started, and leaves it the estate and the leases. It returns once that process listens.
func succeed(ctx context.Context, path string, estate turn.Estate, leases []orama.NamespaceID, log *slog.Logger) (*heir, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	h, err := startHeir(path, estate, leases, w, log)
	w.Close()
	if err == nil {
		h.says = r
		if err = h.awaitReady(ctx); err == nil {
			return h, nil
		}
	}
	r.Close()
	return nil, err
}

// startHeir leaves the new process the end w of the pipe, too.
func startHeir(path string, estate turn.Estate, leases []orama.NamespaceID, w *os.File, log *slog.Logger) (*heir, error) {
	in := inheritance{Parent: os.Getpid(), Leases: leases}
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
		return nil, err
	}
	in.Ready = place(end)
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WATCHDOG_PID=") }) // that is this process
	// Not os/exec: it would make the sockets, which are ours too, blocking ones. A session of its own is how a supervisor knows its process.
	pid, err := syscall.ForkExec(path, os.Args, &syscall.ProcAttr{Env: append(env, inheritVar+"="+string(text)), Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	h := &heir{Process: process, ended: make(chan *os.ProcessState, 1)}
	go func() {
		state, err := process.Wait()
		log.Info("turn: the next process has ended", "pid", pid, "state", fmt.Sprint(state), "err", err)
		h.ended <- state
	}()
	return h, nil
}

// awaitReady returns when the process listens. One that does not is gone when it returns.
func (h *heir) awaitReady(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { h.says.SetReadDeadline(time.Now()) }) //nolint:errcheck // a pipe has them
	defer stop()
	h.says.SetReadDeadline(time.Now().Add(comeUp)) //nolint:errcheck // as above
	n, err := h.says.Read(make([]byte, 1))
	if n == 1 && stop() {
		return h.says.SetReadDeadline(time.Time{})
	}
	late := errors.Is(err, os.ErrDeadlineExceeded)
	h.Kill() //nolint:errcheck // it has ended then
	state := <-h.ended
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case late:
		return fmt.Errorf("it did not listen within %s", comeUp)
	}
	return fmt.Errorf("it ended: %s", state)
}

// lists gives what the process says of its tenants, until done.
func (h *heir) lists(done <-chan struct{}, log *slog.Logger) <-chan []plan.TenantSpec {
	out := make(chan []plan.TenantSpec)
	go func() {
		said := json.NewDecoder(h.says)
		for {
			var list []plan.TenantSpec
			if err := said.Decode(&list); err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
					log.Error("turn: what the next process says of its tenants cannot be read; relays here live on as they are", "error", err)
				}
				return
			}
			select {
			case out <- list:
			case <-done:
				return
			}
		}
	}()
	return out
}

// teller tells the process before which tenants are served here, the newest list alone: tenants that are gone, or have another
// secret, lose the relays that live there.
type teller struct {
	in    *inheritance
	news  chan []plan.TenantSpec
	ready chan struct{} // closed when that process knows that this one serves
}

func newTeller(in *inheritance) *teller {
	return &teller{in: in, news: make(chan []plan.TenantSpec, 1), ready: make(chan struct{})}
}

// tell never waits. Its calls come one after the other.
func (t *teller) tell(list []plan.TenantSpec) {
	select {
	case <-t.news: // an older one
	default:
	}
	t.news <- list // there is room
}

// run tells until the process before has ended, or this one does.
func (t *teller) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.in.line.Close() })
	defer stop()
	said := json.NewEncoder(t.in.line)
	for first := true; ; first = false {
		select {
		case list := <-t.news:
			if first {
				err := t.in.ready()
				close(t.ready)
				if err != nil {
					return err
				}
			}
			if err := said.Encode(list); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
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

// succession is what one process of a TURN server takes from another and leaves to the next.
type succession struct {
	srv     *turn.Server
	log     *slog.Logger
	program string         // what an upgrade starts
	left    *inheritance   // by the process before; nil: nothing
	control *controlSocket // nil: none
}

// handOver has the program as it is now take the place of this process, with more to be left to it. nil: it does not.
func (p *succession) handOver(ctx context.Context, more ...turn.Bequest) *heir {
	if p.left.served() {
		p.log.Error("turn: not upgraded: the process before this one still serves its relays; try again when it has ended", "before", p.left.Parent)
		return nil
	}
	p.log.Info("turn: upgrading", "program", p.program, "relays", p.living())
	if p.control != nil {
		p.control.prepare()
	}
	var h *heir
	err := p.srv.HandOver(func(estate turn.Estate) (err error) {
		h, err = succeed(ctx, p.program, append(slices.Clip(estate), more...), p.srv.Leases(), p.log)
		return err
	})
	if err != nil {
		if p.control != nil {
			p.control.restore()
		}
		p.log.Error("turn: not upgraded; this process goes on as it was", "error", err)
		return nil
	}
	mainProcess(h.Pid)
	if p.control != nil {
		p.control.handed()
	}
	p.log.Info("turn: handed over; what lives here is served to its end", "pid", h.Pid, "relays", p.living())
	return h
}

func (p *succession) living() (n int) {
	for _, t := range p.srv.Status().Tenants {
		n += t.Allocations
	}
	return n
}

// servesOut closes what it gives when a server that has handed over has nothing left to serve.
func servesOut(ctx context.Context, srv *turn.Server) <-chan struct{} {
	out := make(chan struct{})
	go func() { defer close(out); srv.ServeOut(ctx) }()
	return out
}

// orphaned ends this process because the one that took its place has ended: nil when that was asked to, and so this one is too.
// Otherwise whoever watches is to start afresh, and systemd is told whose end is that of the unit.
func (p *succession) orphaned(h *heir, state *os.ProcessState) error {
	mainProcess(os.Getpid())
	if state != nil && state.Success() {
		return nil
	}
	return orama.Errorf(orama.KindUnavailable, "heir_ended", "process %d, which took the place of this one, has ended (%s); so does this one", h.Pid, state)
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

// prepare takes away what a process before that was killed has left, so that restore does not find it.
func (c *controlSocket) prepare() { os.Remove(c.path + beforeSuffix) } //nolint:errcheck // there is nothing, mostly

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
