package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// prerequisites checks what WebRTC rests upon before anything is begun. The records are written, which proves a store
// with a quorum; and that the write makes a new revision has every agent that lives look at the records and say how its node
// does, ports that strangers hold included, so that the placement that follows is made on what is so now. A node that
// lives and has not answered is waited for: until the deadline, or, when another serves, for half of the time until then,
// so that what is placed has the rest. Where there is nothing to place nothing is checked.
func (o *Operator) prerequisites(ctx context.Context, ns orama.NamespaceID, opt Options, deadline time.Time, r *reporter) error {
	needed := true
	before, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		ch, err := plan.Enable(c, ns, plan.EnableOptions{CredentialTTL: opt.CredentialTTL, Now: o.d.Now()})
		if err != nil && orama.KindOf(err) != orama.KindLimited { // nodes that are not heard yet may have room
			return orama.Change{}, err
		}
		needed = err != nil || len(ch.PutInstances) > 0
		if !needed {
			return orama.Change{}, nil
		}
		n, _ := namespaceOf(c, ns)
		return orama.Change{PutNamespaces: []orama.Namespace{n}}, nil // as it was: only the revision is new
	})
	if kind := orama.KindOf(err); kind == orama.KindUnavailable || kind == orama.KindInternal {
		if ctx.Err() != nil {
			return err
		}
		e := orama.Errorf(orama.KindUnavailable, "prerequisite_missing",
			"the store cannot be written: see that it runs and that most of its nodes reach each other, then enable again")
		e.Err = err
		return e
	}
	if err != nil || !needed {
		return err
	}
	return o.awaitAnswers(ctx, before.Revision+1, deadline, r)
}

// awaitAnswers waits until every node that lives has said how it stands, and judges.
func (o *Operator) awaitAnswers(ctx context.Context, revision int64, deadline time.Time, r *reporter) error {
	half := o.d.Now().Add(deadline.Sub(o.d.Now()) / 2)
	for {
		c, err := o.d.Store.Cluster(ctx)
		late := !o.d.Now().Before(deadline)
		switch {
		case err != nil && (late || ctx.Err() != nil):
			return err
		case err == nil:
			nodes := plan.Prerequisites(c, o.d.Now(), revision)
			waiting := len(nodes) == 0 || slices.ContainsFunc(nodes, func(p plan.Prerequisite) bool { return p.Standing == plan.Unknown })
			late = late || enoughServe(nodes) == nil && !o.d.Now().Before(half)
			sayPrerequisites(nodes, late, r)
			if late || !waiting {
				return enoughServe(nodes)
			}
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
}

func sayPrerequisites(nodes []plan.Prerequisite, late bool, r *reporter) {
	for _, p := range nodes {
		switch {
		case p.Standing == plan.Serves:
			r.say(StepPrerequisites, p.Node, Done, "store, cache and gateway serve")
		case p.Standing == plan.Unknown && !late:
			r.say(StepPrerequisites, p.Node, Waiting, "%s", p.Detail)
		default:
			r.say(StepPrerequisites, p.Node, Failed, "%s", p.Detail)
		}
	}
}

// enoughServe: one node that serves is enough to begin with, for one TURN and one SFU are.
func enoughServe(nodes []plan.Prerequisite) error {
	var wrong []string
	for _, p := range nodes {
		if p.Standing == plan.Serves {
			return nil
		}
		wrong = append(wrong, fmt.Sprintf("%s: %s", p.Node, p.Detail))
	}
	if len(wrong) == 0 {
		wrong = []string{"no node's agent was ever heard; start one"}
	}
	return orama.Errorf(orama.KindUnavailable, "prerequisite_missing",
		"WebRTC needs a node whose store, cache and gateway serve, and there is none: %s", strings.Join(wrong, "; "))
}

// stateWithin is how long an agent that lives may take to save its state file, at least.
const stateWithin = 5 * time.Second

// awaitState waits until the nodes that live have saved their state files as of a revision, and their firewalls follow it, until the deadline but no less
// than stateWithin. A node that has not is told of; it saves the file when it can, so that this is no failure of the whole.
func (o *Operator) awaitState(ctx context.Context, revision int64, deadline time.Time, r *reporter) error {
	if least := o.d.Now().Add(stateWithin); deadline.Before(least) {
		deadline = least
	}
	for {
		late := !o.d.Now().Before(deadline)
		c, err := o.d.Store.Cluster(ctx)
		if err == nil && o.sayState(c, revision, late, r) || late {
			return nil
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// sayState reports whether nothing is left to wait for.
func (o *Operator) sayState(c orama.Cluster, revision int64, late bool, r *reporter) bool {
	all := true
	for _, n := range c.Nodes {
		switch {
		case n.Report.State >= revision:
			r.say(StepState, n.ID, Done, "cluster_state.json is saved")
		case !plan.Alive(n, o.d.Now()):
			r.say(StepState, n.ID, Failed, "its agent is silent; cluster_state.json is saved when it is back")
		case late:
			r.say(StepState, n.ID, Failed, "cluster_state.json was not saved yet, or the firewall does not follow it; look at its agent's log")
		default:
			all = false
			r.say(StepState, n.ID, Waiting, "not saved yet, or not followed by the firewall")
		}
	}
	return all
}
