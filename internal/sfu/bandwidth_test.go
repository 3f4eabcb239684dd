package sfu

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheClientIsToldWhatHasChanged(t *testing.T) {
	for _, c := range []struct {
		told, now int
		differs   bool
	}{
		{0, 0, false}, {0, 1, true}, {1_000_000, 1_100_000, false}, {1_000_000, 1_100_001, true}, {1_000_000, 899_999, true},
		{1_000_000, 900_000, false}, {1_000_000, 0, true},
	} {
		require.Equal(t, c.differs, differs(c.now, c.told), "%d after %d", c.now, c.told)
	}
	_, _, ok := newEgress(nil, func() {}).known()
	require.False(t, ok, "no feedback came: there is nothing to tell")
}
