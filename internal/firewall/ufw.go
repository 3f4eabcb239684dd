package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

const (
	// commandWithin bounds one ufw command. It takes 0.1 to 0.3 s, and waits for others that run.
	commandWithin = 30 * time.Second
	// maxOutput bounds what is read of one command, in bytes.
	maxOutput = 4 << 20
	// maxWanted bounds how many rules a node may want: 20 namespaces need 65.
	maxWanted = 1000
)

// Command runs ufw with arguments and gives what it printed; an error when it could not run or did not succeed.
type Command func(ctx context.Context, args ...string) (string, error)

// UFW is this host's firewall. Its methods may be called by several goroutines.
type UFW struct {
	mesh string
	run  Command
	log  *slog.Logger
	free chan struct{} // holds one value while nobody reads or changes rules

	mu     sync.Mutex // guards the following field
	status Status
}

// New makes the keeper of this host's UFW rules; mesh is the name of the mesh's interface. A nil run is the real ufw.
func New(mesh string, run Command, log *slog.Logger) *UFW {
	if run == nil {
		run = System
	}
	u := &UFW{mesh: mesh, run: run, log: log, free: make(chan struct{}, 1)}
	u.free <- struct{}{}
	return u
}

// Status is what was last seen of the firewall.
type Status struct {
	Active  bool      `json:"active"`            // it filters at all
	Missing []string  `json:"missing,omitempty"` // wanted, and not there
	Extra   []string  `json:"extra,omitempty"`   // ours, and not wanted
	Problem string    `json:"problem,omitempty"` // for an operator: what is wrong and what to do; "": nothing
	At      time.Time `json:"at"`                // when; zero: never
}

// Status gives what the last Open, Apply or Check saw.
func (u *UFW) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// Open adds what is missing and takes nothing away: for a start, when it is not known yet what else is wanted.
func (u *UFW) Open(ctx context.Context, want []plan.Opening) error {
	return u.change(ctx, want, false)
}

// Apply makes this host's rules those that are wanted: it adds what is missing, and only then takes away those of ours that
// are not wanted. Applying the same twice changes nothing. An error is of KindUnavailable: ufw is missing, may not
// be used, or did not do it; another call tries again. A firewall that is installed but inactive has its rules kept
// for the day it is enabled, and is no error, as nothing is closed: Status tells of it.
func (u *UFW) Apply(ctx context.Context, want []plan.Opening) error {
	return u.change(ctx, want, true)
}

// Check compares the rules with what is wanted and changes nothing.
func (u *UFW) Check(ctx context.Context, want []plan.Opening) (Status, error) {
	if err := u.enter(ctx); err != nil {
		return Status{}, err
	}
	defer u.leave()
	d, err := u.look(ctx, Rules(want, u.mesh))
	return u.note(ctx, d, err)
}

func (u *UFW) change(ctx context.Context, want []plan.Opening, remove bool) error {
	if len(want) > maxWanted {
		return orama.Errorf(orama.KindInvalid, "firewall_too_many", "%d openings are wanted; a node has at most %d", len(want), maxWanted)
	}
	if err := u.enter(ctx); err != nil {
		return err
	}
	defer u.leave()
	rules := Rules(want, u.mesh)
	d, err := u.look(ctx, rules)
	if !remove {
		d.Delete = nil
	}
	if err == nil && !d.Empty() {
		if err = u.do(ctx, d); err == nil {
			d, err = u.look(ctx, rules) // what was done is what is seen, not what was asked for
		}
	}
	if !remove {
		d.Delete = nil
	}
	st, err := u.note(ctx, d, err)
	if err == nil && (len(st.Missing) > 0 || len(st.Extra) > 0) {
		err = failure("firewall_unchanged", "ufw has not taken a rule", errors.New(strings.Join(append(st.Missing, st.Extra...), "; ")))
	}
	return err
}

// enter waits for the turn to use ufw: one command at a time, and nobody between a look and what follows from it.
func (u *UFW) enter(ctx context.Context) error {
	select {
	case <-u.free:
		return nil
	case <-ctx.Done():
		return failure("firewall_busy", "the firewall is being changed; try again", ctx.Err())
	}
}

func (u *UFW) leave() { u.free <- struct{}{} }

func (u *UFW) look(ctx context.Context, want []Rule) (Difference, error) {
	listing, err := u.call(ctx, "show", "added")
	if err != nil {
		return Difference{}, err
	}
	return Compare(Parse(listing), want), nil
}

