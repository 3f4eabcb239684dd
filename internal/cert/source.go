package cert

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
)

// Source is where certificates come from: a Development authority, Files, or ACME. Its methods may be called from any
// goroutine.
type Source interface {
	// For gives what a server shows whose clients ask for these names (and addresses, where the source can): one chain
	// or several, each leaf first, and their keys in any order, as PEM. Names may be wildcards. An error of kind
	// unavailable says that there is nothing yet; Changed tells when to ask again.
	For(names []string, ips []netip.Addr) (certPEM, keyPEM []byte, err error)
	// GetCertificate fits tls.Config.GetCertificate.
	GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	// Manage says for which names there are to be certificates from now on, instead of those before. It does not wait for
	// them.
	Manage(ctx context.Context, names []string) error
	// Run obtains, renews and watches until ctx ends, and returns when its last goroutine has.
	Run(ctx context.Context) error
	// Changed holds a value once For may answer differently than before. It is for one reader.
	Changed() <-chan struct{}
	// Status tells of each certificate, those that are missing included.
	Status() []Status
}

// Status is what is known of one certificate.
type Status struct {
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"` // zero: there is no certificate yet
	NotAfter  time.Time `json:"not_after,omitzero"`
	Missing   []string  `json:"missing,omitempty"` // names that were asked for and that no certificate covers
	Error     string    `json:"error,omitempty"`   // why the last attempt to get or renew it failed; "" after a success
	ErrorAt   time.Time `json:"error_at,omitzero"`
}

// errNotYet is For's and GetCertificate's answer before there is a certificate.
func errNotYet(name string) error {
	return orama.Errorf(orama.KindUnavailable, "no_certificate", "there is no certificate for %.80s yet", name)
}

// Development makes certificates with an authority of one's own, for whatever names are asked for.
type Development struct {
	leaf    Leaf
	server  Server
	changed chan struct{}
}

var _ Source = (*Development)(nil)

// NewDevelopment makes a source of a's certificates for names of a base domain, and this host's addresses.
func NewDevelopment(a *Authority, base string, ips []netip.Addr) *Development {
	return &Development{leaf: Leaf{Authority: a}, server: Server{Authority: a, Base: base, IPs: ips}, changed: make(chan struct{}, 1)}
}

// For issues at once.
func (d *Development) For(names []string, ips []netip.Addr) (certPEM, keyPEM []byte, err error) {
	return d.leaf.For(names, ips)
}

// GetCertificate issues at once.
func (d *Development) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return d.server.GetCertificate(hello)
}

// Manage does nothing: every name is issued when it is asked for.
func (d *Development) Manage(context.Context, []string) error { return nil }

// Run says once a day that there may be something new; the leaf is renewed when For is called.
func (d *Development) Run(ctx context.Context) error {
	t := time.NewTicker(24 * time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			signal(d.changed)
		}
	}
}

// Changed tells that the leaf may be due.
func (d *Development) Changed() <-chan struct{} { return d.changed }

// Status tells of the leaf that For gave last.
func (d *Development) Status() []Status {
	d.leaf.mu.Lock()
	defer d.leaf.mu.Unlock()
	if d.leaf.certPEM == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(d.leaf.certPEM, d.leaf.keyPEM)
	if err != nil {
		return []Status{{Names: slices.Clone(d.leaf.names), Error: err.Error(), ErrorAt: time.Now()}}
	}
	return []Status{statusOf(pair.Leaf)}
}

func statusOf(leaf *x509.Certificate) Status {
	issuer := leaf.Issuer.CommonName
	if issuer == "" {
		issuer = leaf.Issuer.String()
	}
	s := Status{Names: slices.Clone(leaf.DNSNames), Issuer: issuer, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	for _, ip := range leaf.IPAddresses {
		s.Names = append(s.Names, ip.String())
	}
	return s
}

// signal leaves a value in a channel of one, unless there is one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// covers reports whether a certificate is good for a name, which may be a wildcard. A certificate of single names is
// good for `*.X` when it has the relays' name, turn.X.
func covers(leaf *x509.Certificate, name string) bool {
	rest, wild := strings.CutPrefix(name, "*.")
	if !wild {
		return leaf.VerifyHostname(name) == nil
	}
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) || leaf.VerifyHostname("turn."+rest) == nil
}

// onceLog logs a message when it differs from the last one, so that a lasting fault is one line.
type onceLog struct {
	mu   sync.Mutex // guards the following field
	last [sha256.Size]byte
}

func (o *onceLog) error(log *slog.Logger, msg string, err error) {
	sum := sha256.Sum256(fmt.Append(nil, msg, err))
	o.mu.Lock()
	defer o.mu.Unlock()
	if sum != o.last {
		o.last = sum
		log.Error(msg, "error", err)
	}
}

func (o *onceLog) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = [sha256.Size]byte{}
}
