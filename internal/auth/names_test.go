package auth_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"ab": true, "my-app": true, "0a": true, strings.Repeat("a", 40): true,
		"": false, "a": false, "-a": false, "a-": false, "A1": false, "a_b": false, "a.b": false, "a\n": false, "ä1": false, strings.Repeat("a", 41): false,
	} {
		require.Equal(t, ok, auth.ValidNamespace(name) == nil, "%q", name)
	}
	require.NoError(t, auth.ValidNamespace("turn"), "a reserved name may exist")
	require.Error(t, auth.NewNamespace("turn"), "but is not made any more")
	require.Error(t, auth.NewNamespace("-"))
	require.NoError(t, auth.NewNamespace("demo"))

	for name, ok := range map[string]bool{
		"a": true, "my-room": true, "a.b:c~d@e%f&g": true, strings.Repeat("a", 128): true,
		"": false, "_a": false, "a b": false, "a/b": false, `a\b`: false, `a"b`: false, "a?b": false, "a#b": false, "a\x00": false, "a\x7f": false, "ä": false,
		strings.Repeat("a", 129): false,
	} {
		require.Equal(t, ok, auth.ValidRoom(name) == nil, "%q", name)
	}
}
