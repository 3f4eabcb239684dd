package cert

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"orama.network/orama"
)

// Records is the cluster's shared memory, in which all nodes keep one set of certificates and take turns at ordering them.
type Records interface {
	PutFile(ctx context.Context, path, content string, now time.Time) error
	File(ctx context.Context, path string) (content string, modified time.Time, err error)
	Files(ctx context.Context, dir string) ([]string, error)
	DeleteFiles(ctx context.Context, path string) error
	TakeLock(ctx context.Context, name, holder string, now, until time.Time) error
	ReleaseLock(ctx context.Context, name, holder string) error
}

// Sealer encrypts what the records keep: aad binds a text to its place.
type Sealer interface {
	Seal(plaintext, aad string) string
	Open(sealed, aad string) (string, error)
}

const (
	root = "acme" // where our files lie among the records' files
	// A lock outlives its holder's death by lockLife at most, and a living holder prolongs it well before.
	lockLife    = 60 * time.Second
	lockRefresh = 15 * time.Second
	lockRetry   = time.Second      // doubled with each try, since a try is a write
	lockRetryAt = 15 * time.Second // at most
	lockTimeout = 10 * time.Second // of one call to the records
)

// storage is certmagic's storage in the cluster's records. Contents are sealed with the cluster key. The names that
// certificates are for do not show either: once a namespace is disabled, nothing readable speaks of it, though its
// certificate is kept for when it is enabled again, because authorities issue few of them a week.
type storage struct {
	records Records
	sealer  Sealer
	holder  string // differs with every process

	mu    sync.Mutex // guards the following field
	locks map[string]*held
}

// held is a lock of this process: the records know processes, the map knows that one caller here has it.
type held struct {
	kept     context.Context    // of its keeper
	release  context.CancelFunc // ends it
	ended    sync.WaitGroup     // the keeper
	released chan struct{}      // closed when others here may try
}

var _ certmagic.Storage = (*storage)(nil)

func newStorage(r Records, s Sealer) *storage {
	return &storage{records: r, sealer: s, holder: rand.Text(), locks: map[string]*held{}}
}

// place is where a key lies among the records' files.
func place(key string) string {
	if dir, rest, ok := strings.Cut(key, "/"); ok && dir == "certificates" {
		return path.Join(root, dir, opaque(rest))
	}
	return path.Join(root, key)
}

func opaque(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	at := place(key)
	return s.records.PutFile(ctx, at, s.sealer.Seal(string(value), at), time.Now())
}

func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	value, _, err := s.load(ctx, key)
	return value, err
}

func (s *storage) load(ctx context.Context, key string) ([]byte, time.Time, error) {
	at := place(key)
	sealed, modified, err := s.records.File(ctx, at)
	if errors.Is(err, orama.ErrNotFound) {
		return nil, time.Time{}, fs.ErrNotExist // what certmagic knows absence by
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	value, err := s.sealer.Open(sealed, at)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("certificates in the records: %w", err)
	}
	return []byte(value), modified, nil
}

func (s *storage) Delete(ctx context.Context, key string) error {
	return s.records.DeleteFiles(ctx, place(key))
}

func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List knows no names under certificates: they are opaque.
func (s *storage) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	all, err := s.records.Files(ctx, place(dir))
	if err != nil {
		return nil, err
	}
	var out []string
	seen := map[string]bool{}
	for _, p := range all {
		p = strings.TrimPrefix(p, root+"/")
		rest := strings.TrimPrefix(p, dir+"/")
		if first, _, deeper := strings.Cut(rest, "/"); deeper {
			if d := path.Join(dir, first); !recursive && !seen[d] {
				seen[d] = true
				out = append(out, d)
			}
			if !recursive {
				continue
			}
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, fs.ErrNotExist
	}
	return out, nil
}

func (s *storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, modified, err := s.load(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: modified, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return certmagic.KeyInfo{}, err
	}
	if below, err := s.records.Files(ctx, place(key)); err != nil || len(below) == 0 {
		return certmagic.KeyInfo{}, errors.Join(fs.ErrNotExist, err)
	}
	return certmagic.KeyInfo{Key: key}, nil
}

// Lock waits until the caller has the lock, and prolongs it until Unlock.
func (s *storage) Lock(ctx context.Context, name string) error {
	mine, err := s.claim(ctx, name)
	if err != nil {
		return err
	}
	for wait := lockRetry; ; wait = min(2*wait, lockRetryAt) {
		err := s.take(ctx, name)
		if err == nil {
			break
		}
		if !errors.Is(err, orama.ErrConflict) && orama.KindOf(err) != orama.KindUnavailable {
			return errors.Join(err, s.Unlock(context.WithoutCancel(ctx), name))
		}
		select {
		case <-ctx.Done(): // the last try may have succeeded unheard
			return errors.Join(ctx.Err(), s.Unlock(context.WithoutCancel(ctx), name))
		case <-time.After(wait):
		}
	}
	mine.ended.Go(func() { s.hold(mine.kept, name) })
	return nil
}

// claim waits until nobody else in this process has the lock, or tries to get it.
func (s *storage) claim(ctx context.Context, name string) (*held, error) {
	for {
		s.mu.Lock()
		other := s.locks[name]
		if other == nil {
			mine := &held{released: make(chan struct{})}
			mine.kept, mine.release = context.WithCancel(context.WithoutCancel(ctx))
			s.locks[name] = mine
			s.mu.Unlock()
			return mine, nil
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other.released:
		}
	}
}

func (s *storage) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.locks[name]; l != nil {
		l.release()
		close(l.released)
		delete(s.locks, name)
	}
}

func (s *storage) take(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	now := time.Now()
	return s.records.TakeLock(ctx, path.Join(root, opaque(name)), s.holder, now, now.Add(lockLife))
}

// hold prolongs a lock. When that fails for long another node takes it, which costs an order too many and no harm.
func (s *storage) hold(ctx context.Context, name string) {
	t := time.NewTicker(lockRefresh)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_ = s.take(ctx, name) // again in a moment
		}
	}
}

// Unlock gives the lock back.
func (s *storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	l := s.locks[name]
	s.mu.Unlock()
	if l != nil {
		l.release() // first, or its keeper could take it again
		l.ended.Wait()
	}
	defer s.forget(name)
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	return s.records.ReleaseLock(ctx, path.Join(root, opaque(name)), s.holder)
}

// close ends the keepers of locks that certmagic still has.
func (s *storage) close() {
	s.mu.Lock()
	left := s.locks
	s.locks = map[string]*held{}
	s.mu.Unlock()
	for _, l := range left {
		l.release()
		l.ended.Wait()
		close(l.released)
	}
}
