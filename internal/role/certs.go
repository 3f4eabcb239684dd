package role

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/dns"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/store"
)

// expiresSoon is when a certificate that nobody renewed is worth an operator's while.
const expiresSoon = 7 * 24 * time.Hour

// openCertificates makes the source that the configuration names, and the roots that its certificates lead to; nil are
// the system's.
func openCertificates(cfg config.Node, records *store.Store, keys *auth.Keys, log *slog.Logger) (cert.Source, *x509.CertPool, error) {
	switch c := cfg.Certificates; c.Mode {
	case "files":
		return cert.NewFiles(c.Cert, c.Key, log), nil, nil
	case "acme":
		provider, err := challenges(cfg, records, log)
		if err != nil {
			return nil, nil, err
		}
		var roots *x509.CertPool
		if c.Roots != "" {
			text, err := os.ReadFile(c.Roots)
			if err != nil {
				return nil, nil, fmt.Errorf("certificates: %w", err)
			}
			if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
				return nil, nil, fmt.Errorf("certificates: there is no certificate in %s", c.Roots)
			}
		}
		return cert.NewACME(cert.ACMEOptions{Directory: c.Directory, Email: c.Email, Roots: roots, Resolver: c.Resolver,
			Provider: provider, Records: records, Sealer: keys, Base: cfg.BaseDomain, Log: log}), nil, nil
	}
	ca, err := cert.LoadAuthority(cfg.Certificates.Authority)
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(filepath.Join(cfg.Certificates.Authority, fileAuthorityCert))
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return cert.NewDevelopment(ca, cfg.BaseDomain, []netip.Addr{cfg.PublicIP}), roots, nil
}

// challenges is where answers to ACME challenges are published: the zone that this cluster serves, or the one of
// somebody else's that it updates.
func challenges(cfg config.Node, records *store.Store, log *slog.Logger) (certmagic.DNSProvider, error) {
	if cfg.DNS.Mode == "serve" {
		return dns.Challenges{Records: records}, nil
	}
	other, err := openForeign(cfg, log)
	if err == nil && other == nil {
		err = orama.Errorf(orama.KindInvalid, "invalid_config",
			"certificates: mode acme proves the domain by DNS, so dns.mode has to be serve, rfc2136 or program")
	}
	if err != nil {
		return nil, err
	}
	return other, nil
}

// turnCertificates covers every name under which a tenant's relay is reached.
type turnCertificates struct {
	source cert.Source
	base   string
	ip     netip.Addr
}

// For gives the certificate for the tenants' names.
func (t turnCertificates) For(namespaces []orama.NamespaceID) (certPEM, keyPEM []byte, err error) {
	names := []string{t.base, "*." + t.base}
	for _, ns := range namespaces {
		names = append(names, "*.ns-"+string(ns)+"."+t.base)
	}
	return t.source.For(names, []netip.Addr{t.ip})
}

// keepCertificates has the source manage what clients verify, and the agent look when something changed.
func (h *host) keepCertificates(ctx context.Context) error {
	return every(ctx, h.certs.Changed(), h.agent.Wake, func(ctx context.Context) {
		// An authority that does not see the challenge lets us wait before it looks again.
		if !h.names.serves() || !h.walls.begun() {
			return
		}
		c, err := h.store.Cluster(ctx)
		if err != nil {
			return // what is managed stays
		}
		if err := h.certs.Manage(ctx, plan.CertificateNames(c, h.cfg.BaseDomain)); err != nil {
			h.log.Warn("not every name can have a certificate", "error", err)
		}
	})
}

// checkCertificates says what an operator should know of the certificates; nil when there is nothing.
func (h *host) checkCertificates(context.Context) error {
	var said []string
	for _, s := range h.certs.Status() {
		names := strings.Join(slices.Concat(s.Names, s.Missing), " ")
		switch {
		case s.Error != "":
			said = append(said, fmt.Sprintf("%s: %s", names, s.Error))
		case len(s.Missing) > 0 || s.NotAfter.IsZero():
			said = append(said, "there is no certificate yet for "+names)
		case time.Until(s.NotAfter) < expiresSoon:
			said = append(said, fmt.Sprintf("%s expires %s", names, s.NotAfter.UTC().Format(time.DateTime)))
		}
	}
	if len(said) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(said, "; "))
}

// every does something each second until ctx ends, and passes a signal on meanwhile.
func every(ctx context.Context, signal <-chan struct{}, on func(), do func(context.Context)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		do(bounded)
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-signal:
			on()
		case <-tick.C:
		}
	}
}
