// Package build bundles the SDK and the pages with esbuild, in this process, so that no Node is
// needed. It is not part of the orama binary: `go generate ./web` and a test of package web use it.
package build

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

// bundles maps an entry point to the file made of it, both relative with slashes.
var bundles = []struct {
	entry, out string
	format     api.Format
	global     string // name of the script's one global, for FormatIIFE
}{
	{"sdk/src/index.ts", "sdk/orama.js", api.FormatESModule, ""},
	{"sdk/src/index.ts", "sdk/orama.iife.js", api.FormatIIFE, "Orama"},
	{"web/demo/main.ts", "demo/main.js", api.FormatESModule, ""},
	{"web/demo/style.css", "demo/style.css", api.FormatDefault, ""},
}

// copies maps a file that is served as it is to its name.
var copies = map[string]string{
	"web/demo/index.html":  "demo/index.html",
	"web/demo/icon.svg":    "demo/icon.svg",
	"web/plain/plain.html": "demo/plain.html",
	"web/plain/plain.js":   "demo/plain.js",
	"web/plain/plain.css":  "demo/plain.css",
}

// Files gives every file of web/dist by its name there. root is the repository.
func Files(root string) (map[string][]byte, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(bundles)+len(copies))
	for _, b := range bundles {
		content, err := bundle(root, b.entry, b.format, b.global)
		if err != nil {
			return nil, err
		}
		out[b.out] = content
	}
	for from, to := range maps.All(copies) {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(from)))
		if err != nil {
			return nil, err
		}
		out[to] = content
	}
	return out, nil
}

func bundle(root, entry string, format api.Format, global string) ([]byte, error) {
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:     root,
		EntryPoints:       []string{entry},
		Bundle:            true,
		Format:            format,
		GlobalName:        global,
		Platform:          api.PlatformBrowser,
		Target:            api.ES2022,
		Engines:           []api.Engine{{Name: api.EngineSafari, Version: "16"}},
		MinifyWhitespace:  true,
		MinifySyntax:      true,
		MinifyIdentifiers: true,
		Charset:           api.CharsetUTF8,
		LegalComments:     api.LegalCommentsNone,
		TsconfigRaw:       `{"compilerOptions":{"target":"es2022","useDefineForClassFields":true}}`,
		LogLevel:          api.LogLevelSilent,
	})
	var errs []error
	for _, m := range result.Errors {
		where := entry
		if m.Location != nil {
			where = fmt.Sprintf("%s:%d", m.Location.File, m.Location.Line)
		}
		errs = append(errs, fmt.Errorf("%s: %s", where, m.Text))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return result.OutputFiles[0].Contents, nil
}
