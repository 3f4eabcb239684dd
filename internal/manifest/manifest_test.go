package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample() State {
	return State{Version: 1, NodeID: "node-1", Revision: 42, Namespaces: []Namespace{
		{Name: "demo", HasSFU: true, HasTURN: true, Ports: orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800},
			Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}},
		{Name: "other", HasTURN: true, Ports: orama.Ports{Relay: orama.PortRange{First: 64736, Count: 800}}},
	}}
}

// The file's field names are the specification's, and its text is what operators read.
const text = `{
  "version": 1,
  "node_id": "node-1",
  "revision": 42,
  "namespaces": [
    {
      "name": "demo",
      "has_sfu": true,
      "has_turn": true,
      "ports": {
        "relay": {
          "first": 49152,
          "count": 800
        },
        "signal": {
          "first": 30000,
          "count": 1
        },
        "media": {
          "first": 20000,
          "count": 500
        }
      }
    },
    {
      "name": "other",
      "has_sfu": false,
      "has_turn": true,
      "ports": {
        "relay": {
          "first": 64736,
          "count": 800
        }
      }
    }
  ]
}
`

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	_, err := Load(path)
	require.ErrorIs(t, err, orama.ErrNotFound)
	require.NoError(t, Save(path, sample()))
	got, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, sample(), got)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, string(raw))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, Save(path, State{Version: 1, NodeID: "node-1", Namespaces: []Namespace{}}))
	got, err = Load(path)
	require.NoError(t, err)
	require.False(t, got.HasTURN())
	require.True(t, sample().HasTURN())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

func TestAFileThatCannotBeReplacedStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	require.NoError(t, Save(path, sample()))
	bad := sample()
	bad.NodeID = ""
	require.Error(t, Save(path, bad))
	require.Error(t, Save(filepath.Join(dir, "missing", FileName), sample()))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o700))
	require.Error(t, Save(filepath.Join(dir, "taken"), sample()))
	got, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, sample(), got)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file is left")
}

// Damage is named, and kept as it is.
func TestDamageIsRefusedAndKept(t *testing.T) {
	replaced := func(old, new string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, new, 1)
	}
	for name, damaged := range map[string]string{
		"empty":           "",
		"cut off":         text[:len(text)/2],
		"twice":           text + text,
		"another type":    `[]`,
		"later version":   replaced(`"version": 1`, `"version": 2`),
		"no version":      replaced(`"version": 1`, `"v": 1`),
		"no node":         replaced(`"node-1"`, `""`),
		"revision":        replaced(`42`, `-1`),
		"bad name":        replaced(`"demo"`, `"../demo"`),
		"twice the same":  replaced(`"other"`, `"demo"`),
		"port too large":  replaced(`49152`, `70000`),
		"block too large": replaced(`64736`, `64737`),
		"no block":        replaced(`"first": 20000`, `"first": 0`),
		"no role":         replaced(`"has_sfu": true`, `"has_sfu": false`),
		"zeros":           strings.Repeat("\x00", 100),
		"huge":            text + strings.Repeat(" ", maxFile),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			require.NoError(t, os.WriteFile(path, []byte(damaged), 0o600))
			_, err := Load(path)
			require.ErrorIs(t, err, ErrDamaged)
			require.NotErrorIs(t, err, orama.ErrNotFound)
			require.ErrorContains(t, err, path)
			kept, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, damaged, string(kept))
		})
	}
}

func TestWhatCannotBeReadIsNotMissing(t *testing.T) {
	_, err := Load(t.TempDir())
	require.Error(t, err)
	require.NotErrorIs(t, err, orama.ErrNotFound)
}

// FuzzParse: no text makes it panic, and what it accepts can be saved and is read back the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	f.Add([]byte(`{"version":1,"node_id":"n","namespaces":null}`))
	f.Add([]byte(`{"version":1,"node_id":"n","namespaces":[{"name":"aa","has_turn":true,"ports":{"relay":{"first":65535,"count":1}}}]}`))
	f.Add([]byte(`{"version":1e0}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := Parse(in)
		if err != nil {
			return
		}
		out, err := json.Marshal(s)
		require.NoError(t, err)
		again, err := Parse(out)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
