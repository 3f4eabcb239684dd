package store

import (
	"context"
	"strings"
	"time"

	"orama.network/orama"
)

// An engine keeps the records. Reads and writes are orama.ErrConflict, or of kind unavailable, or done. Both engines mean the
// same by the same batch; that is what the contract suite is about.
type engine interface {
	// read answers several queries from one state of the records.
	read(ctx context.Context, queries ...statement) ([][]row, error)
	// write does a batch: all of it, or nothing. An expectation that was not met, or a unique index, gives
	// orama.ErrConflict. A batch is done once, however often it had to be sent.
	write(ctx context.Context, batch []statement) error
	// prepare opens the records, and creates or migrates the tables. It runs until it has succeeded once, in many processes
	// at the same moment; nothing else is called before that.
	prepare(ctx context.Context) error
	// check asks whether the records could be read and written now, and does not wait for better times.
	check(ctx context.Context) error
	// close ends the use; calls that still run end first.
	close() error
}

// anyRows is the expectation of a statement that may touch any number of rows.
const anyRows = -1

// A statement is one step of a batch. Its arguments are strings and int64s.
type statement struct {
	sql    string
	args   []any
	expect int64 // rows touched, or anyRows
	weak   bool  // of a query: see Store
}

// stmt makes a statement. Text that is not UTF-8 would not survive JSON, so it is made so for every engine.
func stmt(expect int64, sql string, args ...any) statement {
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	return statement{sql: sql, args: args, expect: expect}
}

// weak makes a query that may be answered from the records as they were a moment ago: see Store.
func weak(sql string, args ...any) statement {
	q := stmt(anyRows, sql, args...)
	q.weak = true
	return q
}

// row is one row read; its cells are strings, int64s and, for NULL, nil.
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

func unavailable(err error) error {
	if err == nil || orama.KindOf(err) == orama.KindUnavailable {
		return err
	}
	return &orama.Error{Kind: orama.KindUnavailable, Code: "store_unavailable",
		Message: "the cluster's records cannot be reached now; try again", Err: err}
}
