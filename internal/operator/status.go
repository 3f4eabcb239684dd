package operator

import (
	"context"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

// unknownAfter is how old an observation may be. Agents confirm each at least every 5 s.
const unknownAfter = 15 * time.Second

// Status is what is wanted and what was seen of a namespace's WebRTC.
type Status struct {
	Namespace         orama.NamespaceID `json:"namespace"`
	Enabled           bool              `json:"enabled"`
	TURNCredentialTTL int               `json:"turn_credential_ttl"`        // seconds; 0 when not enabled
	MaxParticipants   int               `json:"max_participants,omitempty"` // in a room; 0: any number
	Instances         []Instance        `json:"instances"`                  // TURN before SFU, by node
	Missing           []string          `json:"missing,omitempty"`          // what is wanted and could not be placed, with the reason
}

// Instance is a TURN or an SFU on one node, as it was last seen.
type Instance struct {
	Node    orama.NodeID  `json:"node"`
	Role    orama.Role    `json:"role"`
	Desired orama.Desired `json:"desired"`
	State   orama.State   `json:"state"` // ready, starting, draining, failed or unknown
	Since   time.Time     `json:"since,omitzero"`
	Detail  string        `json:"detail,omitempty"`
	Ports   orama.Ports   `json:"ports"`
}

// Status reads how a namespace's WebRTC does.
func (o *Operator) Status(ctx context.Context, ns orama.NamespaceID) (Status, error) {
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return Status{}, err
	}
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return Status{}, err
	}
	n, ok := namespaceOf(c, ns)
	if !ok {
		return Status{}, notFound(ns)
	}
	return statusOf(c, n, o.d.Now()), nil
}

func statusOf(c orama.Cluster, n orama.Namespace, now time.Time) Status {
	s := Status{Namespace: n.ID, Enabled: enabled(n), MaxParticipants: n.MaxParticipants, Instances: []Instance{}}
	if s.Enabled {
		s.TURNCredentialTTL = int(n.WebRTC.CredentialTTL / time.Second)
	}
	for _, i := range instancesOf(c, n.ID) {
		s.Instances = append(s.Instances, seen(i, now))
	}
	for _, m := range plan.Missing(c, n.ID, now) {
		s.Missing = append(s.Missing, m.String())
	}
	return s
}

// seen words an observation. What was not seen lately is unknown, whatever it was then.
func seen(i orama.Instance, now time.Time) Instance {
	out := Instance{Node: i.Node, Role: i.Role, Desired: i.Desired, State: i.Observed.State, Since: i.Observed.Since, Detail: i.Observed.Detail, Ports: i.Ports}
	switch {
	case i.Observed.At.IsZero():
		out.State, out.Since, out.Detail = orama.StateUnknown, time.Time{}, "its node's agent has not reported it yet"
	case i.Observed.State == orama.StateGone && i.Desired == orama.DesiredStop:
		out.State, out.Detail = orama.StateDraining, "stopped; its ports are being released"
	case now.Sub(i.Observed.At) > unknownAfter:
		out.State, out.Since = orama.StateUnknown, i.Observed.At
		out.Detail = "last seen " + string(i.Observed.State) + "; its node's agent has been silent since"
	case i.Observed.State == orama.StateGone:
		out.State = orama.StateFailed
		if out.Detail == "" {
			out.Detail = "its process does not run"
		}
	case i.Desired == orama.DesiredStop && i.Observed.State != orama.StateFailed:
		out.State = orama.StateDraining
	}
	return out
}
