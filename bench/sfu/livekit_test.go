package main

import (
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
