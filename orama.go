// Package orama is the vocabulary of the project: the nouns that every part
// agrees on (namespace, node, instance, room, cluster, change) and the kinds of
// error. It decides nothing and does no I/O.
package orama

import (
	"net/netip"
	"time"
)

// Identifiers are distinct types, so that a node cannot be passed for a room.
type (
	// NamespaceID names a tenant: `^[a-z0-9][a-z0-9-]{0,38}[a-z0-9]$`.
	NamespaceID string
	// NodeID names a host of the cluster, such as "node-1".
	NodeID string
	// RoomID names a room inside one namespace: 1 to 128 printable bytes.
	RoomID string
	// PeerID names one connection in one room; it lives as long as the peer, resumes included.
	PeerID string
	// TrackID names one published track, unique in its room for the room's life.
	TrackID string
	// UserID is the subject of the token that a peer joined with.
	UserID string
)

// Role is what an instance does for its namespace on one node.
type Role string

// The two roles of an instance.
const (
	RoleTURN Role = "turn"
	RoleSFU  Role = "sfu"
)

// Node is one host of the cluster.
type Node struct {
	ID         NodeID     `json:"id"`
	PublicIP   netip.Addr `json:"public_ip"`
	MeshIP     netip.Addr `json:"mesh_ip"`
	Zone       string     `json:"zone,omitempty"`
	GatewayURL string     `json:"gateway_url"` // where clients reach its gateway, e.g. "http://127.0.0.11:8080"
	Heartbeat  time.Time  `json:"heartbeat"`   // last time its agent reached the store

	MeshKey      string     `json:"mesh_key,omitempty"`      // its WireGuard public key, base64, or two and a comma while it changes; "": the mesh is not ours
	MeshEndpoint string     `json:"mesh_endpoint,omitempty"` // host:port where others reach its WireGuard
	Report       NodeReport `json:"report,omitzero"`         // with the last heartbeat
}

// NodeReport is what a node's agent says of its machine with each heartbeat.
type NodeReport struct {
	Version         string            `json:"version,omitempty"`
	State           int64             `json:"state"`            // revision that the cluster_state.json on its disk has, and the firewall follows where it is ours
	CPUs            int               `json:"cpus"`             // 0: not measured
	Load            float64           `json:"load"`             // runnable processes, mean of a minute
	MemoryTotal     uint64            `json:"memory_total"`     // bytes; 0: not measured
	MemoryAvailable uint64            `json:"memory_available"` // bytes
	Relays          int               `json:"relays"`           // TURN allocations in use
	Bandwidth       uint64            `json:"bandwidth"`        // bits a second, both directions, mean of the last report's interval
	LinkSpeed       uint64            `json:"link_speed"`       // bits a second; 0: unknown
	Busy            []PortRange       `json:"busy,omitempty"`   // ports of our ranges that strangers hold on the mesh address
	Checks          map[string]string `json:"checks,omitempty"` // prerequisite ("store", "cache", "gateway") to "", or why it does not serve

	// Used says when each instance of the node, "sfu/NAMESPACE" or "turn/NAMESPACE", last served its agent as it
	// would a client: by a real join, a real Allocate.
	Used map[string]time.Time `json:"used,omitempty"`
}

// Namespace is one tenant.
type Namespace struct {
	ID             NamespaceID   `json:"name"`
	CreatedAt      time.Time     `json:"created_at"`
	AllowedOrigins []string      `json:"allowed_origins,omitempty"` // web origins that browsers may call from
	ClosedRooms    bool          `json:"closed_rooms,omitempty"`    // true: only an owner creates rooms, a join does not
	WebRTC         *WebRTCConfig `json:"webrtc,omitempty"`          // nil: not enabled

	MaxParticipants int `json:"max_participants,omitempty"` // of each room, at most; a room may allow fewer. 0: any number
}

// WebRTCConfig is a row of namespace_webrtc_config.
type WebRTCConfig struct {
	SealedSecret  string        `json:"sealed_secret"` // the TURN secret, sealed with the cluster key
	CredentialTTL time.Duration `json:"credential_ttl"`
	TURNNodes     int           `json:"turn_nodes"` // how many relays are wanted
	SFUNodes      int           `json:"sfu_nodes"`  // how many SFUs are wanted
	Disabling     bool          `json:"disabling"`  // being torn down: no credentials, no joins
	CreatedAt     time.Time     `json:"created_at"`
}

// PortRange is a block of consecutive ports on one address.
type PortRange struct {
	First uint16 `json:"first"`
	Count uint16 `json:"count"`
}

// Contains reports whether port lies in the block.
func (r PortRange) Contains(port uint16) bool {
	return port >= r.First && int(port) < int(r.First)+int(r.Count)
}

// Ports are the blocks that an instance owns. A TURN instance has Relay, an SFU Signal and Media.
type Ports struct {
	Relay  PortRange `json:"relay,omitzero"`
	Signal PortRange `json:"signal,omitzero"`
	Media  PortRange `json:"media,omitzero"`
}

// Instance is a namespace's TURN or SFU on one node: what is wanted, and what was last seen.
type Instance struct {
	Namespace NamespaceID `json:"namespace"`
	Node      NodeID      `json:"node"`
	Role      Role        `json:"role"`
	Desired   Desired     `json:"desired"`
	Ports     Ports       `json:"ports"`
	Observed  Observation `json:"observed"`
}

// Desired is what an instance's node must bring about.
type Desired string

