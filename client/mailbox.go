package client

import "sync"

// mailbox is a queue that never blocks who posts. What bounds it is who posts: the socket's
// reader waits for each frame to be handled, callers wait for their answer, and pion's callbacks are few.
type mailbox[T any] struct {
	wake chan struct{} // holds one token while the queue may not be empty

	mu    sync.Mutex
	queue []T // guarded by mu
	limit int // beyond it the oldest go; 0: none
}

func newMailbox[T any](limit int) *mailbox[T] {
	return &mailbox[T]{wake: make(chan struct{}, 1), limit: limit}
}

// post adds v and reports whether the oldest entry had to go for it.
func (m *mailbox[T]) post(v T) (dropped bool) {
	m.mu.Lock()
	if m.limit > 0 && len(m.queue) >= m.limit {
		m.queue = m.queue[1:]
		dropped = true
	}
	m.queue = append(m.queue, v)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return dropped
}

// take empties the queue.
func (m *mailbox[T]) take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queue
	m.queue = nil
	return q
}
