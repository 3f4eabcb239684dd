package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"orama.network/orama"
)

const (
	// challengeTTL is how long a resolver may keep the answer to a challenge.
	challengeTTL = 10 * time.Second
	// visibleWithin is how long a challenge may take to be seen in the zone.
	visibleWithin = 2 * time.Minute
	// recheckEvery is how soon a certificate that another node renewed is seen.
	recheckEvery = 10 * time.Minute
	// retryMin and retryMax are the pauses while the records cannot be read. Orders have certmagic's: a minute at
	// first, six hours at last, and rehearsed with Let's Encrypt's staging directory after a failure.
	retryMin = 2 * time.Second
	retryMax = time.Minute
	// maxNames bounds the certificates of one cluster.
	maxNames = 500
)

// ACMEOptions are what ordering certificates needs.
type ACMEOptions struct {
	Directory string         // the authority's URL; "": Let's Encrypt
	Email     string         // the account's contact, optional
	Roots     *x509.CertPool // that the directory's own certificate is verified with; nil: the system's
	Resolver  string         // host:port asked for the zone and the challenge; "": the system's, then each name server
	Provider  certmagic.DNSProvider
	Records   Records
	Sealer    Sealer
	Base      string // shown to clients that name no server
	Log       *slog.Logger
}

// ACME orders certificates (RFC 8555) and proves by DNS-01 that the names are ours, so that wildcards can be had and no
// port needs to be open. All nodes share what is ordered, through the records: whoever has the lock orders, the
// others read.
type ACME struct {
	opt     ACMEOptions
	store   *storage
	changed chan struct{}
	wake    chan struct{} // Manage to Run

	mu      sync.Mutex // guards the following fields
	order   []string   // the managed names
	managed map[string]*managed
	running context.Context // while Run runs
	keepers sync.WaitGroup  // Run waits for them

	config *certmagic.Config // set by Run before there are keepers
}

// managed is one name with its certificate; guarded by ACME.mu.
type managed struct {
	stop    context.CancelFunc // nil: nobody keeps it yet
	pair    *tls.Certificate   // nil: none yet
	certPEM []byte
	keyPEM  []byte
	err     error
	errAt   time.Time
}

var _ Source = (*ACME)(nil)

// NewACME makes a source that orders nothing until Run.
func NewACME(o ACMEOptions) *ACME {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &ACME{opt: o, store: newStorage(o.Records, o.Sealer), managed: map[string]*managed{},
		changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// configure makes certmagic's side. Its cache is made because it must be; certificates are kept here, where they can
// be handed on as PEM, so nothing is ever in it and its maintenance has nothing to do.
func (a *ACME) configure() (*certmagic.Config, *certmagic.Cache) {
	log := zapLogger(a.opt.Log)
	var cfg *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return cfg, nil },
		RenewCheckInterval: 24 * time.Hour, OCSPCheckInterval: 24 * time.Hour, Logger: log,
	})
	cfg = certmagic.New(cache, certmagic.Config{
		Storage: a.store, Logger: log, OnEvent: a.onEvent,
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		DisableStorageCheck: true, // each check is three writes to all nodes; what a write cannot do shows with the account
		DisableARI:          true, // when to renew is decided here, from the validity alone
	})
	solver := &certmagic.DNS01Solver{}
	solver.DNSProvider, solver.TTL, solver.PropagationTimeout, solver.Logger = a.opt.Provider, challengeTTL, visibleWithin, log
	if a.opt.Resolver != "" {
		solver.Resolvers = []string{a.opt.Resolver}
	}
	cfg.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(cfg, certmagic.ACMEIssuer{
		CA: a.opt.Directory, Email: a.opt.Email, Agreed: true, TrustedRoots: a.opt.Roots,
		DisableHTTPChallenge: true, DisableTLSALPNChallenge: true, DisableDistributedSolvers: true,
		DNS01Solver: solver, Logger: log,
	})}
	return cfg, cache
}

// onEvent notes how the last order of a name went.
func (a *ACME) onEvent(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_failed":
		err, _ := data["error"].(error)
		a.note(name, err)
	case "cert_obtained":
		a.note(name, nil)
	}
	return nil
}

func (a *ACME) note(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.managed[name]; m != nil {
		m.err = err
		if err != nil {
			m.errAt = time.Now()
		}
	}
}

// Manage orders what is missing and forgets what is no longer named; what was ordered stays in the records.
func (a *ACME) Manage(_ context.Context, names []string) error {
	var want []string
	for _, n := range names {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if !slices.Contains(want, n) {
			want = append(want, n)
		}
	}
	if len(want) > maxNames {
		return orama.Errorf(orama.KindLimited, "too_many_certificates", "%d names need certificates; at most %d are managed", len(want), maxNames)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.order, want) {
		return nil
	}
	a.order = want
	for _, n := range want {
		if a.managed[n] == nil {
			a.managed[n] = &managed{}
		}
	}
	for n, m := range a.managed {
		if !slices.Contains(want, n) {
			if m.stop != nil {
				m.stop()
			}
			delete(a.managed, n)
			signal(a.changed)
		}
	}
	signal(a.wake)
	return nil
}

