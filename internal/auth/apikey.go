package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"

	"orama.network/orama"
)

// The roles of an API key.
const (
	RoleOwner    = "owner"    // may create and close rooms and mint admin tokens
	RoleMember   = "member"   // may join, list rooms and mint tokens for users
	RoleOperator = "operator" // of no namespace: may do what the operator of the cluster may, and nothing in a namespace
)

// The parts of a key are lower-case base32 without padding, so that '_' separates and a key
// survives any shell, URL and double click.
const (
	keyPrefix      = "orama"
	keyIDBytes     = 10 // 16 characters
	keySecretBytes = 32 // 52 characters
	keySumBytes    = 5  // 8 characters
	keyIDLen       = 16
	keySecretLen   = 52
	keySumLen      = 8
	keyLen         = len(keyPrefix) + 1 + keyIDLen + 1 + keySecretLen + 1 + keySumLen
)

var keyText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewAPIKey makes a key `orama_<id>_<secret>_<checksum>` to be shown once, and the record to keep.
func NewAPIKey(ns orama.NamespaceID, role string) (shown string, key orama.APIKey) {
	b := make([]byte, keyIDBytes+keySecretBytes)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	id, secret := keyText.EncodeToString(b[:keyIDBytes]), keyText.EncodeToString(b[keyIDBytes:])
	body := keyPrefix + "_" + id + "_" + secret
	return body + "_" + keyChecksum(body), orama.APIKey{
		ID: id, Namespace: ns, Role: role, SecretHash: hashSecret(secret), CreatedAt: time.Now(),
	}
}

// LooksLikeAPIKey tells a key from a token where either may stand.
func LooksLikeAPIKey(s string) bool { return strings.HasPrefix(s, keyPrefix+"_") }

var errAPIKey = orama.Errorf(orama.KindUnauthenticated, "invalid_api_key", "the API key is not valid; check that it was copied whole")

// ParseAPIKey splits a key. The checksum tells a mistyped key from a wrong one before anything is
// looked up. The error is of KindUnauthenticated.
func ParseAPIKey(shown string) (id, secret string, err error) {
	if len(shown) != keyLen {
		return "", "", errAPIKey
	}
	part := strings.Split(shown, "_")
	if len(part) != 4 || part[0] != keyPrefix || len(part[1]) != keyIDLen || len(part[2]) != keySecretLen {
		return "", "", errAPIKey
	}
	if keyChecksum(shown[:keyLen-1-keySumLen]) != part[3] {
		return "", "", errAPIKey
	}
	return part[1], part[2], nil
}

// CheckAPIKey compares a secret with a stored key in constant time.
func CheckAPIKey(key orama.APIKey, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(key.SecretHash), []byte(hashSecret(secret))) == 1
}

// hashSecret needs no salt and no slowness: a secret has 256 random bits.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func keyChecksum(body string) string {
	sum := sha256.Sum256([]byte("orama key checksum:" + body))
	return keyText.EncodeToString(sum[:keySumBytes])
}
