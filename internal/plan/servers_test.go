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

// The TURN of a host that shares 443/tcp runs without a tenant as well.
func TestEdgeRunsWithoutTenants(t *testing.T) {
	c := hosts(1, "demo")
	_, ok := TURN(c, c.Nodes[0].ID, Local{})
	require.False(t, ok)
	spec, ok := TURN(c, c.Nodes[0].ID, Local{Edge: true, HTTPSBackend: "127.0.0.1:8443"})
	require.True(t, ok)
	require.Empty(t, spec.Tenants)
}
