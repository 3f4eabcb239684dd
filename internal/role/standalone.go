package role

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"orama.network/orama"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/turn"
)

// tenantsEvery is how often the tenants file is looked at; a change is taken at the second look that sees it.
const tenantsEvery = 250 * time.Millisecond

// Standalone is what a TURN server is told that no agent configures.
type Standalone struct {
	Listen     netip.Addr
	Listen6    netip.Addr // beside an IPv4 Listen, if valid
	RelayIP    netip.Addr // relay sockets are bound and advertised here
	RelayIP6   netip.Addr // beside an IPv4 RelayIP, if valid
	Ports      turn.Ports
	Realm      string
	Tenants    string       // path of the tenants file
	Allow      []fence.Rule // what the relays of tenants without rules of their own may reach
	RelayPorts orama.PortRange
	TenantSize int    // relay ports of each tenant; 0: half of all are divided, and half kept for tenants to come
	Cert, Key  string // paths; both "" for a certificate of our own
	HTTPS      string // host:port of what shares the HTTPS port; "": nothing does
	HTTPSProxy bool   // it is told the client's address by the PROXY protocol
	Metrics    string // host:port for /metrics and /healthz; "": nowhere
	Control    string // path of the control socket; "": none
	Drain      time.Duration
	Log        *slog.Logger
	Reload     <-chan os.Signal // a value has the files read at once
	Upgrade    <-chan os.Signal // a value has the program, as it is now, take the place of this process
}

// standalone is a Standalone that runs. Its fields belong to the goroutine of run, except where their own types say otherwise.
type standalone struct {
	Standalone
	succession
	reg     *prometheus.Registry
	taken   prometheus.Gauge // 1 while the tenants file is the one in force
	certs   cert.Source
	files   *cert.Files // nil with a certificate of our own
	watch   tenantsWatch
	blocks  map[orama.NamespaceID]orama.PortRange
	size    int
	tenants []fileTenant
	pem     [2][]byte // certificate and key in force

	metrics net.Listener // nil: none
}

// TURNStandalone is the life of a TURN server of its own. It serves the tenants of a file until ctx ends, and then keeps
// living relays for at most the time to drain.
func TURNStandalone(ctx context.Context, o Standalone) error {
	thrifty(50)
	s := &standalone{Standalone: o, reg: newRegistry(), watch: tenantsWatch{path: o.Tenants},
		taken: prometheus.NewGauge(prometheus.GaugeOpts{Name: "orama_turn_tenants_file_ok",
			Help: "1 while the tenants file is the one in force, 0 while it is refused."})}
	if err := s.check(); err != nil {
		return err
	}
	var err error
	if s.program, err = ownProgram(); err != nil {
		return err
	}
	if s.left, err = inherit(); err != nil {
		return err
	}
	s.reg.MustRegister(s.taken)
	s.srv, s.log = turn.New(o.Log, s.reg), o.Log
	s.srv.Ports = o.Ports
	s.srv.Ports.Unshared = o.HTTPS == ""
	var metrics []turn.Bequest
	if s.left != nil {
		metrics = s.left.Estate.Take(metricsBequest)
		s.srv.Estate = s.left.Estate
	}
	defer s.srv.Close() //nolint:errcheck // Close after a Close is nothing; the first one's error is told
	if err := s.start(); err != nil {
		return err
	}
	servers, err := s.listen(metrics)
	if err != nil {
		return err
	}
	if s.left != nil {
		if err := s.left.ready(); err != nil {
			return err
		}
		s.Log.Info("turn: serving in place of a process before, which serves its relays to their end", "before", s.left.Parent)
	}
	return s.run(ctx, servers)
}

