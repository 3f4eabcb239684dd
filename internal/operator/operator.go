// Package operator is what an operator may ask of a cluster: make and remove namespaces, give them WebRTC and take
// it away, see how they do, mint tokens. It commits planned changes and waits until they are observed; it
// starts nothing itself, that is each node's agent. Handler serves it on the agent's Unix socket and Client
// speaks to that. It is not for strangers: whoever reaches the socket is the operator.
package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

// Store is what is needed of the cluster's records.
type Store interface {
	Cluster(ctx context.Context) (orama.Cluster, error)
	// Commit makes a change whole or not at all; orama.ErrConflict when the records moved on.
	Commit(ctx context.Context, ch orama.Change) error
}

// Keys seals secrets and signs tokens.
type Keys interface {
	Seal(plaintext, aad string) string
	MintToken(t auth.Token) (string, error)
}

// Deps are the operator's mechanisms.
type Deps struct {
	Store      Store
	Keys       Keys
	BaseDomain string
	Wake       func()           // tells this node's agent to look at the records now; nil: it looks by itself
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger
}

// Operator may be used from any goroutine, and beside others on the same records.
type Operator struct {
	d Deps

	mu        sync.Mutex // guards the following fields
	watch     plan.Watch
	explained map[string]bool // reasons that were logged
}

// New makes an operator.
func New(d Deps) *Operator {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Wake == nil {
		d.Wake = func() {}
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Operator{d: d}
}

// Limits of tokens that an operator mints.
const (
	defaultTokenTTL = 15 * time.Minute
	maxTokenTTL     = 24 * time.Hour
)

// Namespace is a tenant, as an operator lists it.
type Namespace struct {
	Name      orama.NamespaceID `json:"name"`
	WebRTC    bool              `json:"webrtc"` // enabled, and not being disabled
	CreatedAt time.Time         `json:"created_at"`
}

// CreateNamespace makes a namespace and its owner key, which is shown by this answer only. A name that is taken
// gives a conflict, "namespace_exists".
func (o *Operator) CreateNamespace(ctx context.Context, name string) (ownerKey string, err error) {
	if err := auth.NewNamespace(name); err != nil {
		return "", err
	}
	ns := orama.NamespaceID(name)
	shown, key := auth.NewAPIKey(ns, "owner")
	_, err = o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		if _, taken := namespaceOf(c, ns); taken {
			return orama.Change{}, orama.Errorf(orama.KindConflict, "namespace_exists", "there is a namespace %s already; choose another name", ns)
		}
		return orama.Change{
			PutNamespaces: []orama.Namespace{{ID: ns, CreatedAt: o.d.Now()}},
			PutKeys:       []orama.APIKey{key},
			Events:        []orama.Event{o.event(c, "namespace.created", ns)},
		}, nil
	})
	if err != nil {
		return "", err
	}
	return shown, nil
}

// ListNamespaces lists the tenants by name.
func (o *Operator) ListNamespaces(ctx context.Context) ([]Namespace, error) {
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Namespace, len(c.Namespaces))
	for i, n := range c.Namespaces {
		out[i] = Namespace{Name: n.ID, WebRTC: enabled(n), CreatedAt: n.CreatedAt}
	}
	slices.SortFunc(out, func(a, b Namespace) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// DeleteNamespace removes a namespace with its keys and rooms. One that has WebRTC is refused ("webrtc_enabled")
// unless force says to disable it first, which waits as DisableWebRTC does.
func (o *Operator) DeleteNamespace(ctx context.Context, ns orama.NamespaceID, force bool) error {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return err
	}
	if force {
		if err := o.DisableWebRTC(ctx, ns, nil); err != nil {
			return err
		}
	}
	_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		n, ok := namespaceOf(c, ns)
		if !ok {
			return orama.Change{}, notFound(ns)
		}
		if n.WebRTC != nil || len(instancesOf(c, ns)) > 0 {
			return orama.Change{}, orama.Errorf(orama.KindConflict, "webrtc_enabled",
				"WebRTC is enabled for %s; disable it first, or delete with --force", ns)
		}
		return orama.Change{DeleteNamespaces: []orama.NamespaceID{ns}, Events: []orama.Event{o.event(c, "namespace.deleted", ns)}}, nil
	})
	return err
}

