package role

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"orama.network/orama"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/plan"
)

// Where a host keeps what is its own, and its ports, unless it is told otherwise.
const (
	DefaultConfig  = "/etc/orama/node.yaml"
	DefaultDataDir = "/var/lib/orama"

	defaultEnrollPort = 7946
	defaultStorePort  = 4001
	defaultBase       = "orama.test" // RFC 6761: never a real name
)

var defaultMesh = netip.MustParsePrefix("10.0.0.0/24")

// HostOptions are what a host is told about itself, by init and join alike. What is zero is found out, or usual.
type HostOptions struct {
	ConfigFile string       // DefaultConfig
	DataDir    string       // DefaultDataDir
	Node       orama.NodeID // of the host's name
	Zone       string       // none
	PublicIP   netip.Addr   // the one public address of the interface that leads out
	MeshIP     netip.Addr   // the lowest that is free; needed where the mesh is not ours
	Interface  string       // of the mesh; mesh.DefaultInterface
	MeshPort   uint16       // UDP; mesh.DefaultPort
	GatewayURL string       // HTTP at the public address
	Supervisor string       // systemd where it runs
}

// InitOptions make the first host of a cluster.
type InitOptions struct {
	HostOptions
	BaseDomain   string       // defaultBase, with certificates of our own
	MeshCIDR     netip.Prefix // defaultMesh
	Mesh         string       // as in config.Mesh.WireGuard; "auto"
	Enroll       string       // host:port where others join; the public address and 7946
	Store        []string     // rqlite's URLs, or "sqlite"; rqlited where it is installed, else one file
	Firewall     string       // "none"
	DNS          string       // "none"
	DNSProgram   []string     // with DNS "program": it and its arguments
	DNSZone      string       // with DNS "program": that BaseDomain is in; BaseDomain
	Certificates string       // "authority"
	Email        string       // of ACME
}

// InitResult is a host that was set up.
type InitResult struct {
	Node       orama.NodeID `json:"node"`
	ConfigFile string       `json:"config"`
	DataDir    string       `json:"data_dir"`
	PublicIP   netip.Addr   `json:"public_ip"`
	MeshIP     netip.Addr   `json:"mesh_ip"`
	MeshKey    string       `json:"mesh_key,omitempty"` // public
	Store      string       `json:"store"`              // the engine
	Systemd    bool         `json:"systemd"`
	Already    bool         `json:"already"`          // it was set up before; nothing changed
	Token      string       `json:"token,omitempty"`  // for the next host, shown once
	Expires    time.Time    `json:"expires,omitzero"` // of the token
	Notes      []string     `json:"notes,omitempty"`  // what the operator should know
}

// Init sets up the first host of a cluster: its configuration, the cluster's key and its own. It starts nothing. Done
// again it changes nothing; it never touches the files of another node.
func Init(o InitOptions) (InitResult, error) {
	if err := o.fill(); err != nil {
		return InitResult{}, err
	}
	old, err := o.existing()
	if err != nil || old != nil {
		return already(o, old), err
	}
	cfg, err := o.config()
	if err != nil {
		return InitResult{}, err
	}
	if err := meshIsFree(cfg, "--mesh-cidr"); err != nil {
		return InitResult{}, err
	}
	r := result(o.HostOptions, cfg)
	if cfg.Store.Engine == "sqlite" {
		r.Notes = append(r.Notes, "The records are one file on this host. For several hosts install rqlited on each before init, or name an rqlite cluster with --store.")
	}
	if err := errors.Join(privateDir(cfg.DataDir), os.MkdirAll(filepath.Dir(o.ConfigFile), 0o755)); err != nil { //nolint:gosec // a directory of /etc; the file in it is 0600
		return InitResult{}, err
	}
	key, err := ensureClusterKey(cfg.ClusterKey)
	if err != nil {
		return InitResult{}, err
	}
	if ownMesh(cfg) {
		if r.MeshKey, err = mesh.EnsureKey(cfg.Mesh.PrivateKey); err != nil {
			return InitResult{}, err
		}
	}
	if cfg.Certificates.Mode == "authority" {
		if _, err := cert.OpenAuthority(cfg.Certificates.Authority, "Orama "+cfg.BaseDomain); err != nil {
			return InitResult{}, err
		}
	}
	if r.Token, r.Expires, err = seedInvitation(cfg, key); err != nil {
		return InitResult{}, err
	}
	return r, cfg.Save(o.ConfigFile) // last: a host without it is not set up
}

