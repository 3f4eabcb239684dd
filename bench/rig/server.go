package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// StartWithin is how long a server may take to serve.
const StartWithin = 10 * time.Second

const (
	stopWithin = 5 * time.Second
	askAgain   = 20 * time.Millisecond
)

// Process is a server under test.
type Process struct {
	Name string
	Core int
	cmd  *exec.Cmd
	log  *os.File
}

// Start runs a server on a core, with its log in dir, until Stop.
func Start(ctx context.Context, name, dir string, core int, path string, args ...string) (*Process, error) {
	p := &Process{Name: name, Core: core}
	var err error
	if p.log, err = os.CreateTemp(dir, "log-*"); err != nil {
		return nil, err
	}
	if p.cmd, err = Pin(context.WithoutCancel(ctx), core, path, args...); err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	return p, p.cmd.Start()
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Failed is the error of a server that did not start, with the end of what it has logged. The server is stopped.
func (p *Process) Failed(err error) error {
	text, unread := os.ReadFile(p.log.Name())
	err = fmt.Errorf("%s did not start: %w\n%s", p.Name, err, text[max(0, len(text)-2000):])
	return errors.Join(err, unread, p.Stop())
}

// Stop kills the server: it has nothing to keep, and a polite end would wait for its clients.
func (p *Process) Stop() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	p.cmd.Wait() //nolint:errcheck // killed
	return errors.Join(err, p.log.Close(), os.Remove(p.log.Name()))
}

// Listening waits until a TCP port takes connections.
func Listening(ctx context.Context, at netip.AddrPort) error {
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", at.String())
		if err == nil {
			return c.Close()
		}
		if Pause(ctx, askAgain) != nil {
			return err
		}
	}
}

// Control speaks to one of our processes by its control socket.
type Control string

// Put gives it its configuration.
func (c Control) Put(ctx context.Context, spec any) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPut, "/v1/config", text)
	return err
}

// Status reads its status.
func (c Control) Status(ctx context.Context, into any) error {
	text, err := c.do(ctx, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// do asks until the socket is there.
func (c Control) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", string(c))
	}}}
	for {
		req, err := http.NewRequestWithContext(ctx, method, "http://unit"+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err == nil {
			answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			if resp.StatusCode < http.StatusMultipleChoices {
				return answer, err
			}
			return nil, fmt.Errorf("it answered with status %d: %.200s", resp.StatusCode, bytes.TrimSpace(answer))
		}
		if Pause(ctx, askAgain) != nil {
			return nil, err
		}
	}
}

// Coturn is how coturn is run.
type Coturn struct {
	Listen, Relay     netip.Addr
	Port, TLSPort     uint16
	First, Last       int        // relay ports
	Allowed           netip.Addr // the one peer; its fence is an address, for it knows no ports
	Realm, Secret     string
	CertFile, KeyFile string // of TLS; "": none
	Threads           int    // its --relay-threads
}

// Args are coturn at its best for this load: no lookup of settings that change while it runs, no log but errors, and
// its database, which it asks for secrets with every credential, in memory.
func (c Coturn) Args(dir string) []string {
	args := []string{
		"-n", "--no-cli", "--no-rfc5780", "--no-multicast-peers", "--no-tcp-relay", "--no-tlsv1", "--no-tlsv1_1",
		"--no-software-attribute", "--no-dynamic-ip-list", "--no-dynamic-realms", "--no-auth-pings",
		"--listening-ip=" + c.Listen.String(), "--relay-ip=" + c.Relay.String(),
		"--listening-port=" + strconv.Itoa(int(c.Port)), "--tls-listening-port=" + strconv.Itoa(int(c.TLSPort)),
		"--min-port=" + strconv.Itoa(c.First), "--max-port=" + strconv.Itoa(c.Last),
		"--realm=" + c.Realm, "--use-auth-secret", "--static-auth-secret=" + c.Secret,
		"--allow-loopback-peers", "--denied-peer-ip=0.0.0.0-255.255.255.255", "--allowed-peer-ip=" + c.Allowed.String(),
		"--relay-threads=" + strconv.Itoa(c.Threads),
		"--log-file=stdout", "--pidfile=" + filepath.Join(dir, c.Listen.String()+".pid"), "--db=:memory:",
	}
	if c.CertFile == "" {
		return append(args, "--no-tls", "--no-dtls")
	}
	return append(args, "--cipher-list=ECDHE-ECDSA-AES128-GCM-SHA256:DEFAULT", "--cert="+c.CertFile, "--pkey="+c.KeyFile)
}

// Pause waits, or gives why it did not.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