// TokenRequest says what a token is to permit. The zero value of a permission means: publish, subscribe and data
// yes, admin no.
type TokenRequest struct {
	User      orama.UserID
	Room      orama.RoomID  // "": any room
	TTL       time.Duration // whole seconds, at most 24 h; 0: 15 minutes
	Publish   *bool
	Subscribe *bool
	Data      *bool
	Admin     bool
}

// Minted is a token and when it ends.
type Minted struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// MintToken makes a token for a user of a namespace.
func (o *Operator) MintToken(ctx context.Context, ns orama.NamespaceID, r TokenRequest) (Minted, error) {
	if r.TTL == 0 {
		r.TTL = defaultTokenTTL
	}
	if r.TTL < time.Second || r.TTL > maxTokenTTL {
		return Minted{}, orama.Errorf(orama.KindInvalid, "invalid_ttl", "a token lives 1 second to %s", maxTokenTTL)
	}
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Minted{}, err
	}
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return Minted{}, err
	}
	if _, ok := namespaceOf(c, ns); !ok {
		return Minted{}, notFound(ns)
	}
	expires := o.d.Now().Add(r.TTL).Truncate(time.Second)
	token, err := o.d.Keys.MintToken(auth.Token{Namespace: ns, User: r.User, Room: r.Room, Expires: expires,
		Publish: unless(r.Publish), Subscribe: unless(r.Subscribe), Data: unless(r.Data), Admin: r.Admin})
	if err != nil {
		return Minted{}, err
	}
	return Minted{Token: token, ExpiresAt: expires.UTC()}, nil
}

// unless is true unless it was said otherwise.
func unless(b *bool) bool { return b == nil || *b }

// How often a change is planned again when others were first. With a pause of up to 50 ms between, the last try
// comes about a second later.
const (
	changeTries = 40
	changePause = 50 * time.Millisecond
)

// change reads, decides and commits, and again from the start when somebody else was first. It gives the records
// that the change was decided on. A decision that changes nothing is not committed.
func (o *Operator) change(ctx context.Context, decide func(orama.Cluster) (orama.Change, error)) (orama.Cluster, error) {
	for try := 1; ; try++ {
		c, err := o.d.Store.Cluster(ctx)
		if err != nil {
			return c, err
		}
		ch, err := decide(c)
		if err != nil || plan.Empty(ch) {
			return c, err
		}
		ch.Base = c.Revision
		err = o.d.Store.Commit(ctx, ch)
		if err == nil {
			o.d.Wake()
			return c, nil
		}
		if !errors.Is(err, orama.ErrConflict) {
			return c, err
		}
		if try == changeTries {
			return c, &orama.Error{Kind: orama.KindConflict, Code: "busy",
				Message: "others keep changing the cluster; try again", Err: err}
		}
		if err := sleep(ctx, rand.N(changePause)); err != nil {
			return c, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// event is named after the revision it makes, so that the same change is the same event.
func (o *Operator) event(c orama.Cluster, kind string, ns orama.NamespaceID) orama.Event {
	return orama.Event{ID: fmt.Sprintf("r%d-%s-%s", c.Revision+1, kind, ns), At: o.d.Now(), Kind: kind, Namespace: ns}
}

func notFound(ns orama.NamespaceID) *orama.Error {
	return orama.Errorf(orama.KindNotFound, "namespace_not_found", "there is no namespace %s; create it first", ns)
}

func namespaceOf(c orama.Cluster, id orama.NamespaceID) (orama.Namespace, bool) {
	i := slices.IndexFunc(c.Namespaces, func(n orama.Namespace) bool { return n.ID == id })
	if i < 0 {
		return orama.Namespace{}, false
	}
	return c.Namespaces[i], true
}

// instancesOf lists a namespace's instances, TURN before SFU, by node.
func instancesOf(c orama.Cluster, ns orama.NamespaceID) []orama.Instance {
	var out []orama.Instance
	for _, i := range c.Instances {
		if i.Namespace == ns {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b orama.Instance) int {
		return cmp.Or(-cmp.Compare(a.Role, b.Role), cmp.Compare(a.Node, b.Node))
	})
	return out
}

func enabled(n orama.Namespace) bool { return n.WebRTC != nil && !n.WebRTC.Disabling }