// fill finds out what a host was not told.
func (o *HostOptions) fill() error {
	def := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	def(&o.ConfigFile, DefaultConfig)
	def(&o.DataDir, DefaultDataDir)
	var err1, err2 error
	o.ConfigFile, err1 = filepath.Abs(o.ConfigFile)
	o.DataDir, err2 = filepath.Abs(o.DataDir)
	return errors.Join(err1, err2)
}

// discover finds out what a new host was not told and needs.
func (o *HostOptions) discover() error {
	if o.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		if o.Node = nodeName(name); o.Node == "" {
			return orama.Errorf(orama.KindInvalid, "no_name", "this host's name %q makes no node's name; name it with --node", name)
		}
	}
	if !o.PublicIP.IsValid() {
		found, err := outwardAddresses()
		if err != nil {
			return err
		}
		if o.PublicIP, err = choosePublic(found); err != nil {
			return err
		}
	}
	if o.Supervisor == "" {
		o.Supervisor = "child"
		if info, err := os.Stat("/run/systemd/system"); err == nil && info.IsDir() { // sd_booted(3)
			o.Supervisor = "systemd"
		}
	}
	return nil
}

// runDirFor is where systemd makes a directory for the sockets of a node; elsewhere they are with its data.
func runDirFor(supervisor string) string {
	if supervisor == "systemd" {
		return "/run/orama"
	}
	return ""
}

// nodeName makes a host's name a node's: the first label, in lower case.
func nodeName(host string) orama.NodeID {
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	label = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, label), "-")
	return orama.NodeID(label[:min(len(label), 63)])
}

// outwardAddresses are those of the interfaces that default routes lead out of.
func outwardAddresses() ([]netip.Addr, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("this host's addresses: %w", err)
	}
	var out []netip.Addr
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // a route through several, or gone meanwhile
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return nil, fmt.Errorf("this host's addresses: %w", err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && !slices.Contains(out, ip) {
				out = append(out, ip)
			}
		}
	}
	return out, nil
}

// choosePublic takes the one address that clients can reach; where that is not plain, somebody must say.
func choosePublic(found []netip.Addr) (netip.Addr, error) {
	public := slices.DeleteFunc(slices.Clone(found), func(a netip.Addr) bool {
		return !a.IsGlobalUnicast() || a.IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(a) // RFC 6598: behind the provider's NAT
	})
	if len(public) == 1 {
		return public[0], nil
	}
	return netip.Addr{}, orama.Errorf(orama.KindInvalid, "no_public_ip",
		"which address clients reach this host at is not plain (it has %s); name it with --public-ip", orNone(found))
}

// meshIsFree refuses a mesh whose addresses this host knows another way to: they would be cut off, or the mesh would.
func meshIsFree(cfg config.Node, advice string) error {
	if !ownMesh(cfg) {
		return nil
	}
	name := cfg.Mesh.Interface
	if name == "" {
		name = mesh.DefaultInterface
	}
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("this host's addresses: %w", err)
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil || i.Name == name {
			continue // gone meanwhile, or the mesh itself
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Overlaps(cfg.MeshCIDR) {
				return orama.Errorf(orama.KindConflict, "mesh_overlaps", "the mesh %s overlaps the network %s of this host's interface %s; choose another with %s", cfg.MeshCIDR, p.Masked(), i.Name, advice)
			}
		}
	}
	if cfg.MeshCIDR.Contains(cfg.PublicIP) {
		return orama.Errorf(orama.KindConflict, "mesh_overlaps", "the public address %s is in the mesh %s; choose another with %s", cfg.PublicIP, cfg.MeshCIDR, advice)
	}
	return nil
}

