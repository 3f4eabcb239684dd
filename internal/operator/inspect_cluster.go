package operator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// Each check that reads a part's state from the agents' reports uses these keys of NodeReport.Checks. A part that is
// not configured on a node has no key there.
const (
	partStore       = "store"
	partCache       = "cache"
	partGateway     = "gateway"
	partMesh        = "mesh"
	partFirewall    = "firewall"
	partPorts       = "ports"
	partDNS         = "dns"
	partCertificate = "certificate"
	partClock       = "clock"
)

func fine(format string, args ...any) []Finding {
	return []Finding{{Severity: SeverityOK, Detail: fmt.Sprintf(format, args...)}}
}

// orFine gives what is wrong, or when nothing is, that all is well.
func orFine(found []Finding, format string, args ...any) []Finding {
	if len(found) > 0 {
		return found
	}
	return fine(format, args...)
}

// living are the nodes whose agents can be believed to be there: the others are checkNodes' finding, once.
func (e Evidence) living() []orama.Node {
	return slices.DeleteFunc(slices.Clone(e.Cluster.Nodes), func(n orama.Node) bool { return !alive(n, e.At) })
}

// reported collects what living nodes say is wrong with a part, and which say nothing of it.
func (e Evidence) reported(part, next string) (found []Finding, silent []orama.NodeID) {
	for _, n := range e.living() {
		problem, said := n.Report.Checks[part]
		switch {
		case !said:
			silent = append(silent, n.ID)
		case problem != "":
			found = append(found, Finding{Node: n.ID, Severity: SeverityCritical, Detail: problem, Next: next})
		}
	}
	return found, silent
}

// needed is reported for a part that every node has.
func (e Evidence) needed(part, next string) []Finding {
	found, silent := e.reported(part, next)
	for _, id := range silent {
		found = append(found, Finding{Node: id, Severity: SeverityWarning, Detail: "its agent says nothing of its " + part,
			Next: "wait a few seconds after a start; then look at the agent's log and version"})
	}
	return found
}

func checkNodes(e Evidence) []Finding {
	var found []Finding
	for _, n := range e.Cluster.Nodes {
		if alive(n, e.At) {
			continue
		}
		detail := "its agent has never sent a heartbeat"
		if !n.Heartbeat.IsZero() {
			detail = fmt.Sprintf("its agent has been silent for %s; after 10m its relays and SFUs go to other nodes", e.At.Sub(n.Heartbeat).Round(time.Second))
		}
		found = append(found, Finding{Node: n.ID, Severity: SeverityCritical, Detail: detail,
			Next: "on the node: systemctl status orama, journalctl -u orama; and can it reach the store?"})
	}
	if len(e.Cluster.Nodes) == 0 {
		return []Finding{{Severity: SeverityCritical, Detail: "the records know no node", Next: "start one: orama node run"}}
	}
	return orFine(found, "%d of %d agents sent a heartbeat within %s", len(e.living()), len(e.Cluster.Nodes), aliveWithin)
}

func checkStore(e Evidence) []Finding {
	found := e.needed(partStore, "look at the store on that node: is it up, and does it see its leader?")
	serve := 0
	for _, n := range e.living() {
		if problem, said := n.Report.Checks[partStore]; said && problem == "" {
			serve++
		}
	}
	if all := len(e.Cluster.Nodes); serve*2 <= all {
		found = append(found, Finding{Severity: SeverityCritical,
			Detail: fmt.Sprintf("the store serves %d of %d nodes, which is no majority", serve, all),
			Next:   "bring back the nodes that are down, or the store on them; until then nothing can be enabled or moved"})
	}
	return orFine(found, "it serves %d of %d nodes; revision %d", serve, len(e.Cluster.Nodes), e.Cluster.Revision)
}

func checkCache(e Evidence) []Finding {
	found := e.needed(partCache, "look at the cache on that node; while it is down, limits are counted by each gateway for itself")
	return orFine(found, "it serves every living node")
}

// How far clocks may be apart. A ticket is good for 30 s from when one node made it to when another reads it.
const (
	clockWarning  = 2 * time.Second
	clockCritical = 10 * time.Second
)

func checkClock(e Evidence) []Finding {
	const next = "keep the node's clock by NTP: timedatectl, chronyc tracking"
	found, _ := e.reported(partClock, next)
	measured := 0
	for _, n := range e.living() {
		ahead := max(0, n.Heartbeat.Sub(e.At)) // a heartbeat of the future needs no other proof
		if g := e.Gateways[n.ID]; g.Timed {
			measured++
			if g.Ahead.Abs() > ahead.Abs() {
				ahead = g.Ahead
			}
		}
		f := Finding{Node: n.ID, Severity: SeverityCritical, Next: next,
			Detail: fmt.Sprintf("its clock is %s %s that of %s; tokens, tickets and TURN credentials depend on it",
				ahead.Abs().Round(100*time.Millisecond), map[bool]string{true: "ahead of", false: "behind"}[ahead > 0], e.From)}
		switch {
		case ahead.Abs() >= clockCritical:
			found = append(found, f)
		case ahead.Abs() >= clockWarning:
			f.Severity = SeverityWarning
			found = append(found, f)
		}
	}
	return orFine(found, "%d clocks are within %s of %s's", measured, clockWarning, e.From)
}

