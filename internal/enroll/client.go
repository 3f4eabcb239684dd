package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"orama.network/orama"
)

// callTime bounds one call.
const callTime = 30 * time.Second

// Join asks the host that the token names to let this one in. Nothing is said to a host that does not hold the key
// that the token names. q.Secret is the token's.
func Join(ctx context.Context, t Token, q Request) (Answer, error) {
	q.Secret = t.Secret[:]
	if err := q.validate(); err != nil {
		return Answer{}, err
	}
	var a Answer
	err := call(ctx, t.Address, "/v1/join", client(t.Fingerprint, nil), q, &a)
	return a, err
}

// Nodes asks another member for the cluster's nodes.
func Nodes(ctx context.Context, address string, member *Identity) ([]orama.Node, error) {
	var a nodesAnswer
	err := call(ctx, address, "/v1/nodes", client(member.Fingerprint, member), nil, &a)
	return a.Nodes, err
}

func call(ctx context.Context, address, path string, c *tls.Config, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: c}
	transport := &http.Transport{DisableKeepAlives: true, DialTLSContext: dialer.DialContext}
	h := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a redirect") }}
	resp, err := h.Do(req)
	if err != nil {
		return unreached(ctx, address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(text) > maxAnswer {
		return unreached(ctx, address, errors.Join(err, errors.New("its answer is not whole")))
	}
	if resp.StatusCode != http.StatusOK {
		var e errorAnswer
		if json.Unmarshal(text, &e) != nil || e.Error == nil {
			return unreached(ctx, address, fmt.Errorf("status %d", resp.StatusCode))
		}
		return &orama.Error{Kind: e.Error.Kind, Code: e.Error.Code, Message: e.Error.Message}
	}
	if err := json.Unmarshal(text, out); err != nil {
		return unreached(ctx, address, err)
	}
	return nil
}

func unreached(ctx context.Context, address string, err error) error {
	switch {
	case errors.Is(err, errStranger):
		return orama.Errorf(orama.KindUnauthenticated, "wrong_cluster",
			"the host at %s is not of the cluster that was expected, so it was told nothing; check who answers there, or ask for another token with 'orama node invite'", address)
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ctx.Err()
	}
	return &orama.Error{Kind: orama.KindUnavailable, Code: "enroll_unreachable",
		Message: fmt.Sprintf("the cluster does not answer at %s; is that node running, and is the TCP port open to this host?", address), Err: err}
}
