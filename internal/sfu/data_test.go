package sfu

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// open makes a data channel and waits until it is open.
func (c *client) open(t *testing.T, label string, init *webrtc.DataChannelInit) *webrtc.DataChannel {
	t.Helper()
	dc, err := c.pc.CreateDataChannel(label, init)
	require.NoError(t, err)
	opened := make(chan struct{})
	dc.OnOpen(func() { close(opened) })
	wait(t, opened, "the channel to open")
	return dc
}

func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.FailNow(t, "waiting for "+what)
	}
	return v
}

// inbox collects what arrives on a channel.
func inbox(dc *webrtc.DataChannel) chan webrtc.DataChannelMessage {
	got := make(chan webrtc.DataChannelMessage, 4096)
	dc.OnMessage(func(m webrtc.DataChannelMessage) { got <- m })
	return got
}

func TestDataIsForwardedToEverybodyElse(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.joinClient(clientOptions{}), w.joinClient(clientOptions{}), w.joinClient(clientOptions{})
	retransmits, ordered := uint16(3), false
	chat := alice.open(t, "chat", &webrtc.DataChannelInit{Ordered: &ordered, MaxRetransmits: &retransmits})
	require.NoError(t, chat.SendText("hello")) // at once: before the copies exist
	echo := inbox(chat)
	for _, c := range []*client{bob, carol} {
		copied := wait(t, c.chans, "a copy")
		got := copied.got
		require.Equal(t, "chat", copied.Label())
		require.Equal(t, string(alice.id), copied.Protocol())
		require.False(t, copied.Ordered())
		require.Equal(t, retransmits, *copied.MaxRetransmits())
		require.Equal(t, "hello", string(wait(t, got, "the message").Data))
		require.NoError(t, copied.SendText("what a receiver sends is dropped"))
	}
	late := w.joinClient(clientOptions{})
	copied := wait(t, late.chans, "a copy for a late joiner")
	got := copied.got
	large := bytes.Repeat([]byte{7}, signal.MaxDataMessage)
	require.NoError(t, chat.Send(large))
	m := wait(t, got, "a message of 64 KiB")
	require.False(t, m.IsString)
	require.Equal(t, large, m.Data)
	require.Empty(t, echo)
	closed := make(chan struct{})
	copied.OnClose(func() { close(closed) })
	require.NoError(t, chat.Close())
	wait(t, closed, "the copy to close with the original")
}

func TestReliableDataArrivesInOrder(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.joinClient(clientOptions{}), w.joinClient(clientOptions{})
	dc := alice.open(t, "file", nil)
	const count = 300
	for i := range count {
		require.NoError(t, dc.SendText(fmt.Sprint(i)))
	}
	got := wait(t, bob.chans, "the copy").got
	for i := range count {
		require.Equal(t, fmt.Sprint(i), string(wait(t, got, "message").Data))
	}
}

func TestDataNeedsPermission(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{})
	bob := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){func(t *auth.Ticket) { t.Data = false }}})
	require.NotContains(t, await[*signal.Offer](bob.wire).SDP, "m=application")
	settled(t, bob)
	bob.lock.Lock()
	_, err := bob.pc.CreateDataChannel("forbidden", nil)
	bob.lock.Unlock()
	require.NoError(t, err)
	bob.offer()
	refused := await[*signal.Error](bob.wire)
	require.Equal(t, signal.CodeForbidden, refused.Code)
	require.Eventually(t, func() (none bool) {
		w.inside(t, func(p *peer) { none = p.opened == 0 }, bob.id)
		return none
	}, patience, 5*time.Millisecond, "what was refused does not count")
	alice.open(t, "chat", nil)
	require.Empty(t, alice.chans)
	require.Empty(t, bob.chans)
}

func TestTooManyChannels(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{})
	for i := range maxChannels + 1 {
		_, err := alice.pc.CreateDataChannel(fmt.Sprint(i), nil)
		require.NoError(t, err)
	}
	require.Equal(t, signal.CodeLimited, await[*signal.Error](alice.wire).Code)
}

// A copy that cannot keep up drops what is lossy and ends what is reliable; the sender never waits.
func TestASlowCopy(t *testing.T) {
	dropped := 0
	lossy := &channel{lossy: true, dropped: func() { dropped++ }}
	c := lossy.add()
	lossy.start()
	m := webrtc.DataChannelMessage{Data: []byte(strings.Repeat("x", signal.MaxDataMessage))}
	for range 10 {
		lossy.forward(m)
	}
	require.Equal(t, 10-maxBufferedLossy/signal.MaxDataMessage, dropped)
	require.False(t, c.closed)

	reliable := &channel{dropped: func() { dropped++ }}
	r := reliable.add()
	reliable.start()
	for i := range maxBuffered/signal.MaxDataMessage + 1 {
		require.False(t, r.closed, "after %d messages", i)
		reliable.forward(m)
	}
	require.True(t, r.closed)
	require.Empty(t, r.waiting, "and holds no memory")
}

func TestDataForNamedPeers(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.joinClient(clientOptions{}), w.joinClient(clientOptions{}), w.joinClient(clientOptions{})
	to := "to:" + string(bob.id) + ",p_nobody"
	secret := alice.open(t, "secret", &webrtc.DataChannelInit{Protocol: &to})
	require.NoError(t, secret.SendText("for bob"))
	copied := wait(t, bob.chans, "bob's copy")
	require.Equal(t, string(alice.id), copied.Protocol())
	require.Equal(t, "for bob", string(wait(t, copied.got, "the message").Data))

	late := w.joinClient(clientOptions{})
	alice.open(t, "all", nil)
	for _, c := range []*client{carol, late} {
		require.Equal(t, "all", wait(t, c.chans, "the first copy").Label())
	}
	nobody := "to:"
	_, err := alice.pc.CreateDataChannel("nobody", &webrtc.DataChannelInit{Protocol: &nobody})
	require.NoError(t, err)
	require.Equal(t, signal.CodeInvalid, await[*signal.Error](alice.wire).Code)
}

func TestReceivers(t *testing.T) {
	many := "to:a" + strings.Repeat(",a", maxNamed-1)
	for _, c := range []struct {
		protocol string
		want     int
		ok       bool
	}{
		{"", 0, true}, {"json", 0, true}, {"to:a", 1, true}, {"to:a,b", 2, true}, {many, maxNamed, true},
		{"to:", 0, false}, {"to:a,", 0, false}, {"to:,a", 0, false}, {many + ",a", 0, false},
	} {
		to, ok := receivers(c.protocol)
		require.Equal(t, c.ok, ok, c.protocol)
		if ok {
			require.Len(t, to, c.want, c.protocol)
		}
	}
}

// What is sent too fast is dropped, and the sender hears of it once a second.
func TestDataIsLimited(t *testing.T) {
	now := time.Now()
	p := &peer{inbox: newMailbox(), sends: newDataAllowance()}
	for range 2 * dataMessages {
		require.True(t, p.admit(1, now))
	}
	for range 100 {
		require.False(t, p.admit(1, now))
	}
	require.Len(t, p.inbox.take(), 1)
	now = now.Add(time.Second)
	require.True(t, p.admit(1, now))

	p.sends = newDataAllowance()
	for range 2 * dataBytes / signal.MaxDataMessage {
		require.True(t, p.admit(signal.MaxDataMessage, now))
	}
	require.False(t, p.admit(signal.MaxDataMessage, now))
}
