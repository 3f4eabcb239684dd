package sfu

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A connection is pinged after its time, again after the answer, and not any more once it has ended; the end waits for a ping under way.
func TestPinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pinger
		began, pings, answer := time.Now(), 0, make(chan struct{})
		var ping func()
		ping = func() {
			pings++
			<-answer
			p.after(ping)
		}
		p.after(ping)
		pass(pingEvery)
		require.Equal(t, 1, pings)
		answer <- struct{}{}
		pass(2 * pingEvery)
		require.Equal(t, 2, pings, "no other while one is unanswered")
		require.Equal(t, 3*pingEvery, time.Since(began))
		stopped := false
		go func() {
			p.stop()
			stopped = true
		}()
		synctest.Wait()
		require.False(t, stopped)
		close(answer)
		synctest.Wait()
		require.True(t, stopped)
		pass(time.Hour)
		require.Equal(t, 2, pings)
	})
	var p pinger
	p.after(func() { t.Error("it was stopped") })
	p.stop()
}
