package plan

import (
	"fmt"
	"strings"
	"time"

	"orama.network/orama"
)

// The specification's numbers.
const (
	DefaultCredentialTTL = 600 * time.Second
	DefaultTURNNodes     = 2
	DefaultSFUNodes      = 3
)

// EnableOptions says how WebRTC is to be enabled. Zero values mean the defaults.
type EnableOptions struct {
	SealedSecret  string        // used only when the namespace has no secret yet
	CredentialTTL time.Duration // of TURN credentials; 0 leaves what is there, or DefaultCredentialTTL
	TURNNodes     int
	SFUNodes      int
	Now           time.Time
}

// Enable decides how a namespace gets WebRTC: its record, and on which nodes TURN and SFU run with which ports.
// On a namespace that has it, it adds what is missing and nothing else: a change that is Empty means that all is
// as wanted. Fewer nodes than wanted are enough as long as there is one TURN and one SFU; otherwise the error
// (limited, "no_capacity") says per node why. Ports that a node reported as held by strangers are passed over, and
// a node that was not heard for 15 s gets nothing: Converge adds what is missing when it is back.
func Enable(c orama.Cluster, ns orama.NamespaceID, o EnableOptions) (orama.Change, error) {
	n, ok := namespaceOf(c, ns)
	if !ok {
		return orama.Change{}, noNamespace(ns)
	}
	if n.WebRTC != nil && n.WebRTC.Disabling {
		return orama.Change{}, orama.Errorf(orama.KindConflict, "webrtc_disabling",
			"WebRTC is being disabled for %s; enable it again when that is done", ns)
	}
	ch := orama.Change{Base: c.Revision}
	cfg, changed := o.config(n.WebRTC)
	if changed {
		n.WebRTC = &cfg
		ch.PutNamespaces = []orama.Namespace{n}
	}
	p := placementOf(c, ns, o.Now)
	for _, r := range wants(cfg) {
		ch.PutInstances = append(ch.PutInstances, p.place(r.role, r.want)...)
		if p.running(r.role) == 0 {
			return orama.Change{}, noCapacity(ns, r.role, p.reasons(r.role))
		}
	}
	if !Empty(ch) {
		ch.Events = []orama.Event{event(c.Revision, o.Now, "webrtc.enabling", ns, placed(ch.PutInstances))}
	}
	return ch, nil
}

