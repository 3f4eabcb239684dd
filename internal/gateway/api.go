package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"orama.network/orama"
)

// newHandler puts the routes together. The outermost handler comes last.
func (g *Gateway) newHandler() http.Handler {
	mux := &recorder{ServeMux: http.NewServeMux()}
	api := humago.New(mux, apiConfig())
	g.registerREST(api)
	g.registerPlain(mux, api.OpenAPI())
	g.registerPages(mux)
	g.registerOperator(mux)
	// huma's own form of an error never leaves the gateway: problemTransformer sees to it.
	delete(api.OpenAPI().Components.Schemas.Map(), "ErrorModel")
	g.routes = mux.patterns
	return g.measured(mux, g.recovered(secure(g.cors(g.routed(mux)))))
}

// recorder is a mux that remembers its patterns, so that a test can hold them against the document.
type recorder struct {
	*http.ServeMux
	patterns []string
}

func (m *recorder) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.patterns = append(m.patterns, pattern)
	m.ServeMux.HandleFunc(pattern, h)
}

func apiConfig() huma.Config {
	c := huma.DefaultConfig("Orama gateway", "1")
	c.Info.Description = "Real-time voice, video and data for namespaces of an Orama cluster. The namespace is the one of the credential."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "/v1/openapi", "", ""
	c.CreateHooks = nil // no $schema in answers
	c.Transformers = []huma.Transformer{problemTransformer}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":  {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "A token of POST /v1/auth/token, or an API key"},
		"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "A key orama_<id>_<secret>_<checksum>"},
	}
	return c
}

var anyCredential = []map[string][]string{{"token": {}}, {"apiKey": {}}}

// operation describes one path. statuses are the refusals beside those that every path has.
func (g *Gateway) operation(api huma.API, id, method, path, summary string, needs need, statuses ...int) huma.Operation {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		MaxBodyBytes: maxBody, Tags: []string{strings.Split(strings.TrimPrefix(path, "/v1/"), "/")[0]},
	}
	statuses = append(statuses, http.StatusInternalServerError, http.StatusServiceUnavailable)
	if needs != needsNothing {
		op.Security = anyCredential
		op.Middlewares = huma.Middlewares{g.authenticated(needs)}
		statuses = append(statuses, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests)
	}
	op.Responses = refusals(api.OpenAPI().Components.Schemas, statuses)
	return op
}

func refusals(schemas huma.Registry, statuses []int) map[string]*huma.Response {
	schema := schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	out := map[string]*huma.Response{}
	for _, s := range statuses {
		out[strconv.Itoa(s)] = &huma.Response{
			Description: http.StatusText(s),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
		}
	}
	return out
}

// need is what a path asks of its caller.
type need int

const (
	needsNothing need = iota
	needsCaller       // any credential
	needsOwner        // an owner's key, or a token with admin
	needsKey          // an API key: tokens do not make tokens
)

type callerKey struct{}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// authenticated lets a caller in before its body is looked at: a stranger learns nothing of a request's form.
func (g *Gateway) authenticated(needs need) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		c, err := g.authenticate(r)
		switch {
		case err != nil:
		case needs == needsOwner && !c.admin:
			err = orama.Errorf(orama.KindForbidden, "owner_required", "only an owner of the namespace may do this")
		case needs == needsKey && c.key == "":
			err = orama.Errorf(orama.KindForbidden, "api_key_required", "an API key is needed here, not a token")
		}
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		next(huma.WithValue(ctx, callerKey{}, c))
	}
}

// register adds a handler whose errors become problems.
func register[I, O any](g *Gateway, api huma.API, op huma.Operation, h func(context.Context, *I) (*O, error)) {
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			g.logError(ctx, op.Method+" "+op.Path, err)
			return nil, problemOf(err)
		}
		return out, nil
	})
}

func (g *Gateway) registerREST(api huma.API) {
	const invalid, missing, conflict = http.StatusUnprocessableEntity, http.StatusNotFound, http.StatusConflict
	body := []int{http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, invalid}

	register(g, api, g.operation(api, "turn-credentials", http.MethodPost, "/v1/webrtc/turn/credentials",
		"Get TURN relay credentials", needsCaller, invalid, missing), g.turnCredentials)
	register(g, api, g.operation(api, "list-rooms", http.MethodGet, "/v1/webrtc/rooms",
		"List rooms", needsCaller, missing), g.listRooms)
	create := g.operation(api, "create-room", http.MethodPost, "/v1/webrtc/rooms",
		"Create a room (owner)", needsOwner, append(body, missing, conflict)...)
	create.DefaultStatus = http.StatusCreated
	register(g, api, create, g.createRoom)
	// huma knows one good status per operation; a room that exists is the other.
	create.Responses["200"] = &huma.Response{Description: "The room exists already", Content: create.Responses["201"].Content}
	remove := g.operation(api, "close-room", http.MethodDelete, "/v1/webrtc/rooms",
		"Close a room (owner)", needsOwner, invalid, missing, conflict)
	remove.DefaultStatus = http.StatusNoContent
	register(g, api, remove, g.closeRoom)
	g.registerModeration(api, append(body, missing))
	mint := g.operation(api, "mint-token", http.MethodPost, "/v1/auth/token",
		"Mint a token for a user (API key)", needsKey, body...)
	register(g, api, mint, g.mintToken)
	demo := g.operation(api, "demo-token", http.MethodPost, "/demo/token",
		"Mint a guest's token for the demo page", needsNothing, append(body, http.StatusForbidden, missing, http.StatusTooManyRequests)...)
	register(g, api, demo, g.demoToken)
}

