package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

// Who has which address of the namespace's loopback.
var (
	peerAddr   = netip.MustParseAddrPort("127.0.0.2:7000") // the "SFU"
	listenIPs  = [2]netip.Addr{netip.MustParseAddr("127.0.1.1"), netip.MustParseAddr("127.0.2.1")}
	relayIPs   = [2]netip.Addr{netip.MustParseAddr("127.0.1.2"), netip.MustParseAddr("127.0.2.2")}
	clientPort = uint16(9000) // of all clients, at addresses of their own
)

const (
	portPlain = 3478
	portTLS   = 5349

	startWithin = 10 * time.Second
	stopWithin  = 5 * time.Second
)

// The two sides of every comparison, as indices of listenIPs and relayIPs too.
const (
	sideCoturn = iota
	sideOurs
)

// place is where servers run.
type place struct {
	dir   string // of their files
	orama string // path of our binary; "" has a second coturn instead
	core  int
}

// identity is what both servers are given.
type identity struct {
	secret            string
	certPEM, keyPEM   []byte
	certFile, keyFile string
}

func newIdentity(dir string) (identity, error) {
	id := identity{secret: auth.NewTURNSecret(), certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, err
	}
	now := time.Now()
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{realm}}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return id, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return id, err
	}
	id.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	id.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return id, errors.Join(os.WriteFile(id.certFile, id.certPEM, 0o600), os.WriteFile(id.keyFile, id.keyPEM, 0o600))
}

// server is one process under test.
type server struct {
	name string
	side int
	core int
	cmd  *exec.Cmd
	log  *os.File
}

func (s *server) pid() int            { return s.cmd.Process.Pid }
func (s *server) udp() netip.AddrPort { return netip.AddrPortFrom(listenIPs[s.side], portPlain) }

// coturnArgs are coturn at its best for this load: no lookup of settings that change while it runs, no log but
// errors, and its database, which it asks for secrets with every credential, in memory. Its fence is an address, for
// it knows no ports.
func coturnArgs(side, threads int, dir string, id identity) []string {
	return []string{
		"-n", "--no-cli", "--no-rfc5780", "--no-multicast-peers", "--no-tcp-relay", "--no-tlsv1", "--no-tlsv1_1",
		"--no-software-attribute", "--no-dynamic-ip-list", "--no-dynamic-realms", "--no-auth-pings",
		"--listening-ip=" + listenIPs[side].String(), "--relay-ip=" + relayIPs[side].String(),
		"--listening-port=" + strconv.Itoa(portPlain), "--tls-listening-port=" + strconv.Itoa(portTLS),
		"--min-port=" + strconv.Itoa(relayFirst), "--max-port=" + strconv.Itoa(relayFirst+tenants*perTenant-1),
		"--realm=" + realm, "--use-auth-secret", "--static-auth-secret=" + id.secret,
		"--allow-loopback-peers", "--denied-peer-ip=0.0.0.0-255.255.255.255", "--allowed-peer-ip=" + peerAddr.Addr().String(),
		"--cipher-list=ECDHE-ECDSA-AES128-GCM-SHA256:DEFAULT", "--cert=" + id.certFile, "--pkey=" + id.keyFile, "--relay-threads=" + strconv.Itoa(threads),
		"--log-file=stdout", "--pidfile=" + filepath.Join(dir, "coturn"+strconv.Itoa(side)+".pid"), "--db=:memory:",
	}
}

func turnSpec(side int, id identity) plan.TURNSpec {
	spec := plan.TURNSpec{
		Node: "bench", PublicIP: listenIPs[side], RelayIP: relayIPs[side], Realm: realm,
		CertPEM: string(id.certPEM), KeyPEM: string(id.keyPEM),
	}
	for k := range tenants {
		spec.Tenants = append(spec.Tenants, plan.TenantSpec{
			Namespace: namespace(k), Secret: id.secret, Allow: []netip.AddrPort{peerAddr},
			Relay: orama.PortRange{First: uint16(relayFirst + k*perTenant), Count: perTenant},
		})
	}
	return spec
}

// start runs the server of a side until ctx ends, and returns when it answers.
func (b *bench) start(ctx context.Context, side int) (*server, error) {
	s := &server{name: "orama", side: side, core: b.place.core}
	control := filepath.Join(b.place.dir, "control.sock")
	path, args := b.place.orama, []string{"turn", "run", "--control", control}
	var err error
	coturn := side == sideCoturn || path == ""
	if coturn {
		s.name, args = "coturn", coturnArgs(side, b.threads, b.place.dir, b.identity)
		if path, err = exec.LookPath("turnserver"); err != nil {
			return nil, err
		}
	}
	if s.log, err = os.CreateTemp(b.place.dir, s.name+"-*.log"); err != nil {
		return nil, err
	}
	if s.cmd, err = pin(context.WithoutCancel(ctx), b.place.core, path, args...); err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if !coturn {
		err = put(bounded, control, turnSpec(side, b.identity))
	}
	if err == nil {
		err = awake(bounded, s)
	}
	if err != nil {
		err = fmt.Errorf("%s did not start: %w\n%s", s.name, err, s.said())
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// awake waits until the server takes connections, which both do last.
func awake(ctx context.Context, s *server) error {
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(listenIPs[s.side], portTLS).String())
		if err == nil {
			return c.Close()
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// put configures our process by its control socket.
func put(ctx context.Context, socket string, spec plan.TURNSpec) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://unit/v1/config", bytes.NewReader(text))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) //nolint:errcheck // for the message only
			resp.Body.Close()
			if resp.StatusCode < http.StatusMultipleChoices {
				return nil
			}
			return fmt.Errorf("it refused its configuration: %s", bytes.TrimSpace(answer))
		}
		if pause(ctx, 20*time.Millisecond) != nil { // its socket is not there yet
			return err
		}
	}
}

// said is the end of what the server has logged.
func (s *server) said() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// stop kills the server: it has nothing to keep, and a polite end would wait for its clients.
func (s *server) stop() error {
	err := s.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	s.cmd.Wait() //nolint:errcheck // killed
	return errors.Join(err, s.log.Close(), os.Remove(s.log.Name()))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
