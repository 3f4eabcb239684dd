package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/sfu"
	"orama.network/orama/internal/testnet"
	"orama.network/orama/internal/turn"
)

// The servers under test, by the name of their child process and of their row.
const (
	oramaTURN = "orama"
	pionTURN  = "pion/turn v5"
	coturn    = "coturn"
	oramaSFU  = "orama SFU"
	pionSFU   = "pion fan-out"
)

// config is the first line that a child reads.
type config struct {
	TURN plan.TURNSpec
	SFU  plan.SFUSpec
}

// reply is what a child answers, first when it serves and then to every line.
type reply struct {
	Boot string        // of an SFU
	CPU  time.Duration // user and system, since it started
}

// serve is a child: it serves until its input ends.
func serve(kind string, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return errors.New("no configuration")
	}
	var c config
	if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
		return err
	}
	boot, stop, err := start(kind, c)
	if err != nil {
		return err
	}
	answer := json.NewEncoder(out)
	for {
		cpu, err := ownCPU()
		if err == nil {
			err = answer.Encode(reply{Boot: boot, CPU: cpu})
		}
		if err != nil || !lines.Scan() {
			return errors.Join(err, stop())
		}
	}
}

func start(kind string, c config) (boot string, stop func() error, err error) {
	log := slog.New(slog.DiscardHandler)
	switch kind {
	case oramaTURN:
		s := turn.New(log, nil)
		s.Ports = testnet.Ports
		return "", s.Close, s.Apply(c.TURN)
	case pionTURN:
		stop, err := stockTURN(c.TURN)
		return "", stop, err
	case oramaSFU:
		s := sfu.New(log, nil)
		err := s.Apply(c.SFU)
		return s.Status().Boot, s.Close, err
	case pionSFU:
		stop, err := stockSFU(c.SFU)
		return pionSFU, stop, err
	}
	return "", nil, fmt.Errorf("no server %q", kind)
}

func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// child is a server under test as its parent sees it.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	boot string
	cpu  func() (time.Duration, error)
}

func spawn(kind string, c config) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ch := &child{cmd: exec.Command(self, "serve", kind)}
	ch.cmd.Stderr = os.Stderr
	if ch.in, err = ch.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := ch.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	ch.out = json.NewDecoder(out)
	if err := ch.cmd.Start(); err != nil {
		return nil, err
	}
	ch.cpu = func() (time.Duration, error) {
		r, err := ch.ask("usage")
		return r.CPU, err
	}
	r, err := ch.ask(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start: %w", kind, err), ch.stop())
	}
	ch.boot = r.Boot
	return ch, nil
}

func (c *child) ask(v any) (r reply, err error) {
	if err := json.NewEncoder(c.in).Encode(v); err != nil {
		return r, err
	}
	return r, c.out.Decode(&r)
}

// stop ends the child's input, or the child, and waits for it.
func (c *child) stop() error {
	if c.in == nil {
		c.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		c.cmd.Wait()                          //nolint:errcheck // by a signal
		return nil
	}
	return errors.Join(c.in.Close(), c.cmd.Wait())
}
