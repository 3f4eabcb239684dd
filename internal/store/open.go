package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"orama.network/orama"
)

// Options say where the records are.
type Options struct {
	Engine   string   // "sqlite" (as for ""), or "rqlite"
	File     string   // of sqlite; its directory is there
	URLs     []string // of rqlite: its HTTP API on any of its nodes, nearest first, such as http://10.0.0.1:4001
	User     string   // of rqlite's basic authentication; "": none. It needs the permissions execute, query and ready
	Password string
	Log      *slog.Logger // nil: nothing is logged. Told once when the records cannot be reached, and once when they can again

	transport http.RoundTripper // nil: the network
}

// Store is the cluster's records. Its methods may be called from any goroutine, and several processes may have
// the same records open. An error is orama.ErrNotFound, orama.ErrConflict, or of kind unavailable.
//
// The records need not be there when it is opened, nor all the time: a call that cannot be served waits for 15 s (or
// until its context ends), as long as a change of leader or another writer may take; while they
// have been away for longer, calls fail at once, and they come back by themselves.
//
// What a read may be told by RQLite is stated with each. By default it is linearizable: the leader asks a quorum whether it
// still leads, so what any node has committed is seen, and a leader that was cut off answers nothing. Everything that an agent
// stops a process by, or a gateway sends a peer somewhere by, is read so: it costs 0.2 ms. A weak read skips that
// question; a leader that was cut off may then, for the second until it notices, give what was. The level "none",
// which any node answers from whatever it has, is never used.
type Store struct {
	engine engine
	log    *slog.Logger

	preparing chan struct{} // holds one token: who has it may prepare the engine

	mu       sync.Mutex
	prepared bool      // guarded by mu
	failed   error     // guarded by mu; why the last call was not served, nil when it was
	tried    time.Time // guarded by mu; when preparing failed last
	closed   bool      // guarded by mu
}

// prepareAgain is for how long a failure to prepare answers calls that waited for it.
const prepareAgain = time.Second

// Open opens the records, creating or migrating their tables. Records that cannot be reached now are no error:
// each call tries again. What will not mend by itself is one: settings that make no sense, a damaged file, and
// records of a later version.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{log: o.Log, preparing: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	switch o.Engine {
	case "", "sqlite":
		s.engine = &file{path: o.File}
		err := s.ready(ctx)
		if later := errLater(0); isDamaged(err) || errors.As(err, &later) {
			return nil, errors.Join(err, s.Close())
		}
		return s, nil
	case "rqlite":
		r, err := newRQLite(o)
		s.engine = r
		return s, err
	}
	return nil, fmt.Errorf("store engine %q is neither sqlite nor rqlite", o.Engine)
}

// Close ends the use of the records; calls that still run end first.
func (s *Store) Close() error {
	s.preparing <- struct{}{} // nobody prepares after this
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	<-s.preparing
	return s.engine.close()
}

// Check is nil when the records could be read and, with RQLite, a leader has its quorum; else it says what is wrong. It asks
// once and does not wait.
func (s *Store) Check(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.saw(ctx, s.engine.check(ctx))
}

func (s *Store) read(ctx context.Context, queries ...statement) ([][]row, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	got, err := s.engine.read(ctx, queries...)
	return got, s.saw(ctx, err)
}

func (s *Store) write(ctx context.Context, batch []statement) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.saw(ctx, s.engine.write(ctx, batch))
}

// ready prepares the engine unless it is. One caller does it at a time; those who waited for a failure share it.
func (s *Store) ready(ctx context.Context) error {
	came := time.Now()
	if done, err := s.known(came); done {
		return err
	}
	select {
	case s.preparing <- struct{}{}:
		defer func() { <-s.preparing }()
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	if done, err := s.known(came); done {
		return err
	}
	err := unavailable(s.engine.prepare(ctx))
	s.mu.Lock()
	s.prepared, s.tried = err == nil, time.Now()
	s.mu.Unlock()
	return s.saw(ctx, err)
}

// known is whether there is nothing to try: it is prepared, was closed, or failed since a caller came.
func (s *Store) known(came time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return true, unavailable(errors.New("they were closed"))
	case s.prepared:
		return true, nil
	case s.failed != nil && s.tried.After(came) && time.Since(s.tried) < prepareAgain:
		return true, s.failed
	}
	return false, nil
}

// saw remembers and tells, once for each time, that the records went or came.
func (s *Store) saw(ctx context.Context, err error) error {
	away := orama.KindOf(err) == orama.KindUnavailable
	if away && errors.Is(ctx.Err(), context.Canceled) {
		return err // the caller gave up, which says nothing
	}
	s.mu.Lock()
	before := s.failed
	if s.failed = nil; away {
		s.failed = err
	}
	s.mu.Unlock()
	if away && before == nil {
		s.log.Warn("the cluster's records cannot be reached; what runs goes on, and calls come back by themselves", "err", err)
	}
	if !away && before != nil {
		s.log.Info("the cluster's records can be reached again")
	}
	return err
}
