// Package config turns one node's configuration file into one validated value. It knows no
// environment variables and no globals; whoever needs a setting is handed it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 64 << 10

// Node is the configuration of one host's agent and gateway.
type Node struct {
	ID           orama.NodeID `yaml:"node"`
	Zone         string       `yaml:"zone,omitempty"` // two relays of a namespace never share one
	BaseDomain   string       `yaml:"base_domain"`    // namespaces live at ns-NAME.BASE
	PublicIP     netip.Addr   `yaml:"public_ip"`      // TURN listens here
	MeshIP       netip.Addr   `yaml:"mesh_ip"`        // SFUs and relay sockets bind here
	MeshCIDR     netip.Prefix `yaml:"mesh_cidr"`
	DataDir      string       `yaml:"data_dir"`
	RunDir       string       `yaml:"run_dir,omitempty"` // sockets of this host's processes; "": given with --run-dir
	ClusterKey   string       `yaml:"cluster_key"`       // file of 64 hex digits, readable by its owner alone
	Store        Store        `yaml:"store"`
	Cache        Cache        `yaml:"cache,omitempty"`
	Mesh         Mesh         `yaml:"mesh,omitempty"`
	Supervisor   string       `yaml:"supervisor,omitempty"` // "child" (as for ""), or "systemd"
	Firewall     string       `yaml:"firewall,omitempty"`   // "none" (as for ""), or "ufw"
	DNS          DNS          `yaml:"dns,omitempty"`
	Certificates Certificates `yaml:"certificates"`
	Gateway      Gateway      `yaml:"gateway"`
	TURN         TURN         `yaml:"turn"`
	Demo         Demo         `yaml:"demo,omitempty"`
}

// Store says where the cluster's records are.
type Store struct {
	Engine       string   `yaml:"engine"`                  // "sqlite": one file that all nodes share; or "rqlite"
	File         string   `yaml:"file,omitempty"`          // of sqlite, absolute
	URLs         []string `yaml:"urls,omitempty"`          // of rqlite, its HTTP API on any of its nodes, nearest first
	Run          bool     `yaml:"run,omitempty"`           // the agent runs rqlited on this host, on its mesh address
	User         string   `yaml:"user,omitempty"`          // of rqlite's basic authentication
	PasswordFile string   `yaml:"password_file,omitempty"` // absolute
}

// Cache says where short-lived shared state is.
type Cache struct {
	Engine       string   `yaml:"engine,omitempty"`        // "memory" (as for ""), or "olric"
	Addresses    []string `yaml:"addresses,omitempty"`     // of Olric's Redis protocol, host:port
	PasswordFile string   `yaml:"password_file,omitempty"` // absolute
	Run          bool     `yaml:"run,omitempty"`           // the agent runs olric-server on this host, on its mesh address
}

// Mesh says who makes the mesh's interface.
type Mesh struct {
	WireGuard  string `yaml:"wireguard,omitempty"`   // "existing" (as for ""): somebody else; "auto": this agent, in the kernel where it can; "userspace"
	Interface  string `yaml:"interface,omitempty"`   // name; "": orama0
	ListenPort uint16 `yaml:"listen_port,omitempty"` // UDP on every address; 0: 51820
	PrivateKey string `yaml:"private_key,omitempty"` // file, absolute; made when missing
	Enroll     string `yaml:"enroll,omitempty"`      // host:port where new nodes are let in over TLS; "": nowhere
}

// DNS says who answers for the base domain.
type DNS struct {
	Mode        string   `yaml:"mode,omitempty"`        // "none" (as for ""), "serve", "rfc2136", or "program"
	Listen      []string `yaml:"listen,omitempty"`      // of serve: host:port, UDP and TCP
	Nameservers []string `yaml:"nameservers,omitempty"` // of serve: the zone's NS names; "": dns-{node}.BASE for each node
	Server      string   `yaml:"server,omitempty"`      // of rfc2136: host:port
	KeyName     string   `yaml:"key_name,omitempty"`    // of rfc2136: the TSIG key's name
	KeyFile     string   `yaml:"key_file,omitempty"`    // of rfc2136: file with its base64 secret
	Algorithm   string   `yaml:"algorithm,omitempty"`   // of rfc2136: "hmac-sha256" (as for ""), "hmac-sha512"
	Program     []string `yaml:"program,omitempty"`     // of program: an absolute path and its arguments, no secrets; see dns.Program
	Zone        string   `yaml:"zone,omitempty"`        // of program: that base_domain is in; "": base_domain
}

