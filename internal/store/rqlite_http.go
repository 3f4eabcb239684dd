package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Batches and queries are each one transaction: without it a statement that fails does not stop those after it, and queries
// see different moments. A node that is not the leader hands on what it is asked; timeout bounds that.
const (
	readyPath   = "/readyz?sync&timeout=2s"
	executePath = "/db/execute?transaction&timeout=2s"
	queryPath   = "/db/query?transaction&timeout=2s&linearizable_timeout=1s&level="
)

// maxAnswer bounds an answer, in bytes. A cluster of 100 nodes and 5000 instances is about 5 MB.
const maxAnswer = 64 << 20

// dialer: a node of the mesh that does not take a connection in a second is away.
var dialer = &net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}

// errRefused is the answer that will be the same at every node and later.
var errRefused = errors.New("refused")

// errElsewhere is a redirect; its value is the other node's URL without a path.
type errElsewhere string

func (e errElsewhere) Error() string { return "it is at " + string(e) }

// result is the answer to one statement.
type result struct {
	Columns []string            `json:"columns"`
	Values  [][]json.RawMessage `json:"values"`
	Error   string              `json:"error"`
}

// encode makes the body of a request: [["SQL", argument, ...], ...].
func encode(batch []statement) []byte {
	out := make([][]any, len(batch))
	for i, s := range batch {
		out[i] = wire(s)
	}
	body, _ := json.Marshal(out) // strings and int64s always can be
	return body
}

// wire makes a statement what RQLite takes as it is meant. It makes a BLOB of every text of the form x'6869', wherever it came
// from; such a text, written as a BLOB in turn, goes into the statement itself.
func wire(s statement) []any {
	out := []any{""}
	text := s.sql
	var sql strings.Builder
	for _, a := range s.args {
		before, after, _ := strings.Cut(text, "?")
		text = after
		if v, ok := a.(string); ok && looksLikeBlob(v) {
			sql.WriteString(before + "CAST(x'" + hex.EncodeToString([]byte(v)) + "' AS TEXT)")
			continue
		}
		sql.WriteString(before + "?")
		out = append(out, a)
	}
	out[0] = sql.String() + text
	return out
}

func looksLikeBlob(text string) bool {
	text = strings.TrimSpace(text)
	return len(text) >= 3 && (text[0] == 'x' || text[0] == 'X') && text[1] == '\'' && text[len(text)-1] == '\''
}

// decode reads an answer to a number of statements. RQLite says 200 to what it could not do: at the top, or at a statement, which
// then is the last. An answer with neither an error nor a result for each is none.
func decode(body []byte, statements int) ([]result, error) {
	var answer struct {
		Results []result `json:"results"`
		Error   string   `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("its answer is not JSON: %w", err)
	}
	if answer.Error != "" {
		return nil, saidBy(answer.Error)
	}
	if at, _ := failure(answer.Results); at < 0 && len(answer.Results) != statements {
		return nil, fmt.Errorf("it answered %d of %d statements", len(answer.Results), statements)
	}
	return answer.Results, nil
}

// rows reads the cells: integers exactly, which a float64 would not be.
func (r result) rows() ([]row, error) {
	var out []row
	for _, cells := range r.Values {
		if len(cells) != len(r.Columns) {
			return nil, fmt.Errorf("it answered a row of %d cells for %d columns", len(cells), len(r.Columns))
		}
		one := make(row, len(cells))
		for i, raw := range cells {
			cell, err := cellOf(raw)
			if err != nil {
				return nil, err
			}
			one[i] = cell
		}
		out = append(out, one)
	}
	return out, nil
}

func cellOf(raw json.RawMessage) (any, error) {
	switch {
	case string(raw) == "null":
		return nil, nil
	case len(raw) > 0 && raw[0] == '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err
	}
	n, err := json.Number(raw).Int64()
	if err != nil {
		return nil, errors.New("it answered a cell that is neither text nor an integer")
	}
	return n, nil
}

// saidBy is what a node says is wrong, for operators; bounded.
func saidBy(text string) error { return fmt.Errorf("rqlite says %.200q", text) }

func (r *rqlite) post(ctx context.Context, node string, req *request) ([]result, error) {
	answer, err := r.do(ctx, http.MethodPost, node+req.path, req.body)
	if err != nil {
		return nil, err
	}
	got, err := decode(answer, req.statements)
	if err != nil && strings.Contains(err.Error(), "waiting for fsm") {
		r.nudge(ctx, node)
	}
	return got, err
}

// nudge writes nothing. A linearizable read waits until the leader has done all that was agreed upon; when the last of that was a
// node's joining, RQLite 10 waits for ever, because only statements count as done. Nobody who reads before writing would
// write again, so somebody has to.
func (r *rqlite) nudge(ctx context.Context, node string) {
	nothing := execution([]statement{stmt(anyRows, `DELETE FROM guard WHERE met < 0`)})
	_, _ = r.do(ctx, http.MethodPost, node+nothing.path, nothing.body) // the next read tells
}

func (r *rqlite) get(ctx context.Context, from string) error {
	_, err := r.do(ctx, http.MethodGet, from, nil)
	return err
}

func (r *rqlite) do(ctx context.Context, method, to string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if r.user != "" {
		req.SetBasicAuth(r.user, r.password)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the caller names the node; the path says nothing
		}
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, r.limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(answer)) > r.limit:
		return nil, fmt.Errorf("its answer is longer than %d bytes", r.limit)
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	case resp.StatusCode/100 == 3:
		return nil, redirect(resp)
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("%w: the user or password is wrong, or lacks the permissions execute, query and ready", errRefused)
	case resp.StatusCode/100 == 4:
		return nil, fmt.Errorf("%w: %s: %.200q", errRefused, resp.Status, answer)
	}
	return nil, fmt.Errorf("%s: %.200q", resp.Status, answer)
}

func redirect(resp *http.Response) error {
	to, err := resp.Location()
	if err != nil || to.Host == "" {
		return errors.New("it sends us elsewhere, without saying where")
	}
	return errElsewhere(to.Scheme + "://" + to.Host)
}