func checkVersions(e Evidence) []Finding {
	by := map[string][]string{}
	for _, n := range e.living() {
		by[n.Report.Version] = append(by[n.Report.Version], string(n.ID))
	}
	if len(by) <= 1 {
		for v := range by {
			if v == "" {
				v = "a version they do not report"
			}
			return fine("every living node runs %s", v)
		}
		return fine("no node lives")
	}
	var said []string
	for v, ids := range by {
		if v == "" {
			v = "unknown"
		}
		said = append(said, fmt.Sprintf("%s on %s", v, strings.Join(ids, ", ")))
	}
	slices.Sort(said)
	return []Finding{{Severity: SeverityWarning, Detail: "the nodes run different versions: " + strings.Join(said, "; "),
		Next: "finish the upgrade, one node after the other"}}
}

func checkState(e Evidence) []Finding {
	var found []Finding
	for _, n := range e.living() {
		if n.Report.State < e.Revision {
			found = append(found, Finding{Node: n.ID, Severity: SeverityCritical,
				Detail: fmt.Sprintf("the cluster_state.json on its disk is of revision %d, the records are at %d", n.Report.State, e.Revision),
				Next:   "look at the agent's log: can it read the store and write its data directory?"})
		}
	}
	return orFine(found, "cluster_state.json is of revision %d or later on every living node", e.Revision)
}

func checkMesh(e Evidence) []Finding {
	const next = "on both nodes: wg show, and is UDP between their mesh endpoints let through?"
	found, _ := e.reported(partMesh, next)
	reached := 0
	for _, n := range e.living() {
		problem, asked := e.Mesh[n.ID]
		switch {
		case !asked:
		case problem == "":
			reached++
		default:
			found = append(found, Finding{Node: n.ID, Severity: SeverityCritical, Next: next,
				Detail: fmt.Sprintf("%s does not reach it on its mesh address %s: %s", e.From, n.MeshIP, problem)})
		}
	}
	return orFine(found, "%s reaches %d other nodes on their mesh addresses, and they report the same", e.From, reached)
}

func checkFirewall(e Evidence) []Finding {
	found, silent := e.reported(partFirewall, "on the node: ufw status numbered, and the agent's log, which says why it does not apply what is missing")
	if len(silent) == len(e.living()) {
		return fine("the agents manage no firewall (firewall: none)")
	}
	return orFine(found, "the rules are those that the records ask for on %d nodes", len(e.living())-len(silent))
}

// block is a block of ports with its owner.
type block struct {
	orama.PortRange
	kind  string
	owner orama.Instance
}

// ranges are the specification's.
var ranges = map[string]orama.PortRange{
	"relay":      {First: 49152, Count: 16384},
	"signalling": {First: 30000, Count: 100},
	"media":      {First: 20000, Count: 10000},
}

func blocksOf(i orama.Instance) []block {
	var out []block
	for _, b := range []block{{i.Ports.Relay, "relay", i}, {i.Ports.Signal, "signalling", i}, {i.Ports.Media, "media", i}} {
		if b.Count > 0 {
			out = append(out, b)
		}
	}
	return out
}

func overlap(a, b orama.PortRange) bool {
	return int(a.First) < int(b.First)+int(b.Count) && int(b.First) < int(a.First)+int(a.Count)
}

func words(r orama.PortRange) string {
	if r.Count == 1 {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, int(r.First)+int(r.Count)-1)
}

func checkPorts(e Evidence) []Finding {
	found, _ := e.reported(partPorts, "orama node report on it lists who listens; the agent starts again what does not")
	nodes := map[orama.NodeID]orama.Node{}
	for _, n := range e.Cluster.Nodes {
		nodes[n.ID] = n
	}
	byAddress, total := map[string][]block{}, 0
	for _, i := range e.Cluster.Instances {
		for _, b := range blocksOf(i) {
			total++
			if r := ranges[b.kind]; b.First < r.First || int(b.First)+int(b.Count) > int(r.First)+int(r.Count) {
				found = append(found, Finding{Node: i.Node, Namespace: i.Namespace, Severity: SeverityCritical,
					Detail: fmt.Sprintf("its %s ports %s are outside of %s", b.kind, words(b.PortRange), words(r)), Next: "disable WebRTC for the namespace and enable it again"})
			}
			found = append(found, clashes(b, nodes[i.Node], byAddress[nodes[i.Node].MeshIP.String()])...)
			byAddress[nodes[i.Node].MeshIP.String()] = append(byAddress[nodes[i.Node].MeshIP.String()], b)
		}
	}
	return orFine(found, "%d blocks, each with one owner, and no stranger in them", total)
}

