package operator

import (
	"cmp"
	"slices"
	"time"

	"orama.network/orama"
)

// Severity says what a finding means for the cluster.
type Severity string

// A warning wants looking at; critical means that something that is configured does not work.
const (
	SeverityOK       Severity = "ok"
	SeverityWarning  Severity = "warning"
	SeverityCritical Severity = "critical"
)

// Finding is what one check says of one thing.
type Finding struct {
	Name      string            `json:"name"` // of the check
	Node      orama.NodeID      `json:"node,omitempty"`
	Namespace orama.NamespaceID `json:"namespace,omitempty"`
	Severity  Severity          `json:"severity"`
	Detail    string            `json:"detail"`
	Next      string            `json:"next,omitempty"` // what to do about it
}

// Inspection is all that was found.
type Inspection struct {
	Env    string       `json:"env,omitempty"` // as whoever asked calls the cluster
	At     time.Time    `json:"at"`
	From   orama.NodeID `json:"from"` // whose agent looked
	OK     bool         `json:"ok"`   // nothing is critical
	Checks []Finding    `json:"checks"`
}

// check judges one thing. It is a pure function of the evidence. Without a finding that is worse it gives one that
// says what is well.
type check struct {
	name  string
	judge func(Evidence) []Finding
}

// checks are all of them, in the order in which they are shown: what the others rest upon comes first.
var checks = []check{
	{"node", checkNodes},
	{"store", checkStore},
	{"cache", checkCache},
	{"clock", checkClock},
	{"version", checkVersions},
	{"state", checkState},
	{"mesh", checkMesh},
	{"firewall", checkFirewall},
	{"ports", checkPorts},
	{"dns", checkDNS},
	{"certificate", checkCertificates},
	{"gateway", checkGateways},
	{"sfu", checkSFUs},
	{"turn", checkRelays},
}

// judge runs every check. Records that cannot be read leave nothing to judge but that.
func judge(e Evidence) Inspection {
	out := Inspection{At: e.At.UTC(), From: e.From, OK: true, Checks: []Finding{}}
	if e.Unread != nil {
		out.OK = false
		out.Checks = append(out.Checks, Finding{Name: "store", Node: e.From, Severity: SeverityCritical,
			Detail: "the records cannot be read, so nothing else can be checked: " + e.Unread.Error(),
			Next:   "look at the store's own state; calls that are up go on without it"})
		return out
	}
	for _, c := range checks {
		found := c.judge(e)
		slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
		for _, f := range found {
			f.Name = c.name
			out.OK = out.OK && f.Severity != SeverityCritical
			out.Checks = append(out.Checks, f)
		}
	}
	return out
}

func rank(s Severity) int {
	return slices.Index([]Severity{SeverityOK, SeverityWarning, SeverityCritical}, s)
}

// Evidence is what was seen before anything was judged. Missing entries of its maps were not looked at.
type Evidence struct {
	At         time.Time
	From       orama.NodeID // whose agent looked
	BaseDomain string
	URLStyle   string // how relays are named to clients, see package plan

	Unread   error         // the records could not be read; nothing else is known
	Revision int64         // when the look began
	Cluster  orama.Cluster // when it ended, at most a few seconds later

	Mesh         map[orama.NodeID]string      // why From does not reach a node over the mesh, or ""
	Gateways     map[orama.NodeID]GatewaySeen // as reached by their public URLs
	Names        []NameSeen
	NoServers    string // why it is not known who answers for the base domain, or ""
	Certificates []CertificateSeen
	Served       map[InstanceKey]string // why a TURN or SFU did not serve From as it would a client, or ""
}

// InstanceKey names an instance.
type InstanceKey struct {
	Namespace orama.NamespaceID
	Node      orama.NodeID
	Role      orama.Role
}

func keyOf(i orama.Instance) InstanceKey { return InstanceKey{i.Namespace, i.Node, i.Role} }

// GatewaySeen is how a gateway answered.
type GatewaySeen struct {
	Problem string        // why it does not serve, or ""
	Ahead   time.Duration // its clock, against the one of whoever looked; known to half a second
	Timed   bool          // Ahead was measured
}

// NameSeen is what one name server says of one name.
type NameSeen struct {
	Server  string
	Name    string   // fully qualified, no trailing dot
	Values  []string // its A records' addresses, in any order
	Problem string   // why there is no answer, or ""
}

// CertificateSeen is what a TLS server showed to a client that asked for a name.
type CertificateSeen struct {
	Node      orama.NodeID
	Address   string // host:port that was asked
	Name      string
	Problem   string // why there was no handshake, or ""; the rest is then empty
	Untrusted string // why a client would not believe the chain, or the name, or ""
	NotBefore time.Time
	NotAfter  time.Time
}