// Certificates says where TLS certificates come from.
type Certificates struct {
	Mode      string `yaml:"mode"`                // "authority": a development authority of our own; "files"; "acme"
	Authority string `yaml:"authority,omitempty"` // directory of the authority, absolute
	Cert      string `yaml:"cert,omitempty"`      // of files: chain, PEM; looked at again when it changes
	Key       string `yaml:"key,omitempty"`       // of files: PEM
	Directory string `yaml:"directory,omitempty"` // of acme: the ACME directory's URL; "": Let's Encrypt
	Email     string `yaml:"email,omitempty"`     // of acme: the account's contact
	Roots     string `yaml:"roots,omitempty"`     // of acme: PEM file of the directory's own roots; "": the system's
	Resolver  string `yaml:"resolver,omitempty"`  // of acme: host:port that is asked whether the challenge is visible; "": the system's
}

// Gateway configures the REST and WebSocket edge.
type Gateway struct {
	URL          string   `yaml:"url"`                     // how clients reach it
	HTTP         []string `yaml:"http"`                    // host:port, each must bind
	HTTPOptional []string `yaml:"http_optional,omitempty"` // host:port, left out where they do not bind
	HTTPS        string   `yaml:"https"`                   // host:port; also the backend of a shared 443
	// TrustedProxies are networks of reverse proxies whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies,omitempty"`
	LocalOrigins   bool           `yaml:"local_origins"` // pages of http://localhost:* and http://127.0.0.1:* may call
}

// TURN configures how relays are named to clients.
type TURN struct {
	URLs string `yaml:"urls"` // "ip" or "name"
	// HTTPS says who has 443/tcp: "shared" (as for ""): TURN, which passes what is not for it to the gateway; "off":
	// another server of this host, and TURN over TLS is on 5349 alone.
	HTTPS string `yaml:"https,omitempty"`
}

// Demo opens the demo page to whoever holds an invitation.
type Demo struct {
	Namespace  orama.NamespaceID `yaml:"namespace,omitempty"`
	InviteHash string            `yaml:"invite_hash,omitempty"` // hex SHA-256
}

// Load reads and validates a node's file. Unknown keys are errors, so that a typing mistake
// never becomes a default.
func Load(path string) (Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return Node{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Node{}, fmt.Errorf("configuration: %w", err)
	}
	if len(text) > maxFile {
		return Node{}, fmt.Errorf("configuration %s is larger than %d bytes", path, maxFile)
	}
	return Parse(path, text)
}

// Parse reads a node's configuration from text; name is for messages.
func Parse(name string, text []byte) (Node, error) {
	var c Node
	if err := Decode(text, &c, true); err != nil {
		return Node{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	if err := c.Validate(); err != nil {
		return Node{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	return c, nil
}

// Decode reads YAML in which every key must be known. The error points at the place; with quote it also shows the lines
// there, which is not for files that hold secrets. Text without a document leaves into as it is.
func Decode(text []byte, into any, quote bool) (err error) {
	// The decoder panics at some damaged text, such as a tag where a list should be.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is no YAML that can be read: %v", r)
		}
	}()
	err = yaml.NewDecoder(bytes.NewReader(text), yaml.DisallowUnknownField()).Decode(into)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return errors.New(yaml.FormatError(err, false, quote))
}

// Save writes the configuration for Load to find; readable by its owner alone.
func (c Node) Save(path string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Validate says what is wrong with a configuration, if anything; it fails closed on addresses.
func (c Node) Validate() error {
	switch {
	case c.ID == "" || len(c.ID) > 63 || strings.ContainsAny(string(c.ID), "/ \t\n:"):
		return fmt.Errorf("node: a name of 1 to 63 characters without space, slash or colon is needed")
	case c.BaseDomain == "" || strings.HasPrefix(c.BaseDomain, ".") || strings.ContainsAny(c.BaseDomain, "/: "):
		return fmt.Errorf("base_domain: a domain such as example.org is needed")
	case !c.PublicIP.IsValid() || c.PublicIP.IsUnspecified():
		return fmt.Errorf("public_ip: one address of this host is needed")
	case !c.MeshCIDR.IsValid():
		return fmt.Errorf("mesh_cidr: a network such as 10.0.0.0/24 is needed")
	case !c.MeshIP.IsValid() || !c.MeshCIDR.Contains(c.MeshIP):
		return fmt.Errorf("mesh_ip: an address inside mesh_cidr %s is needed", c.MeshCIDR)
	case !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.ClusterKey) || c.RunDir != "" && !filepath.IsAbs(c.RunDir):
		return fmt.Errorf("data_dir, run_dir and cluster_key: absolute paths are needed")
	case c.Gateway.URL == "" || len(c.Gateway.HTTP) == 0:
		return fmt.Errorf("gateway: url and at least one http address are needed")
	case c.TURN.URLs != "ip" && c.TURN.URLs != "name":
		return fmt.Errorf(`turn.urls: "ip" or "name" is needed`)
	}
	if err := c.validateParts(); err != nil {
		return err
	}
	if c.Demo.Namespace != "" {
		if err := auth.ValidNamespace(string(c.Demo.Namespace)); err != nil {
			return fmt.Errorf("demo.namespace: %w", err)
		}
	}
	return nil
}