// clashes are the others that claim, or hold, a port of b.
func clashes(b block, n orama.Node, others []block) []Finding {
	var found []Finding
	for _, o := range others {
		if overlap(b.PortRange, o.PortRange) {
			found = append(found, Finding{Node: n.ID, Namespace: b.owner.Namespace, Severity: SeverityCritical,
				Detail: fmt.Sprintf("%s ports %s have two owners: %s, and %s on %s", b.kind, words(b.PortRange), b.owner.Namespace, o.owner.Namespace, o.owner.Node),
				Next:   "disable WebRTC for one of them and enable it again"})
		}
	}
	for _, s := range n.Report.Busy {
		if overlap(b.PortRange, s) {
			found = append(found, Finding{Node: n.ID, Namespace: b.owner.Namespace, Severity: SeverityCritical,
				Detail: fmt.Sprintf("a stranger holds port %s of its %s ports %s", words(s), b.kind, words(b.PortRange)),
				Next:   "on the node: ss -tulpn shows who; stop it, or disable and enable the namespace to place it elsewhere"})
		}
	}
	return found
}

// minimum says how far a namespace is from what is configured for it.
func minimum(e Evidence, n orama.Namespace, role orama.Role, wanted int, what string) []Finding {
	ready, placed := 0, 0
	var problems []string
	for _, i := range instancesOf(e.Cluster, n.ID) {
		if i.Role != role || i.Desired != orama.DesiredRun {
			continue
		}
		placed++
		s := seen(i, e.At)
		problem, asked := e.Served[keyOf(i)]
		switch {
		case s.State != orama.StateReady:
			problems = append(problems, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", i.Node, s.State, s.Detail), ": "))
		case asked && problem != "":
			problems = append(problems, fmt.Sprintf("%s does not serve %s: %s", i.Node, e.From, problem))
		default:
			ready++
		}
	}
	f := Finding{Namespace: n.ID, Severity: SeverityCritical, Next: "orama namespace webrtc-status --namespace " + string(n.ID)}
	said := fmt.Sprintf("%d of %d %s serve", ready, wanted, what)
	switch nodes := len(e.Cluster.Nodes); {
	case ready >= wanted:
		f.Severity, f.Detail, f.Next = SeverityOK, said, ""
	case ready > 0 && ready >= min(wanted, nodes):
		f.Severity, f.Detail, f.Next = SeverityWarning, fmt.Sprintf("%s: the cluster has %d nodes", said, nodes), "add nodes for redundancy"
	case placed < min(wanted, nodes):
		f.Detail = strings.Join(append([]string{fmt.Sprintf("%s, %d are placed", said, placed)}, problems...), "; ")
		f.Next = "enable WebRTC for it again, which says for each node why it cannot take one"
	default:
		f.Detail = strings.Join(append([]string{said}, problems...), "; ")
	}
	return []Finding{f}
}

func checkSFUs(e Evidence) []Finding {
	return e.each(func(n orama.Namespace) []Finding {
		return minimum(e, n, orama.RoleSFU, n.WebRTC.SFUNodes, "SFUs")
	})
}

func checkRelays(e Evidence) []Finding {
	return e.each(func(n orama.Namespace) []Finding {
		found := minimum(e, n, orama.RoleTURN, n.WebRTC.TURNNodes, "relays")
		return append(found, together(e, n)...)
	})
}

// each runs a check for every namespace that has WebRTC.
func (e Evidence) each(judge func(orama.Namespace) []Finding) []Finding {
	var found []Finding
	for _, n := range e.Cluster.Namespaces {
		if enabled(n) {
			found = append(found, judge(n)...)
		}
	}
	return orFine(found, "no namespace has WebRTC")
}

// together finds relays of one namespace that one failure takes.
func together(e Evidence, n orama.Namespace) []Finding {
	where := map[string][]string{}
	for _, i := range instancesOf(e.Cluster, n.ID) {
		at := slices.IndexFunc(e.Cluster.Nodes, func(x orama.Node) bool { return x.ID == i.Node })
		if i.Role != orama.RoleTURN || i.Desired != orama.DesiredRun || at < 0 {
			continue
		}
		host := e.Cluster.Nodes[at]
		where["the address "+host.PublicIP.String()] = append(where["the address "+host.PublicIP.String()], string(i.Node))
		if host.Zone != "" {
			where["the zone "+host.Zone] = append(where["the zone "+host.Zone], string(i.Node))
		}
	}
	var found []Finding
	for place, ids := range where {
		if len(ids) > 1 {
			found = append(found, Finding{Namespace: n.ID, Severity: SeverityWarning,
				Detail: fmt.Sprintf("its relays on %s share %s", strings.Join(ids, " and "), place),
				Next:   "disable and enable the namespace when other nodes are up: relays are spread when they are placed"})
		}
	}
	return found
}

// named is what clients are told to resolve or to verify, by namespace: plan's names, not a second idea of them.
func (e Evidence) named(n orama.Namespace) []string {
	var out []string
	for _, s := range plan.Servers(e.Cluster, n.ID, plan.Local{BaseDomain: e.BaseDomain, URLStyle: e.URLStyle}) {
		_, host, _ := strings.Cut(s.URL, ":")
		host, _, _ = strings.Cut(host, ":")
		if strings.HasSuffix(host, "."+e.BaseDomain) && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}
