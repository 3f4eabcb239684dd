package gateway

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write api/openapi.yaml anew")

const openapiFile = "../../api/openapi.yaml"

func TestTheCommittedDocumentIsTheGeneratedOne(t *testing.T) {
	a := newWorld(t, 0).gateway().do("GET", "/v1/openapi.yaml", "", "")
	require.Equal(t, 200, a.StatusCode)
	if *update {
		require.NoError(t, os.WriteFile(openapiFile, a.body, 0o644))
	}
	have, err := os.ReadFile(openapiFile)
	require.NoError(t, err)
	require.Equal(t, string(have), string(a.body), "api/openapi.yaml is stale: go test ./internal/gateway -update")
}

// openapi is as much of the document as the tests look at.
type openapi struct {
	Paths map[string]map[string]struct {
		OperationID string                     `json:"operationId"`
		Security    []map[string][]string      `json:"security"`
		Responses   map[string]json.RawMessage `json:"responses"`
	} `json:"paths"`
}

func TestRoutesAreDocumented(t *testing.T) {
	g := newWorld(t, 0).gateway()
	var doc openapi
	require.NoError(t, json.Unmarshal(g.do("GET", "/v1/openapi.json", "", "").body, &doc))
	var documented, served []string
	for path, methods := range doc.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	for _, pattern := range g.routes {
		path := pattern[strings.Index(pattern, " ")+1:]
		if strings.HasPrefix(path, "/v1/openapi") || path == "/{$}" || path == "/demo" || strings.HasSuffix(path, "/") {
			continue // the document itself, and pages
		}
		served = append(served, pattern)
	}
	slices.Sort(documented)
	slices.Sort(served)
	require.Equal(t, served, documented)
}

func TestWhatNeedsACredentialSaysSo(t *testing.T) {
	w := newWorld(t, 0)
	g := w.gateway()
	var doc openapi
	require.NoError(t, json.Unmarshal(g.do("GET", "/v1/openapi.json", "", "").body, &doc))
	open := map[string]bool{"/demo/token": true, "/healthz": true, "/readyz": true, "/.well-known/jwks.json": true}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			require.Equal(t, open[path], len(op.Security) == 0, path)
			if open[path] {
				continue
			}
			require.Contains(t, op.Responses, "401")
			a := g.do(strings.ToUpper(method), path, "", "", header("Connection", "Upgrade"), header("Upgrade", "websocket"),
				header("Sec-WebSocket-Version", "13"), header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="))
			require.Equal(t, 401, a.StatusCode, "%s %s is open to strangers", method, path)
		}
	}
}
