package cert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// authority speaks as much of RFC 8555 as an order by DNS-01 needs. It does look at the challenge, in the DNS; it does
// not verify signatures, which pebble does where it is installed.
type authority struct {
	t        *testing.T
	url      string
	resolver string
	pool     *x509.CertPool // of its own HTTPS
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	life     time.Duration // of what it issues

	mu      sync.Mutex // guards the following fields
	thumb   map[string]string
	orders  []*order
	refuse  bool
	nonce   int
	visible []string // challenges that were seen in the DNS
}

type order struct {
	id, name, account, token string
	valid                    bool
	chain                    []byte
}

func newAuthority(t *testing.T, resolver string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Authority"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a := &authority{t: t, resolver: resolver, key: key, cert: cert, thumb: map[string]string{}, life: 24 * time.Hour}
	srv := httptest.NewTLSServer(a)
	t.Cleanup(srv.Close)
	a.url, a.pool = srv.URL, x509.NewCertPool()
	a.pool.AddCert(srv.Certificate())
	return a
}

// roots verifies what it issues.
func (a *authority) roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// ordered counts the orders of a name.
func (a *authority) ordered(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n int
	for _, o := range a.orders {
		if o.name == name {
			n++
		}
	}
	return n
}

func (a *authority) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nonce++
	w.Header().Set("Replay-Nonce", fmt.Sprintf("nonce-%d", a.nonce))
	if r.URL.Path == "/dir" {
		reply(w, http.StatusOK, map[string]any{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
		return
	}
	if r.URL.Path == "/nonce" {
		return
	}
	var jws struct{ Protected, Payload string }
	var head struct {
		KID string
		JWK map[string]string
	}
	if json.NewDecoder(r.Body).Decode(&jws) != nil || json.Unmarshal(raw(jws.Protected), &head) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if a.refuse && r.URL.Path == "/order" {
		reply(w, http.StatusTooManyRequests, map[string]any{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders", "status": 429})
		return
	}
	kind, id, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	switch kind {
	case "account":
		account := fmt.Sprintf("%s/account/%d", a.url, len(a.thumb)+1)
		a.thumb[account] = thumbprint(head.JWK)
		w.Header().Set("Location", account)
		reply(w, http.StatusCreated, map[string]any{"status": "valid"})
	case "order":
		a.order(w, id, head.KID, raw(jws.Payload))
	default:
		o := a.find(id)
		if o == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		a.step(w, kind, o, raw(jws.Payload))
	}
}

func (a *authority) find(id string) *order {
	for _, o := range a.orders {
		if o.id == id {
			return o
		}
	}
	return nil
}

func (a *authority) order(w http.ResponseWriter, id, account string, payload []byte) {
	o := a.find(id)
	status := http.StatusOK
	if o == nil {
		var want struct{ Identifiers []struct{ Value string } }
		if json.Unmarshal(payload, &want) != nil || len(want.Identifiers) != 1 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		o = &order{id: fmt.Sprint(len(a.orders) + 1), name: want.Identifiers[0].Value, account: account, token: rand.Text()}
		a.orders = append(a.orders, o)
		status = http.StatusCreated
	}
	a.showOrder(w, status, o)
}

func (a *authority) showOrder(w http.ResponseWriter, status int, o *order) {
	state := map[bool]string{false: "pending", true: "ready"}[o.valid]
	out := map[string]any{"status": state, "authorizations": []string{a.url + "/authz/" + o.id}, "finalize": a.url + "/finalize/" + o.id,
		"identifiers": []any{map[string]string{"type": "dns", "value": o.name}}}
	if o.chain != nil {
		out["status"], out["certificate"] = "valid", a.url+"/cert/"+o.id
	}
	w.Header().Set("Location", a.url+"/order/"+o.id)
	reply(w, status, out)
}

func (a *authority) step(w http.ResponseWriter, kind string, o *order, payload []byte) {
	base, wildcard := strings.CutPrefix(o.name, "*.")
	challenge := map[string]any{"type": "dns-01", "url": a.url + "/challenge/" + o.id, "token": o.token, "status": "pending"}
	if o.valid {
		challenge["status"] = "valid"
	}
	switch kind {
	case "authz":
		reply(w, http.StatusOK, map[string]any{"status": challenge["status"], "wildcard": wildcard,
			"identifier": map[string]string{"type": "dns", "value": base}, "challenges": []any{challenge}})
	case "challenge":
		sum := sha256.Sum256([]byte(o.token + "." + a.thumb[o.account]))
		q := new(dns.Msg)
		q.SetQuestion("_acme-challenge."+base+".", dns.TypeTXT)
		m, _, err := (&dns.Client{}).ExchangeContext(context.Background(), q, a.resolver)
		if err == nil && slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
			t, ok := rr.(*dns.TXT)
			return ok && strings.Join(t.Txt, "") == base64.RawURLEncoding.EncodeToString(sum[:])
		}) {
			o.valid = true
			a.visible = append(a.visible, o.name)
			challenge["status"] = "valid"
		}
		reply(w, http.StatusOK, challenge)
	case "finalize":
		var in struct{ CSR string }
		csr, err := x509.ParseCertificateRequest(raw(pick(payload, &in, &in.CSR)))
		if err != nil || !o.valid || !slices.Equal(csr.DNSNames, []string{o.name}) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		o.chain = a.issue(csr)
		a.showOrder(w, http.StatusOK, o)
	case "cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(o.chain)
	}
}

func (a *authority) issue(csr *x509.CertificateRequest) []byte {
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(len(a.orders) + 1)), DNSNames: csr.DNSNames, NotBefore: now, NotAfter: now.Add(a.life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, csr.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return nil
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
}

func pick(text []byte, in any, field *string) string {
	_ = json.Unmarshal(text, in) // the field stays empty
	return *field
}

// thumbprint of a P-256 key (RFC 7638).
func thumbprint(jwk map[string]string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, jwk["crv"], jwk["kty"], jwk["x"], jwk["y"]))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func raw(s string) []byte {
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return b
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	if status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away
}
