package gateway

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A first SYN that is lost costs a third of a second, a host that is away nine tenths, and one that refuses nothing.
func TestConnect(t *testing.T) {
	errDown := errors.New("refused")
	silent := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	there := func(context.Context) (net.Conn, error) { c, _ := net.Pipe(); return c, nil }
	slow := func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(400 * time.Millisecond):
			return there(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for _, c := range []struct {
		name  string
		tries []func(context.Context) (net.Conn, error)
		took  time.Duration
		ok    bool
	}{
		{"at once", []func(context.Context) (net.Conn, error){there}, 0, true},
		{"the first is lost", []func(context.Context) (net.Conn, error){silent, there}, connectBeside, true},
		{"the first is slow, the second not", []func(context.Context) (net.Conn, error){slow, there}, connectBeside, true},
		{"the first is slow, the second lost", []func(context.Context) (net.Conn, error){slow, silent}, 400 * time.Millisecond, true},
		{"away", []func(context.Context) (net.Conn, error){silent, silent}, connectWithin, false},
		{"refused", []func(context.Context) (net.Conn, error){func(context.Context) (net.Conn, error) { return nil, errDown }}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := make(chan func(context.Context) (net.Conn, error), len(c.tries))
				for _, try := range c.tries {
					tries <- try
				}
				began := time.Now()
				conn, err := connect(t.Context(), func(ctx context.Context) (net.Conn, error) { return (<-tries)(ctx) })
				require.Equal(t, c.took, time.Since(began))
				require.Equal(t, c.ok, err == nil, "%v", err)
				if conn != nil {
					conn.Close()
				}
			})
		})
	}
}
