package signal_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

// golden reads testdata/golden: one realistic frame per message, shared with the SDK's tests.
func golden(t testing.TB) map[signal.Type][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[signal.Type][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		out[signal.Type(strings.TrimSuffix(filepath.Base(f), ".json"))] = bytes.TrimSpace(b)
	}
	return out
}

func TestEveryMessageHasAGoldenFile(t *testing.T) {
	var have []signal.Type
	for typ := range golden(t) {
		have = append(have, typ)
	}
	want := signal.Types()
	slices.Sort(want)
	slices.Sort(have)
	require.Equal(t, want, have, "one file per message in internal/signal/testdata/golden")
}

func TestEveryMessageIsInTheProtocolDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	for _, typ := range signal.Types() {
		require.Contains(t, string(doc), "`"+string(typ)+"`")
	}
}

func TestGolden(t *testing.T) {
	for typ, frame := range golden(t) {
		t.Run(string(typ), func(t *testing.T) {
			m, err := signal.Decode(frame)
			require.NoError(t, err)
			require.Equal(t, typ, m.Type())
			out, err := signal.Encode(m)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(out, []byte(`{"type":"`+string(typ)+`"`)), "type comes first: %s", out)
			require.True(t, bytes.HasPrefix(frame, []byte(`{"type":"`+string(typ)+`"`)), "the golden file's too")
			require.Equal(t, fields(t, frame), fields(t, out), "a field was lost or changed")
			require.Equal(t, string(frame), string(out), "the golden file is what Encode writes")
		})
	}
}

// fields is the frame's object with numbers as they were written.
func fields(t *testing.T, frame []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(frame))
	d.UseNumber()
	var out map[string]any
	require.NoError(t, d.Decode(&out))
	return out
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	m, err := signal.Decode([]byte(`{"type":"mute","track_id":"t1","muted":true,"later":{"a":[1]}}`))
	require.NoError(t, err)
	require.Equal(t, &signal.Mute{TrackID: "t1", Muted: true}, m)
}
