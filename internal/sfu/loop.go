package sfu

import "sync"

// maxPosted bounds one loop's mailbox. What reaches a loop is bounded at its source (a socket
// hands over one frame at a time, and at most signal.FramesPerSecond), so a mailbox this full
// means a loop that no longer runs.
const maxPosted = 1 << 14

// mailbox carries work to the one goroutine that owns some state. Posting never blocks, so two
// loops may post to each other.
type mailbox struct {
	wake chan struct{} // holds one token while queue may be non-empty

	mu     sync.Mutex
	queue  []func() // guarded by mu
	closed bool     // guarded by mu
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// post hands f to the owner. It reports false when f will never run.
func (m *mailbox) post(f func()) bool {
	m.mu.Lock()
	ok := !m.closed && len(m.queue) < maxPosted
	if ok {
		m.queue = append(m.queue, f)
	}
	m.mu.Unlock()
	if ok {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

// take gives the owner all that is waiting.
func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queue
	m.queue = nil
	return q
}

// closeIfEmpty closes the mailbox unless something waits in it.
func (m *mailbox) closeIfEmpty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) > 0 {
		return false
	}
	m.closed = true
	return true
}

// close refuses further posts and gives back what will not be run by the loop any more.
func (m *mailbox) close() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	q := m.queue
	m.queue = nil
	return q
}