// config is the record as it should be, and whether that differs from what is there.
func (o EnableOptions) config(old *orama.WebRTCConfig) (orama.WebRTCConfig, bool) {
	if old == nil {
		return orama.WebRTCConfig{
			SealedSecret:  o.SealedSecret,
			CredentialTTL: orDefault(o.CredentialTTL, DefaultCredentialTTL),
			TURNNodes:     orDefault(o.TURNNodes, DefaultTURNNodes),
			SFUNodes:      orDefault(o.SFUNodes, DefaultSFUNodes),
			CreatedAt:     o.Now,
		}, true
	}
	cfg := *old
	cfg.CredentialTTL = orDefault(o.CredentialTTL, old.CredentialTTL)
	cfg.TURNNodes = orDefault(o.TURNNodes, old.TURNNodes)
	cfg.SFUNodes = orDefault(o.SFUNodes, old.SFUNodes)
	return cfg, cfg != *old
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// wish is how many instances of a role are wanted.
type wish struct {
	role orama.Role
	want int
}

// wants lists the roles in the order in which they are placed.
func wants(cfg orama.WebRTCConfig) []wish {
	return []wish{{orama.RoleTURN, cfg.TURNNodes}, {orama.RoleSFU, cfg.SFUNodes}}
}

// Shortfall is a role of an enabled namespace that fewer instances are placed of than are wanted.
type Shortfall struct {
	Role       orama.Role
	Have, Want int
	Why        string // per node
}

func (s Shortfall) String() string {
	return fmt.Sprintf("%d of %d %s: %s", s.Have, s.Want, s.Role, s.Why)
}

// Missing lists the roles of a namespace that too few are placed of.
func Missing(c orama.Cluster, ns orama.NamespaceID, now time.Time) []Shortfall {
	n, ok := namespaceOf(c, ns)
	if !ok || n.WebRTC == nil || n.WebRTC.Disabling {
		return nil
	}
	var out []Shortfall
	p := placementOf(c, ns, now)
	for _, r := range wants(*n.WebRTC) {
		if have := p.running(r.role); have < r.want {
			out = append(out, Shortfall{r.role, have, r.want, strings.Join(p.reasons(r.role), "; ")})
		}
	}
	return out
}

func placed(instances []orama.Instance) string {
	var b strings.Builder
	for _, i := range instances {
		fmt.Fprintf(&b, "%s on %s, ", i.Role, i.Node)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

func noNamespace(ns orama.NamespaceID) *orama.Error {
	return orama.Errorf(orama.KindNotFound, "namespace_not_found", "there is no namespace %s; create it first", ns)
}

func noCapacity(ns orama.NamespaceID, role orama.Role, reasons []string) *orama.Error {
	return orama.Errorf(orama.KindLimited, "no_capacity", "no node can take %s for %s: %s",
		strings.ToUpper(string(role)), ns, strings.Join(reasons, "; "))
}

// event makes an event whose id is the same for the same change, so that a repeated write is one row.
func event(base int64, at time.Time, kind string, ns orama.NamespaceID, detail string) orama.Event {
	return orama.Event{ID: fmt.Sprintf("r%d-%s-%s", base+1, kind, ns), At: at, Kind: kind, Namespace: ns, Detail: detail}
}

// Empty reports whether a change changes nothing, so that it need not be committed.
func Empty(ch orama.Change) bool {
	return len(ch.PutNamespaces)+len(ch.DeleteNamespaces)+len(ch.PutKeys)+len(ch.DeleteKeys)+len(ch.PutInstances)+len(ch.DeleteInstances)+
		len(ch.PutDNS)+len(ch.DeleteDNS)+len(ch.DeleteRoomsOf)+len(ch.DeleteEventsOf)+len(ch.Events) == 0
}

// Disable decides the first half of taking WebRTC away: no name leads to it, no credential is given, and every
// instance is to drain and stop. The ports stay taken until Finish. A namespace without WebRTC gives
// "webrtc_not_enabled"; one that is being disabled gives an Empty change, or what is still missing of it.
func Disable(c orama.Cluster, ns orama.NamespaceID, now time.Time) (orama.Change, error) {
	n, ok := namespaceOf(c, ns)
	if !ok {
		return orama.Change{}, noNamespace(ns)
	}
	if n.WebRTC == nil {
		return orama.Change{}, orama.Errorf(orama.KindNotFound, "webrtc_not_enabled", "WebRTC is not enabled for %s", ns)
	}
	ch := orama.Change{Base: c.Revision}
	if !n.WebRTC.Disabling {
		cfg := *n.WebRTC
		cfg.Disabling = true
		n.WebRTC = &cfg
		ch.PutNamespaces = []orama.Namespace{n}
		ch.Events = []orama.Event{event(c.Revision, now, "webrtc.disabling", ns, "")}
	}
	for _, i := range c.Instances {
		if i.Namespace == ns && i.Desired != orama.DesiredStop {
			i.Desired = orama.DesiredStop
			ch.PutInstances = append(ch.PutInstances, i)
		}
	}
	for _, r := range c.DNS {
		if recordNamespace(r.Name) == ns {
			ch.DeleteDNS = append(ch.DeleteDNS, r)
		}
	}
	return ch, nil
}

// Finish decides the second half: instances that were to stop and were seen gone give their ports back, and
// when none is left of a namespace that is being disabled, its configuration, rooms and events go too. False: there is
// nothing to do now. An agent reports gone only of an instance that it knew was to stop.
//
// A lost node cannot say that its instances are gone. They are forgotten without it, in a namespace that is enabled
// when those that replaced them were seen ready; should it come back, its agent stops what has no record.
func Finish(c orama.Cluster, ns orama.NamespaceID, s Silence) (orama.Change, bool) {
	n, ok := namespaceOf(c, ns)
	if !ok {
		return orama.Change{}, false
	}
	ch := orama.Change{Base: c.Revision}
	left := 0
	for _, i := range c.Instances {
		if i.Namespace != ns {
			continue
		}
		if i.Desired == orama.DesiredStop && (i.Observed.State == orama.StateGone || s.lost(c, i.Node) && replaced(c, n, i.Role, s)) {
			ch.DeleteInstances = append(ch.DeleteInstances, i)
		} else {
			left++
		}
	}
	if n.WebRTC != nil && n.WebRTC.Disabling && left == 0 {
		n.WebRTC = nil
		ch.PutNamespaces = []orama.Namespace{n}
		ch.DeleteRoomsOf = []orama.NamespaceID{ns}
		ch.DeleteEventsOf = []orama.NamespaceID{ns}
		for _, r := range c.DNS {
			if recordNamespace(r.Name) == ns {
				ch.DeleteDNS = append(ch.DeleteDNS, r)
			}
		}
		// At is left to whoever commits: nothing pure knows the time of the last process's end.
		ch.Events = []orama.Event{event(c.Revision, time.Time{}, "webrtc.disabled", ns, "")}
	}
	return ch, !Empty(ch)
}

// replaced reports whether a namespace no longer needs what a lost node had in a role: it is not to have any, or all
// that are to run elsewhere were seen ready.
func replaced(c orama.Cluster, n orama.Namespace, role orama.Role, s Silence) bool {
	if n.WebRTC == nil || n.WebRTC.Disabling {
		return true
	}
	ready := 0
	for _, i := range c.Instances {
		if i.Namespace != n.ID || i.Role != role || i.Desired != orama.DesiredRun || s.lost(c, i.Node) {
			continue
		}
		if i.Observed.State != orama.StateReady {
			return false
		}
		ready++
	}
	return ready > 0
}
