package rqlitetest

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
)

// step is a statement with its arguments.
type step struct {
	sql  string
	args []any
}

// result is the answer to one statement, as RQLite writes it.
type result struct {
	Columns      []string `json:"columns,omitempty"`
	Types        []string `json:"types,omitempty"`
	Values       [][]any  `json:"values,omitempty"`
	LastInsertID int64    `json:"last_insert_id,omitempty"`
	RowsAffected int64    `json:"rows_affected,omitempty"`
	Error        string   `json:"error,omitempty"`
}

// applyLocked does the next entry of the log. A statement that fails ends the batch and undoes it.
func (n *node) applyLocked() ([]result, error) {
	batch := n.c.log[n.applied]
	n.applied++
	ctx := context.Background()
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	var out []result
	for _, s := range batch {
		res, err := tx.ExecContext(ctx, s.sql, s.args...)
		if err != nil {
			return append(out, result{Error: said(err)}), tx.Rollback()
		}
		var r result
		r.LastInsertID, _ = res.LastInsertId()
		r.RowsAffected, _ = res.RowsAffected()
		out = append(out, r)
	}
	return out, tx.Commit()
}

// queryLocked answers from the node's own database, from one moment.
func (n *node) queryLocked(batch []step) ([]result, error) {
	ctx := context.Background()
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	var out []result
	for _, s := range batch {
		r, err := rowsOf(ctx, tx, s)
		if err != nil {
			r = result{Error: said(err)}
		}
		out = append(out, r) // a query that fails does not stop those after it
	}
	return out, nil
}

func rowsOf(ctx context.Context, tx *sql.Tx, s step) (result, error) {
	rows, err := tx.QueryContext(ctx, s.sql, s.args...)
	if err != nil {
		return result{}, err
	}
	defer rows.Close()
	var out result
	if out.Columns, err = rows.Columns(); err != nil {
		return result{}, err
	}
	for rows.Next() {
		cells, to := make([]any, len(out.Columns)), make([]any, len(out.Columns))
		for i := range cells {
			to[i] = &cells[i]
		}
		if err := rows.Scan(to...); err != nil {
			return result{}, err
		}
		out.Values = append(out.Values, cells) // a []byte becomes base64, as there
	}
	return out, rows.Err()
}

// said is the error as RQLite's driver words it: without this driver's prefix and code.
func said(err error) string {
	text := err.Error()
	text = strings.TrimPrefix(text, "constraint failed: ")
	text = strings.TrimPrefix(text, "SQL logic error: ")
	if at := strings.LastIndex(text, " ("); at > 0 && strings.HasSuffix(text, ")") {
		text = text[:at]
	}
	return text
}

// parse reads the body of a request: ["SQL", ["SQL", argument, ...], ...].
func parse(body []byte) ([]step, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(body, &items); err != nil || len(items) == 0 {
		return nil, errors.New("invalid request")
	}
	var out []step
	for _, item := range items {
		var text string
		if json.Unmarshal(item, &text) == nil {
			out = append(out, step{sql: text})
			continue
		}
		d := json.NewDecoder(strings.NewReader(string(item)))
		d.UseNumber()
		var parts []any
		if err := d.Decode(&parts); err != nil || len(parts) == 0 {
			return nil, errors.New("invalid request")
		}
		s := step{}
		for i, p := range parts {
			v, err := parameter(p)
			text, isText := v.(string)
			switch {
			case err != nil || i == 0 && !isText:
				return nil, errors.New("invalid request")
			case i == 0:
				s.sql = text
			default:
				s.args = append(s.args, v)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// parameter makes a BLOB of what looks like one.
func parameter(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		return v.Float64()
	case string:
		t := strings.TrimSpace(v)
		if len(t) >= 3 && (t[0] == 'x' || t[0] == 'X') && t[1] == '\'' && t[len(t)-1] == '\'' {
			if b, err := hex.DecodeString(t[2 : len(t)-1]); err == nil {
				return b, nil
			}
		}
		return v, nil
	case bool, nil:
		return v, nil
	}
	return nil, errors.New("unsupported type")
}