// do adds before it takes away, so that nothing that stays wanted is closed in between. Once begun, a command is let
// finish: ufw that is killed may have written a rule that the kernel does not have.
func (u *UFW) do(ctx context.Context, d Difference) error {
	for _, r := range d.Add {
		if err := u.alter(ctx, r.words()); err != nil {
			return err
		}
		u.log.LogAttrs(ctx, slog.LevelInfo, "firewall: opened", slog.String("rule", r.String()))
	}
	for _, r := range d.Delete {
		words := append([]string{"delete"}, r.words()...)
		if r.Route {
			words = append([]string{"route"}, words...)
		}
		if err := u.alter(ctx, words); err != nil {
			return err
		}
		u.log.LogAttrs(ctx, slog.LevelInfo, "firewall: closed", slog.String("rule", r.String()))
	}
	return nil
}

func (u *UFW) alter(ctx context.Context, words []string) error {
	if err := ctx.Err(); err != nil {
		return failure("firewall_unfinished", "the firewall's rules are not all in place; it is tried again", err)
	}
	_, err := u.call(context.WithoutCancel(ctx), words...)
	return err
}

func (u *UFW) call(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	return u.run(ctx, args...)
}

// note keeps what was seen. It logs a problem when it is news.
func (u *UFW) note(ctx context.Context, d Difference, err error) (Status, error) {
	st := Status{At: time.Now()}
	for _, r := range d.Add {
		st.Missing = append(st.Missing, r.String())
	}
	for _, r := range d.Delete {
		st.Extra = append(st.Extra, r.String())
	}
	if err == nil {
		st.Active, err = u.active(ctx)
	}
	switch {
	case err != nil:
		st.Problem = err.Error()
	case len(d.Clash) > 0:
		st.Problem = fmt.Sprintf("a rule of this host's closes what is wanted open: 'ufw %s'; delete it if it is not meant", d.Clash[0])
	case !st.Active:
		st.Problem = "ufw is inactive: nothing filters on this host; the rules are in place for when you run 'ufw enable' (allow SSH first)"
	}
	u.mu.Lock()
	news := st.Problem != u.status.Problem
	u.status = st
	u.mu.Unlock()
	if news && st.Problem != "" {
		u.log.LogAttrs(ctx, slog.LevelWarn, "firewall", slog.String("problem", st.Problem))
	}
	return st, err
}

func (u *UFW) active(ctx context.Context) (bool, error) {
	out, err := u.call(ctx, "status")
	if err != nil {
		return false, err
	}
	first, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(first) == "Status: active", nil
}

func failure(code, message string, err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: code, Message: message, Err: err}
}

// System runs this host's ufw. Its messages are translated, so it is told to speak its own language.
func System(ctx context.Context, args ...string) (string, error) {
	const where = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
	path, err := find("ufw", strings.TrimPrefix(where, "PATH="))
	if err != nil {
		return "", failure("firewall_missing", "ufw is not installed; install it, or set 'firewall: none' if this host's firewall is managed otherwise", nil)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{where, "LC_ALL=C", "LANGUAGE=C"}
	cmd.WaitDelay = time.Second
	out, said := &bounded{left: maxOutput}, &bounded{left: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", failure("firewall_failed", fmt.Sprintf("'ufw %s' failed", strings.Join(args, " ")), fmt.Errorf("%w: %s", err, firstLine(said.buf.String()+out.buf.String())))
	}
	if out.cut {
		return "", failure("firewall_failed", "ufw has more rules than can be read", nil)
	}
	return out.buf.String(), nil
}

func find(name, path string) (string, error) {
	for dir := range strings.SplitSeq(path, ":") {
		if info, err := os.Stat(dir + "/" + name); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return dir + "/" + name, nil
		}
	}
	return "", exec.ErrNotFound
}

// firstLine is the beginning of what a command said, short enough for a log.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return fmt.Sprintf("%.200s", line)
}

// bounded keeps the beginning of what is written to it. It is no more than an io.Writer, or io.Copy would find a way around it.
type bounded struct {
	buf  bytes.Buffer
	left int  // bytes
	cut  bool // more came
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.left)
	b.cut = b.cut || keep < len(p)
	b.left -= keep
	b.buf.Write(p[:keep])
	return len(p), nil
}
