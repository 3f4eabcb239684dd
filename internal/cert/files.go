package cert

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// lookEvery is how soon a changed file is seen.
	lookEvery = 5 * time.Second
	// maxPEM bounds a file, in bytes; a chain of three is below 10 KiB.
	maxPEM = 256 << 10
)

// Files serves a certificate that somebody else keeps in two files. They are read again when they change; while
// what is there cannot be used, such as between the writing of one file and of the other, the old one serves on.
type Files struct {
	cert, key string
	log       *slog.Logger
	changed   chan struct{}
	complaint onceLog

	mu      sync.Mutex // guards the following fields
	seen    [2]os.FileInfo
	certPEM []byte
	keyPEM  []byte
	pair    *tls.Certificate // nil: none yet
	wanted  []string         // by Manage
	err     error
	errAt   time.Time
}

var _ Source = (*Files)(nil)

// NewFiles makes a source of a chain and its key, both PEM. Files that are missing or damaged are no error here: they are
// logged, shown by Status, and looked at again.
func NewFiles(certFile, keyFile string, log *slog.Logger) *Files {
	f := &Files{cert: certFile, key: keyFile, log: log, changed: make(chan struct{}, 1)}
	f.Look()
	return f
}

// Run watches the files.
func (f *Files) Run(ctx context.Context) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f.Look()
		}
	}
}

// Look reads the files unless they are the ones that serve; Run does so by itself.
func (f *Files) Look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var now [2]os.FileInfo
	for i, path := range []string{f.cert, f.key} {
		now[i], _ = os.Stat(path) // reading says it better
	}
	if f.pair != nil && f.err == nil && unchanged(f.seen[0], now[0]) && unchanged(f.seen[1], now[1]) {
		return
	}
	certPEM, keyPEM, pair, err := readPair(f.cert, f.key)
	if err != nil {
		f.err, f.errAt = err, time.Now()
		f.complaint.error(f.log, "the certificate in the files cannot be used; what served before serves on", err)
		return
	}
	f.seen, f.err = now, nil
	f.complaint.reset()
	if bytes.Equal(certPEM, f.certPEM) && bytes.Equal(keyPEM, f.keyPEM) {
		return
	}
	f.certPEM, f.keyPEM, f.pair = certPEM, keyPEM, pair
	f.log.Info("a certificate was read", "file", f.cert, "names", pair.Leaf.DNSNames, "not_after", pair.Leaf.NotAfter)
	signal(f.changed)
}

func unchanged(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

func readPair(certFile, keyFile string) (certPEM, keyPEM []byte, pair *tls.Certificate, err error) {
	if certPEM, err = readPEM(certFile); err != nil {
		return nil, nil, nil, err
	}
	if keyPEM, err = readPEM(keyFile); err != nil {
		return nil, nil, nil, err
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	return certPEM, keyPEM, &c, nil
}

func readPEM(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxPEM)
	}
	return text, err
}

// For gives the one certificate there is, whatever the names.
func (f *Files) For([]string, []netip.Addr) (certPEM, keyPEM []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pair == nil {
		return nil, nil, errNotYet(f.cert)
	}
	return f.certPEM, f.keyPEM, nil
}

// GetCertificate gives the one certificate there is.
func (f *Files) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pair == nil {
		return nil, errNotYet(hello.ServerName)
	}
	return f.pair, nil
}

// Manage remembers which names there should be: Status tells those that are not covered.
func (f *Files) Manage(_ context.Context, names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = slices.Clone(names)
	return nil
}

// Changed tells that another certificate was read.
func (f *Files) Changed() <-chan struct{} { return f.changed }

// Status tells of the files' certificate.
func (f *Files) Status() []Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s Status
	if f.pair != nil {
		s = statusOf(f.pair.Leaf)
	}
	s.Missing = slices.DeleteFunc(slices.Clone(f.wanted), func(n string) bool { return f.pair != nil && covers(f.pair.Leaf, n) })
	if f.err != nil {
		s.Error, s.ErrorAt = f.err.Error(), f.errAt
	}
	return []Status{s}
}
