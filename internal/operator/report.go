package operator

import (
	"net/netip"
	"time"

	"orama.network/orama"
)

const (
	// aliveWithin is how old a heartbeat may be. Agents send one every 2 s.
	aliveWithin = 10 * time.Second
	// upWithin is how old the last real join or Allocate may be that a "…_up" rests upon. Agents make one every 10 s,
	// so this is two that failed.
	upWithin = 30 * time.Second
)

// Report is how a whole cluster does, as one node's records have it.
type Report struct {
	Env        string            `json:"env,omitempty"` // as whoever asked calls the cluster
	At         time.Time         `json:"at"`            // by the clock of the node that answered
	Nodes      []NodeReport      `json:"nodes"`         // by id
	Namespaces []NamespaceReport `json:"namespaces"`    // by name
}

// NodeReport is one host: who it is, whether it lives, and what its agent says of it.
type NodeReport struct {
	ID           orama.NodeID      `json:"id"`
	Zone         string            `json:"zone"`
	PublicIP     netip.Addr        `json:"public_ip"`
	MeshIP       netip.Addr        `json:"mesh_ip"`
	GatewayURL   string            `json:"gateway_url"`
	Alive        bool              `json:"alive"`           // its heartbeat is not older than 10 s
	HeartbeatAge *float64          `json:"heartbeat_age_s"` // null: it has never sent one
	Version      string            `json:"version"`
	Report       orama.NodeReport  `json:"report"` // as of the last heartbeat; its checks are beside it
	Checks       map[string]string `json:"checks"` // part to "", or what is wrong with it
}

// NamespaceReport is one tenant. SFUUp says that at least one of its SFUs is ready and was really joined within the
// last 30 s; TURNUp that at least one of its relays is ready and really gave an allocation within the last 30 s.
type NamespaceReport struct {
	Name        orama.NamespaceID `json:"name"`
	Enabled     bool              `json:"enabled"`
	SFUUp       bool              `json:"sfu_up"`
	TURNUp      bool              `json:"turn_up"`
	SFUReady    int               `json:"sfu_ready"` // how many count for SFUUp
	SFUWanted   int               `json:"sfu_wanted"`
	TURNReady   int               `json:"turn_ready"`
	TURNWanted  int               `json:"turn_wanted"`
	ObservedAge *float64          `json:"observed_age_s"` // the oldest join or Allocate that counts; null: none does
	Instances   []InstanceReport  `json:"instances"`      // TURN before SFU, by node
}

// InstanceReport is one TURN or SFU of a namespace.
type InstanceReport struct {
	Instance
	ObservedAge *float64 `json:"observed_age_s"` // since its last real join or Allocate that succeeded; null: never
	Up          bool     `json:"up"`             // it counts
}

// reportOf words the records for an operator. It is a pure function of them and the time.
func reportOf(c orama.Cluster, now time.Time) Report {
	r := Report{At: now.UTC(), Nodes: []NodeReport{}, Namespaces: []NamespaceReport{}}
	nodes := map[orama.NodeID]orama.Node{}
	for _, n := range c.Nodes {
		nodes[n.ID] = n
		r.Nodes = append(r.Nodes, nodeReportOf(n, now))
	}
	for _, n := range c.Namespaces {
		r.Namespaces = append(r.Namespaces, namespaceReportOf(c, nodes, n, now))
	}
	return r
}

func nodeReportOf(n orama.Node, now time.Time) NodeReport {
	out := NodeReport{ID: n.ID, Zone: n.Zone, PublicIP: n.PublicIP, MeshIP: n.MeshIP, GatewayURL: n.GatewayURL,
		Alive: alive(n, now), HeartbeatAge: age(n.Heartbeat, now), Version: n.Report.Version, Report: n.Report, Checks: n.Report.Checks}
	out.Report.Checks = nil
	if out.Checks == nil {
		out.Checks = map[string]string{}
	}
	return out
}

func namespaceReportOf(c orama.Cluster, nodes map[orama.NodeID]orama.Node, n orama.Namespace, now time.Time) NamespaceReport {
	out := NamespaceReport{Name: n.ID, Enabled: enabled(n), Instances: []InstanceReport{}}
	if out.Enabled {
		out.SFUWanted, out.TURNWanted = n.WebRTC.SFUNodes, n.WebRTC.TURNNodes
	}
	for _, in := range instancesOf(c, n.ID) {
		r := InstanceReport{Instance: seen(in, now)}
		used := lastUsed(in, nodes[in.Node])
		r.ObservedAge = age(used, now)
		r.Up = out.Enabled && in.Desired == orama.DesiredRun && r.State == orama.StateReady && now.Sub(used) <= upWithin
		out.Instances = append(out.Instances, r)
		if !r.Up {
			continue
		}
		if in.Role == orama.RoleSFU {
			out.SFUReady++
		} else {
			out.TURNReady++
		}
		if out.ObservedAge == nil || *r.ObservedAge > *out.ObservedAge {
			out.ObservedAge = r.ObservedAge
		}
	}
	out.SFUUp, out.TURNUp = out.SFUReady > 0, out.TURNReady > 0
	return out
}

// lastUsed is when an instance was last used as a client would, with success. An agent that does not report it has
// done so at most 13 s before it last said that the instance is ready.
func lastUsed(i orama.Instance, n orama.Node) time.Time {
	if at, ok := n.Report.Used[usedKey(i)]; ok {
		return at
	}
	if i.Observed.State == orama.StateReady {
		return i.Observed.At
	}
	return time.Time{}
}

func usedKey(i orama.Instance) string { return string(i.Role) + "/" + string(i.Namespace) }

func alive(n orama.Node, now time.Time) bool {
	return !n.Heartbeat.IsZero() && now.Sub(n.Heartbeat) <= aliveWithin
}

// age is in seconds, to a tenth. The clock of the node that wrote the time may be ahead of ours: then it is now.
func age(t, now time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	s := max(0, now.Sub(t)).Round(100 * time.Millisecond).Seconds()
	return &s
}
