package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/bench/rig"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/testnet"
)

const (
	namespace = orama.NamespaceID("bench")
	realm     = "bench.test"

	signalPort = 30000
	mediaPort  = 20000
	turnPort   = 3478
	tlsPort    = 5349
	relayFirst = 20000
	relayCount = 6000 // as many as people join in a cell
)

// Who is where in the namespace's loopback.
var (
	gatewayAt = netip.MustParseAddrPort("127.0.0.9:18080")
	mesh      = netip.MustParsePrefix("127.0.0.0/16")
)

// contender is one of those that are measured.
type contender struct {
	name   string
	sfu    string // its kind
	turn   string // its kind, or coturn; "" without a relay
	number byte
	boot   string
	server *rig.Process // the SFU
	relay  *rig.Process // nil without one
	rooms  []*room
}

// What is not this program.
const (
	coturn      = "coturn"
	kindLiveKit = "livekit"
)

// The contenders by name, as tables have them.
const (
	nameStock         = "stock"
	nameOurs          = "ours"
	nameStockCoturn   = "stock+coturn"
	nameLiveKit       = "livekit"
	nameLiveKitCoturn = "livekit+coturn"
)

// contenders are those of a way, of whom LiveKit takes part when its binary is given.
func contenders(way string, withLiveKit bool) (out []*contender) {
	if way == wayDirect {
		out = []*contender{{name: nameStock, sfu: kindStock}, {name: nameOurs, sfu: kindSFU}}
		if withLiveKit {
			out = append(out, &contender{name: nameLiveKit, sfu: kindLiveKit})
		}
		return numbered(out)
	}
	out = []*contender{{name: nameStock, sfu: kindStock, turn: kindTURN}, {name: nameOurs, sfu: kindSFU, turn: kindTURN}}
	if _, err := exec.LookPath("turnserver"); err == nil {
		out = append(out, &contender{name: nameStockCoturn, sfu: kindStock, turn: coturn})
		if withLiveKit {
			out = append(out, &contender{name: nameLiveKitCoturn, sfu: kindLiveKit, turn: coturn})
		}
	}
	return numbered(out)
}

// numbered gives each contender addresses of its own.
func numbered(all []*contender) []*contender {
	for i, c := range all {
		c.number = byte(i)
	}
	return all
}

func (c *contender) ip(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, 10 + c.number, last})
}
func (c *contender) signalAt() netip.AddrPort { return netip.AddrPortFrom(c.ip(1), signalPort) }
func (c *contender) turnAt() netip.AddrPort   { return netip.AddrPortFrom(c.ip(2), turnPort) }

// mediaAt is where the SFU's media goes. LiveKit has sockets on addresses of the interface alone.
func (c *contender) mediaAt() netip.AddrPort {
	if c.sfu == kindLiveKit {
		return netip.AddrPortFrom(liveKitAt, mediaPort)
	}
	return netip.AddrPortFrom(c.ip(1), mediaPort)
}

func (c *contender) node() orama.NodeID { return orama.NodeID("node-" + c.sfu) }
func (c *contender) processes() []*rig.Process {
	if c.relay == nil {
		return []*rig.Process{c.server}
	}
	return []*rig.Process{c.server, c.relay}
}

// lab is where servers run, and the gateway to them.
type lab struct {
	dir     string
	core    int
	liveKit string // its binary; "": it takes no part
	secret  string
	keys    *auth.Keys
	gateway *testnet.Gateway
	http    *http.Server
	here    []*contender // that run now
}

func newLab(dir string, core int, liveKit string) (*lab, error) {
	l := &lab{dir: dir, core: core, liveKit: liveKit, secret: auth.NewTURNSecret(), keys: auth.NewKeys([32]byte{1})}
	l.gateway = &testnet.Gateway{Keys: l.keys, Find: l.find}
	at, err := net.Listen("tcp4", gatewayAt.String())
	if err != nil {
		return nil, err
	}
	l.http = &http.Server{Handler: l.gateway, ReadHeaderTimeout: 5 * time.Second}
	go l.http.Serve(at) //nolint:errcheck // ends with the process
	return l, nil
}

// find has a room's name begin with whose it is. Contenders come and go while nobody joins.
func (l *lab) find(_ orama.NamespaceID, room orama.RoomID) (testnet.Target, error) {
	for _, c := range l.here {
		if name, _, _ := strings.Cut(string(room), "."); name == c.name {
			return testnet.Target{Namespace: namespace, Node: c.node(), Boot: c.boot, Signal: c.signalAt()}, nil
		}
	}
	return testnet.Target{}, fmt.Errorf("nobody has room %s", room)
}

