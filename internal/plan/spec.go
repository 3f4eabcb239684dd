package plan

import (
	"fmt"
	"net/netip"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/fence"
)

// TURNSpec is all that a host's TURN process needs to know. It is handed over whole, over
// the process's control socket, as often as it changes; applying the same spec twice changes nothing.
type TURNSpec struct {
	Node         orama.NodeID `json:"node"`
	PublicIP     netip.Addr   `json:"public_ip"`           // listeners bind here
	PublicIP6    netip.Addr   `json:"public_ip6,omitzero"` // and here, if valid
	RelayIP      netip.Addr   `json:"relay_ip"`            // relay sockets are bound and advertised here: the mesh address
	RelayIP6     netip.Addr   `json:"relay_ip6,omitzero"`  // those of the other family, if valid
	Realm        string       `json:"realm"`               // RFC 8489 realm, the base domain
	HTTPSBackend string       `json:"https_backend"`       // host:port for 443/tcp connections whose SNI is not turn*; "" closes them
	HTTPSProxy   bool         `json:"https_proxy"`         // the backend is told the client's address first, by the PROXY protocol version 2
	NoTCP443     bool         `json:"no_tcp_443"`          // 443/tcp belongs to another server of this host
	CertPEM      string       `json:"cert_pem"`            // chain, leaf first
	KeyPEM       string       `json:"key_pem"`
	Tenants      []TenantSpec `json:"tenants"`
}

// TenantSpec is one namespace on a TURN server.
type TenantSpec struct {
	Namespace orama.NamespaceID `json:"namespace"`
	Secret    string            `json:"secret"`          // base64url text; its bytes are the HMAC key
	Relay     orama.PortRange   `json:"relay"`           // relay sockets are bound inside this block
	Allow     []netip.AddrPort  `json:"allow"`           // the fence: exactly the SFU media sockets of the namespace
	Rules     []fence.Rule      `json:"rules,omitempty"` // the fence of a relay that stands alone, beside Allow
	Limits    TenantLimits      `json:"limits,omitzero"`
	// Alternates are public addresses of other servers with relays of the namespace: whoever asks here while this one drains is told.
	Alternates []netip.Addr `json:"alternates,omitempty"`
}

// TenantLimits are a tenant's quotas on one TURN server; 0 is the server's own, or none. Bytes are those of payloads, both
// directions together.
type TenantLimits struct {
	Allocations    int   `json:"allocations,omitempty"` // relays living at once
	BytesPerSecond int64 `json:"bytes_per_second,omitempty"`
	BurstBytes     int64 `json:"burst_bytes,omitempty"` // that may go at once after a pause

	// The same for each client address of the tenant.
	ClientAllocations    int   `json:"client_allocations,omitempty"`
	ClientBytesPerSecond int64 `json:"client_bytes_per_second,omitempty"`
	ClientBurstBytes     int64 `json:"client_burst_bytes,omitempty"`
}

// Bounds of TenantLimits: as many relays as there are ports, and a terabyte.
const (
	maxLimitAllocations = 1 << 16
	maxLimitBytes       = 1 << 40
)

// Check refuses limits that are negative or beyond what any machine can do, which are mistyped.
func (l TenantLimits) Check() error {
	for _, c := range []struct {
		name string
		v    int64
		most int64
	}{
		{"allocations", int64(l.Allocations), maxLimitAllocations},
		{"bytes_per_second", l.BytesPerSecond, maxLimitBytes},
		{"burst_bytes", l.BurstBytes, maxLimitBytes},
		{"client_allocations", int64(l.ClientAllocations), maxLimitAllocations},
		{"client_bytes_per_second", l.ClientBytesPerSecond, maxLimitBytes},
		{"client_burst_bytes", l.ClientBurstBytes, maxLimitBytes},
	} {
		if c.v < 0 || c.v > c.most {
			return fmt.Errorf("%s is 0 to %d, not %d", c.name, c.most, c.v)
		}
	}
	return nil
}

// SFUSpec is all that one namespace's SFU process on one node needs to know, handed over likewise.
type SFUSpec struct {
	Namespace     orama.NamespaceID  `json:"namespace"`
	Node          orama.NodeID       `json:"node"`
	MeshIP        netip.Addr         `json:"mesh_ip"`   // everything binds here
	MeshCIDR      netip.Prefix       `json:"mesh_cidr"` // MeshIP outside it is refused
	SignalPort    uint16             `json:"signal_port"`
	MediaPort     uint16             `json:"media_port"` // the one UDP socket all peers share
	TicketKey     string             `json:"ticket_key"` // base64url Ed25519 public key that join tickets verify with
	Relays        []RelaySource      `json:"relays"`     // who may send to MediaPort at all
	Secret        string             `json:"secret"`     // the namespace's TURN secret, to mint credentials for peers
	CredentialTTL time.Duration      `json:"credential_ttl"`
	Servers       []orama.TURNServer `json:"servers"`  // fastest first
	Gateways      []string           `json:"gateways"` // base URLs, told to clients for when theirs is lost
}

// RelaySource is the block of one TURN instance of the namespace.
type RelaySource struct {
	IP    netip.Addr      `json:"ip"`
	Ports orama.PortRange `json:"ports"`
}
