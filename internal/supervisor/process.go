package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxLog is the size, in bytes, beyond which a log is set aside as FILE.1 when a process starts.
const maxLog = 10 << 20

// process is a living process, held by its pidfd, that we started or adopted.
type process struct {
	pid       int
	started   time.Time
	fd        *os.File  // the pidfd
	cmd       *exec.Cmd // nil: adopted, so its parent reaps it
	log       string
	logOffset int64 // where its part of the log begins

	gone    chan struct{} // closed when the process was seen not to exist
	watched chan struct{} // closed when the watching goroutine has ended
	exit    string        // why it ended; set before gone is closed
}

// start runs a unit's process and writes its record.
func (c *Children) start(u Unit) (*process, error) {
	cmd := &exec.Cmd{Path: u.Args[0], Args: u.Args, Dir: u.Dir, Env: c.environment(u.Name),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	closers, offset, err := connect(cmd, u)
	defer closeAll(closers)
	if err != nil {
		return nil, err
	}
	// What we were given open, without close-on-exec, would go on to the child: sockets, files of our parent.
	// An old kernel may not know the call; then only what our own parent left open is passed on.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := hold(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	p.cmd, p.log, p.logOffset, p.started = cmd, u.Log, offset, time.Now()
	if err := c.record(u.Name, p); err != nil {
		c.log.Warn("unit's process cannot be recorded", "unit", u.Name, "pid", p.pid, "error", err)
	}
	go p.watch()
	return p, nil
}

// connect gives the command its standard files; what it opened is to be closed after the start.
func connect(cmd *exec.Cmd, u Unit) (opened []*os.File, offset int64, err error) {
	if len(u.Stdin) > 0 {
		in, err := memory(u.Stdin)
		if err != nil {
			return nil, 0, err
		}
		cmd.Stdin = in
		opened = append(opened, in)
	}
	if u.Log == "" {
		return opened, 0, nil
	}
	out, offset, err := openLog(u.Log)
	if err != nil {
		return opened, 0, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	return append(opened, out), offset, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // the child has its own
	}
}

// memory is a file of no file system that holds text: a child reads it without anybody having to write meanwhile.
func memory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	_, err = f.Write(text)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("standard input: %w", err), f.Close())
	}
	return f, nil
}

func openLog(path string) (*os.File, int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, 0, err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// hold opens the pidfd of a process.
func hold(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), gone: make(chan struct{}), watched: make(chan struct{})}, nil
}

// watch ends when the process is gone or released.
func (p *process) watch() {
	defer close(p.watched)
	defer p.fd.Close()
	raw, err := p.fd.SyscallConn()
	if err == nil {
		err = raw.Read(ended)
	}
	if err != nil {
		return // released: the descriptor was closed
	}
	p.exit = p.reap()
	close(p.gone)
}

// ended reports whether a pidfd says that its process has ended: it is readable then (pidfd_open(2)).
func ended(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// release ends the watching and leaves the process alone.
func (p *process) release() {
	_ = p.fd.Close()
	<-p.watched
	if p.cmd != nil {
		_ = p.cmd.Process.Release()
	}
}

func (p *process) term() { p.signal(unix.SIGTERM) }
func (p *process) kill() { p.signal(unix.SIGKILL) }

// signal reaches this process or none; one that is gone is seen by watch.
func (p *process) signal(sig unix.Signal) {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
}

// reap takes the exit status of a process that has ended, so that it is no zombie, and words it.
func (p *process) reap() string {
	text := "ended; its status went to another parent"
	if p.cmd != nil {
		_ = p.cmd.Wait() // says the same as ProcessState
		status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch {
		case ok && status.Signaled():
			text = "signal: " + status.Signal().String()
		case ok:
			text = fmt.Sprintf("exit %d", status.ExitStatus())
		}
	}
	if line := p.lastLine(); line != "" {
		text += ": " + line
	}
	return text
}

// lastLine is the last line that the process wrote to its log, at most 200 bytes of printable text.
func (p *process) lastLine() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= p.logOffset {
		return ""
	}
	from := max(p.logOffset, info.Size()-4096)
	tail := make([]byte, info.Size()-from)
	n, _ := f.ReadAt(tail, from)
	lines := bytes.Split(bytes.TrimSpace(tail[:n]), []byte("\n"))
	return printable(string(lines[len(lines)-1]), 200)
}

func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(s)
}
