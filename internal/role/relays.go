package role

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"

	"orama.network/orama"
	"orama.network/orama/internal/turn"
)

// RelayList is what a TURN server answers who asks for its relays.
type RelayList struct {
	Relays []turn.RelayStatus `json:"relays"`
	Cut    bool               `json:"cut"` // there are more
}

const relaysPath = "/v1/relays"

// relayRoutes lets whoever may use the control socket see the living relays, and end one.
func relayRoutes(mux *http.ServeMux, srv *turn.Server) {
	mux.HandleFunc("GET "+relaysPath, func(w http.ResponseWriter, r *http.Request) {
		var out RelayList
		out.Relays, out.Cut = srv.Relays(orama.NamespaceID(r.URL.Query().Get("namespace")))
		writeJSON(w, out)
	})
	mux.HandleFunc("DELETE "+relaysPath+"/{namespace}/{port}", func(w http.ResponseWriter, r *http.Request) {
		if err := srv.EndRelay(r.PathValue("namespace") + "/" + r.PathValue("port")); err != nil {
			http.Error(w, err.Error(), orama.KindOf(err).HTTPStatus())
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// Relays asks the TURN server at a control socket for the living relays of a namespace, or of all.
func Relays(ctx context.Context, control string, ns orama.NamespaceID) (out RelayList, err error) {
	path := relaysPath
	if ns != "" {
		path += "?namespace=" + url.QueryEscape(string(ns))
	}
	err = relayError(control, dialUnit(control).do(ctx, http.MethodGet, path, nil, &out))
	return out, err
}

// EndRelay ends a relay of the TURN server at a control socket, by the id that Relays gave.
func EndRelay(ctx context.Context, control, id string) error {
	ns, port, ok := strings.Cut(id, "/")
	if !ok || ns == "" || port == "" || strings.Contains(port, "/") {
		return orama.Errorf(orama.KindInvalid, "bad_relay_id", "%.80q is no relay's id, which is NAMESPACE/PORT; 'orama turn list' shows them", id)
	}
	return relayError(control, dialUnit(control).do(ctx, http.MethodDelete, relaysPath+"/"+url.PathEscape(ns)+"/"+url.PathEscape(port), nil, nil))
}

// relayError words why a control socket did not do as it was asked.
func relayError(control string, err error) error {
	var refused *unitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &refused):
		return orama.Errorf(orama.KindUnavailable, "no_turn", "no TURN server answers at %s: %v; name its socket with --control", control, plainly(err))
	case refused.status == http.StatusNotFound:
		return orama.Errorf(orama.KindNotFound, "no_such_relay", "%s", refused.text)
	case refused.status == orama.KindInvalid.HTTPStatus():
		return orama.Errorf(orama.KindInvalid, "bad_relay_id", "%s", refused.text)
	}
	return err
}

// plainly leaves off what net/http and net put around an error of the system.
func plainly(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// FindTURN gives the control socket of this machine's TURN server: that of a node of the local cluster in dataDir, or that of a
// host under systemd.
func FindTURN(dataDir string, node orama.NodeID) (string, error) {
	runDir, err := RunDir(dataDir)
	if err != nil {
		return "", err
	}
	local := turnSocket(runDir, node)
	for _, path := range []string{local, hostTURNSocket} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", orama.Errorf(orama.KindUnavailable, "no_turn", "there is no TURN server at %s or %s; start one with 'orama up', or name its socket with --control", local, hostTURNSocket)
}
