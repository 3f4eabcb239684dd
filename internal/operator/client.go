package operator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"orama.network/orama"
)

// Limits of what a Client reads, in bytes.
const (
	maxAnswer = 8 << 20
	maxLine   = 1 << 20
)

// Client speaks to a Handler. Errors are *orama.Error of the kind and code that the Operator gave. It may be used from
// any goroutine, and holds nothing open between calls.
type Client struct {
	http   *http.Client
	socket string
	rooted string // where the rooms are of the namespace that the credential is of; "": below each namespace's name
}

// Dial makes a client of the agent's Unix socket. Nothing is connected before the first call.
func Dial(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// CreateNamespace makes a namespace and gives its owner key.
func (c *Client) CreateNamespace(ctx context.Context, name string) (ownerKey string, err error) {
	var a createAnswer
	err = c.call(ctx, http.MethodPost, "/v1/namespaces", createRequest{Name: name}, &a)
	return a.OwnerKey, err
}

// ListNamespaces lists the namespaces by name.
func (c *Client) ListNamespaces(ctx context.Context) ([]Namespace, error) {
	var a listAnswer
	err := c.call(ctx, http.MethodGet, "/v1/namespaces", nil, &a)
	return a.Namespaces, err
}

// DeleteNamespace removes a namespace; force disables WebRTC first.
func (c *Client) DeleteNamespace(ctx context.Context, name string, force bool) error {
	return c.call(ctx, http.MethodDelete, fmt.Sprintf("%s?force=%t", path(name, ""), force), nil, nil)
}

// Status reads how a namespace's WebRTC does.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, path(name, "/webrtc"), nil, &s)
	return s, err
}

// MintToken makes a token.
func (c *Client) MintToken(ctx context.Context, name string, r TokenRequest) (Minted, error) {
	var m Minted
	err := c.call(ctx, http.MethodPost, path(name, "/tokens"), tokenRequest{User: r.User, Room: r.Room, TTLSeconds: r.TTL.Seconds(),
		Publish: r.Publish, Subscribe: r.Subscribe, Data: r.Data, Admin: r.Admin}, &m)
	return m, err
}

// EnableWebRTC enables WebRTC and tells progress, which may be nil, of each step as it is observed.
func (c *Client) EnableWebRTC(ctx context.Context, name string, o Options, progress func(Step)) (Status, error) {
	last, err := c.stream(ctx, http.MethodPost, path(name, "/webrtc"),
		enableRequest{CredentialTTLSeconds: o.CredentialTTL.Seconds(), WaitSeconds: o.Wait.Seconds()}, progress)
	if err != nil {
		return Status{}, err
	}
	if last.Status == nil {
		return Status{}, c.broken(errors.New("no status in the answer"))
	}
	return *last.Status, nil
}

// DisableWebRTC disables WebRTC and tells progress, which may be nil, of each step as it is observed.
func (c *Client) DisableWebRTC(ctx context.Context, name string, progress func(Step)) error {
	_, err := c.stream(ctx, http.MethodDelete, path(name, "/webrtc"), nil, progress)
	return err
}

// path names a namespace's resource. What would not stay one segment of a path is no namespace, and "_", which is
// none either, has the agent say so.
func path(name, rest string) string {
	if name == "" || name == "." || name == ".." {
		name = "_"
	}
	return "/v1/namespaces/" + url.PathEscape(name) + rest
}

// call does a request whose answer is one value; into may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return c.broken(err)
	}
	return nil
}

// stream does a request whose answer is lines, and gives the last.
func (c *Client) stream(ctx context.Context, method, path string, body any, progress func(Step)) (line, error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return line{}, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return line{}, c.broken(err)
		}
		switch {
		case l.Error != nil:
			return line{}, l.Error.error()
		case l.Done:
			return l, nil
		case l.Step != nil && progress != nil:
			progress(*l.Step)
		}
	}
	if ctx.Err() != nil {
		return line{}, ctx.Err()
	}
	return line{}, c.broken(errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// do sends a request and turns a refusal into its error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &text)
	if err != nil {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_namespace", "the name cannot be part of a request")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &orama.Error{Kind: orama.KindUnavailable, Code: "agent_unreachable",
			Message: "the node's agent does not answer on " + c.socket, Err: err}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	resp = translate(resp)
	defer resp.Body.Close()
	var a errorAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(&a); err != nil || a.Error == nil {
		return nil, c.broken(fmt.Errorf("status %d: %w", resp.StatusCode, errors.Join(err, errors.New("no error in the answer"))))
	}
	return nil, a.Error.error()
}

// broken is an answer that cannot be understood, or that ends before its end: the agent was stopped meanwhile.
func (c *Client) broken(err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "agent_lost",
		Message: "the node's agent broke off its answer; look at the status and try again", Err: err}
}
