package orama_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"orama.network/orama/internal/signal"
)

// The house rules. They read the tree in this process: a test that shelled out to `go list` would be
// answered from the test cache after the tree has changed. Every failure says why the rule is there.

const module = "orama.network/orama"

// layers is the import table of ARCHITECTURE.md, leftmost first.
var layers = []struct {
	name     string
	packages []string
}{
	{"words", []string{""}},
	{"leaf", []string{"internal/config", "internal/auth", "internal/signal", "internal/batch", "internal/datachannel", "internal/fence", "internal/manifest", "internal/plan"}},
	{"mechanism", []string{"internal/store", "internal/cache", "internal/machine", "internal/mesh", "internal/enroll", "internal/firewall", "internal/supervisor", "internal/dns",
		"internal/cert", "internal/turn", "internal/sfu", "internal/probe", "web"}},
	{"policy", []string{"internal/gateway", "internal/operator", "internal/node"}},
	{"assembly", []string{"internal/role", "internal/load", "internal/cli", "cmd/orama"}},
}

// apart are the packages that stand beside the table, with all of this module that they may import.
var apart = map[string][]string{
	"client":               {"", "internal/signal", "internal/datachannel"},
	"e2e":                  {"client", "client/media"}, // which strangers have too
	"bench":                nil,
	"internal/testnet":     nil, // tests only: anything
	"internal/testcluster": nil,
}

// goFile is one parsed file of the module.
type goFile struct {
	path string // slash-separated, relative to the root
	dir  string // "" for the root
	text []byte
	ast  *ast.File
	set  *token.FileSet
}

func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f goFile) line(p token.Pos) int { return f.set.Position(p).Line }

// ignored files are programs that `go run` is given by name.
func (f goFile) ignored() bool { return bytes.HasPrefix(f.text, []byte("//go:build ignore\n")) }

// generated files are somebody else's style.
func (f goFile) generated() bool { return ast.IsGenerated(f.ast) }

// tree calls visit for every file that is ours: not what was installed, built, or is not committed.
func tree(t *testing.T, visit func(path string)) {
	t.Helper()
	skip := []string{".git", "bin", "node_modules", "dist", ".test"}
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(skip, d.Name()) {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			visit(filepath.ToSlash(path))
		}
		return nil
	}))
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	tree(t, func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			return
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, text, parser.ParseComments)
		require.NoError(t, err)
		dir := filepath.ToSlash(filepath.Dir(path))
		if dir == "." {
			dir = ""
		}
		out = append(out, goFile{path: path, dir: dir, text: text, ast: parsed, set: set})
	})
	require.NotEmpty(t, out)
	return out
}

// place finds the package of the table that dir is or lies in, and its layer.
func place(dir string) (pkg string, layer int, ok bool) {
	for i, l := range layers {
		for _, p := range l.packages {
			if dir == p || p != "" && strings.HasPrefix(dir, p+"/") {
				return p, i, true
			}
		}
	}
	return "", 0, false
}

// standsApart finds the entry of apart that dir is or lies in.
func standsApart(dir string) (name string, allowed []string, ok bool) {
	for name, allowed := range apart {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			return name, allowed, true
		}
	}
	return "", nil, false
}

// mayImport says why a package may not import another, or nothing.
func mayImport(from, to string) string {
	if name, allowed, ok := standsApart(from); ok {
		if allowed == nil || to == name || strings.HasPrefix(to, name+"/") || slices.Contains(allowed, to) {
			return ""
		}
		return fmt.Sprintf("%s stands apart, so that it proves what strangers can do; it may import only %q of this module", name, allowed)
	}
	own, layer, ok := place(from)
	if !ok {
		return "it has no place in the import table; find its layer and write it there and in ARCHITECTURE.md"
	}
	target, lower, ok := place(to)
	switch {
	case !ok && (to == "client" || strings.HasPrefix(to, "client/")) && layers[layer].name == "assembly":
		return ""
	case !ok:
		return to + " is for tests, or has no place in the import table"
	case own == target:
		return ""
	case lower > layer:
		return "imports point only left (words, leaves, mechanisms, policies, assembly), so that each part can be read without those that use it"
	case layers[layer].name == "mechanism" && lower == layer:
		return "a mechanism knows no other; the assembly hands it the function it needs"
	case layers[layer].name == "policy" && lower == layer:
		return "policies are independent; what two of them share is a leaf"
	case layers[layer].name == "policy" && layers[lower].name == "mechanism":
		return "a policy reaches mechanisms only through interfaces it declares, so that it is tested without them"
	}
	return ""
}

func TestImportTable(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.isTest() {
			continue
		}
		_, _, placed := place(f.dir)
		if _, _, ok := standsApart(f.dir); !ok && !placed {
			t.Errorf("%s: its package has no place in the import table; find its layer, here and in ARCHITECTURE.md", f.path)
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			to, ours := strings.CutPrefix(path+"/", module+"/")
			if !ours {
				continue
			}
			if why := mayImport(f.dir, strings.TrimSuffix(to, "/")); why != "" {
				t.Errorf("%s:%d imports %s: %s", f.path, f.line(spec.Pos()), path, why)
			}
		}
	}
}

