package turn

import (
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// stuck is a log that takes no more.
type stuck struct {
	release chan struct{}
	taken   atomic.Int32
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	s.taken.Add(1)
	return len(p), nil
}

func TestSlowLogStopsNobody(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	s := newScribe(slog.New(slog.NewTextHandler(out, nil)))
	go s.run()
	for range 3 * maxUnwritten {
		s.say("line")
	}
	close(out.release)
	s.close()
	require.GreaterOrEqual(t, out.taken.Load(), int32(maxUnwritten), "what fitted was written")
	require.LessOrEqual(t, out.taken.Load(), int32(maxUnwritten+1), "and no more")
	s.say("after the end") // must not panic
}
