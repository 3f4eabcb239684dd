package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/mesh"
)

// maxOfferFile bounds a file that is handed to a joiner, in bytes.
const maxOfferFile = 64 << 10

// retryEnroll is how long the enrolment listener waits before it is tried again.
const retryEnroll = 5 * time.Second

// enrolment lets new nodes in at this one.
type enrolment struct {
	cfg     config.Node
	records enroll.Records
	server  *enroll.Server
	log     *slog.Logger
}

// newEnrolment prepares to let nodes in, where the configuration says that this node does.
func newEnrolment(cfg config.Node, clusterKey [32]byte, records enroll.Records, log *slog.Logger) (*enrolment, error) {
	id, err := enroll.NewIdentity(clusterKey)
	if err != nil {
		return nil, err
	}
	e := &enrolment{cfg: cfg, records: records, log: log}
	e.server = enroll.NewServer(enroll.Deps{Identity: id, Address: enrollAddress(cfg), MeshCIDR: cfg.MeshCIDR, OwnMesh: ownMesh(cfg),
		Records: records, Offer: func() (enroll.Offer, error) { return offer(cfg) }, Now: time.Now, Log: log})
	return e, nil
}

func ownMesh(cfg config.Node) bool {
	return cfg.Mesh.WireGuard != "" && cfg.Mesh.WireGuard != string(mesh.ModeExisting)
}

// enrollAddress is where tokens send joiners: the public address stands for every address.
func enrollAddress(cfg config.Node) string {
	host, port, err := net.SplitHostPort(cfg.Mesh.Enroll)
	if err != nil {
		return ""
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = cfg.PublicIP.String()
	}
	return net.JoinHostPort(host, port)
}

// run lets nodes in until ctx ends. A listener that cannot be opened is no reason for a node not to serve: it is tried
// again.
func (e *enrolment) run(ctx context.Context) error {
	if e.cfg.Mesh.Enroll == "" {
		<-ctx.Done()
		return nil
	}
	trouble := ""
	for ctx.Err() == nil {
		err := e.known(ctx)
		if err == nil {
			err = e.firstInvitation(ctx)
		}
		if err == nil {
			err = e.listen(ctx)
		}
		if err != nil && ctx.Err() == nil && err.Error() != trouble {
			level := slog.LevelWarn
			if orama.KindOf(err) == orama.KindUnavailable {
				level = slog.LevelDebug // of the records; told already by who keeps the connection
			}
			e.log.Log(ctx, level, "no node can join here; trying on", "error", err)
			trouble = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEnroll):
		}
	}
	return nil
}

// knownEvery is how often the records are asked for this node itself.
const knownEvery = 100 * time.Millisecond

// known waits until the records hold this node as others are to reach it. Before that a joiner would be given this node's
// own address, and no way to it.
func (e *enrolment) known(ctx context.Context) error {
	for {
		nodes, err := e.records.Nodes(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(nodes, func(n orama.Node) bool {
			return n.ID == e.cfg.ID && n.MeshIP == e.cfg.MeshIP && (!ownMesh(e.cfg) || n.MeshKey != "")
		}) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(knownEvery):
		}
	}
}

func (e *enrolment) listen(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.cfg.Mesh.Enroll)
	if err != nil {
		return err
	}
	e.log.Info("nodes can join", "address", l.Addr())
	return e.server.Serve(ctx, l)
}

// seedFile is the invitation that `orama node init` printed before there were records to keep it in.
type seedFile struct {
	Hash      string    `json:"hash"` // of the secret, which is nowhere
	CreatedAt time.Time `json:"created_at"`
	Expires   time.Time `json:"expires"`
}

func seedPath(dataDir string) string { return filepath.Join(dataDir, "first-invitation.json") }

