package store

import (
	"context"
	"time"

	"orama.network/orama"
)

// maxFile bounds a kept file, in bytes: a certificate's chain is below 10 KiB.
const maxFile = 256 << 10

// PutFile keeps a small text under a path, such as a sealed private key, for every node to read.
func (s *Store) PutFile(ctx context.Context, path, content string, now time.Time) error {
	if len(content) > maxFile {
		return orama.Errorf(orama.KindInvalid, "file_too_large", "a kept file has %d bytes; at most %d fit", len(content), maxFile)
	}
	return s.write(ctx, []statement{stmt(1, `INSERT INTO kept_files (path, content, modified) VALUES (?, ?, ?)
		ON CONFLICT (path) DO UPDATE SET content = excluded.content, modified = excluded.modified`, path, content, micros(now))})
}

// File reads what PutFile kept, or gives orama.ErrNotFound.
func (s *Store) File(ctx context.Context, path string) (content string, modified time.Time, err error) {
	type kept struct {
		content  string
		modified time.Time
	}
	f, err := one(ctx, s, func(r row) kept { return kept{r.str(0), r.time(1)} },
		stmt(anyRows, `SELECT content, modified FROM kept_files WHERE path = ?`, path))
	return f.content, f.modified, err
}

// below bounds the paths that lie under a directory: '0' is the byte after '/'.
func below(dir string) (from, to string) { return dir + "/", dir + "0" }

// Files lists the paths under a directory, in order; "" is all.
func (s *Store) Files(ctx context.Context, dir string) ([]string, error) {
	from, to := below(dir)
	got, err := s.read(ctx, stmt(anyRows, `SELECT path FROM kept_files WHERE ? = '' OR (path >= ? AND path < ?) ORDER BY path`, dir, from, to))
	if err != nil {
		return nil, err
	}
	return each(got[0], func(r row) string { return r.str(0) }), nil
}

// DeleteFiles removes a file, and everything under a directory of that name.
func (s *Store) DeleteFiles(ctx context.Context, path string) error {
	from, to := below(path)
	return s.write(ctx, []statement{stmt(anyRows, `DELETE FROM kept_files WHERE path = ? OR (path >= ? AND path < ?)`, path, from, to)})
}

// TakeLock makes holder the owner of a lock until a time, or prolongs what it owns already. orama.ErrConflict: another
// has it, and its time is not over. Clocks of nodes differ, so a lock is for saving work, not for safety.
func (s *Store) TakeLock(ctx context.Context, name, holder string, now, until time.Time) error {
	return s.write(ctx, []statement{
		stmt(1, `INSERT INTO locks (name, holder, until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
			WHERE locks.holder = excluded.holder OR locks.until <= ?`, name, holder, micros(until), micros(now)),
	})
}

// ReleaseLock gives a lock back. Somebody else's stays.
func (s *Store) ReleaseLock(ctx context.Context, name, holder string) error {
	return s.write(ctx, []statement{stmt(anyRows, `DELETE FROM locks WHERE name = ? AND holder = ?`, name, holder)})
}
