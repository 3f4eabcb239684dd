package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Where another server has 443/tcp, no client is sent there.
func TestNoTCP443(t *testing.T) {
	for _, noTCP443 := range []bool{false, true} {
		byDefault := map[string]bool{}
		for _, s := range list([]string{"a"}, []string{"a"}, []string{"a"}, true, noTCP443) {
			byDefault[s.URL] = s.Default
		}
		shared, had := byDefault["turns:a:443?transport=tcp"]
		require.Equal(t, !noTCP443, had && shared)
		require.Equal(t, noTCP443, byDefault["turns:a:5349?transport=tcp"])
	}
}
