// Package firewall keeps the rules that a node needs in its host's UFW, and no others: each of ours carries a
// comment that begins with "orama:", and only rules with such a comment are ever changed or taken away. It never
// enables, disables or resets a firewall, touches no rule of somebody else's, and decides nothing about what is to be
// open: that is plan.Firewall.
//
//	plan.Firewall ──▶ Rules ──▶ Compare ◀── `ufw show added`
//	                              │
//	                              ▼
//	            ufw allow … comment 'orama:…', then ufw delete …
package firewall

import (
	"fmt"
	"net/netip"
	"strings"

	"orama.network/orama/internal/plan"
)

// mark begins the comment of every rule that is ours.
const mark = "orama:"

// Rule is one rule as `ufw show added` lists it.
type Rule struct {
	Match
	Action  string // "allow", "deny", "reject" or "limit"
	Log     string // "", "log" or "log-all"
	Comment string
}

// Match is what a rule is about. UFW has at most one rule for each: adding a second one changes the first, whoever
// made it.
type Match struct {
	Route    bool   // of traffic that passes through
	Out      bool   // of traffic that leaves
	InOn     string // interface, "" any
	OutOn    string // interface, "" any
	From, To End
	Proto    string // "" any
}

// End is one end of the traffic.
type End struct {
	Net  netip.Prefix // the zero prefix is any
	Port string       // "3478", "49152:49951", "80,443", "" any
	App  string       // an application profile instead of a port
}

// Ours tells whether a rule carries our mark.
func (r Rule) Ours() bool { return strings.HasPrefix(r.Comment, mark) }

// Rules are the openings as rules; mesh is the name of the mesh's interface.
func Rules(openings []plan.Opening, mesh string) []Rule {
	out := make([]Rule, 0, len(openings))
	for _, o := range openings {
		r := Rule{Action: "allow", Comment: mark + o.Tag}
		r.Proto = o.Proto
		r.To.Port = fmt.Sprint(o.Ports.First)
		if o.Ports.Count > 1 {
			r.To.Port = fmt.Sprintf("%d:%d", o.Ports.First, int(o.Ports.First)+int(o.Ports.Count)-1)
		}
		if o.To.IsValid() {
			a := o.To.Unmap()
			r.To.Net = netip.PrefixFrom(a, a.BitLen())
		}
		if o.Mesh {
			r.InOn = mesh
		}
		out = append(out, r)
	}
	return out
}

// words are the rule as arguments to ufw, behind "route" where it is one of those.
func (r Rule) words() []string {
	w := []string{r.Action}
	if r.InOn != "" {
		w = append(w, "in", "on", r.InOn)
	}
	switch {
	case r.OutOn != "":
		w = append(w, "out", "on", r.OutOn)
	case r.Out:
		w = append(w, "out")
	}
	if r.Log != "" {
		w = append(w, r.Log)
	}
	w = append(w, r.From.words("from")...)
	to := r.To.words("to")
	if len(to) == 0 {
		to = []string{"to", "any"}
	}
	w = append(w, to...)
	if r.Proto != "" {
		w = append(w, "proto", r.Proto)
	}
	if r.Comment != "" {
		w = append(w, "comment", r.Comment)
	}
	return w
}

func (e End) words(side string) []string {
	if e == (End{}) {
		return nil
	}
	w := []string{side, "any"}
	if e.Net.IsValid() {
		w[1] = e.Net.String()
		if e.Net.IsSingleIP() {
			w[1] = e.Net.Addr().String()
		}
	}
	switch {
	case e.App != "":
		w = append(w, "app", e.App)
	case e.Port != "":
		w = append(w, "port", e.Port)
	}
	return w
}

// String is the rule as somebody would type it behind "ufw".
func (r Rule) String() string {
	var b strings.Builder
	if r.Route {
		b.WriteString("route ")
	}
	quoted := false
	for i, w := range r.words() {
		if i > 0 {
			b.WriteByte(' ')
		}
		if quoted || strings.Contains(w, " ") || w == "" {
			w = "'" + w + "'"
		}
		quoted = w == "comment"
		b.WriteString(w)
	}
	return b.String()
}