func orNone(list []netip.Addr) string {
	if len(list) == 0 {
		return "none on an interface that leads out"
	}
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// existing is the configuration that is there already, if it is this node's.
func (o InitOptions) existing() (*config.Node, error) {
	cfg, err := config.Load(o.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, strangersData(o.DataDir, o.Node)
	}
	if err != nil {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_config", "%v; correct it, or name another file with --config", err)
	}
	for _, d := range []struct {
		what      string
		differs   bool
		was, asks any
	}{
		{"node", o.Node != "" && o.Node != cfg.ID, cfg.ID, o.Node},
		{"public address", o.PublicIP.IsValid() && o.PublicIP != cfg.PublicIP, cfg.PublicIP, o.PublicIP},
		{"base domain", o.BaseDomain != "" && o.BaseDomain != cfg.BaseDomain, cfg.BaseDomain, o.BaseDomain},
		{"mesh", o.MeshCIDR.IsValid() && o.MeshCIDR.Masked() != cfg.MeshCIDR.Masked(), cfg.MeshCIDR, o.MeshCIDR},
		{"mesh address", o.MeshIP.IsValid() && o.MeshIP != cfg.MeshIP, cfg.MeshIP, o.MeshIP},
		{"data directory", o.DataDir != cfg.DataDir, cfg.DataDir, o.DataDir},
	} {
		if d.differs {
			return nil, orama.Errorf(orama.KindConflict, "other_node",
				"%s is of a node whose %s is %v, not %v; nothing was changed. Edit that file, or name another with --config", o.ConfigFile, d.what, d.was, d.asks)
		}
	}
	if _, err := readClusterKey(cfg.ClusterKey); err != nil {
		return nil, err
	}
	return &cfg, nil
}

// strangersData refuses a data directory that another node works in.
func strangersData(dir string, node orama.NodeID) error {
	s, err := manifest.Load(filepath.Join(dir, manifest.FileName))
	if errors.Is(err, orama.ErrNotFound) || err == nil && node != "" && s.NodeID == node {
		return nil
	}
	return orama.Errorf(orama.KindConflict, "other_node", "%s holds the data of another node; name another directory with --data-dir, or restore its configuration", dir)
}

func already(o InitOptions, cfg *config.Node) InitResult {
	if cfg == nil {
		return InitResult{}
	}
	r := result(o.HostOptions, *cfg)
	r.Already = true
	if ownMesh(*cfg) {
		r.MeshKey, _ = mesh.EnsureKey(cfg.Mesh.PrivateKey) //nolint:errcheck // the node says so when it starts
	}
	return r
}

func result(o HostOptions, cfg config.Node) InitResult {
	return InitResult{Node: cfg.ID, ConfigFile: o.ConfigFile, DataDir: cfg.DataDir, PublicIP: cfg.PublicIP, MeshIP: cfg.MeshIP,
		Store: cfg.Store.Engine, Systemd: cfg.Supervisor == "systemd"}
}

// config is the first host's configuration.
func (o InitOptions) config() (config.Node, error) {
	if err := o.discover(); err != nil {
		return config.Node{}, err
	}
	if o.BaseDomain == "" {
		o.BaseDomain = defaultBase
	}
	if !o.MeshCIDR.IsValid() {
		o.MeshCIDR = defaultMesh
	}
	o.MeshCIDR = o.MeshCIDR.Masked()
	if o.Mesh == "" {
		o.Mesh = string(mesh.ModeAuto)
	}
	if !o.MeshIP.IsValid() {
		if o.Mesh == string(mesh.ModeExisting) {
			return config.Node{}, orama.Errorf(orama.KindInvalid, "no_mesh_ip", "an existing mesh is used, so name this host's address on it with --mesh-ip, and its network with --mesh-cidr")
		}
		o.MeshIP = o.MeshCIDR.Addr().Next()
	}
	if o.Enroll == "" {
		o.Enroll = hostPort(o.PublicIP, defaultEnrollPort)
	}
	c := config.Node{
		ID: o.Node, Zone: o.Zone, BaseDomain: o.BaseDomain, PublicIP: o.PublicIP, MeshIP: o.MeshIP, MeshCIDR: o.MeshCIDR,
		DataDir: o.DataDir, ClusterKey: filepath.Join(o.DataDir, fileClusterKey),
		Store:      o.store(),
		Mesh:       config.Mesh{WireGuard: o.Mesh, Interface: o.Interface, ListenPort: o.MeshPort, Enroll: o.Enroll},
		RunDir:     runDirFor(o.Supervisor),
		Supervisor: o.Supervisor, Firewall: o.Firewall,
		DNS:          config.DNS{Mode: o.DNS, Program: o.DNSProgram, Zone: o.DNSZone},
		Certificates: config.Certificates{Mode: o.Certificates, Email: o.Email},
		Gateway:      config.Gateway{URL: o.GatewayURL, HTTP: []string{hostPort(o.PublicIP, localHTTP)}, HTTPS: hostPort(o.PublicIP, localHTTPS)},
		TURN:         config.TURN{URLs: "ip"},
	}
	if c.Mesh.WireGuard != string(mesh.ModeExisting) {
		c.Mesh.PrivateKey = filepath.Join(o.DataDir, fileMeshKey)
	}
	if c.Gateway.URL == "" && c.DNS.Mode == "serve" {
		c.Gateway.URL = ownURL(c)
	}
	if c.Gateway.URL == "" {
		c.Gateway.URL = "http://" + hostPort(o.PublicIP, localHTTP)
	}
	if c.DNS.Mode == "serve" {
		c.DNS.Listen = []string{hostPort(o.PublicIP, 53)}
	}
	if c.DNS.Mode == "serve" || c.DNS.Mode == "program" {
		c.TURN.URLs = "name"
	}
	if c.Certificates.Mode == "" {
		c.Certificates.Mode = "authority"
	}
	if c.Certificates.Mode == "authority" {
		c.Certificates.Authority = o.DataDir
	}
	if err := c.Validate(); err != nil {
		return c, orama.Errorf(orama.KindInvalid, "invalid_config", "%v", err)
	}
	return c, nil
}

// ownURL is where a host's gateway is reached by the host's own name, where the cluster serves names; else "".
func ownURL(c config.Node) string {
	name := plan.HostName(c.ID, c.BaseDomain)
	if name == "" || !sharesHTTPS(c) {
		return ""
	}
	return "https://" + name
}

func (o InitOptions) store() config.Store {
	switch {
	case len(o.Store) == 1 && o.Store[0] == "sqlite":
	case len(o.Store) > 0:
		return config.Store{Engine: "rqlite", URLs: o.Store}
	case installed("rqlited"):
		return config.Store{Engine: "rqlite", URLs: []string{"http://" + hostPort(o.MeshIP, defaultStorePort)}, Run: true}
	}
	return config.Store{Engine: "sqlite", File: filepath.Join(o.DataDir, "cluster.db")}
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// ensureClusterKey reads the cluster's key, or makes it. One that is there is never replaced: secrets are sealed with it.
func ensureClusterKey(path string) (key [32]byte, err error) {
	key, err = readClusterKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	rand.Read(key[:]) //nolint:errcheck // never fails
	return key, writeNew(path, []byte(hex.EncodeToString(key[:])+"\n"))
}

// writeNew writes a file that must not be there, for its owner alone; there is all of it or nothing.
func writeNew(path string, text []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Link(tmp, path) // fails where something is there
	}
	return errors.Join(err, os.Remove(tmp))
}

// seedInvitation makes the first invitation before there are records to keep it in: the agent takes it there.
func seedInvitation(cfg config.Node, key [32]byte) (token string, expires time.Time, err error) {
	if _, _, err := net.SplitHostPort(cfg.Mesh.Enroll); err != nil {
		return "", time.Time{}, nil //nolint:nilerr // nobody joins here
	}
	id, err := enroll.NewIdentity(key)
	if err != nil {
		return "", time.Time{}, err
	}
	t, i, err := enroll.NewInvitation(id, enrollAddress(cfg), enroll.DefaultTTL, time.Now())
	if err != nil {
		return "", time.Time{}, err
	}
	text, err := json.Marshal(seedFile{i.Hash, i.CreatedAt, i.Expires})
	if err != nil {
		return "", time.Time{}, err
	}
	path := seedPath(cfg.DataDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", time.Time{}, err
	}
	return t.String(), i.Expires, writeNew(path, text)
}
