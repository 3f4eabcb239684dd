package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

// goneWithin is how long disabling waits until every process was seen gone: draining takes a few seconds.
const goneWithin = 60 * time.Second

// DisableWebRTC takes a namespace's relays out of DNS, has every instance drain and stop, and when all were seen gone
// releases ports, record and rooms, and waits for the state files. It is no error when there is nothing to disable. What is not
// seen gone in time, or is on a silent node (unavailable, "webrtc_not_gone"), keeps its ports, and Converge finishes it later.
func (o *Operator) DisableWebRTC(ctx context.Context, ns orama.NamespaceID, progress func(Step)) error {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return err
	}
	return o.disable(ctx, ns, newReporter(progress))
}

func (o *Operator) disable(ctx context.Context, ns orama.NamespaceID, r *reporter) error {
	before, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		n, ok := namespaceOf(c, ns)
		if ok && n.WebRTC == nil {
			return orama.Change{}, nil
		}
		return plan.Disable(c, ns, o.d.Now())
	})
	if err != nil {
		return err
	}
	n, _ := namespaceOf(before, ns)
	if n.WebRTC == nil {
		r.say(StepRecord, "", Done, "WebRTC is not enabled")
		return nil
	}
	r.say(StepDNS, "", Done, "its names are withdrawn")
	revision, err := o.awaitGone(ctx, ns, instancesOf(before, ns), r)
	if err != nil {
		return err
	}
	return o.awaitState(ctx, revision, o.d.Now(), r)
}

// awaitGone finishes the disabling as its instances are seen gone, and gives the revision in which nothing of it is left.
func (o *Operator) awaitGone(ctx context.Context, ns orama.NamespaceID, had []orama.Instance, r *reporter) (int64, error) {
	deadline := o.d.Now().Add(goneWithin)
	for {
		c, err := o.finish(ctx, ns)
		late := !o.d.Now().Before(deadline)
		switch {
		case err != nil && (late || ctx.Err() != nil):
			return 0, err
		case err == nil:
			left := instancesOf(c, ns)
			n, _ := namespaceOf(c, ns)
			again := enabled(n) // somebody else was faster than our look at it
			o.sayGone(had, left, again, r)
			if n.WebRTC == nil || again {
				r.say(StepPorts, "", Done, "released")
				r.say(StepRecord, "", Done, "configuration, rooms and events removed")
				return c.Revision, nil
			}
			if late || onlySilent(c, left, o.d.Now()) {
				return 0, notGone(ns, left, o.d.Now())
			}
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return 0, err
		}
	}
}

// finish commits what plan.Finish finds, and reads again.
func (o *Operator) finish(ctx context.Context, ns orama.NamespaceID) (orama.Cluster, error) {
	_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		ch, _ := plan.Finish(c, ns, o.look(c))
		for i := range ch.Events {
			ch.Events[i].At = o.d.Now()
		}
		return ch, nil
	})
	if err != nil {
		return orama.Cluster{}, err
	}
	return o.d.Store.Cluster(ctx)
}

func (o *Operator) sayGone(had, left []orama.Instance, again bool, r *reporter) {
	for _, h := range had {
		i := slices.IndexFunc(left, func(l orama.Instance) bool { return l.Node == h.Node && l.Role == h.Role })
		if i < 0 || again {
			r.say(string(h.Role), h.Node, Done, "stopped")
		} else {
			r.say(string(h.Role), h.Node, Waiting, "%s", why(seen(left[i], o.d.Now())))
		}
	}
}

// onlySilent reports whether all that is left is on nodes that cannot say when it is gone.
func onlySilent(c orama.Cluster, left []orama.Instance, now time.Time) bool {
	return !slices.ContainsFunc(left, func(i orama.Instance) bool {
		return slices.ContainsFunc(c.Nodes, func(n orama.Node) bool { return n.ID == i.Node && plan.Alive(n, now) })
	})
}

func notGone(ns orama.NamespaceID, left []orama.Instance, now time.Time) error {
	var who []string
	for _, i := range left {
		who = append(who, fmt.Sprintf("%s %s is %s", i.Node, i.Role, why(seen(i, now))))
	}
	return orama.Errorf(orama.KindUnavailable, "webrtc_not_gone",
		"WebRTC is out of use for %s but not all of it was seen stopped; its ports are released when it is, or 10 minutes after its node fell silent: %s",
		ns, strings.Join(who, "; "))
}
