package store

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func host(n byte) orama.Node {
	return orama.Node{ID: orama.NodeID(fmt.Sprintf("host-%d", n)), PublicIP: netip.AddrFrom4([4]byte{203, 0, 113, n}), MeshIP: netip.AddrFrom4([4]byte{10, 9, 0, n}),
		Zone: "z", MeshKey: fmt.Sprint("key", n), MeshEndpoint: fmt.Sprintf("203.0.113.%d:51820", n)}
}

// anInvitationAdmitsOneNode: used once, in time, for a name and an address that are nobody's; all of it or nothing.
func anInvitationAdmitsOneNode(t *testing.T, w world) {
	a, b := w.open(t), w.open(t)
	ctx := t.Context()
	for _, hash := range []string{"one", "two", "three", "four"} {
		i := orama.Invitation{Hash: hash, CreatedAt: t0, Expires: t0.Add(time.Hour)}
		require.NoError(t, a.PutInvitation(ctx, i))
		require.NoError(t, b.PutInvitation(ctx, i), "twice is once")
		got, err := b.Invitation(ctx, hash)
		require.NoError(t, err)
		require.Equal(t, i, got)
	}
	_, err := a.Invitation(ctx, "none")
	require.ErrorIs(t, err, orama.ErrNotFound)
	rev, err := a.Revision(ctx)
	require.NoError(t, err)

	require.NoError(t, a.Admit(ctx, "one", host(1), nil, t0))
	nodes, err := b.Nodes(ctx)
	require.NoError(t, err)
	require.Equal(t, []orama.Node{host(1)}, nodes)
	used, err := b.Invitation(ctx, "one")
	require.NoError(t, err)
	require.Equal(t, t0, used.UsedAt)
	require.Equal(t, orama.NodeID("host-1"), used.UsedBy)
	after, err := b.Revision(ctx)
	require.NoError(t, err)
	require.Equal(t, rev+1, after)
	require.NoError(t, b.PutInvitation(ctx, orama.Invitation{Hash: "one", CreatedAt: t0, Expires: t0.Add(2 * time.Hour)}))

	sameIP, sameName := host(2), host(1)
	sameIP.MeshIP, sameName.MeshIP = host(1).MeshIP, host(3).MeshIP
	for name, admit := range map[string]func() error{
		"a used invitation":     func() error { return b.Admit(ctx, "one", host(2), nil, t0) },
		"an unknown invitation": func() error { return b.Admit(ctx, "none", host(2), nil, t0) },
		"an expired invitation": func() error { return b.Admit(ctx, "two", host(2), nil, t0.Add(time.Hour)) },
		"a taken address":       func() error { return b.Admit(ctx, "two", sameIP, nil, t0) },
		"a taken name":          func() error { return b.Admit(ctx, "two", sameName, nil, t0) },
		"one who was heard of since": func() error {
			was := host(1)
			was.Heartbeat = t0.Add(-time.Hour)
			return b.Admit(ctx, "two", sameName, &was, t0)
		},
	} {
		require.ErrorIs(t, admit(), orama.ErrConflict, name)
	}
	was := host(1)
	require.NoError(t, b.Admit(ctx, "two", sameName, &was, t0), "refusals used nothing up")
	nodes, err = a.Nodes(ctx)
	require.NoError(t, err)
	require.Equal(t, []orama.Node{sameName}, nodes)

	// Two at once, by one invitation.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, s := range []*Store{a, b} {
		wg.Go(func() { errs[i] = s.Admit(ctx, "three", host(byte(10+i)), nil, t0) })
	}
	wg.Wait()
	require.True(t, (errs[0] == nil) != (errs[1] == nil), "%v", errs)
	require.ErrorIs(t, errors.Join(errs...), orama.ErrConflict)
	nodes, err = a.Nodes(ctx)
	require.NoError(t, err)
	require.Len(t, nodes, 2)

	// A week later nobody asks why an invitation does not work.
	require.NoError(t, a.PutInvitation(ctx, orama.Invitation{Hash: "late", CreatedAt: t0.Add(9 * 24 * time.Hour), Expires: t0.Add(10 * 24 * time.Hour)}))
	_, err = a.Invitation(ctx, "one")
	require.ErrorIs(t, err, orama.ErrNotFound)
}
