package testnet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/client"
)

func TestTwoTalk(t *testing.T) {
	n := start(t, Options{})
	alice := n.join(t, "alice")
	alice.play("audio", "video")
	bob := n.join(t, "bob")
	bob.play("audio", "video")
	alice.connected()
	bob.connected()
	alice.hears(bob.PeerID(), 20, "audio", "video")
	bob.hears(alice.PeerID(), 20, "audio", "video")

	chat, err := alice.OpenData(within(t, patience), "chat", client.DataOptions{})
	require.NoError(t, err)
	require.NoError(t, chat.SendText("hello"))
	bob.until(patience, "chat message", func() bool {
		return len(bob.data) == 1 && string(bob.data[0].Data) == "hello" && bob.data[0].Text &&
			bob.data[0].From == alice.PeerID() && bob.data[0].Label == "chat"
	})
}
