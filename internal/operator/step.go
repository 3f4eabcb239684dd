package operator

import (
	"fmt"
	"strings"

	"orama.network/orama"
)

// The steps of enabling and disabling, as the specification counts them, after what is checked first.
const (
	StepPrerequisites = "prerequisites"

	StepSecret = "secret"
	StepRecord = "record"
	StepPorts  = "ports"
	StepTURN   = "turn"
	StepSFU    = "sfu"
	StepDNS    = "dns"
	StepState  = "state" // cluster_state.json
)

// How a step stands.
const (
	Waiting = "waiting" // not yet; Detail says how far it is
	Done    = "done"
	Failed  = "failed" // for now or for good; Detail says why
)

// Step is one thing that was seen while WebRTC is enabled or disabled.
type Step struct {
	Step   string       `json:"step"`
	Node   orama.NodeID `json:"node,omitempty"`
	State  string       `json:"state"`
	Detail string       `json:"detail,omitempty"`
}

// String is one line for a person, or "" for a step that is only under way.
func (s Step) String() string {
	if s.State == Waiting {
		return ""
	}
	var b strings.Builder
	b.WriteString(s.Step)
	if s.Node != "" {
		fmt.Fprintf(&b, " on %s", s.Node)
	}
	if s.State == Failed {
		b.WriteString(" failed")
	}
	if s.Detail != "" {
		fmt.Fprintf(&b, ": %s", s.Detail)
	}
	return b.String()
}

// reporter passes steps on, each only when it differs from what was said of the same step before.
type reporter struct {
	to   func(Step)
	said map[[2]string]Step
}

func newReporter(to func(Step)) *reporter {
	return &reporter{to: to, said: map[[2]string]Step{}}
}

func (r *reporter) say(step string, node orama.NodeID, state, format string, args ...any) {
	s := Step{Step: step, Node: node, State: state, Detail: fmt.Sprintf(format, args...)}
	k := [2]string{step, string(node)}
	if r.said[k] == s {
		return
	}
	r.said[k] = s
	if r.to != nil {
		r.to(s)
	}
}
