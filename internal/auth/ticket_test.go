package auth_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

func ticket() auth.Ticket {
	return auth.Ticket{
		Namespace: "myapp", Node: "node-1", Boot: "b1", Room: "daily", User: "alice",
		Publish: true, Data: true, Transports: []string{"udp", "tls"}, Issued: now,
	}
}

func verifier(t testing.TB) *auth.TicketVerifier {
	t.Helper()
	v, err := auth.NewTicketVerifier(keys.TicketKey())
	require.NoError(t, err)
	return v
}

func mint(t testing.TB, tk auth.Ticket) string {
	t.Helper()
	raw, err := keys.MintTicket(tk)
	require.NoError(t, err)
	return raw
}

func TestATicketSaysWhatItWasMintedWithOnce(t *testing.T) {
	v := verifier(t)
	raw := mint(t, ticket())
	got, err := v.Verify(raw, now.Add(time.Second))
	require.NoError(t, err)
	want := ticket()
	want.ID, want.Expires = got.ID, now.Add(auth.TicketTTL)
	require.NotEmpty(t, got.ID)
	require.True(t, want.Issued.Equal(got.Issued) && want.Expires.Equal(got.Expires))
	got.Issued, got.Expires = want.Issued, want.Expires
	require.Equal(t, want, got)

	_, err = v.Verify(raw, now.Add(2*time.Second))
	require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
	require.ErrorContains(t, err, "before")
	_, err = v.Verify(raw, now.Add(auth.TicketTTL))
	require.ErrorContains(t, err, "expired")
}

func TestOnlyOneOfManyUsesATicket(t *testing.T) {
	v, raw := verifier(t), mint(t, ticket())
	var wg sync.WaitGroup
	var ok atomic.Int32
	for range 16 {
		wg.Go(func() {
			if _, err := v.Verify(raw, now); err == nil {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, ok.Load())
}

func TestBadTickets(t *testing.T) {
	for name, change := range map[string]func(*auth.Ticket){
		"expired":              func(t *auth.Ticket) { t.Issued = now.Add(-time.Minute) },
		"long life":            func(t *auth.Ticket) { t.Expires = now.Add(time.Hour) },
		"namespace":            func(t *auth.Ticket) { t.Namespace = "" },
		"no node":              func(t *auth.Ticket) { t.Node = "" },
		"no room and no admin": func(t *auth.Ticket) { t.Room = "" },
		"bad room":             func(t *auth.Ticket) { t.Room = "a b" },
		"no user":              func(t *auth.Ticket) { t.User = "" },
		"long id":              func(t *auth.Ticket) { t.ID = strings.Repeat("x", 65) },
		"many transports":      func(t *auth.Ticket) { t.Transports = make([]string, 9) },
	} {
		tk := ticket()
		change(&tk)
		_, err := verifier(t).Verify(mint(t, tk), now)
		require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err), name)
	}
	_, err := verifier(t).Verify(mint(t, auth.Ticket{Namespace: "myapp", Node: "n", Boot: "b", Admin: true, Issued: now}), now)
	require.NoError(t, err, "control of all rooms needs no user")
	other, err := auth.NewTicketVerifier(auth.NewKeys([32]byte{7}).TicketKey())
	require.NoError(t, err)
	_, err = other.Verify(mint(t, ticket()), now)
	require.Error(t, err, "another cluster's")
	for _, key := range []string{"", "AAAA", "!", keys.TicketKey() + "AA"} {
		_, err := auth.NewTicketVerifier(key)
		require.Error(t, err)
	}
}

func TestMemoryOfTicketsIsBounded(t *testing.T) {
	v := verifier(t)
	auth.SetMaxTickets(v, 100)
	at := now
	for range 100 {
		_, err := v.Verify(mint(t, ticket()), at)
		require.NoError(t, err)
	}
	_, err := v.Verify(mint(t, ticket()), at)
	require.Equal(t, orama.KindLimited, orama.KindOf(err), "an unknown ticket must not push a used one out")
	at = now.Add(auth.TicketTTL)
	later := ticket()
	later.Issued = at
	_, err = v.Verify(mint(t, later), at)
	require.NoError(t, err, "expired ones are forgotten")
	require.Equal(t, 1, auth.Remembered(v))
}

func FuzzVerifyTicket(f *testing.F) {
	f.Add(mint(f, ticket()))
	f.Add("")
	f.Add("a.b.c")
	v := verifier(f)
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := v.Verify(raw, now); err != nil {
			require.NotEqual(t, orama.KindInternal, orama.KindOf(err))
		}
	})
}
