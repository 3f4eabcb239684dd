package operator

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// maxOrigins bounds a namespace's list.
const maxOrigins = 100

// Origins are the web origins whose pages may call the gateways for a namespace.
type Origins struct {
	Origins []string `json:"origins"`
}

// Origins reads a namespace's list.
func (o *Operator) Origins(ctx context.Context, ns orama.NamespaceID) (Origins, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Origins{}, err
	}
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return Origins{}, err
	}
	n, ok := namespaceOf(c, ns)
	if !ok {
		return Origins{}, notFound(ns)
	}
	return Origins{append([]string{}, n.AllowedOrigins...)}, nil
}

// SetOrigins replaces a namespace's list. "*" is every origin; any other is a scheme and a host, such as
// "https://app.example.org" (RFC 6454).
func (o *Operator) SetOrigins(ctx context.Context, ns orama.NamespaceID, list Origins) (Origins, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Origins{}, err
	}
	if len(list.Origins) > maxOrigins {
		return Origins{}, orama.Errorf(orama.KindInvalid, "too_many_origins", "at most %d origins are kept; \"*\" allows every one", maxOrigins)
	}
	for _, v := range list.Origins {
		if !isOrigin(v) {
			return Origins{}, orama.Errorf(orama.KindInvalid, "invalid_origin", "%.100q is no origin; write https://HOST, http://HOST:PORT, or \"*\" for every one", v)
		}
	}
	_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		n, ok := namespaceOf(c, ns)
		if !ok {
			return orama.Change{}, notFound(ns)
		}
		if slices.Equal(n.AllowedOrigins, list.Origins) {
			return orama.Change{}, nil
		}
		n.AllowedOrigins = slices.Clone(list.Origins)
		return orama.Change{PutNamespaces: []orama.Namespace{n}, Events: []orama.Event{o.event(c, "namespace.origins", ns)}}, nil
	})
	return list, err
}

func isOrigin(v string) bool {
	if v == "*" {
		return true
	}
	u, err := url.Parse(v)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.Scheme+"://"+u.Host == v && len(v) <= 260
}

func (h handler) origins(w http.ResponseWriter, r *http.Request) {
	got, err := h.o.Origins(r.Context(), named(r))
	h.answer(w, http.StatusOK, got, err)
}

func (h handler) setOrigins(w http.ResponseWriter, r *http.Request) {
	var q Origins
	if err := decode(w, r, &q); err != nil {
		h.refuse(w, err)
		return
	}
	got, err := h.o.SetOrigins(r.Context(), named(r), q)
	h.answer(w, http.StatusOK, got, err)
}

// Origins reads a namespace's web origins.
func (c *Client) Origins(ctx context.Context, name string) (Origins, error) {
	var got Origins
	err := c.call(ctx, http.MethodGet, path(name, "/origins"), nil, &got)
	return got, err
}

// SetOrigins replaces them.
func (c *Client) SetOrigins(ctx context.Context, name string, list Origins) (Origins, error) {
	var got Origins
	err := c.call(ctx, http.MethodPut, path(name, "/origins"), list, &got)
	return got, err
}