// An instance is to run, or to be drained and stopped. Its row is removed only after it was seen gone.
const (
	DesiredRun  Desired = "run"
	DesiredStop Desired = "stop"
)

// State is what was seen of an instance.
type State string

// The states of an instance. Gone means that its process was seen not to exist.
const (
	StateUnknown  State = "unknown"
	StateStarting State = "starting"
	StateReady    State = "ready"
	StateDraining State = "draining"
	StateFailed   State = "failed"
	StateGone     State = "gone"
)

// Observation is what a node's agent last saw of an instance.
type Observation struct {
	State  State     `json:"state"`
	Since  time.Time `json:"since"`            // when State was first seen without a break
	At     time.Time `json:"at"`               // when it was last seen
	Detail string    `json:"detail,omitempty"` // why, for operators
	Boot   string    `json:"boot,omitempty"`   // changes with every start of the process
}

// Observed is an observation with its subject, as an agent reports it.
type Observed struct {
	Namespace NamespaceID
	Node      NodeID
	Role      Role
	Observation
}

// Room is a row of webrtc_rooms: which SFU owns the room.
type Room struct {
	Namespace NamespaceID `json:"namespace"`
	ID        RoomID      `json:"room_id"`
	Node      NodeID      `json:"sfu_node"`
	Boot      string      `json:"boot"`       // the owner's boot when it was claimed; another boot has lost the room
	Epoch     int64       `json:"epoch"`      // rises by one with every change of owner; compare-and-set key
	Permanent bool        `json:"permanent"`  // created over REST; not removed when it empties
	CreatedAt time.Time   `json:"created_at"` // of the first claim
	UpdatedAt time.Time   `json:"updated_at"` // of this claim

	State         string `json:"-"` // what admins have made of it: a signal.RoomState; "": nothing
	StateRevision int64  `json:"-"` // its revision
}

// Kick is a row of webrtc_kicks: tokens of the user that were issued until then are no good for the room.
type Kick struct {
	Namespace NamespaceID
	Room      RoomID
	User      UserID
	At        time.Time
}

// APIKey is a stored key: the secret itself is shown once and never kept.
type APIKey struct {
	ID         string      `json:"id"`
	Namespace  NamespaceID `json:"namespace"`
	Role       string      `json:"role"` // "owner" or "member"; "operator", of no namespace, is for the whole cluster
	SecretHash string      `json:"-"`    // hex SHA-256 of the secret part
	CreatedAt  time.Time   `json:"created_at"`
}

// Invitation is a row of join_tokens: one node may join by it. The token itself is shown once and never kept.
type Invitation struct {
	Hash      string    `json:"-"` // hex SHA-256 of the token's secret
	CreatedAt time.Time `json:"created_at"`
	Expires   time.Time `json:"expires"`
	UsedAt    time.Time `json:"used_at,omitzero"` // zero: not yet
	UsedBy    NodeID    `json:"used_by,omitempty"`
}

// DNSRecord is a row of dns_records; type A only.
type DNSRecord struct {
	Name  string     `json:"name"` // fully qualified, no trailing dot
	Value netip.Addr `json:"value"`
	TTL   int        `json:"ttl"` // seconds
}

// TXTRecord is a row of dns_txt: text under a name of the base domain, such as the answer to an ACME challenge.
type TXTRecord struct {
	Name    string    `json:"name"`    // fully qualified, no trailing dot
	Value   string    `json:"value"`   // 1 to 255 bytes
	TTL     int       `json:"ttl"`     // seconds
	Expires time.Time `json:"expires"` // gone by then, though nobody removed it
}

// Event is a row of events: something an operator may ask about later.
type Event struct {
	ID        string      `json:"id"`
	At        time.Time   `json:"at"`
	Kind      string      `json:"kind"` // such as "webrtc.enabled", "instance.failed"
	Namespace NamespaceID `json:"namespace,omitempty"`
	Node      NodeID      `json:"node,omitempty"`
	Detail    string      `json:"detail,omitempty"`
}

// Cluster is one consistent reading of the records that placement needs.
type Cluster struct {
	Revision   int64 // of the desired part: nodes, namespaces, instances, ports
	Nodes      []Node
	Namespaces []Namespace
	Instances  []Instance
	DNS        []DNSRecord
}

// Change is one atomic step from a cluster's revision to the next. All of it happens or none.
type Change struct {
	Base int64 // the revision it was planned from; a commit against another is a conflict

	PutNamespaces    []Namespace   // insert or replace, WebRTC configuration included
	DeleteNamespaces []NamespaceID // with keys, rooms, instances, ports and records
	PutKeys          []APIKey
	DeleteKeys       []string   // by id; one that is not there is no conflict
	PutInstances     []Instance // insert, or change Desired; takes the ports
	DeleteInstances  []Instance // gives the ports back
	PutDNS           []DNSRecord
	DeleteDNS        []DNSRecord
	DeleteRoomsOf    []NamespaceID
	DeleteEventsOf   []NamespaceID // what happened to their WebRTC: events "webrtc.…" and "instance.…"
	Events           []Event
}

// TURNServer is one way to reach a relay, as a client is told of it.
type TURNServer struct {
	URL       string `json:"url"`       // RFC 7065, e.g. "turn:192.0.2.1:3478?transport=udp"
	Transport string `json:"transport"` // "udp", "tcp", "tls" or "dtls": what a client may ask for in ?transports=
	Default   bool   `json:"default"`   // given to a client that asks for nothing
}