// registerModeration adds what an owner may do to one room and those in it.
func (g *Gateway) registerModeration(api huma.API, refused []int) {
	register(g, api, g.operation(api, "read-room", http.MethodGet, "/v1/webrtc/rooms/{room_id}",
		"Read a room's settings and who is in it (owner)", needsOwner, http.StatusUnprocessableEntity, http.StatusNotFound), g.readRoom)
	register(g, api, g.operation(api, "change-room", http.MethodPatch, "/v1/webrtc/rooms/{room_id}",
		"Lock a room, limit it, or change its metadata (owner)", needsOwner, refused...), g.changeRoom)
	kick := g.operation(api, "kick", http.MethodPost, "/v1/webrtc/rooms/{room_id}/kick",
		"Remove a user from a room, and end its tokens for the room (owner)", needsOwner, refused...)
	kick.DefaultStatus = http.StatusNoContent
	register(g, api, kick, g.kick)
	mute := g.operation(api, "mute-track", http.MethodPost, "/v1/webrtc/rooms/{room_id}/mute",
		"Mute or unmute somebody's track (owner)", needsOwner, refused...)
	mute.DefaultStatus = http.StatusNoContent
	register(g, api, mute, g.muteTrack)
	peer := g.operation(api, "change-peer", http.MethodPatch, "/v1/webrtc/rooms/{room_id}/peers/{peer_id}",
		"Change what a peer may do and how it is shown (owner)", needsOwner, refused...)
	peer.DefaultStatus = http.StatusNoContent
	register(g, api, peer, g.changePeer)
}

// registerPlain adds what is not JSON in, JSON out, and documents it by hand.
func (g *Gateway) registerPlain(mux *recorder, doc *huma.OpenAPI) {
	mux.HandleFunc("GET "+signalPath, g.serveSignal)
	mux.HandleFunc("GET /.well-known/jwks.json", g.serveJWKS)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]string{"status": "ok"}) })
	mux.HandleFunc("GET /readyz", g.serveReady)

	str := &huma.Schema{Type: "string"}
	join := &huma.Operation{
		OperationID: "signal", Method: http.MethodGet, Path: signalPath, Summary: "WebSocket signalling (docs/protocol.md)",
		Tags: []string{"webrtc"}, Security: anyCredential,
		Description: "A WebSocket upgrade. Browsers authenticate with the subprotocols ['Bearer', token] or ['ApiKey', key].",
		Parameters: []*huma.Param{
			{Name: "room", In: "query", Schema: str, Description: "May be left out when the token or the first frame names it"},
			{Name: "transports", In: "query", Schema: str, Description: "Which TURN URLs to be told of: a list of udp, tcp, tls and dtls"},
		},
		Responses: refusals(doc.Components.Schemas, []int{400, 401, 403, 404, 426, 429, 500, 503}),
	}
	join.Responses["101"] = &huma.Response{Description: "Joined to the room's SFU"}
	doc.AddOperation(join)
	for path, summary := range map[string]string{
		"/.well-known/jwks.json": "The keys that tokens verify with (RFC 7517)",
		"/healthz":               "Whether this process lives",
		"/readyz":                "Whether this gateway can serve",
	} {
		doc.AddOperation(&huma.Operation{
			OperationID: strings.Trim(strings.NewReplacer("/", "", ".", "-").Replace(path), "-"), Method: http.MethodGet,
			Path: path, Summary: summary, Tags: []string{"system"},
			Responses: map[string]*huma.Response{"200": {Description: "OK"}},
		})
	}
	doc.Paths["/readyz"].Get.Responses["503"] = refusals(doc.Components.Schemas, []int{503})["503"]
}

func (g *Gateway) serveJWKS(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Write(g.keys.JWKS()) //nolint:errcheck // the client may be gone
}

func (g *Gateway) serveReady(w http.ResponseWriter, r *http.Request) {
	if _, err := g.view.cluster(r.Context()); err != nil {
		g.refuse(w, r, err)
		return
	}
	if g.stopped.Err() != nil {
		g.refuse(w, r, unavailable("draining", "this gateway is going away", 0))
		return
	}
	writeJSON(w, map[string]string{"status": "ready"})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// routed gives the mux's own refusals the form of all others.
func (g *Gateway) routed(mux *recorder) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		refused := &refusedWriter{header: http.Header{}}
		h.ServeHTTP(refused, r)
		if refused.status != http.StatusMethodNotAllowed {
			writeProblem(w, newProblem(http.StatusNotFound, "no_such_path", "there is nothing at this path"))
			return
		}
		p := newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take this method")
		allow := headerTokens(refused.header, "Allow")
		slices.Sort(allow)
		p.header.Set("Allow", strings.Join(allow, ", "))
		writeProblem(w, p)
	})
}

// refusedWriter keeps the status and headers of an answer and throws its body away.
type refusedWriter struct {
	header http.Header
	status int
}

func (w *refusedWriter) Header() http.Header         { return w.header }
func (w *refusedWriter) WriteHeader(status int)      { w.status = status }
func (w *refusedWriter) Write(b []byte) (int, error) { return len(b), nil }

// recovered keeps one request's mistake from being everybody's.
func (g *Gateway) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
				panic(v)
			}
			g.log.Error("request panicked", "request", r.Method+" "+r.URL.Path, "panic", v)
			writeProblem(w, newProblem(http.StatusInternalServerError, "internal", "something went wrong here; it was logged"))
		}()
		next.ServeHTTP(w, r)
	})
}
