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

const (
	defaultWait = 60 * time.Second
	maxWait     = 10 * time.Minute
	minTTL      = 5 * time.Second // below it a credential would end before its refresh arrived
	maxTTL      = 24 * time.Hour
	// lookEvery is how often the records are read while something is awaited.
	lookEvery = 50 * time.Millisecond
)

// Options say how WebRTC is enabled.
type Options struct {
	CredentialTTL time.Duration // of TURN credentials; 0: as it is, or 10 minutes
	Wait          time.Duration // until all is seen ready; 0: 60 s
}

func (p *Options) check() error {
	if p.Wait == 0 {
		p.Wait = defaultWait
	}
	if p.Wait < 0 || p.Wait > maxWait {
		return orama.Errorf(orama.KindInvalid, "invalid_wait", "waiting takes at most %s", maxWait)
	}
	if p.CredentialTTL != 0 && (p.CredentialTTL < minTTL || p.CredentialTTL > maxTTL) {
		return orama.Errorf(orama.KindInvalid, "invalid_ttl", "TURN credentials live %s to %s", minTTL, maxTTL)
	}
	return nil
}

// EnableWebRTC gives a namespace TURN and SFUs and returns when they were seen to serve, are named in DNS, and the nodes
// have them in their state files. Where it is enabled already it adds what is missing, and returns what is there.
//
// First it checks what everything rests upon: without a store that can be written, or a single node whose store, cache and
// gateway serve, nothing is begun (unavailable, "prerequisite_missing"). Other nodes that lack something are named in
// progress and do not hold it up.
//
// After Wait one TURN and one SFU are enough. With less, what this call began is undone, and the error
// (unavailable, "webrtc_not_ready") says per node why. When ctx ends first, nothing is undone: the agents carry on,
// and the next call finds what they did. progress may be nil; it is called by this goroutine only.
func (o *Operator) EnableWebRTC(ctx context.Context, ns orama.NamespaceID, opt Options, progress func(Step)) (Status, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Status{}, err
	}
	if err := opt.check(); err != nil {
		return Status{}, err
	}
	r := newReporter(progress)
	deadline := o.d.Now().Add(opt.Wait)
	if err := o.prerequisites(ctx, ns, opt, deadline, r); err != nil {
		return Status{}, err
	}
	began, revision, err := o.place(ctx, ns, opt, r)
	if err != nil {
		return Status{}, err
	}
	missing, err := o.awaitReady(ctx, ns, deadline, r)
	if err != nil {
		return Status{}, err
	}
	if missing != "" {
		return Status{}, o.giveUp(ctx, ns, opt, began, missing, r)
	}
	if err := o.publish(ctx, ns, r); err != nil {
		return Status{}, err
	}
	if err := o.awaitState(ctx, revision, deadline, r); err != nil {
		return Status{}, err
	}
	return o.Status(ctx, ns)
}

// place commits the record, the nodes and the ports. It says whether this call made the record, and the revision from
// which on the nodes are to have it.
func (o *Operator) place(ctx context.Context, ns orama.NamespaceID, opt Options, r *reporter) (began bool, revision int64, err error) {
	sealed := o.d.Keys.Seal(auth.NewTURNSecret(), plan.SecretAAD(ns))
	var ch orama.Change
	before, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		var err error
		ch, err = plan.Enable(c, ns, plan.EnableOptions{SealedSecret: sealed, CredentialTTL: opt.CredentialTTL, Now: o.d.Now()})
		return ch, err
	})
	if err != nil {
		return false, 0, err
	}
	revision = before.Revision
	if !plan.Empty(ch) {
		revision++
	}
	n, _ := namespaceOf(before, ns)
	began = n.WebRTC == nil
	if began {
		r.say(StepSecret, "", Done, "32 random bytes, sealed with the cluster key")
	} else {
		r.say(StepSecret, "", Done, "kept")
	}
	if len(ch.PutNamespaces) == 1 {
		n = ch.PutNamespaces[0]
		r.say(StepRecord, "", Done, "credentials live %s", n.WebRTC.CredentialTTL)
	} else {
		r.say(StepRecord, "", Done, "kept: credentials live %s", n.WebRTC.CredentialTTL)
	}
	o.sayPorts(append(instancesOf(before, ns), ch.PutInstances...), r)
	return began, revision, nil
}

// sayPorts names each node's blocks, whatever their role.
func (o *Operator) sayPorts(instances []orama.Instance, r *reporter) {
	byNode := map[orama.NodeID][]string{}
	for _, i := range instances {
		if i.Ports.Relay.Count > 0 {
			byNode[i.Node] = append(byNode[i.Node], "relay "+ports(i.Ports.Relay))
		}
		if i.Ports.Media.Count > 0 {
			byNode[i.Node] = append(byNode[i.Node], "signalling "+ports(i.Ports.Signal), "media "+ports(i.Ports.Media))
		}
	}
	for _, node := range sortedKeys(byNode) {
		r.say(StepPorts, node, Done, "%s", strings.Join(byNode[node], ", "))
	}
}

func ports(p orama.PortRange) string {
	if p.Count == 1 {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, int(p.First)+int(p.Count)-1)
}

