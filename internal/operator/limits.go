package operator

import (
	"context"
	"net/http"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// Limits are what an operator allows a namespace, whatever its owners want.
type Limits struct {
	MaxParticipants int `json:"max_participants"` // of each room; 0: any number
}

// Limits reads a namespace's limits.
func (o *Operator) Limits(ctx context.Context, ns orama.NamespaceID) (Limits, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Limits{}, err
	}
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return Limits{}, err
	}
	n, ok := namespaceOf(c, ns)
	if !ok {
		return Limits{}, notFound(ns)
	}
	return Limits{n.MaxParticipants}, nil
}

// SetLimits replaces them. A room learns of it with the next join; who is there already stays.
func (o *Operator) SetLimits(ctx context.Context, ns orama.NamespaceID, l Limits) (Limits, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Limits{}, err
	}
	if l.MaxParticipants < 0 || l.MaxParticipants > signal.MaxParticipants {
		return Limits{}, orama.Errorf(orama.KindInvalid, "invalid_limit", "a room's participants are limited to 1 to %d, or by 0 not at all", signal.MaxParticipants)
	}
	_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		n, ok := namespaceOf(c, ns)
		if !ok {
			return orama.Change{}, notFound(ns)
		}
		if n.MaxParticipants == l.MaxParticipants {
			return orama.Change{}, nil
		}
		n.MaxParticipants = l.MaxParticipants
		return orama.Change{PutNamespaces: []orama.Namespace{n}, Events: []orama.Event{o.event(c, "namespace.limits", ns)}}, nil
	})
	return l, err
}

func (h handler) limits(w http.ResponseWriter, r *http.Request) {
	got, err := h.o.Limits(r.Context(), named(r))
	h.answer(w, http.StatusOK, got, err)
}

func (h handler) setLimits(w http.ResponseWriter, r *http.Request) {
	var q Limits
	if err := decode(w, r, &q); err != nil {
		h.refuse(w, err)
		return
	}
	got, err := h.o.SetLimits(r.Context(), named(r), q)
	h.answer(w, http.StatusOK, got, err)
}

// Limits reads a namespace's limits.
func (c *Client) Limits(ctx context.Context, name string) (Limits, error) {
	var got Limits
	err := c.call(ctx, http.MethodGet, path(name, "/limits"), nil, &got)
	return got, err
}

// SetLimits replaces them.
func (c *Client) SetLimits(ctx context.Context, name string, l Limits) (Limits, error) {
	var got Limits
	err := c.call(ctx, http.MethodPut, path(name, "/limits"), l, &got)
	return got, err
}