func (s *standalone) check() error {
	invalid := func(format string, args ...any) error {
		return orama.Errorf(orama.KindInvalid, "bad_standalone", format, args...)
	}
	switch {
	case (s.Cert == "") != (s.Key == ""):
		return invalid("--cert and --key go together; leave both out for a certificate of our own")
	case len(s.Allow) > fence.MaxRules:
		return invalid("--allow is there %d times; %d may be", len(s.Allow), fence.MaxRules)
	case s.RelayPorts.First < 1024 || s.RelayPorts.Count == 0:
		return invalid("--relay-ports is FIRST-LAST, the smaller one first, 1024 to 65535")
	case s.TenantSize < 0 || s.TenantSize > int(s.RelayPorts.Count):
		return invalid("--tenant-ports is 1 to %d, as many as --relay-ports gives", s.RelayPorts.Count)
	}
	return nil
}

// start reads the files and has the server serve what they say.
func (s *standalone) start() error {
	if err := s.openCertificates(); err != nil {
		return err
	}
	tenants, _, err := s.watch.read()
	if err != nil {
		return err
	}
	if s.size = s.TenantSize; s.size == 0 {
		s.size = max(1, int(s.RelayPorts.Count)/(2*len(tenants)))
	}
	if err := s.apply(tenants); err != nil {
		return err
	}
	s.taken.Set(1)
	for _, l := range s.srv.Status().Listeners {
		if l.Error == "" {
			s.Log.Info("turn: listening", "transport", l.Transport, "addr", l.Addr)
		}
	}
	return nil
}

// openCertificates makes the source, and takes what it has.
func (s *standalone) openCertificates() error {
	if s.Cert != "" {
		s.files = cert.NewFiles(s.Cert, s.Key, s.Log)
		s.certs = s.files
		if st := s.files.Status(); st[0].Error != "" {
			return orama.Errorf(orama.KindInvalid, "bad_certificate", "--cert and --key: %s", st[0].Error)
		}
		return s.takeCertificate()
	}
	ca, err := cert.NewAuthority("Orama TURN, made at its start")
	if err != nil {
		return err
	}
	s.certs = cert.NewDevelopment(ca, s.Realm, s.addresses())
	if err := s.takeCertificate(); err != nil {
		return err
	}
	if p := s.Ports; p.NoTLS && p.NoDTLS && p.NoHTTPS {
		return nil // nobody will see it
	}
	leaf, err := leafOf(s.pem[0])
	if err != nil {
		return err
	}
	sum := sha256.Sum256(leaf.Raw)
	s.Log.Warn("turn: TLS and DTLS have a certificate made at this start, which no browser trusts; give one with --cert and --key",
		"sha256", hex.EncodeToString(sum[:]))
	return nil
}

func leafOf(chain []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, errors.New("no certificate was made")
	}
	return x509.ParseCertificate(block.Bytes)
}

