package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"orama.network/orama"
	"orama.network/orama/bench/rig"
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
	*rig.Process
	side int
}

func (s *server) udp() netip.AddrPort { return netip.AddrPortFrom(listenIPs[s.side], portPlain) }

func coturn(side, threads int, id identity) rig.Coturn {
	return rig.Coturn{
		Listen: listenIPs[side], Relay: relayIPs[side], Port: portPlain, TLSPort: portTLS, First: relayFirst, Last: relayFirst + tenants*perTenant - 1,
		Allowed: peerAddr.Addr(), Realm: realm, Secret: id.secret, CertFile: id.certFile, KeyFile: id.keyFile, Threads: threads,
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
	name, path := "orama", b.place.orama
	control := filepath.Join(b.place.dir, "control.sock")
	args := []string{"turn", "run", "--control", control}
	theirs := side == sideCoturn || path == ""
	if theirs {
		name, args = "coturn", coturn(side, b.threads, b.identity).Args(b.place.dir)
		var err error
		if path, err = exec.LookPath("turnserver"); err != nil {
			return nil, err
		}
	}
	p, err := rig.Start(ctx, name, b.place.dir, b.place.core, path, args...)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, rig.StartWithin)
	defer cancel()
	if !theirs {
		err = rig.Control(control).Put(bounded, turnSpec(side, b.identity))
	}
	if err == nil { // it takes connections, which both do last
		err = rig.Listening(bounded, netip.AddrPortFrom(listenIPs[side], portTLS))
	}
	if err != nil {
		return nil, p.Failed(err)
	}
	return &server{Process: p, side: side}, nil
}
