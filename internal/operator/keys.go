package operator

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// Keyring makes and ends operator keys: those that let their holder do, over any gateway, all that Handler and
// Inspector serve. It is served on the agent's socket alone, so that a key does not make others.
type Keyring struct {
	Operator *Operator
	Keys     interface {
		// APIKey reads a key by its id; orama.ErrNotFound when there is none.
		APIKey(ctx context.Context, id string) (orama.APIKey, error)
	}
}

// OperatorKey is a key that was made. Key is shown by this answer only.
type OperatorKey struct {
	ID        string    `json:"id"`
	Key       string    `json:"key"`
	CreatedAt time.Time `json:"created_at"`
}

// Create makes a key.
func (k Keyring) Create(ctx context.Context) (OperatorKey, error) {
	shown, key := auth.NewAPIKey("", auth.RoleOperator)
	err := k.commit(ctx, orama.Change{PutKeys: []orama.APIKey{key}}, "created", key.ID)
	if err != nil {
		return OperatorKey{}, err
	}
	return OperatorKey{ID: key.ID, Key: shown, CreatedAt: key.CreatedAt.UTC()}, nil
}

// Remove ends a key at once. The id is the part of the key between its first two underscores.
func (k Keyring) Remove(ctx context.Context, id string) error {
	key, err := k.Keys.APIKey(ctx, id)
	if errors.Is(err, orama.ErrNotFound) || err == nil && key.Role != auth.RoleOperator {
		return orama.Errorf(orama.KindNotFound, "key_not_found", "there is no operator key of this id; it is the part after \"orama_\"")
	}
	if err != nil {
		return err
	}
	return k.commit(ctx, orama.Change{DeleteKeys: []string{id}}, "removed", id)
}

func (k Keyring) commit(ctx context.Context, ch orama.Change, what, id string) error {
	_, err := k.Operator.change(ctx, func(orama.Cluster) (orama.Change, error) {
		ch.Events = []orama.Event{{ID: "operator-key-" + what + "-" + id, At: k.Operator.d.Now(),
			Kind: "operator_key." + what, Detail: "operator key " + id}}
		return ch, nil
	})
	return err
}

// Handler serves:
//
//	POST   /v1/operator-keys       → 201 OperatorKey
//	DELETE /v1/operator-keys/{id}  204
func (k Keyring) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/operator-keys", func(w http.ResponseWriter, r *http.Request) {
		got, err := k.Create(r.Context())
		reply(w, http.StatusCreated, got, err)
	})
	mux.HandleFunc("DELETE /v1/operator-keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		err := k.Remove(r.Context(), r.PathValue("id"))
		reply(w, http.StatusNoContent, nil, err)
	})
	return mux
}

func reply(w http.ResponseWriter, status int, body any, err error) {
	if err != nil {
		status, body = orama.KindOf(err).HTTPStatus(), errorAnswer{toWire(err)}
	}
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller went away
}

// CreateOperatorKey makes an operator key; the agent's socket alone takes it.
func (c *Client) CreateOperatorKey(ctx context.Context) (OperatorKey, error) {
	var k OperatorKey
	err := c.call(ctx, http.MethodPost, "/v1/operator-keys", nil, &k)
	return k, err
}

// RemoveOperatorKey ends an operator key by its id.
func (c *Client) RemoveOperatorKey(ctx context.Context, id string) error {
	if id == "" || id == "." || id == ".." {
		id = "_" // no segment of a path, and no id: the agent says so
	}
	return c.call(ctx, http.MethodDelete, "/v1/operator-keys/"+url.PathEscape(id), nil, nil)
}
