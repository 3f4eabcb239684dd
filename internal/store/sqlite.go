package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"orama.network/orama"
)

// busyTimeout is how long a writer waits for another process's, in milliseconds. A batch takes a few.
const busyTimeout = 10_000

// openPatience is how long Open tries while other processes create the same file.
const openPatience = 15 * time.Second

// anyRows is the expectation of a statement that may touch any number of rows.
const anyRows = -1

// A statement is one step of a batch. Its arguments are strings and int64s.
type statement struct {
	sql    string
	args   []any
	expect int64 // rows touched, or anyRows
}

func stmt(expect int64, sql string, args ...any) statement {
	return statement{sql: sql, args: args, expect: expect}
}

// row is one row read; its cells are strings and int64s.
type row []any

func (r row) str(i int) string { s, _ := r[i].(string); return s }
func (r row) int(i int) int64  { n, _ := r[i].(int64); return n }
func (r row) bool(i int) bool  { return r.int(i) != 0 }
func (r row) time(i int) time.Time {
	if r.int(i) == 0 {
		return time.Time{}
	}
	return time.UnixMicro(r.int(i)).UTC()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// file is the SQLite engine. Writers take the lock when they begin, not when they first write: a
// transaction that starts as a reader and is overtaken can only fail.
type file struct {
	w *sql.DB // one connection
	r *sql.DB
}

func openFile(ctx context.Context, path string) (*file, error) {
	if err := create(path); err != nil {
		return nil, unavailable(err)
	}
	f := &file{}
	deadline := time.Now().Add(openPatience)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := f.open(ctx, path)
		if err == nil {
			return f, nil
		}
		err = errors.Join(err, f.close())
		// Switching to WAL does not wait for other processes doing the same (SQLite's documentation of
		// busy_timeout), so waiting is ours.
		if !isBusy(err) || time.Now().After(deadline) {
			return nil, unavailable(err)
		}
		select {
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		case <-time.After(wait):
		}
	}
}

// create makes the file before SQLite does, so that only its owner can read it: it holds sealed secrets and
// hashes. SQLite gives its companion files the same mode.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (f *file) open(ctx context.Context, path string) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	dsn := (&url.URL{Scheme: "file", Path: path}).String() +
		fmt.Sprintf("?_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)", busyTimeout)
	if f.w, err = sql.Open("sqlite", dsn+"&_txlock=immediate"); err != nil {
		return err
	}
	f.w.SetMaxOpenConns(1)
	if err := f.w.PingContext(ctx); err != nil {
		return err
	}
	if f.r, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	f.r.SetMaxOpenConns(4)
	f.r.SetMaxIdleConns(4)
	return f.prepare(ctx)
}

// prepare creates the schema unless it is there.
func (f *file) prepare(ctx context.Context) error {
	version, err := f.version(ctx)
	switch {
	case err != nil:
		return err
	case version > schemaVersion:
		return fmt.Errorf("the records have schema %d; this program knows %d", version, schemaVersion)
	case version == schemaVersion:
		return nil
	}
	// Others may be migrating the same file: the version is what it was, or somebody was first.
	batch := []statement{}
	if version > 0 {
		batch = append(batch, stmt(1, `UPDATE meta SET value = ? WHERE key = 'schema' AND value = ?`, int64(schemaVersion), version))
	}
	for v := version; v > 0 && v < schemaVersion; v++ {
		for _, s := range migrations[v] {
			batch = append(batch, stmt(anyRows, s))
		}
	}
	for _, s := range schema {
		batch = append(batch, stmt(anyRows, s))
	}
	if err := f.exec(ctx, batch); !errors.Is(err, orama.ErrConflict) {
		return err
	}
	return f.prepare(ctx)
}

func (f *file) version(ctx context.Context) (int64, error) {
	got, err := f.query(ctx, stmt(anyRows, `SELECT count(*) FROM sqlite_master WHERE name = 'meta'`))
	if err != nil || got[0][0].int(0) == 0 {
		return 0, err
	}
	got, err = f.query(ctx, stmt(anyRows, `SELECT value FROM meta WHERE key = 'schema'`))
	if err != nil || len(got[0]) == 0 {
		return 0, err
	}
	return got[0][0].int(0), nil
}

func (f *file) close() error {
	var err error
	if f.r != nil {
		err = f.r.Close()
	}
	if f.w != nil {
		err = errors.Join(err, f.w.Close())
	}
	return err
}

// read answers several queries from one state of the file.
func (f *file) read(ctx context.Context, queries ...statement) ([][]row, error) {
	got, err := f.query(ctx, queries...)
	if err != nil {
		return nil, unavailable(err)
	}
	return got, nil
}

func (f *file) query(ctx context.Context, queries ...statement) (_ [][]row, err error) {
	tx, err := f.r.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }() // nothing was written
	out := make([][]row, len(queries))
	for i, q := range queries {
		if out[i], err = rowsOf(ctx, tx, q); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func rowsOf(ctx context.Context, tx *sql.Tx, q statement) ([]row, error) {
	rows, err := tx.QueryContext(ctx, q.sql, q.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []row
	for rows.Next() {
		r := make(row, len(columns))
		cells := make([]any, len(columns))
		for i := range r {
			cells[i] = &r[i]
		}
		if err := rows.Scan(cells...); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// write does a batch: all of it, or nothing. An expectation that was not met, or a unique index, gives
// orama.ErrConflict.
func (f *file) write(ctx context.Context, batch []statement) error {
	err := f.exec(ctx, batch)
	var se *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, orama.ErrConflict):
		return orama.ErrConflict
	case errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_CONSTRAINT:
		return orama.ErrConflict
	}
	return unavailable(err)
}

func (f *file) exec(ctx context.Context, batch []statement) (err error) {
	tx, err := f.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // already rolled back where ctx ended; the error that led here says more
		}
	}()
	for _, s := range batch {
		res, err := tx.ExecContext(ctx, s.sql, s.args...)
		if err != nil {
			return err
		}
		if s.expect == anyRows {
			continue
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n != s.expect {
			return orama.ErrConflict
		}
	}
	return tx.Commit()
}

func isBusy(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_BUSY || se.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

func unavailable(err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "store_unavailable",
		Message: "the cluster's records cannot be reached now; try again", Err: err}
}