// firstInvitation brings the invitation of init into the records.
func (e *enrolment) firstInvitation(ctx context.Context) error {
	text, err := os.ReadFile(seedPath(e.cfg.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s seedFile
	if err := json.Unmarshal(text, &s); err != nil || len(s.Hash) != 64 || s.Expires.Sub(s.CreatedAt) > enroll.MaxTTL {
		e.log.Warn("the first invitation is damaged; invite with 'orama node invite'", "file", seedPath(e.cfg.DataDir))
		return nil
	}
	if err := e.records.PutInvitation(ctx, orama.Invitation{Hash: s.Hash, CreatedAt: s.CreatedAt, Expires: s.Expires}); err != nil {
		return err
	}
	return os.Remove(seedPath(e.cfg.DataDir))
}

// The files that a joiner needs, by the names that they have on the wire and, on the joiner, in its data directory.
const (
	fileClusterKey    = "cluster.key"
	fileStorePassword = "store.password"
	fileCachePassword = "cache.password"
	fileDNSKey        = "dns.key"
	fileAuthorityCert = "ca.pem"
	fileAuthorityKey  = "ca.key"
	fileACMERoots     = "acme-roots.pem"
	fileMeshKey       = "mesh.key" // made by the joiner; never on the wire
)

// shared lists the files of a configuration that every node of the cluster needs.
func shared(cfg config.Node) map[string]string {
	out := map[string]string{fileClusterKey: cfg.ClusterKey}
	add := func(name, path string) {
		if path != "" {
			out[name] = path
		}
	}
	add(fileStorePassword, cfg.Store.PasswordFile)
	add(fileCachePassword, cfg.Cache.PasswordFile)
	add(fileDNSKey, cfg.DNS.KeyFile)
	switch cfg.Certificates.Mode {
	case "authority":
		add(fileAuthorityCert, filepath.Join(cfg.Certificates.Authority, fileAuthorityCert))
		add(fileAuthorityKey, filepath.Join(cfg.Certificates.Authority, fileAuthorityKey))
	case "acme":
		add(fileACMERoots, cfg.Certificates.Roots)
	}
	return out
}

// offer is this node's configuration and what it names, as they are now.
func offer(cfg config.Node) (enroll.Offer, error) {
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return enroll.Offer{}, err
	}
	out := enroll.Offer{Config: text, Files: map[string][]byte{}}
	for name, path := range shared(cfg) {
		if out.Files[name], err = readBounded(path, maxOfferFile); err != nil {
			return enroll.Offer{}, fmt.Errorf("what a joiner needs cannot be read: %w", err)
		}
	}
	return out, nil
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return text, err
}

// Invited is a fresh invitation.
type Invited struct {
	Token   string    `json:"token"` // shown once
	Expires time.Time `json:"expires"`
}

type inviteRequest struct {
	TTLSeconds float64 `json:"ttl_seconds"`
}

// nodeRoutes are the calls of this host's administration socket that are about the host itself:
//
//	POST /v1/node/invitations {"ttl_seconds"} → 201 Invited
//	GET  /v1/node/mesh                        → mesh.Status
//	POST /v1/node/mesh/key                    → 204 when every peer uses this host's new key
func nodeRoutes(mux *http.ServeMux, e *enrolment, m *hostMesh) {
	mux.HandleFunc("POST /v1/node/invitations", func(w http.ResponseWriter, r *http.Request) {
		var q inviteRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&q); err != nil {
			answerJSON(w, 0, nil, orama.Errorf(orama.KindInvalid, "invalid_body", "the request cannot be read"))
			return
		}
		if e.cfg.Mesh.Enroll == "" {
			answerJSON(w, 0, nil, orama.Errorf(orama.KindConflict, "no_enroll", "no node can join here: mesh.enroll, HOST:PORT, is not set in this node's configuration"))
			return
		}
		token, expires, err := e.server.Invite(r.Context(), time.Duration(q.TTLSeconds*float64(time.Second)))
		answerJSON(w, http.StatusCreated, Invited{token, expires}, err)
	})
	mux.HandleFunc("GET /v1/node/mesh", func(w http.ResponseWriter, r *http.Request) {
		s, err := m.Status(r.Context())
		answerJSON(w, http.StatusOK, s, err)
	})
	mux.HandleFunc("POST /v1/node/mesh/key", func(w http.ResponseWriter, r *http.Request) {
		err := m.Rotate(r.Context())
		answerJSON(w, http.StatusNoContent, nil, err)
	})
}

type nodeError struct {
	Kind    orama.Kind `json:"kind"`
	Code    string     `json:"code"`
	Message string     `json:"message"`
}

func answerJSON(w http.ResponseWriter, status int, v any, err error) {
	if err != nil {
		var e *orama.Error
		if !errors.As(err, &e) {
			e = orama.Errorf(orama.KindInternal, "failed", "%v", err) // its reader is this host's operator
		}
		status, v = e.Kind.HTTPStatus(), map[string]nodeError{"error": {e.Kind, e.Code, e.Error()}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if v != nil {
		_ = json.NewEncoder(w).Encode(v) // the reader went away
	}
}

// Invite asks the agent at a socket for an invitation.
func Invite(ctx context.Context, socket string, ttl time.Duration) (Invited, error) {
	var out Invited
	err := askAgent(ctx, socket, http.MethodPost, "/v1/node/invitations", inviteRequest{ttl.Seconds()}, &out)
	return out, err
}

// MeshStatus asks the agent at a socket for its host's mesh.
func MeshStatus(ctx context.Context, socket string) (mesh.Status, error) {
	var out mesh.Status
	err := askAgent(ctx, socket, http.MethodGet, "/v1/node/mesh", nil, &out)
	return out, err
}

// RotateKey has the agent at a socket change its host's mesh key, and returns when the others use the new one.
func RotateKey(ctx context.Context, socket string) error {
	return askAgent(ctx, socket, http.MethodPost, "/v1/node/mesh/key", nil, nil)
}

func askAgent(ctx context.Context, socket, method, path string, in, out any) error {
	err := dialUnit(socket).do(ctx, method, path, in, out)
	var refused struct {
		Error *nodeError `json:"error"`
	}
	if err != nil && json.Unmarshal([]byte(err.Error()), &refused) == nil && refused.Error != nil {
		return orama.Errorf(refused.Error.Kind, refused.Error.Code, "%s", refused.Error.Message)
	}
	if err != nil {
		return &orama.Error{Kind: orama.KindUnavailable, Code: "agent_unreachable", Message: "the node's agent does not answer on " + socket, Err: err}
	}
	return nil
}