// The rule itself must be able to fail.
func TestImportTableRefuses(t *testing.T) {
	for from, to := range map[string]string{
		"internal/turn":    "internal/store",
		"internal/gateway": "internal/sfu",
		"internal/node":    "internal/operator",
		"internal/plan":    "internal/role",
		"internal/fence":   "internal/store",
		"internal/new":     "",
		"client":           "internal/auth",
		"client/media":     "internal/sfu",
		"":                 "internal/signal",
		"internal/sfu":     "internal/testnet",
	} {
		require.NotEmpty(t, mayImport(from, to), "%s imports %s", from, to)
	}
	for from, to := range map[string]string{
		"internal/sfu":          "internal/sfu/history",
		"internal/sfu/history":  "",
		"internal/role":         "internal/turn",
		"internal/cli":          "client",
		"internal/load":         "client/media",
		"client":                "internal/signal",
		"client/media":          "client",
		"internal/plan":         "internal/manifest",
		"internal/testcluster":  "internal/role",
		"cmd/orama":             "internal/cli",
		"internal/gateway":      "internal/auth",
		"internal/gateway/http": "internal/gateway",
	} {
		require.Empty(t, mayImport(from, to), "%s imports %s", from, to)
	}
}

func TestOnePackageComment(t *testing.T) {
	comments := map[string][]string{}
	packages := map[string]bool{}
	for _, f := range goFiles(t) {
		if f.isTest() || f.ignored() {
			continue
		}
		packages[f.dir] = true
		if f.ast.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.path)
			word := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name == "main" {
				word = "Command "
			}
			if !strings.HasPrefix(f.ast.Doc.Text(), word) {
				t.Errorf("%s: its package comment does not begin with %q, as go doc expects", f.path, word)
			}
		}
	}
	for dir := range packages {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%q has %d package comments %v: one paragraph says what a package is and what it is not; two drift apart", dir, n, comments[dir])
		}
	}
}

func TestFormatted(t *testing.T) {
	for _, f := range goFiles(t) {
		want, err := format.Source(f.text)
		require.NoError(t, err)
		if !bytes.Equal(want, f.text) {
			t.Errorf("%s: run gofmt -w on it; a diff should show what changed, not how it was typed", f.path)
		}
	}
}

// Limits of STYLE: the tails are where code stops being readable.
const (
	maxFunction = 80  // lines
	maxFile     = 700 // lines
)

func TestTails(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.generated() {
			continue
		}
		if n := bytes.Count(f.text, []byte("\n")); n > maxFile {
			t.Errorf("%s has %d lines: a file over %d is two things", f.path, n, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || f.isTest() {
				continue
			}
			if n := f.line(fn.End()) - f.line(fn.Pos()); n > maxFunction {
				t.Errorf("%s:%d %s has %d lines: a function over %d hides its steps; name them", f.path, f.line(fn.Pos()), fn.Name.Name, n, maxFunction)
			}
		}
	}
}

// A sleep in a test is a guess about time. Inside a synctest bubble the clock is the test's own.
func TestNoSleep(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.isTest() || imports(f, "testing/synctest") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" {
					t.Errorf("%s:%d sleeps: wait for the event, or use testing/synctest; a sleep is either too short or too slow", f.path, f.line(call.Pos()))
				}
			}
			return true
		})
	}
}

func imports(f goFile, path string) bool {
	return slices.ContainsFunc(f.ast.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == strconv.Quote(path) })
}

// forbidden words are put together here so that this file does not hold them.
var forbidden = []struct {
	words *regexp.Regexp
	why   string
}{
	{regexp.MustCompile(`\b(` + "TO" + `DO|FIX` + `ME|X` + `XX)\b`), "work that is missing belongs in the tracker, where somebody will find it"},
	{regexp.MustCompile(`/(wor` + `k|hom` + `e|Use` + `rs|roo` + `t)/[a-z]`), "a path of one machine means nothing on another"},
	{regexp.MustCompile(`"resol` + `ved":`), "a lock file that names a registry ties everybody to it; .npmrc leaves it out"},
	{regexp.MustCompile(`(?i)not ` + `implemented`), "what is not there is not offered"},
}

var text = []string{".go", ".ts", ".js", ".mjs", ".html", ".css", ".md", ".json", ".yaml", ".yml", ".sh", ".mod", ".txtar", ""}