// awaitReady looks at the instances until all are ready, or enough of them at the deadline. missing says why it is not enough.
func (o *Operator) awaitReady(ctx context.Context, ns orama.NamespaceID, deadline time.Time, r *reporter) (missing string, err error) {
	for {
		c, readErr := o.d.Store.Cluster(ctx)
		late := !o.d.Now().Before(deadline)
		switch {
		case readErr != nil && (late || ctx.Err() != nil):
			return "", readErr // what cannot be read is not undone either
		case readErr == nil:
			n, ok := namespaceOf(c, ns)
			if !ok || !enabled(n) {
				return "", orama.Errorf(orama.KindConflict, "webrtc_disabling", "WebRTC was disabled for %s meanwhile", ns)
			}
			instances := wanted(c, ns, o.d.Now())
			o.sayInstances(instances, late, r)
			if allReady(instances) {
				sayMissing(plan.Missing(c, ns, o.d.Now()), r)
				return "", nil
			}
			if late {
				sayMissing(plan.Missing(c, ns, o.d.Now()), r)
				return notEnough(instances), nil
			}
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return "", err
		}
	}
}

// wanted is how those of a namespace's instances are seen that are to run.
func wanted(c orama.Cluster, ns orama.NamespaceID, now time.Time) []Instance {
	var out []Instance
	for _, i := range instancesOf(c, ns) {
		if i.Desired == orama.DesiredRun {
			out = append(out, seen(i, now))
		}
	}
	return out
}

func (o *Operator) sayInstances(instances []Instance, late bool, r *reporter) {
	for _, i := range instances {
		switch {
		case i.State == orama.StateReady:
			r.say(string(i.Role), i.Node, Done, "ready")
		case i.State == orama.StateFailed && i.Detail != "":
			r.say(string(i.Role), i.Node, Failed, "%s", i.Detail)
		case i.State == orama.StateFailed || late:
			r.say(string(i.Role), i.Node, Failed, "%s", why(i))
		default:
			r.say(string(i.Role), i.Node, Waiting, "%s", why(i))
		}
	}
}

// sayMissing tells of what could not be placed. It is no failure: Converge adds it when a node can take it.
func sayMissing(missing []plan.Shortfall, r *reporter) {
	for _, m := range missing {
		r.say(string(m.Role), "", Failed, "%d of %d, the rest comes when a node can take it: %s", m.Have, m.Want, m.Why)
	}
}

func why(i Instance) string {
	if i.Detail == "" {
		return string(i.State)
	}
	return fmt.Sprintf("%s: %s", i.State, i.Detail)
}

func allReady(instances []Instance) bool {
	return !slices.ContainsFunc(instances, func(i Instance) bool { return i.State != orama.StateReady }) && notEnough(instances) == ""
}

// notEnough is "" with at least one TURN and one SFU ready, otherwise what each instance lacks.
func notEnough(instances []Instance) string {
	ready := map[orama.Role]int{}
	var lacks []string
	for _, i := range instances {
		if i.State == orama.StateReady {
			ready[i.Role]++
		} else {
			lacks = append(lacks, fmt.Sprintf("%s %s is %s", i.Node, i.Role, why(i)))
		}
	}
	if ready[orama.RoleTURN] > 0 && ready[orama.RoleSFU] > 0 {
		return ""
	}
	if len(lacks) == 0 {
		return "no instance is placed"
	}
	return strings.Join(lacks, "; ")
}

// giveUp undoes what this call began. A namespace that had WebRTC before keeps it: an outage is no reason to
// take away its ports and secret.
func (o *Operator) giveUp(ctx context.Context, ns orama.NamespaceID, opt Options, began bool, missing string, r *reporter) error {
	e := &orama.Error{Kind: orama.KindUnavailable, Code: "webrtc_not_ready"}
	if !began {
		e.Message = fmt.Sprintf("WebRTC stays enabled for %s but does not serve after %s: %s", ns, opt.Wait, missing)
		return e
	}
	// The caller may be gone by now; what it began is undone all the same.
	bg, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*goneWithin+stateWithin)
	defer cancel()
	if err := o.disable(bg, ns, r); err != nil {
		e.Message = fmt.Sprintf("WebRTC could not be enabled for %s within %s: %s; undoing it is under way and goes on by itself", ns, opt.Wait, missing)
		e.Err = err
		return e
	}
	e.Message = fmt.Sprintf("WebRTC could not be enabled for %s within %s, and all was undone: %s", ns, opt.Wait, missing)
	return e
}

// publish names the ready relays in DNS.
func (o *Operator) publish(ctx context.Context, ns orama.NamespaceID, r *reporter) error {
	if err := o.publishAll(ctx); err != nil {
		r.say(StepDNS, "", Failed, "the records could not be written")
		return err
	}
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return err
	}
	byName := map[string][]string{}
	for _, d := range c.DNS {
		if strings.HasSuffix(d.Name, fmt.Sprintf(".ns-%s.%s", ns, o.d.BaseDomain)) {
			byName[d.Name] = append(byName[d.Name], d.Value.String())
		}
	}
	var said []string
	for _, name := range sortedKeys(byName) {
		said = append(said, name+" is "+strings.Join(byName[name], ", "))
	}
	r.say(StepDNS, "", Done, "%s", strings.Join(said, "; "))
	return nil
}

// publishAll brings DNS in step with what was seen, for every namespace.
func (o *Operator) publishAll(ctx context.Context) error {
	_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
		put, del := plan.DNS(c, o.d.BaseDomain)
		return orama.Change{PutDNS: put, DeleteDNS: del}, nil
	})
	return err
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