func (l *lab) sfuSpec(c *contender) plan.SFUSpec {
	spec := plan.SFUSpec{
		Namespace: namespace, Node: c.node(), MeshIP: c.ip(1), MeshCIDR: mesh, SignalPort: signalPort, MediaPort: mediaPort,
		TicketKey: l.keys.TicketKey(), Secret: l.secret, CredentialTTL: time.Hour,
		Servers: []orama.TURNServer{{URL: fmt.Sprintf("turn:%s?transport=udp", c.turnAt()), Transport: "udp", Default: true}},
	}
	if c.turn != "" {
		spec.Relays = []plan.RelaySource{{IP: c.ip(3), Ports: orama.PortRange{First: relayFirst, Count: relayCount}}}
		return spec
	}
	for i := range mostPeople { // without a relay, everybody is taken for one
		spec.Relays = append(spec.Relays, plan.RelaySource{IP: addressOf(i), Ports: orama.PortRange{First: peoplePort, Count: 1}})
	}
	return spec
}

func (l *lab) turnSpec(c *contender) (plan.TURNSpec, error) {
	dir := filepath.Join(l.dir, "authority")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return plan.TURNSpec{}, err
	}
	issuer, err := cert.OpenAuthority(dir, "bench")
	if err != nil {
		return plan.TURNSpec{}, err
	}
	certPEM, keyPEM, err := issuer.Issue([]string{realm}, []netip.Addr{c.ip(2)})
	return plan.TURNSpec{
		Node: c.node(), PublicIP: c.ip(2), RelayIP: c.ip(3), Realm: realm, CertPEM: string(certPEM), KeyPEM: string(keyPEM),
		Tenants: []plan.TenantSpec{{Namespace: namespace, Secret: l.secret, Allow: []netip.AddrPort{c.mediaAt()},
			Relay: orama.PortRange{First: relayFirst, Count: relayCount}}},
	}, err
}

// start runs the contenders' processes.
func (l *lab) start(ctx context.Context, all []*contender, profiles string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*rig.StartWithin)
	defer cancel()
	l.here = all
	for _, c := range all {
		if err := errors.Join(l.startSFU(ctx, c, profiles), l.startTURN(ctx, c)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) startSFU(ctx context.Context, c *contender, profiles string) error {
	if c.sfu == kindLiveKit {
		return l.startLiveKit(ctx, c)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	control := filepath.Join(l.dir, fmt.Sprintf("sfu-%d", c.number))
	spec := l.sfuSpec(c)
	if c.sfu == kindStock {
		text, err := json.Marshal(spec)
		if err == nil {
			err = os.WriteFile(control, text, 0o600)
		}
		if err != nil {
			return err
		}
		profiles = ""
	}
	if c.server, err = rig.Start(ctx, c.sfu, l.dir, l.core, self, stageServe, c.sfu, control, profiles); err != nil {
		return err
	}
	if c.sfu == kindSFU {
		var status struct{ Boot string }
		err = rig.Control(control).Put(ctx, spec)
		if err == nil {
			err = rig.Control(control).Status(ctx, &status)
		}
		c.boot = status.Boot
	}
	if err == nil {
		err = listening(ctx, c)
	}
	if err != nil {
		return c.server.Failed(err)
	}
	return nil
}

// listening waits for the signalling port, which answers the mesh alone; the gateway is on it.
func listening(ctx context.Context, c *contender) error { return rig.Listening(ctx, c.signalAt()) }

func (l *lab) startTURN(ctx context.Context, c *contender) (err error) {
	switch c.turn {
	case "":
		return nil
	case coturn:
		path, err := exec.LookPath("turnserver")
		if err != nil {
			return err
		}
		how := rig.Coturn{Listen: c.ip(2), Relay: c.ip(3), Port: turnPort, TLSPort: tlsPort, First: relayFirst, Last: relayFirst + relayCount - 1,
			Allowed: c.mediaAt().Addr(), Realm: realm, Secret: l.secret, Threads: 1}
		if c.relay, err = rig.Start(ctx, coturn, l.dir, l.core, path, how.Args(l.dir)...); err != nil {
			return err
		}
	default:
		self, err := os.Executable()
		if err != nil {
			return err
		}
		control := filepath.Join(l.dir, fmt.Sprintf("turn-%d", c.number))
		if c.relay, err = rig.Start(ctx, c.turn, l.dir, l.core, self, stageServe, c.turn, control, ""); err != nil {
			return err
		}
		spec, err := l.turnSpec(c)
		if err == nil {
			err = rig.Control(control).Put(ctx, spec)
		}
		if err != nil {
			return c.relay.Failed(err)
		}
	}
	if err := rig.Listening(ctx, c.turnAt()); err != nil {
		return c.relay.Failed(err)
	}
	return nil
}

// stop ends the contenders' processes.
func (l *lab) stop() error {
	var errs []error
	for _, c := range l.here {
		for _, p := range c.processes() {
			if p != nil {
				errs = append(errs, p.Stop())
			}
		}
	}
	l.here = nil
	return errors.Join(errs...)
}
