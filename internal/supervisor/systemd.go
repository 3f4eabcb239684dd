package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// stateAge is how old a reading of all units' states may be that Ensure decides by: it is called several times
	// a second for each unit, and one reading serves them all.
	stateAge = 200 * time.Millisecond
	// connectTimeout bounds the way to the bus, and one reading.
	connectTimeout = 5 * time.Second
	// A unit that systemd has given up is started again by us: systemd 252 restarts at a fixed pace
	// and then no more.
	firstRevival = time.Second
	lastRevival  = 30 * time.Second
	// killPatience is how long a killed unit may take to be gone.
	killPatience = 5 * time.Second
)

const serviceSuffix = ".service"

// Systemd is a set of service units that systemd keeps, whose files somebody installed: of a Unit it uses the
// name alone. It has the use of Children; what it keeps outlives it, restarts included. Its methods may be called
// from any goroutine.
type Systemd struct {
	log  *slog.Logger
	mine []string // patterns of unit names, with suffix
	dial func() (*dbus.Conn, error)

	mu       sync.Mutex // guards the following fields; held while the bus is asked for all states
	conn     *dbus.Conn // nil: none yet, or lost
	closed   bool
	states   map[string]dbus.UnitStatus // by name with suffix, as of readAt
	readAt   time.Time
	details  map[string]UnitState // as of lookedAt
	lookedAt time.Time
	revivals map[string]revival
	silent   bool // the bus did not answer last time, and that was logged
}

// revival says when a unit that systemd gave up may be started again: wait after from.
type revival struct {
	wait time.Duration
	from time.Time
}

// NewSystemd makes a supervisor of the units whose names, without ".service", match one of the patterns
// (path.Match). It connects when it is first used, over the system bus, and again whenever that was lost.
func NewSystemd(log *slog.Logger, mine ...string) *Systemd {
	s := &Systemd{log: log, details: map[string]UnitState{}, revivals: map[string]revival{},
		// The connection's context is its life.
		dial: func() (*dbus.Conn, error) { return dbus.NewWithContext(context.Background()) }}
	for _, m := range mine {
		s.mine = append(s.mine, m+serviceSuffix)
	}
	return s
}

// service is the full name of a unit that is ours.
func (s *Systemd) service(name string) (string, error) {
	full := name + serviceSuffix
	if namePattern.MatchString(name) {
		for _, m := range s.mine {
			if ok, err := path.Match(m, full); err == nil && ok {
				return full, nil
			}
		}
	}
	return "", fmt.Errorf("supervisor: %q is no unit of ours", name)
}

// busLocked gives the connection.
func (s *Systemd) busLocked() (*dbus.Conn, error) {
	if s.closed {
		return nil, errClosed
	}
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	conn, err := s.dial()
	if err != nil {
		return nil, fmt.Errorf("supervisor: systemd is not reached over D-Bus; is this host run by systemd, and is dbus installed? %w", err)
	}
	s.conn = conn
	return conn, nil
}

func (s *Systemd) bus() (*dbus.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busLocked()
}

// read gives the states of all our units, at most age old.
func (s *Systemd) read(ctx context.Context, age time.Duration) (map[string]dbus.UnitStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states != nil && time.Since(s.readAt) <= age {
		return s.states, nil
	}
	conn, err := s.busLocked()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	at := time.Now()
	list, err := conn.ListUnitsByPatternsContext(ctx, nil, s.mine)
	if err != nil {
		return nil, fmt.Errorf("supervisor: systemd does not list its units: %w", err)
	}
	states := make(map[string]dbus.UnitStatus, len(list))
	for _, u := range list {
		states[u.Name] = u
	}
	s.states, s.readAt = states, at
	return states, nil
}

// changed makes the next reading a new one.
func (s *Systemd) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = nil
}

// Ensure has the unit run from now on: it starts it unless it runs, is on its way, or is about to be restarted
// by systemd, and returns when it was started (for a notifying service: when it said that it is ready). A
// unit that systemd has given up is started again, after 1 s at first and up to 30 s; until then that is the error.
func (s *Systemd) Ensure(ctx context.Context, u Unit) error {
	name, err := s.service(u.Name)
	if err != nil {
		return err
	}
	states, err := s.read(ctx, stateAge)
	if err != nil {
		return err
	}
	switch st := states[name]; st.ActiveState {
	case "", "inactive":
	case "failed":
		if left := s.untilRevival(name); left > 0 {
			return fmt.Errorf("supervisor: systemd has given up unit %s (%s); it is started again in %s, see journalctl -u %s",
				u.Name, s.describe(ctx, name), left.Round(time.Second), u.Name)
		}
		if err := s.forgive(ctx, name); err != nil {
			return err
		}
	default: // active, activating (which includes the wait before a restart), reloading; deactivating by somebody else's wish
		return nil
	}
	return s.start(ctx, name)
}

func (s *Systemd) start(ctx context.Context, name string) error {
	conn, err := s.bus()
	if err != nil {
		return err
	}
	defer s.changed()
	done := make(chan string, 1)
	if _, err := conn.StartUnitContext(ctx, name, "replace", done); err != nil {
		return fmt.Errorf("supervisor: unit %s cannot be started: %w", name, err)
	}
	switch result, err := await(ctx, conn, done); {
	case err != nil:
		return fmt.Errorf("supervisor: unit %s is still starting: %w", name, err)
	case result != "done":
		s.changed()
		return fmt.Errorf("supervisor: unit %s did not start: %s (%s); see journalctl -u %s", name, result, s.describe(ctx, name),
			strings.TrimSuffix(name, serviceSuffix))
	}
	s.log.Info("unit started", "unit", name)
	return nil
}

