package web_test

import (
	"bytes"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/web"
	"orama.network/orama/web/build"
)

// The pages are committed built, so that a start needs no bundler: they must be what the sources say.
func TestDistIsFresh(t *testing.T) {
	want, err := build.Files("..")
	require.NoError(t, err)
	got := served(t)
	for name, content := range want {
		require.Truef(t, bytes.Equal(content, got[name]), "web/dist/%s is stale: run go generate ./web and commit the result", name)
		delete(got, name)
	}
	require.Empty(t, got, "web/dist holds files that nothing builds: run go generate ./web")
}

// The gateway's Content-Security-Policy is script-src 'self': anything inline would be dead.
func TestPagesHaveNothingInline(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<script(>|[^>]*>[^<])|<style|\sstyle=|\son[a-z]+=|javascript:|https?://`)
	for name, content := range served(t) {
		if strings.HasSuffix(name, ".html") {
			require.Emptyf(t, inline.FindString(string(content)), "%s", name)
		}
	}
}

func served(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := fs.WalkDir(web.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[path], err = fs.ReadFile(web.FS(), path)
		return err
	})
	require.NoError(t, err)
	return out
}
