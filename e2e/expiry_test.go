//go:build e2e

package e2e

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browsersAreUp is closed once TestExpiry's browsers have started, or it has ended: what is timed beside it waits for that. nil
// where it does not run.
var browsersAreUp chan struct{}

// A call goes on through the end of the credential it began with, while that credential makes no new relay.
func TestExpiry(t *testing.T) {
	browsersAreUp = make(chan struct{})
	started := sync.OnceFunc(func() { close(browsersAreUp) })
	t.Cleanup(started)
	t.Parallel() // with TestColdBoot: both spend most of their time waiting
	const ttl, call = 20 * time.Second, 90 * time.Second
	c := up(t)
	c.do(t, nil, "namespace", "create", "ttl")
	c.do(t, nil, "namespace", "enable", "webrtc", "--namespace", "ttl", "--credential-ttl", ttl.String())
	t.Cleanup(func() { c.do(t, nil, "namespace", "delete", "ttl", "--force") })

	m := c.meeting(t, "ttl", "expiry")
	ada := m.enter(chromium, "ada")
	m.enter(firefox, "cleo")
	m.allMeet(20 * time.Second)
	started()
	m.watch()
	begun := time.Now()

	urls, username, credential := c.credentials(t, c.token(t, "ttl", "eve"), "")
	server := strings.TrimSuffix(strings.TrimPrefix(urls[0], "turn:"), "?transport=udp")
	_, relay, err := allocate(t, server, username, credential)
	require.NoError(t, err, "while it is good it makes a relay")
	require.NoError(t, relay.Close())
	expires, err := strconv.ParseInt(strings.TrimSuffix(username, ":ttl"), 10, 64)
	require.NoError(t, err, "the username is EXPIRY:NAMESPACE")
	require.WithinDuration(t, begun.Add(ttl), time.Unix(expires, 0), 3*time.Second)
	<-time.After(time.Until(time.Unix(expires+1, 0)))
	_, _, err = allocate(t, server, username, credential)
	require.Error(t, err, "an expired credential makes a relay")
	t.Logf("a new Allocate with it, expired for %s, is refused: %v", ms(time.Since(time.Unix(expires, 0))), err)
	_, username, credential = c.credentials(t, c.token(t, "ttl", "eve"), "")
	_, _, err = allocate(t, server, username, credential)
	require.NoError(t, err, "a fresh one makes a relay")

	ada.until(call-time.Since(begun)+5*time.Second, "the call has run its time", "__probe.gaps().watched >= args[0]", call.Milliseconds())
	m.gaps(time.Second)
	m.allMeet(3 * time.Second)
	var user string
	ada.eval(&user, "return __probe.live()[0].getConfiguration().iceServers[0].username")
	t.Logf("ada's connection now holds the credential %s", user)
	renewed, _, _ := strings.Cut(user, ":")
	require.Greater(t, renewed, strconv.FormatInt(expires, 10), "the page was not given new credentials")
}
