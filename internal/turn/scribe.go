package turn

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// maxUnwritten is how many lines may wait for the log.
const maxUnwritten = 1024

// scribe writes log lines in a goroutine of its own. A relay may end while the library holds the
// lock that every packet needs, and a refusal is found by the reader of all UDP clients: neither may wait
// for a slow log. What does not fit is lost and counted.
type scribe struct {
	log   *slog.Logger
	also  func(line) // sees each line after it was written; nil: nobody. It must not wait
	queue chan line
	lost  atomic.Uint64
	stop  chan struct{}
	done  chan struct{}
}

type line struct {
	msg     string
	args    []any
	written chan struct{} // not nil: no line, but a mark that is closed when all before it are written
}

func newScribe(log *slog.Logger) *scribe {
	return &scribe{log: log, queue: make(chan line, maxUnwritten), stop: make(chan struct{}), done: make(chan struct{})}
}

func (s *scribe) say(msg string, args ...any) {
	select {
	case s.queue <- line{msg: msg, args: args}:
	default:
		s.lost.Add(1)
	}
}

// run writes until close; then what is left.
func (s *scribe) run() {
	defer close(s.done)
	for {
		select {
		case l := <-s.queue:
			s.write(l)
		case <-s.stop:
			for len(s.queue) > 0 {
				s.write(<-s.queue)
			}
			return
		}
	}
}

func (s *scribe) write(l line) {
	if l.written != nil {
		close(l.written)
		return
	}
	if n := s.lost.Swap(0); n > 0 {
		l.args = append(l.args, "lines_lost", n)
	}
	s.log.Info(l.msg, l.args...)
	if s.also != nil {
		s.also(l)
	}
}

// flush waits, at most patience, until every line that was said before is written.
func (s *scribe) flush(patience time.Duration) {
	mark := line{written: make(chan struct{})}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	select {
	case s.queue <- mark:
	case <-enough.C:
		return
	}
	select {
	case <-mark.written:
	case <-enough.C:
	}
}

// close ends run and waits for it.
func (s *scribe) close() {
	close(s.stop)
	<-s.done
}
