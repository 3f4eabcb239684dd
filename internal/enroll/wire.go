package enroll

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"

	"orama.network/orama"
)

// Limits of the wire, in bytes.
const (
	maxRequest = 16 << 10
	maxAnswer  = 4 << 20
)

// Request is what a joiner says of itself.
type Request struct {
	Secret       []byte       `json:"secret"` // of the token
	Node         orama.NodeID `json:"node"`
	Zone         string       `json:"zone,omitempty"`
	PublicIP     netip.Addr   `json:"public_ip"`
	MeshIP       netip.Addr   `json:"mesh_ip,omitzero"`        // zero: the lowest that is free
	MeshKey      string       `json:"mesh_key,omitempty"`      // WireGuard public key, base64; "": the mesh is made by others
	MeshEndpoint string       `json:"mesh_endpoint,omitempty"` // address:port of its WireGuard
	Replace      bool         `json:"replace,omitempty"`       // take the place of a node of this name that is silent
}

// Answer is what a member knows.
type Answer struct {
	MeshIP netip.Addr        `json:"mesh_ip"`
	Nodes  []orama.Node      `json:"nodes"`  // the others, by whom the joiner reaches the mesh before it can read the records
	Config []byte            `json:"config"` // of the member that answers, as text
	Files  map[string][]byte `json:"files"`  // that its configuration names, the cluster key among them, by the setting's name
}

type nodesAnswer struct {
	Nodes []orama.Node `json:"nodes"`
}

type wireError struct {
	Kind    orama.Kind `json:"kind"`
	Code    string     `json:"code"`
	Message string     `json:"message"`
}

type errorAnswer struct {
	Error *wireError `json:"error"`
}

// decodeRequest reads one request and nothing after it.
func decodeRequest(r io.Reader) (Request, error) {
	var q Request
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, invalid("the request cannot be read; both hosts need the same version")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return q, invalid("something follows the request")
	}
	return q, q.validate()
}

func invalid(why string) error {
	return orama.Errorf(orama.KindInvalid, "invalid_join", "%s", why)
}

func (q Request) validate() error {
	switch {
	case len(q.Secret) != secretLen:
		return errUnknown
	case !validLabel(string(q.Node)):
		return invalid("the node's name must be a DNS label, such as node-2: 1 to 63 of a-z 0-9 -")
	case len(q.Zone) > 63 || strings.ContainsFunc(q.Zone, func(r rune) bool { return r <= ' ' || r > '~' }):
		return invalid("the zone must be at most 63 printable characters without a space")
	case !usable(q.PublicIP):
		return invalid("the public address must be one address of the host")
	case q.MeshIP.IsValid() && !usable(q.MeshIP):
		return invalid("the mesh address must be one address of the host")
	case (q.MeshKey == "") != (q.MeshEndpoint == ""):
		return invalid("a WireGuard key needs an endpoint, and an endpoint a key")
	}
	if q.MeshKey == "" {
		return nil
	}
	key, err := base64.StdEncoding.Strict().DecodeString(q.MeshKey)
	if err != nil || len(key) != 32 || [32]byte(key) == [32]byte{} {
		return invalid("the WireGuard key must be 32 bytes of base64")
	}
	if e, err := netip.ParseAddrPort(q.MeshEndpoint); err != nil || e.Port() == 0 || !usable(e.Addr()) {
		return invalid("the WireGuard endpoint must be ADDRESS:PORT")
	}
	return nil
}

func validLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	return s[0] != '-' && s[len(s)-1] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == "" && !a.Is4In6()
}
