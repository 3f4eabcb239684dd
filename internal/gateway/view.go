package gateway

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"orama.network/orama"
)

// view keeps the last reading of the cluster for a moment, so that a busy gateway reads the store a
// few times a second and not once a request.
type view struct {
	store  Store
	now    func() time.Time
	timing timing
	last   atomic.Pointer[reading]
	turn   chan struct{} // holds one token: whoever has it reads
}

type reading struct {
	cluster orama.Cluster
	at      time.Time
}

func newView(s Store, now func() time.Time, tm timing) *view {
	v := &view{store: s, now: now, timing: tm, turn: make(chan struct{}, 1)}
	v.turn <- struct{}{}
	return v
}

// cluster gives a reading at most viewFor old. When the store does not answer, one of at most
// viewStale: what was true a moment ago is better than turning everybody away.
func (v *view) cluster(ctx context.Context) (orama.Cluster, error) {
	return v.settled(ctx, func(orama.Cluster) bool { return true })
}

// settled gives such a reading when it serves, and one from now when it does not: before somebody is told that what he
// asks for is not there, it must not be there now.
func (v *view) settled(ctx context.Context, serves func(orama.Cluster) bool) (orama.Cluster, error) {
	asked := v.now()
	if r := v.within(v.timing.viewFor); r != nil && serves(r.cluster) {
		return r.cluster, nil
	}
	select {
	case <-v.turn:
		defer func() { v.turn <- struct{}{} }()
	case <-ctx.Done():
		return orama.Cluster{}, ctx.Err()
	}
	if r := v.within(v.timing.viewFor); r != nil && (serves(r.cluster) || !r.at.Before(asked)) { // somebody else has read meanwhile
		return r.cluster, nil
	}
	// The reading serves others too, so that this request's end must not end it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.timing.storeWithin)
	defer cancel()
	at := v.now()
	c, err := v.store.Cluster(ctx)
	if err == nil {
		v.last.Store(&reading{cluster: c, at: at})
		return c, nil
	}
	if r := v.within(v.timing.viewStale); r != nil {
		return r.cluster, nil
	}
	return orama.Cluster{}, storeError(err)
}

func (v *view) within(age time.Duration) *reading {
	r := v.last.Load()
	if r == nil {
		return nil
	}
	if d := v.now().Sub(r.at); d < 0 || d > age {
		return nil
	}
	return r
}

// storeError hides what a store says from strangers, its kind aside.
func storeError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return orTimeout(err)
	}
	if k := orama.KindOf(err); k == orama.KindInternal {
		return &orama.Error{Kind: orama.KindUnavailable, Code: "store_unavailable",
			Message: "the cluster's records cannot be read at the moment; try again", RetryAfter: time.Second, Err: err}
	}
	return err
}

func namespaceOf(c orama.Cluster, id orama.NamespaceID) (orama.Namespace, bool) {
	i := slices.IndexFunc(c.Namespaces, func(n orama.Namespace) bool { return n.ID == id })
	if i < 0 {
		return orama.Namespace{}, false
	}
	return c.Namespaces[i], true
}

func nodeOf(c orama.Cluster, id orama.NodeID) (orama.Node, bool) {
	i := slices.IndexFunc(c.Nodes, func(n orama.Node) bool { return n.ID == id })
	if i < 0 {
		return orama.Node{}, false
	}
	return c.Nodes[i], true
}

// instanceOf finds a namespace's instance of a role on a node.
func instanceOf(c orama.Cluster, ns orama.NamespaceID, role orama.Role, node orama.NodeID) (orama.Instance, bool) {
	i := slices.IndexFunc(c.Instances, func(in orama.Instance) bool {
		return in.Namespace == ns && in.Role == role && in.Node == node
	})
	if i < 0 {
		return orama.Instance{}, false
	}
	return c.Instances[i], true
}

// webrtcOf gives a namespace's WebRTC configuration while it is enabled.
func webrtcOf(ns orama.Namespace) (orama.WebRTCConfig, error) {
	if ns.WebRTC == nil || ns.WebRTC.Disabling {
		return orama.WebRTCConfig{}, orama.Errorf(orama.KindNotFound, "webrtc_not_enabled",
			"WebRTC is not enabled for this namespace; an operator enables it with `orama namespace enable webrtc`")
	}
	return *ns.WebRTC, nil
}
