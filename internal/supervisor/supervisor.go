package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Unit is one process to keep running.
type Unit struct {
	Name  string   // 1 to 100 of A-Z a-z 0-9 . _ @ -
	Args  []string // the executable, absolute, and its arguments; they are no place for secrets
	Dir   string   // working directory; "" is ours
	Log   string   // file that its output is appended to; "" throws it away
	Stdin []byte   // given anew to each process
}

// UnitState is what is known of a unit.
type UnitState struct {
	Name     string
	PID      int       // 0: no process now
	Since    time.Time // start of the process, or end of the last one
	Restarts int       // since this supervisor has the unit
	LastExit string    // such as "signal: killed" or "exit 1: last line of its log"; "" when none ended yet
}

// Children is a set of units. Its methods may be called from any goroutine.
type Children struct {
	dir  string
	log  *slog.Logger
	boot string // the kernel's boot id

	mu     sync.Mutex
	units  map[string]*child // guarded by mu
	closed bool              // guarded by mu: Detach or Close was called
}

var errClosed = errors.New("supervisor: closed")

// New makes a supervisor that keeps its records in dir, which is made when needed.
func New(dir string, log *slog.Logger) *Children {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return &Children{dir: dir, log: log, boot: bootID(), units: map[string]*child{}}
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$`)

func (u Unit) validate() error {
	switch {
	case !namePattern.MatchString(u.Name) || strings.HasSuffix(u.Name, recordSuffix):
		return fmt.Errorf("supervisor: %q is no name for a unit", u.Name)
	case len(u.Args) == 0 || !filepath.IsAbs(u.Args[0]):
		return fmt.Errorf("supervisor: unit %s: the executable's absolute path is needed", u.Name)
	}
	return nil
}

// Ensure has the unit run from now on: it adopts its living process or starts one, and restarts it whenever it
// dies, after 50 ms at first and up to 5 s. An error of the first start is returned, and trying goes on all the
// same. For a unit that is already kept nothing happens now; its next process is started as u says.
func (c *Children) Ensure(ctx context.Context, u Unit) error {
	if err := u.validate(); err != nil {
		return err
	}
	u.Args, u.Stdin = slices.Clone(u.Args), slices.Clone(u.Stdin)
	k, first, err := c.keep(u)
	if err != nil || first == nil {
		return err
	}
	select {
	case err := <-first:
		return err
	case <-k.done:
		return fmt.Errorf("supervisor: unit %s was stopped", u.Name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep finds or makes the keeper of a unit; first gives the outcome of the first start of a new one.
func (c *Children) keep(u Unit) (k *child, first <-chan error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	if k := c.units[u.Name]; k != nil {
		return k, nil, k.update(u)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("supervisor: %w", err)
	}
	k = c.newChild(u)
	outcome := make(chan error, 1)
	c.units[u.Name] = k
	go k.run(c.find(u.Name), outcome)
	return k, outcome, nil
}

// Stop ends a unit for good: SIGTERM, and after grace SIGKILL. It returns when the process was seen gone. A unit
// that this supervisor does not keep but an earlier one started is stopped too; one that nobody knows is no
// error. When ctx ends first its error is returned, and the stopping goes on.
func (c *Children) Stop(ctx context.Context, name string, grace time.Duration) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("supervisor: %q is no name for a unit", name)
	}
	k, err := c.stopping(name, grace)
	if err != nil || k == nil {
		return err
	}
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("supervisor: unit %s is still stopping: %w", name, ctx.Err())
	}
}

func (c *Children) stopping(name string, grace time.Duration) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.units[name]; k != nil {
		k.askStop(grace)
		return k, nil
	}
	if c.closed {
		return nil, errClosed
	}
	p := c.find(name)
	if p == nil {
		return nil, c.forget(name)
	}
	k := c.newChild(Unit{Name: name})
	k.askStop(grace)
	c.units[name] = k
	go k.run(p, make(chan error, 1))
	return k, nil
}

// List says what is known of every unit, by name: those that are kept, and those that an earlier supervisor
// recorded and whose process lives.
func (c *Children) List() []UnitState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []UnitState
	for _, k := range c.units {
		out = append(out, k.snapshot())
	}
	for _, name := range c.recorded() {
		if c.units[name] != nil {
			continue
		}
		if r, ok := c.alive(name); ok {
			out = append(out, UnitState{Name: name, PID: r.PID, Since: r.StartedAt})
		}
	}
	slices.SortFunc(out, func(a, b UnitState) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Detach ends the supervisor and leaves every process running, for the next one to adopt. It is for the end of
// our own process: whatever dies afterwards while we live is not reaped.
func (c *Children) Detach() {
	for _, k := range c.shut() {
		k.askDetach()
		<-k.done
	}
}

// Close stops every unit that List knows, all at the same time, and ends the supervisor.
func (c *Children) Close(ctx context.Context, grace time.Duration) error {
	errs := make(chan error)
	units := c.List()
	for _, u := range units {
		go func() { errs <- c.Stop(ctx, u.Name, grace) }()
	}
	var err error
	for range units {
		err = errors.Join(err, <-errs)
	}
	// What was ensured meanwhile, or outlived ctx, is left to the next supervisor.
	c.Detach()
	return err
}

func (c *Children) shut() []*child {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	out := make([]*child, 0, len(c.units))
	for _, k := range c.units {
		out = append(out, k)
	}
	return out
}

func (c *Children) drop(k *child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.units[k.name] == k {
		delete(c.units, k.name)
	}
}
