package main

import (
	"net"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// reply is what a server answers to the request that d has just made.
func reply(t *testing.T, d *dialogue, class stun.MessageClass, with ...stun.Setter) *stun.Message {
	t.Helper()
	text, err := d.request()
	require.NoError(t, err)
	asked := &stun.Message{Raw: text}
	require.NoError(t, asked.Decode())
	if d.next != stepBare {
		require.NoError(t, d.key.Check(asked))
	}
	m, err := stun.Build(append([]stun.Setter{asked, stun.NewType(asked.Type.Method, class)}, with...)...)
	require.NoError(t, err)
	return m
}

type relayed struct{ stun.XORMappedAddress }

func (r relayed) AddTo(m *stun.Message) error { return r.AddToAs(m, stun.AttrXORRelayedAddress) }

func TestDialogue(t *testing.T) {
	d := newDialogue("secret", 900, peerAddr)
	require.Contains(t, d.user, ":bench1", "the second 800 are another tenant's")
	require.NoError(t, d.answer(reply(t, d, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.NewNonce("one"), stun.NewRealm(realm))))
	require.Equal(t, stepProven, d.next)
	require.NoError(t, d.answer(reply(t, d, stun.ClassErrorResponse, stun.CodeStaleNonce, stun.NewNonce("two"), stun.NewRealm(realm))))
	require.Equal(t, "two", string(d.nonce))
	at := relayed{stun.XORMappedAddress{IP: net.IPv4(127, 0, 1, 2), Port: 20001}}
	require.NoError(t, d.answer(reply(t, d, stun.ClassSuccessResponse, at)))
	require.Equal(t, "127.0.1.2:20001", d.relay.String())
	require.Equal(t, stepBind, d.next)
	require.NoError(t, d.answer(reply(t, d, stun.ClassSuccessResponse)))
	require.NoError(t, d.answer(reply(t, d, stun.ClassSuccessResponse)))
	require.Equal(t, stepDone, d.next)
}

func TestDialogueThatGivesBack(t *testing.T) {
	d := newDialogue("secret", 1, peerAddr)
	d.next, d.brief = stepProven, true
	require.NoError(t, d.answer(reply(t, d, stun.ClassSuccessResponse, relayed{stun.XORMappedAddress{IP: net.IPv4(127, 0, 1, 2), Port: 1}})))
	require.Equal(t, stepRelease, d.next)
	require.NoError(t, d.answer(reply(t, d, stun.ClassSuccessResponse)))
	require.Equal(t, stepDone, d.next)
}

func TestDialogueRefused(t *testing.T) {
	d := newDialogue("secret", 1, peerAddr)
	require.Error(t, d.answer(reply(t, d, stun.ClassSuccessResponse)), "no server may relay without a credential")
	d.next = stepProven
	require.ErrorContains(t, d.answer(reply(t, d, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.NewNonce("n"))), "401")
	for range 3 {
		require.NoError(t, d.answer(reply(t, d, stun.ClassErrorResponse, stun.CodeStaleNonce, stun.NewNonce("n"))))
	}
	require.Error(t, d.answer(reply(t, d, stun.ClassErrorResponse, stun.CodeStaleNonce, stun.NewNonce("n"))), "not for ever")
}
