package main

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFields(t *testing.T) {
	b := number(text(text(nil, fieldType, "offer"), fieldSDP, "v=0"), fieldID, 300)
	m, err := parseFields(b)
	require.NoError(t, err)
	require.Equal(t, "offer", string(m[fieldType].bytes))
	require.Equal(t, "v=0", string(m[fieldSDP].bytes))
	require.EqualValues(t, 300, m[fieldID].number)
	_, err = parseFields(b[:len(b)-1])
	require.Error(t, err)
}

func FuzzFields(f *testing.F) {
	f.Add(number(text(nil, fieldSDP, "v=0"), fieldID, 1))
	f.Fuzz(func(_ *testing.T, b []byte) { parseFields(b) }) //nolint:errcheck // it is not to panic
}

// The example of RFC 7515, appendix A.1, has another order of its header; what is held is the form and the signature.
func TestSigned(t *testing.T) {
	token, err := signed(map[string]any{"iss": "joe"}, "secret")
	require.NoError(t, err)
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	require.JSONEq(t, `{"iss":"joe"}`, string(body))
	other, err := signed(map[string]any{"iss": "joe"}, "another")
	require.NoError(t, err)
	require.NotEqual(t, token, other)
}