func TestForbiddenWords(t *testing.T) {
	tree(t, func(path string) {
		if !slices.Contains(text, filepath.Ext(path)) || strings.Contains(path, "testdata/fuzz") {
			return
		}
		body, err := os.ReadFile(path)
		require.NoError(t, err)
		for i, line := range strings.Split(string(body), "\n") {
			for _, f := range forbidden {
				if f.words.MatchString(line) {
					t.Errorf("%s:%d %.120q: %s", path, i+1, line, f.why)
				}
			}
		}
	})
}

// The SDK's message types are written by hand beside Go's: this and the golden files, which both sides decode,
// hold them together.
func TestMessagesAreTheSDKs(t *testing.T) {
	protocol, err := os.ReadFile("sdk/src/protocol.ts")
	require.NoError(t, err)
	inSDK := literals(string(protocol))
	for _, typ := range signal.Types() {
		if !slices.Contains(inSDK, string(typ)) {
			t.Errorf("sdk/src/protocol.ts has no type for %q: a message that one side does not know is lost without a word", typ)
		}
		if _, err := os.Stat("internal/signal/testdata/golden/" + string(typ) + ".json"); err != nil {
			t.Errorf("%q has no golden file: both codecs are tested against the same bytes", typ)
		}
	}
	for _, name := range inSDK {
		if !slices.Contains(signal.Types(), signal.Type(name)) {
			t.Errorf("sdk/src/protocol.ts knows %q, which the protocol does not", name)
		}
	}
	golden, err := filepath.Glob("internal/signal/testdata/golden/*.json")
	require.NoError(t, err)
	require.Len(t, golden, len(signal.Types()), "a golden file of no message")
}

// literals finds the discriminants of the message union: fields `type: '...'`.
func literals(ts string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^\s+type: '([a-z-]+)';`).FindAllStringSubmatch(ts, -1) {
		out = append(out, m[1])
	}
	return out
}

// The gateway's own test holds its document against its mux, pattern by pattern. This one holds the committed file,
// which people and generators read, against what the gateway's source names.
func TestRoutesAreDocumented(t *testing.T) {
	raw, err := os.ReadFile("api/openapi.yaml")
	require.NoError(t, err)
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^  (/\S+):$`).FindAllStringSubmatch(string(raw), -1) {
		documented = append(documented, m[1])
	}
	require.NotEmpty(t, documented)
	named := routes(t)
	for _, path := range named {
		if !slices.Contains(documented, path) {
			t.Errorf("the gateway names %s, api/openapi.yaml does not: go test ./internal/gateway -update; a route that is in no document is found only by attackers", path)
		}
	}
	for _, path := range documented {
		if !slices.Contains(named, path) {
			t.Errorf("api/openapi.yaml promises %s, the gateway's source does not name it", path)
		}
	}
}

// undocumented are the document itself, and the operator's calls: those are the agent's, written down at operator.Handler, and their
// only client is this module's own.
var undocumented = []string{"/v1/openapi", "/v1/operator/"}

// routes are the paths of the API among the gateway's string literals, their methods taken off.
func routes(t *testing.T) []string {
	t.Helper()
	path := regexp.MustCompile(`^(?:[A-Z]+ )?(/(?:v1|\.well-known)/[a-z0-9/._{}-]+|/healthz|/readyz|/demo/token)$`)
	var out []string
	for _, f := range goFiles(t) {
		if f.dir != "internal/gateway" || f.isTest() || f.path == "internal/gateway/sfu.go" { // which names an SFU's paths
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				if m := path.FindStringSubmatch(text); m != nil && !slices.Contains(undocumented, m[1]) && !slices.Contains(out, m[1]) {
					out = append(out, m[1])
				}
			}
			return true
		})
	}
	return out
}

// fuzzedLong are the parsers that strangers reach first, each to be fuzzed for half a minute in every run.
var fuzzedLong = []string{"FuzzDecode", "FuzzSet", "FuzzFilterSDP", "FuzzParseAPIKey", "FuzzParseTURNUsername"}

// CI runs `make test`, so what the Makefile and tools/fuzz say is what is done.
func TestWhatStrangersReachIsFuzzedForLong(t *testing.T) {
	script, err := os.ReadFile("tools/fuzz")
	require.NoError(t, err)
	listed := strings.Fields(regexp.MustCompile(`(?m)^packages=\((.*)\)$`).FindStringSubmatch(string(script))[1])
	long := strings.Fields(regexp.MustCompile(`(?m)^first='(.*)'$`).FindStringSubmatch(string(script))[1])
	require.Subset(t, long, fuzzedLong)
	in := map[string]string{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.isTest() && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				in[fn.Name.Name] = "./" + f.dir
			}
		}
	}
	for _, target := range long {
		require.Contains(t, listed, in[target], "tools/fuzz names %s, and not the package that has it", target)
	}
	makefile, err := os.ReadFile("Makefile")
	require.NoError(t, err)
	seconds, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^FUZZTIME \?= (\d+)$`).FindSubmatch(makefile)[1]))
	require.NoError(t, err)
	require.GreaterOrEqual(t, seconds, 30)
}
