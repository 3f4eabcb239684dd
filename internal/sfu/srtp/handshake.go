package srtp

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"sync"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
)

// Handshake hears what a DTLS server agrees on with its client, and makes a Sealer of it: pion derives the keys of SRTP by itself and hands nobody
// them. It is the connection's io.Writer for its key log, and the master secret goes nowhere else.
type Handshake struct {
	mu      sync.Mutex
	master  []byte // guarded by mu, as all below
	client  []byte
	server  []byte
	profile Profile
	hash    prf.HashFunc
}

// Write takes a line of the NSS key log format, as pion writes it: CLIENT_RANDOM, the client's random and the master secret, in hexadecimal.
func (h *Handshake) Write(line []byte) (int, error) {
	fields := bytes.Fields(line)
	if len(fields) != 3 || string(fields[0]) != "CLIENT_RANDOM" {
		return len(line), nil // of DTLS 1.3, whose exporter is another
	}
	client, err := hex.AppendDecode(nil, fields[1])
	if err != nil {
		return len(line), nil //nolint:nilerr // without it there is no Sealer, which the caller is told
	}
	master, err := hex.AppendDecode(nil, fields[2])
	if err != nil {
		return len(line), nil //nolint:nilerr // as above
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client, h.master = client, master
	return len(line), nil
}

// ServerHello is the hook that sees what the server answers. It changes nothing.
func (h *Handshake) ServerHello(m handshake.MessageServerHello) handshake.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	random := m.Random.MarshalFixed()
	h.server, h.profile, h.hash = random[:], 0, nil
	for _, e := range m.Extensions {
		if u, ok := e.(*extension.UseSRTP); ok && len(u.ProtectionProfiles) == 1 {
			h.profile = Profile(u.ProtectionProfiles[0])
		}
	}
	if m.CipherSuiteID != nil {
		switch dtls.CipherSuiteID(*m.CipherSuiteID) {
		case dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			dtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, dtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:
			h.hash = sha256.New
		case dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
			h.hash = sha512.New384
		}
	}
	return &m
}

// Keys are what the server seals by, and what it opens the client's RTCP by. It is an error when the handshake is not over, went the other way round, or
// agreed on another protection than AES-GCM. The secrets are forgotten.
func (h *Handshake) Keys() (*Sealer, *Opener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	master, client, server := h.master, h.client, h.server
	h.master, h.client, h.server = nil, nil, nil
	n := h.profile.keyLen()
	switch {
	case len(master) == 0, len(client) == 0, len(server) == 0, h.hash == nil:
		return nil, nil, errRandom
	case n == 0:
		return nil, nil, errProfile
	}
	// RFC 5705 section 4, and RFC 5764 section 4.2: the client's key, the server's, the client's salt, the server's.
	seed := append(append([]byte(exporterLabel), client...), server...)
	material, err := prf.PHash(master, seed, 2*(n+saltLen), h.hash)
	clear(master)
	if err != nil {
		return nil, nil, err
	}
	seal, err := NewSealer(h.profile, material[n:2*n], material[2*n+saltLen:])
	if err != nil {
		return nil, nil, err
	}
	open, err := NewOpener(h.profile, material[:n], material[2*n:2*n+saltLen])
	return seal, open, err
}
