package sfu

import (
	"time"

	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

// credentials mints what a peer needs to reach a relay, for the transports it may be told of.
func (s *Server) credentials(transports []string) (signal.Credentials, time.Duration) {
	set := s.settings.Load()
	user, credential := auth.MintTURN(set.Secret, set.Namespace, time.Now().Add(set.CredentialTTL))
	urls := plan.Select(set.Servers, transports)
	return signal.Credentials{
		URLs: urls, Username: user, Credential: credential, TTL: int(set.CredentialTTL / time.Second),
		URIs: urls, Password: credential,
	}, set.CredentialTTL
}

// refreshCredentials tells everybody of new ones, because the old ones open no relay any more.
func (r *room) refreshCredentials() {
	r.inbox.post(func() {
		for _, p := range r.peers {
			p.post(func() { p.sendCredentials(true) })
		}
	})
}
