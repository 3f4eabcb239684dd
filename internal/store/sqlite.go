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

// file is the SQLite engine. Writers take the lock when they begin, not when they first write: a
// transaction that starts as a reader and is overtaken can only fail.
type file struct {
	path string
	w    *sql.DB // one connection; nil until prepared
	r    *sql.DB
}

func (f *file) prepare(ctx context.Context) error {
	if err := create(f.path); err != nil {
		return unavailable(err)
	}
	return unavailable(retryBusy(ctx, func() error {
		if err := f.open(ctx); err != nil {
			return err
		}
		return prepareSchema(ctx, f)
	}))
}

// retryBusy waits where SQLite does not: while other processes switch the same file to WAL
// (SQLite's documentation of busy_timeout).
func retryBusy(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(openPatience)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := do()
		if err == nil || !isBusy(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
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

func (f *file) open(ctx context.Context) (err error) {
	if err := f.close(); err != nil { // of the attempt before
		return err
	}
	path, err := filepath.Abs(f.path)
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
	return nil
}

// check is whether the file can be read. Whether it can be written shows when it is: asking would wait for writers.
func (f *file) check(ctx context.Context) error {
	_, err := f.read(ctx, stmt(anyRows, selectRevision))
	return err
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

// isDamaged tells a file that will not mend by waiting.
func isDamaged(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_NOTADB || se.Code()&0xff == sqlite3.SQLITE_CORRUPT)
}
