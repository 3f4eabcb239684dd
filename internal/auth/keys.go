package auth

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"orama.network/orama"
)

// HKDF labels: one per key, so that no key tells anything of another. They never change.
const (
	labelToken  = "orama token"
	labelTicket = "orama ticket"
	labelSeal   = "orama seal"
)

// Keys are what the 32-byte cluster key gives rise to: the signing keys of tokens and of join
// tickets, and the key that seals secrets at rest. Safe for concurrent use.
type Keys struct {
	token  signer
	ticket signer
	seal   cipher.AEAD
}

// NewKeys derives the keys by HKDF-SHA256 (RFC 5869): every node of a cluster arrives at the same.
func NewKeys(clusterKey [32]byte) *Keys {
	aead, err := chacha20poly1305.NewX(derive(clusterKey, labelSeal))
	if err != nil {
		panic(err) // only for a key that is not 32 bytes long
	}
	return &Keys{
		token:  newSigner(ed25519.NewKeyFromSeed(derive(clusterKey, labelToken))),
		ticket: newSigner(ed25519.NewKeyFromSeed(derive(clusterKey, labelTicket))),
		seal:   aead,
	}
}

func derive(clusterKey [32]byte, label string) []byte {
	k, err := hkdf.Key(sha256.New, clusterKey[:], nil, label, 32)
	if err != nil {
		panic(err) // only for lengths above 255 hashes
	}
	return k
}

// signer is an Ed25519 key with its name.
type signer struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	kid     string // RFC 7638 thumbprint
}

func newSigner(private ed25519.PrivateKey) signer {
	public := private.Public().(ed25519.PublicKey)
	return signer{private: private, public: public, kid: thumbprint(public)}
}

// thumbprint names a public key: RFC 7638 section 3, with the members of RFC 8037 section 2 in
// lexicographic order.
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// JWKS is the key set that verifies tokens, as served at /.well-known/jwks.json (RFC 7517). The
// ticket key is not in it: tickets are nobody's business outside the cluster.
func (k *Keys) JWKS() []byte {
	type jwk struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		Alg string `json:"alg"`
		Use string `json:"use"`
		Kid string `json:"kid"`
		X   string `json:"x"`
	}
	set := map[string][]jwk{"keys": {{
		Kty: "OKP", Crv: "Ed25519", Alg: "EdDSA", Use: "sig",
		Kid: k.token.kid, X: base64.RawURLEncoding.EncodeToString(k.token.public),
	}}}
	out, err := json.Marshal(set)
	if err != nil {
		panic(err) // strings always marshal
	}
	return out
}

// sealedPrefix tells the format of a sealed secret: XChaCha20-Poly1305, a 24-byte nonce first.
const sealedPrefix = "v1."

// Seal encrypts a secret for keeping. aad says what it is for, such as "turn:myapp"; the same
// aad is needed to open it, so that a sealed secret cannot be moved to another row.
func (k *Keys) Seal(plaintext, aad string) string {
	nonce := make([]byte, k.seal.NonceSize(), k.seal.NonceSize()+len(plaintext)+k.seal.Overhead())
	rand.Read(nonce) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return sealedPrefix + base64.RawURLEncoding.EncodeToString(k.seal.Seal(nonce, nonce, []byte(plaintext), []byte(aad)))
}

// errSealed says as little as possible: whoever may open secrets knows what to look at.
var errSealed = orama.Errorf(orama.KindInternal, "sealed_secret", "a sealed secret cannot be opened with this cluster's key")

// Open decrypts what Seal made.
func (k *Keys) Open(sealed, aad string) (string, error) {
	text, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok {
		return "", errSealed
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < k.seal.NonceSize()+k.seal.Overhead() {
		return "", errSealed
	}
	plain, err := k.seal.Open(nil, raw[:k.seal.NonceSize()], raw[k.seal.NonceSize():], []byte(aad))
	if err != nil {
		return "", errSealed
	}
	return string(plain), nil
}
