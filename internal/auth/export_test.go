package auth

import "crypto/ed25519"

// TokenPrivate lets tests sign what MintToken never would.
func TokenPrivate(k *Keys) ed25519.PrivateKey { return k.token.private }

// SetMaxTickets shrinks a verifier's memory.
func SetMaxTickets(v *TicketVerifier, n int) { v.max = n }

// Remembered is how many tickets a verifier holds.
func Remembered(v *TicketVerifier) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.seen)
}
