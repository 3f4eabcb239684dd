package supervisor

import (
	"fmt"
	"sync"
	"time"
)

// Restarts wait longer each time, unless the process had lived for a while.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 5 * time.Second
	livedLong    = 10 * time.Second
)

// child keeps one unit. Its loop alone touches the process.
type child struct {
	c      *Children
	name   string
	stop   chan struct{} // closed by askStop, once grace is set
	detach chan struct{}
	done   chan struct{} // closed when the loop has ended

	mu       sync.Mutex // guards the following fields
	unit     Unit
	state    UnitState
	grace    time.Duration
	stopped  bool
	detached bool
}

func (c *Children) newChild(u Unit) *child {
	return &child{c: c, name: u.Name, unit: u, state: UnitState{Name: u.Name},
		stop: make(chan struct{}), detach: make(chan struct{}), done: make(chan struct{})}
}

func (k *child) update(u Unit) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return fmt.Errorf("supervisor: unit %s is being stopped", k.name)
	}
	k.unit = u
	return nil
}

func (k *child) askStop(grace time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.stopped, k.grace = true, grace
		close(k.stop)
	}
}

func (k *child) askDetach() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.detached {
		k.detached = true
		close(k.detach)
	}
}

func (k *child) snapshot() UnitState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

func (k *child) set(change func(*UnitState)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.state)
}

// run keeps the unit until it is asked to stop or detach. p is its living process, or nil.
func (k *child) run(p *process, first chan<- error) {
	defer close(k.done)
	defer k.c.drop(k)
	backoff := firstBackoff
	for {
		var err error
		if p == nil {
			p, err = k.start()
		} else {
			k.c.log.Info("unit adopted", "unit", k.name, "pid", p.pid)
			k.running(p)
		}
		select {
		case first <- err: // has room for one
		default:
		}
		if err == nil {
			heir, more := k.watch(p)
			if !more {
				return
			}
			if heir != nil {
				p = heir
				continue
			}
		}
		if p != nil && time.Since(p.started) > livedLong {
			backoff = firstBackoff
		}
		k.c.log.Warn("unit is down", "unit", k.name, "reason", k.snapshot().LastExit, "restart_in", backoff)
		if !k.pause(backoff) {
			return
		}
		backoff = min(2*backoff, lastBackoff)
		k.set(func(s *UnitState) { s.Restarts++ })
		p = nil
	}
}

func (k *child) start() (*process, error) {
	k.mu.Lock()
	u := k.unit
	k.mu.Unlock()
	select {
	case <-k.stop:
		return nil, fmt.Errorf("supervisor: unit %s was stopped", k.name)
	default:
	}
	p, err := k.c.start(u)
	if err != nil {
		k.set(func(s *UnitState) { s.PID, s.Since, s.LastExit = 0, time.Now(), "start: "+err.Error() })
		return nil, fmt.Errorf("supervisor: unit %s: %w", k.name, err)
	}
	k.c.log.Info("unit started", "unit", k.name, "pid", p.pid)
	k.running(p)
	return p, nil
}

func (k *child) running(p *process) {
	k.set(func(s *UnitState) { s.PID, s.Since = p.pid, p.started })
}

// watch waits until the process is gone, and gives the one that it has left in its place, if it has: that is the unit's
// from then on, to be stopped as well if the first was. False: it is gone by request, or is no longer ours to watch.
func (k *child) watch(p *process) (heir *process, more bool) {
	select {
	case <-p.gone:
	case <-k.detach:
		p.release()
		return nil, false
	case <-k.stop:
		if !k.terminate(p) {
			p.release()
			return nil, false
		}
	}
	if heir = k.c.find(k.name); heir != nil {
		heir.log, heir.logOffset = p.log, p.logOffset // it was given the same files
		return heir, true
	}
	k.set(func(s *UnitState) { s.PID, s.Since, s.LastExit = 0, time.Now(), p.exit })
	return nil, k.pause(0)
}

// terminate ends a process: false when detached before it was gone.
func (k *child) terminate(p *process) bool {
	k.mu.Lock()
	grace := k.grace
	k.mu.Unlock()
	p.term()
	kill := time.NewTimer(grace)
	defer kill.Stop()
	for {
		select {
		case <-p.gone:
			return true
		case <-k.detach:
			return false
		case <-kill.C:
			k.c.log.Warn("unit did not stop in time and is killed", "unit", k.name, "pid", p.pid, "grace", grace)
			p.kill()
		}
	}
}

// pause waits before a restart. False: stop or detach was asked for, and there is no process.
func (k *child) pause(d time.Duration) bool {
	select { // asked already: a pause of 0 must not restart by chance
	case <-k.stop:
		return k.end()
	case <-k.detach:
		return false
	default:
	}
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-k.stop:
		return k.end()
	case <-k.detach:
		return false
	}
}

// end removes the traces of a unit that was stopped.
func (k *child) end() bool {
	if err := k.c.forget(k.name); err != nil {
		k.c.log.Warn("unit's record cannot be removed", "unit", k.name, "error", err)
	}
	k.c.log.Info("unit stopped", "unit", k.name)
	return false
}
