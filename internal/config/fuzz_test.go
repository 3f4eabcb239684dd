package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/config"
)

// What cannot be read is an error; what can is valid.
func FuzzParse(f *testing.F) {
	f.Add([]byte("node: node-1\nbase_domain: orama.test\npublic_ip: 192.0.2.1\nmesh_ip: 10.0.0.1\nmesh_cidr: 10.0.0.0/24\n"))
	f.Add([]byte("gateway:\n  http: !x\n")) // at which the library panics
	f.Add([]byte("a: [&x *x]"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse("fuzzed", text)
		if err == nil {
			require.NoError(t, c.Validate())
		}
	})
}