var errBusLost = errors.New("the connection to systemd was lost")

// await waits for the result of a job, which a lost connection never brings.
func await(ctx context.Context, conn *dbus.Conn, done <-chan string) (string, error) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case result := <-done:
			return result, nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-look.C:
			if !conn.Connected() {
				return "", errBusLost
			}
		}
	}
}

// untilRevival says how long a failed unit is still left alone, and has the next failure wait longer.
func (s *Systemd) untilRevival(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, known := s.revivals[name]
	if !known {
		r = revival{wait: firstRevival, from: time.Now()}
		s.revivals[name] = r
	}
	if left := r.wait - time.Since(r.from); left > 0 {
		return left
	}
	s.revivals[name] = revival{wait: min(2*r.wait, lastRevival), from: time.Now()}
	return 0
}

// forgive makes systemd forget that a unit failed, so that it may be started, or is gone from the lists.
func (s *Systemd) forgive(ctx context.Context, name string) error {
	conn, err := s.bus()
	if err != nil {
		return err
	}
	if err := conn.ResetFailedUnitContext(ctx, name); err != nil && !unknownUnit(err) {
		return fmt.Errorf("supervisor: unit %s: %w", name, err)
	}
	s.changed()
	return nil
}

func unknownUnit(err error) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// Stop ends a unit for good: systemd sends SIGTERM, and what the unit's file says after its TimeoutStopSec;
// after grace we send SIGKILL. It returns when the unit was seen gone. One that nobody knows is no error. When
// ctx ends first its error is returned, and the stopping goes on.
func (s *Systemd) Stop(ctx context.Context, name string, grace time.Duration) error {
	full, err := s.service(name)
	if err != nil {
		return err
	}
	states, err := s.read(ctx, 0)
	if err != nil {
		return err
	}
	// To ask systemd about a unit makes it load the unit: one that is gone is left alone.
	if active := states[full].ActiveState; active == "" || active == "inactive" {
		return nil
	}
	conn, err := s.bus()
	if err != nil {
		return err
	}
	defer s.changed()
	done := make(chan string, 1)
	if _, err := conn.StopUnitContext(ctx, full, "replace", done); unknownUnit(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("supervisor: unit %s cannot be stopped: %w", name, err)
	}
	bounded, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	_, err = await(bounded, conn, done)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		s.log.Warn("unit did not stop in time and is killed", "unit", name, "grace", grace)
		if err := conn.KillUnitWithTarget(ctx, full, dbus.All, int32(unix.SIGKILL)); err != nil && !unknownUnit(err) {
			return fmt.Errorf("supervisor: unit %s cannot be killed: %w", name, err)
		}
		again, cancel := context.WithTimeout(ctx, killPatience)
		defer cancel()
		_, err = await(again, conn, done)
	}
	if err != nil {
		return fmt.Errorf("supervisor: unit %s is still stopping: %w", name, err)
	}
	return s.gone(ctx, name, full)
}

// gone checks that a stopped unit has no process, and has it leave no trace.
func (s *Systemd) gone(ctx context.Context, name, full string) error {
	states, err := s.read(ctx, 0)
	if err != nil {
		return err
	}
	switch st := states[full]; st.ActiveState {
	case "", "inactive":
	case "failed": // killed, or it ended badly: gone all the same
		if err := s.forgive(ctx, full); err != nil {
			return err
		}
	default:
		return fmt.Errorf("supervisor: unit %s is %s again: somebody else started it", name, st.ActiveState)
	}
	s.mu.Lock()
	delete(s.details, full)
	delete(s.revivals, full)
	s.mu.Unlock()
	s.log.Info("unit stopped", "unit", name)
	return nil
}

// List says what is known of every unit of ours that is not simply stopped, by name. While the bus does not
// answer it is what was known before: that nobody answers does not mean that nothing runs.
func (s *Systemd) List() []UnitState {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	states, err := s.read(ctx, stateAge)
	s.heard(err)
	if err == nil {
		s.look(ctx, states)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]UnitState, 0, len(s.details))
	for _, d := range s.details {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b UnitState) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// heard logs, once, that the bus does not answer, and that it does again.
func (s *Systemd) heard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.silent && !s.closed:
		s.log.Warn("systemd does not answer; its units are taken to be as they were", "error", err)
	case err == nil && s.silent:
		s.log.Info("systemd answers again")
	}
	s.silent = err != nil
}

// look reads the details of all units that are not simply stopped, unless that was done since their states were read.
func (s *Systemd) look(ctx context.Context, states map[string]dbus.UnitStatus) {
	s.mu.Lock()
	conn, err := s.busLocked()
	done := !s.lookedAt.Before(s.readAt)
	s.mu.Unlock()
	if err != nil || done {
		return
	}
	at := time.Now()
	fresh := map[string]UnitState{}
	for name, st := range states {
		if st.ActiveState == "inactive" {
			continue
		}
		d := detail(ctx, conn, name)
		s.mu.Lock()
		before := s.details[name]
		s.mu.Unlock()
		switch {
		case d.LastExit != "":
		case before.PID == 0 || d.PID == before.PID:
			d.LastExit = before.LastExit
		default: // systemd was quicker than we looked
			d.LastExit = "ended, and was restarted by systemd"
		}
		fresh[name] = d
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.details, s.lookedAt = fresh, at
	for name, d := range fresh {
		if d.PID > 0 && time.Since(d.Since) > livedLong {
			delete(s.revivals, name)
		}
	}
}

// Close ends the supervisor and leaves every unit as it is.
func (s *Systemd) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}