// Run orders and renews until ctx ends.
func (a *ACME) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cfg, cache := a.configure()
	a.mu.Lock()
	a.config, a.running = cfg, ctx
	a.mu.Unlock()
	defer func() {
		cancel()
		a.mu.Lock()
		a.running = nil
		a.mu.Unlock()
		a.keepers.Wait()
		a.store.close()
		cache.Stop()
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, m := range a.managed {
			m.stop = nil
		}
	}()
	for {
		a.keepAll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
	}
}

// keepAll gives each name that has none a goroutine that keeps its certificate.
func (a *ACME) keepAll(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, m := range a.managed {
		if m.stop != nil {
			continue
		}
		kept, stop := context.WithCancel(ctx)
		m.stop = stop
		a.keepers.Go(func() { a.keep(kept, name) })
	}
}

// keep has a certificate for a name: from the records, or ordered, and renewed in time.
func (a *ACME) keep(ctx context.Context, name string) {
	pause := retryMin
	for ctx.Err() == nil {
		leaf, err := a.read(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = a.config.ObtainCertAsync(ctx, name) // returns once it is there, in hours if need be
		case err == nil && time.Now().After(renewal(leaf)):
			err = a.config.RenewCertAsync(ctx, name, false)
			if err == nil {
				_, err = a.read(ctx, name)
			}
			wait(ctx, retryMax) // should the two of us differ about when it is time
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.note(name, err)
			wait(ctx, pause)
			pause = min(2*pause, retryMax)
			continue
		}
		pause = retryMin
		if leaf != nil {
			// Nodes look at different moments: one orders, and the others find it done.
			wait(ctx, min(time.Until(renewal(leaf)), recheckEvery)+jitter(leaf))
		}
	}
}

// renewal is when a third of a certificate's life is left, which is when certmagic agrees to renew it.
func renewal(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// jitter is up to half a minute, and less for a certificate of a short life.
func jitter(leaf *x509.Certificate) time.Duration {
	return rand.N(min(30*time.Second, leaf.NotAfter.Sub(leaf.NotBefore)/20) + 1) //nolint:gosec // spreads load, guards nothing
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// read takes a name's certificate from the records into service. fs.ErrNotExist: there is none.
func (a *ACME) read(ctx context.Context, name string) (*x509.Certificate, error) {
	issuer := a.config.Issuers[0].IssuerKey()
	keyPEM, err := a.store.Load(ctx, certmagic.StorageKeys.SitePrivateKey(issuer, name))
	if err != nil {
		return nil, err
	}
	certPEM, err := a.store.Load(ctx, certmagic.StorageKeys.SiteCert(issuer, name))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the certificate for %s in the records: %w", name, err) // or another node is writing it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.managed[name]
	if m == nil || m.pair != nil && m.pair.Leaf.Equal(pair.Leaf) {
		return pair.Leaf, nil
	}
	m.pair, m.certPEM, m.keyPEM, m.err = &pair, certPEM, keyPEM, nil
	a.opt.Log.Info("a certificate serves", "name", name, "issuer", pair.Leaf.Issuer.CommonName, "not_after", pair.Leaf.NotAfter)
	signal(a.changed)
	return pair.Leaf, nil
}

// Renew orders a name's certificate anew though the present one is still good, such as when its key may be known.
// Run must be running. The other nodes take it up within ten minutes.
func (a *ACME) Renew(ctx context.Context, name string) error {
	a.mu.Lock()
	running := a.running
	if running != nil {
		a.keepers.Add(1)
		defer a.keepers.Done()
	}
	a.mu.Unlock()
	if running == nil {
		return orama.Errorf(orama.KindUnavailable, "not_running", "certificates are not managed now; try again")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(running, cancel)()
	if err := a.config.RenewCertSync(ctx, name, true); err != nil {
		return err
	}
	_, err := a.read(ctx, name)
	return err
}

// For gives the chains of all names that have one; the rest follows, and Changed tells.
func (a *ACME) For(names []string, _ []netip.Addr) (certPEM, keyPEM []byte, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var used []*managed
	for _, n := range names {
		if m := a.lookupLocked(n); m != nil && m.pair != nil && !slices.Contains(used, m) {
			used = append(used, m)
			certPEM = append(certPEM, m.certPEM...)
			keyPEM = append(keyPEM, m.keyPEM...)
		}
	}
	if len(used) == 0 {
		return nil, nil, errNotYet(strings.Join(names, ", "))
	}
	return certPEM, keyPEM, nil
}

// lookupLocked finds what is managed for a name: itself, or the wildcard above it.
func (a *ACME) lookupLocked(name string) *managed {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if m := a.managed[name]; m != nil {
		return m
	}
	_, rest, _ := strings.Cut(name, ".")
	return a.managed["*."+rest]
}

// GetCertificate gives the certificate for the name that the client asks for, or the base domain's when it names none.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	if name == "" {
		name = a.opt.Base
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.lookupLocked(name); m != nil && m.pair != nil {
		return m.pair, nil
	}
	return nil, errNotYet(name)
}

// Changed tells that a certificate came, was renewed, or is no longer managed.
func (a *ACME) Changed() <-chan struct{} { return a.changed }

// Status tells of each managed name.
func (a *ACME) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Status, 0, len(a.order))
	for _, n := range a.order {
		m := a.managed[n]
		s := Status{Names: []string{n}, Missing: []string{n}}
		if m.pair != nil {
			s = statusOf(m.pair.Leaf)
		}
		if m.err != nil {
			s.Error, s.ErrorAt = m.err.Error(), m.errAt
		}
		out = append(out, s)
	}
	return out
}
