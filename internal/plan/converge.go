package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
)

// Converge decides what brings the enabled namespaces nearer to what is wanted of them: each gets the instances it is
// short of as soon as nodes can take them, and what a lost node had is placed on others. Of a lost node's instance
// the wish becomes to stop only when another was placed for it: that one is started before the old is forgotten,
// which is for Finish, and a node that nobody can stand in for keeps its roles. When most nodes are silent at once
// nothing is decided at all.
//
// Beside the change, which may be Empty, it says of everything that was left undone why. Neither depends on more than the
// records and on which nodes are silent or lost, so that deciding again after the change gives an Empty one, and the
// same reasons until something happens.
func Converge(c orama.Cluster, now time.Time, s Silence) (orama.Change, []string) {
	ch := orama.Change{Base: c.Revision}
	if s.most(c.Nodes) {
		return ch, []string{fmt.Sprintf("most nodes are silent at once (%s): it is more likely the records or this node's clock, so nothing is moved",
			strings.Join(s.quiet(c.Nodes), ", "))}
	}
	c.Instances = slices.Clone(c.Instances)
	namespaces := slices.Clone(c.Namespaces)
	slices.SortFunc(namespaces, func(a, b orama.Namespace) int { return cmp.Compare(a.ID, b.ID) })
	var reasons []string
	for _, n := range namespaces {
		if n.WebRTC == nil || n.WebRTC.Disabling {
			continue
		}
		m := &move{c: &c, ns: n.ID, now: now, silence: s}
		for _, r := range wants(*n.WebRTC) {
			m.role(r)
		}
		ch.PutInstances = append(ch.PutInstances, m.put...)
		reasons = append(reasons, m.reasons...)
		if len(m.put) > 0 {
			ch.Events = append(ch.Events, event(c.Revision, now, "webrtc.moved", n.ID, m.words()))
		}
	}
	return ch, reasons
}

// quiet names the silent nodes.
func (s Silence) quiet(nodes []orama.Node) []string {
	var out []string
	for _, n := range nodes {
		if s[n.ID] > aliveFor {
			out = append(out, string(n.ID))
		}
	}
	return out
}

// move is the convergence of one namespace. It works on a cluster in which what was decided before has happened.
type move struct {
	c       *orama.Cluster
	ns      orama.NamespaceID
	now     time.Time
	silence Silence

	put     []orama.Instance
	reasons []string
}

// role brings one role of the namespace as near to its wish as can be.
func (m *move) role(r wish) {
	var lost []int // indices of what lost nodes were to run
	have := 0
	for i, in := range m.c.Instances {
		switch {
		case in.Namespace != m.ns || in.Role != r.role || in.Desired != orama.DesiredRun:
		case m.silence.lost(*m.c, in.Node):
			lost = append(lost, i)
		default:
			have++
		}
	}
	if have >= r.want && len(lost) == 0 {
		return
	}
	// What is placed need not be apart from what it replaces.
	without := *m.c
	without.Instances = slices.Clone(m.c.Instances)
	for _, i := range lost {
		without.Instances[i].Desired = orama.DesiredStop
	}
	p := placementOf(without, m.ns, m.now)
	p.quiet = m.silence
	placed := p.place(r.role, r.want)
	have += len(placed)
	why := p.reasons(r.role)
	for _, i := range lost {
		in := &m.c.Instances[i]
		if have < r.want && m.apart(*in, placed) {
			have++
			m.say("%s of %s stays with %s, which is lost: no other node can take it (%s)", r.role, m.ns, in.Node, strings.Join(why, "; "))
			continue
		}
		in.Desired = orama.DesiredStop
		m.put = append(m.put, *in)
	}
	m.put = append(m.put, placed...)
	m.c.Instances = append(m.c.Instances, placed...)
	if have < r.want {
		m.say("%s has %d of %d %s: no other node can take one (%s)", m.ns, have, r.want, r.role, strings.Join(why, "; "))
	}
}

// apart reports whether an instance of a lost node may stay beside what was placed: two relays share no host and no zone.
func (m *move) apart(in orama.Instance, placed []orama.Instance) bool {
	if in.Role != orama.RoleTURN {
		return true
	}
	own, ok := nodeOf(*m.c, in.Node)
	if !ok {
		return true
	}
	return !slices.ContainsFunc(placed, func(p orama.Instance) bool {
		other, _ := nodeOf(*m.c, p.Node)
		return together(own, other) != ""
	})
}

func (m *move) say(format string, args ...any) {
	m.reasons = append(m.reasons, fmt.Sprintf(format, args...))
}

// words says for people what was decided.
func (m *move) words() string {
	var said []string
	for _, i := range m.put {
		if i.Desired == orama.DesiredStop {
			said = append(said, fmt.Sprintf("%s leaves %s, which is lost", i.Role, i.Node))
		} else {
			said = append(said, fmt.Sprintf("%s on %s", i.Role, i.Node))
		}
	}
	return strings.Join(said, ", ")
}
