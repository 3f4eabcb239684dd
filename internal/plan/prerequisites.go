package plan

import (
	"fmt"
	"strings"
	"time"

	"orama.network/orama"
)

// Standing is how a node stands before WebRTC is enabled.
type Standing string

// How a node may stand.
const (
	Serves  Standing = "serves"  // its store, cache and gateway do
	Fails   Standing = "fails"   // one of them does not
	Silent  Standing = "silent"  // its agent was not heard for 15 s
	Unknown Standing = "unknown" // its agent lives, and has not said yet
)

// Prerequisite is a node with how it stands, and what is to be done about it.
type Prerequisite struct {
	Node     orama.NodeID
	Standing Standing
	Detail   string // for an operator; "" for one that serves
}

// parts are what every node needs, with what to do when one does not serve.
var parts = []struct{ name, next string }{
	{"store", "see that it runs there and that most of its nodes reach each other"},
	{"cache", "see that it runs there and answers on the mesh"},
	{"gateway", "see that its port is free, and look at the agent's log there"},
}

// Prerequisites says of each node how it stands. What it said counts when its agent has seen a revision at least as new
// as asOf. That the records can be written at all is for the caller to find out, by writing.
func Prerequisites(c orama.Cluster, now time.Time, asOf int64) []Prerequisite {
	out := make([]Prerequisite, len(c.Nodes))
	for i, n := range c.Nodes {
		out[i] = prerequisite(n, now, asOf)
	}
	return out
}

func prerequisite(n orama.Node, now time.Time, asOf int64) Prerequisite {
	if silent(n, now) > aliveFor {
		return Prerequisite{n.ID, Silent, silentSince(n) + "; start it, or look at its log"}
	}
	var wrong, unsaid []string
	for _, p := range parts {
		problem, said := n.Report.Checks[p.name]
		switch {
		case !said:
			unsaid = append(unsaid, p.name)
		case problem != "":
			wrong = append(wrong, fmt.Sprintf("the %s does not serve: %s; %s", p.name, problem, p.next))
		}
	}
	switch {
	case n.Report.State < asOf || len(n.Report.Checks) == 0:
		return Prerequisite{n.ID, Unknown, "its agent has not answered yet; look at its log"}
	case len(wrong) > 0:
		return Prerequisite{n.ID, Fails, strings.Join(wrong, "; ")}
	case len(unsaid) > 0:
		return Prerequisite{n.ID, Unknown, fmt.Sprintf("its agent has not said yet how its %s does; look at its log", strings.Join(unsaid, " and "))}
	}
	return Prerequisite{Node: n.ID, Standing: Serves}
}
