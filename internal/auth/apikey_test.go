package auth_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

func TestAPIKey(t *testing.T) {
	shown, key := auth.NewAPIKey("myapp", auth.RoleOwner)
	require.Regexp(t, `^orama_[a-z2-7]{16}_[a-z2-7]{52}_[a-z2-7]{8}$`, shown)
	require.True(t, auth.LooksLikeAPIKey(shown))
	require.Equal(t, orama.NamespaceID("myapp"), key.Namespace)
	require.Equal(t, auth.RoleOwner, key.Role)
	require.False(t, key.CreatedAt.IsZero())
	id, secret, err := auth.ParseAPIKey(shown)
	require.NoError(t, err)
	require.Equal(t, key.ID, id)
	require.Regexp(t, `^[0-9a-f]{64}$`, key.SecretHash)
	require.NotContains(t, key.SecretHash, secret)
	require.True(t, auth.CheckAPIKey(key, secret))

	_, other := auth.NewAPIKey("myapp", auth.RoleOwner)
	require.NotEqual(t, key.ID, other.ID)
	require.False(t, auth.CheckAPIKey(other, secret))
	require.False(t, auth.CheckAPIKey(key, ""))
	require.False(t, auth.CheckAPIKey(orama.APIKey{}, ""))
}

func TestTyposAreCaughtByTheChecksum(t *testing.T) {
	shown, _ := auth.NewAPIKey("myapp", auth.RoleMember)
	for i := range len(shown) {
		b := []byte(shown)
		if b[i]++; b[i] == '{' {
			b[i] = 'a'
		}
		_, _, err := auth.ParseAPIKey(string(b))
		require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err), "position %d", i)
		if i > 0 && shown[i] != shown[i-1] {
			b = []byte(shown)
			b[i], b[i-1] = b[i-1], b[i]
			_, _, err = auth.ParseAPIKey(string(b))
			require.Error(t, err, "swap at %d", i)
		}
	}
	for _, bad := range []string{"", "orama", "orama_", shown[1:], shown[:len(shown)-1], shown + "a", strings.ToUpper(shown), " " + shown,
		strings.ReplaceAll(shown, "_", "-"), "orama_" + strings.Repeat("_", len(shown)-6)} {
		_, _, err := auth.ParseAPIKey(bad)
		require.Error(t, err, bad)
	}
}

func FuzzParseAPIKey(f *testing.F) {
	shown, _ := auth.NewAPIKey("myapp", auth.RoleOwner)
	f.Add(shown)
	f.Add("")
	f.Add("orama_a_b_c")
	f.Add("orama____")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, err := auth.ParseAPIKey(s)
		if err != nil {
			require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
			return
		}
		require.True(t, strings.HasPrefix(s, "orama_"+id+"_"+secret+"_"))
	})
}