// hostName is what a certificate can be for; a realm may be any text.
var hostName = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$`)

// takeCertificate reads the source's; the names only matter to one of our own.
func (s *standalone) takeCertificate() (err error) {
	var names []string
	if hostName.MatchString(s.Realm) {
		names = []string{s.Realm, "turn." + s.Realm}
	}
	s.pem[0], s.pem[1], err = s.certs.For(names, s.addresses())
	return err
}

func (s *standalone) addresses() []netip.Addr {
	if s.Listen6.IsValid() {
		return []netip.Addr{s.Listen, s.Listen6}
	}
	return []netip.Addr{s.Listen}
}

// apply makes the server what the tenants and the certificate say, or leaves it as it is.
func (s *standalone) apply(tenants []fileTenant) error {
	blocks, err := divide(s.RelayPorts, s.size, s.blocks, tenants)
	if err != nil {
		return err
	}
	if err := s.srv.Apply(s.spec(tenants, blocks)); err != nil {
		return err
	}
	s.tell(tenants, blocks)
	s.tenants, s.blocks = tenants, blocks
	return nil
}

func (s *standalone) spec(tenants []fileTenant, blocks map[orama.NamespaceID]orama.PortRange) plan.TURNSpec {
	spec := plan.TURNSpec{
		Node: "standalone", PublicIP: s.Listen, PublicIP6: s.Listen6, RelayIP: s.RelayIP, RelayIP6: s.RelayIP6, Realm: s.Realm,
		HTTPSBackend: s.HTTPS, HTTPSProxy: s.HTTPSProxy, CertPEM: string(s.pem[0]), KeyPEM: string(s.pem[1]),
	}
	for _, t := range tenants {
		spec.Tenants = append(spec.Tenants, plan.TenantSpec{Namespace: t.ns, Secret: t.secret, Relay: blocks[t.ns], Rules: s.rulesOf(t), Limits: t.limits})
	}
	return spec
}

func (s *standalone) rulesOf(t fileTenant) []fence.Rule {
	if t.own {
		return t.rules
	}
	return s.Allow
}

// tell logs what is new about the tenants, and what is doubtful.
func (s *standalone) tell(tenants []fileTenant, blocks map[orama.NamespaceID]orama.PortRange) {
	for _, t := range tenants {
		i := slices.IndexFunc(s.tenants, func(old fileTenant) bool { return old.ns == t.ns })
		what := "turn: tenant served"
		switch {
		case i < 0:
		case s.tenants[i].secret != t.secret:
			what = "turn: tenant has another secret; its relays ended"
		case !slices.Equal(s.rulesOf(s.tenants[i]), s.rulesOf(t)) || s.tenants[i].limits != t.limits:
			what = "turn: tenant has other rules or limits"
		default:
			continue
		}
		b := blocks[t.ns]
		s.Log.Info(what, "namespace", t.ns, "relay_ports", fmt.Sprintf("%d-%d", b.First, int(b.First)+int(b.Count)-1), "allow", fmt.Sprint(s.rulesOf(t)))
		if len(t.secret) < shortSecret {
			s.Log.Warn("turn: the secret is so short that who has one credential may find it by trying; make another with: openssl rand -base64 32",
				"namespace", t.ns, "bytes", len(t.secret))
		}
		if len(s.rulesOf(t)) == 0 {
			s.Log.Warn("turn: nothing is allowed, so relays of this tenant reach nobody; say what they may with --allow CIDR[:PORTS]", "namespace", t.ns)
		}
	}
	for _, old := range s.tenants {
		if !slices.ContainsFunc(tenants, func(t fileTenant) bool { return t.ns == old.ns }) {
			s.Log.Info("turn: tenant removed; its relays ended", "namespace", old.ns)
		}
	}
	if othersRead(s.Tenants) {
		s.Log.Warn("turn: every user of this machine may read the tenants file; chmod o-r "+s.Tenants, "file", s.Tenants)
	}
}

// reload takes a tenants file that was read, or says once why not.
func (s *standalone) reload(tenants []fileTenant, err error) {
	if err == nil {
		err = s.apply(tenants)
	}
	if err != nil {
		s.taken.Set(0)
		s.Log.Error("turn: the tenants file is refused; the tenants before it stay", "error", err)
		return
	}
	s.taken.Set(1)
}

// recertify takes a changed certificate; relays and connections that live keep theirs.
func (s *standalone) recertify() {
	old := s.pem
	if err := s.takeCertificate(); err != nil {
		s.Log.Error("turn: there is no new certificate; the one before it stays", "error", err)
		s.pem = old
		return
	}
	if bytes.Equal(old[0], s.pem[0]) {
		return
	}
	if err := s.apply(s.tenants); err != nil {
		s.Log.Error("turn: the certificate is refused; the one before it stays", "error", err)
		s.pem = old
	}
}

// hangUp reads everything at once, because somebody asked for it.
func (s *standalone) hangUp() {
	if s.files != nil {
		s.files.Look()
	}
	tenants, fresh, err := s.watch.read()
	if err == nil && !fresh {
		s.Log.Info("turn: the tenants file was read again and is as it was")
		return
	}
	s.reload(tenants, err)
}

// server is one of the sockets that operators use.
type server struct {
	l net.Listener
	h http.Handler
}

func (s *standalone) listen(left []turn.Bequest) (servers []server, err error) {
	defer func() {
		if err != nil {
			for _, o := range servers {
				o.l.Close()
			}
		}
	}()
	if s.Metrics != "" {
		l, err := listenOr(left, s.Metrics)
		if err != nil {
			return servers, orama.Errorf(orama.KindUnavailable, "listen_failed", "--metrics: %v", err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /healthz", s.serveHealth)
		servers = append(servers, server{l, mux})
		s.metrics = l
		s.Log.Info("turn: metrics", "url", "http://"+l.Addr().String()+"/metrics")
	}
	if s.Control != "" {
		l, err := listenControl(s.Control, 0o600, s.left != nil)
		if err != nil {
			return servers, orama.Errorf(orama.KindUnavailable, "listen_failed", "--control: %v", err)
		}
		mux := http.NewServeMux()
		statusRoute(mux, s.srv.Status)
		relayRoutes(mux, s.srv)
		s.control = l
		servers = append(servers, server{l, mux})
	}
	return servers, nil
}

// listenOr makes a listener of what the process before left, or a new one.
func listenOr(left []turn.Bequest, at string) (net.Listener, error) {
	if len(left) > 0 {
		return left[0].Listener()
	}
	return net.Listen("tcp", at)
}

// serveHealth says 200 while new relays are opened.
func (s *standalone) serveHealth(w http.ResponseWriter, _ *http.Request) {
	st := s.srv.Status()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if st.Draining {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, turnStatus(st)) //nolint:errcheck // the reader went away
}

// run serves until ctx ends, then drains while the operators' sockets still answer. After an upgrade it serves what it has, to its end.
func (s *standalone) run(ctx context.Context, servers []server) error {
	serving, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	failed := make(chan error, len(servers)+1)
	for _, o := range servers {
		wg.Go(func() {
			if err := serve(serving, o.l, o.h, time.Second); !errors.Is(err, net.ErrClosed) { // handed over
				failed <- err
			}
		})
	}
	wg.Go(func() { s.certs.Run(serving) }) //nolint:errcheck // it ends with its context
	told := notify(func() string { return turnStatus(s.srv.Status()) })
	done, err := s.follow(ctx, failed, told)
	if err == nil && !done {
		s.Log.Info("turn: draining", "relays", s.living(), "at_most", s.Drain)
		told.ending()
		bounded, cancel := context.WithTimeout(context.Background(), s.Drain)
		s.srv.Drain(bounded)
		cancel()
	}
	err = errors.Join(err, s.srv.Close())
	stop()
	wg.Wait()
	told.close()
	if s.control != nil {
		s.control.remove()
	}
	return err
}

// upgrade has the program as it is now take the place of this process; nil: it does not.
func (s *standalone) upgrade(ctx context.Context) *heir {
	var more turn.Estate
	defer more.Close()
	if s.metrics != nil {
		b, err := turn.BequestOf(metricsBequest, s.metrics)
		if err != nil {
			s.Log.Error("turn: not upgraded; this process goes on as it was", "error", err)
			return nil
		}
		more = append(more, b)
	}
	h := s.handOver(ctx, more...)
	if h != nil && s.metrics != nil {
		s.metrics.Close() //nolint:errcheck // it lives on where it went
	}
	return h
}

// follow takes what changes until ctx ends, or a server fails; done says that all was handed over and nothing is left to serve.
func (s *standalone) follow(ctx context.Context, failed <-chan error, told *notifier) (done bool, err error) {
	tick := time.NewTicker(tenantsEvery)
	defer tick.Stop()
	var next *heir // nil until this process has handed over
	var ended <-chan *os.ProcessState
	var servedOut <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-servedOut:
			return true, nil
		case err := <-failed:
			return false, err
		case state := <-ended:
			if ctx.Err() != nil {
				return false, nil
			}
			err := s.orphaned(next, state)
			return err != nil, err
		case <-s.Upgrade:
			if next != nil {
				continue
			}
			if next = s.upgrade(ctx); next != nil {
				told.close() // the next one speaks for the unit
				defer next.says.Close()
				leaving, cancel := context.WithTimeout(ctx, serveOutMost)
				defer cancel()
				ended, servedOut = next.ended, servesOut(leaving, s.srv)
			}
		case <-s.Reload:
			s.hangUp()
		case <-s.certs.Changed():
			s.recertify()
		case <-tick.C:
			if tenants, fresh, err := s.watch.changed(); fresh {
				s.reload(tenants, err)
			}
		}
	}
}
