package role

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/mesh"
)

// JoinOptions make another host of a cluster.
type JoinOptions struct {
	HostOptions
	Token    string
	Replace  bool // take the place of a node of this name that is gone for good
	Progress func(text string)
}

// Join asks the cluster to let this host in and sets it up with what it is given. It starts nothing. When it fails,
// nothing of it is left on this host; a host that is set up already is not touched.
func Join(ctx context.Context, o JoinOptions) (r InitResult, err error) {
	token, err := enroll.ParseToken(o.Token)
	if err != nil {
		return r, err
	}
	if err := o.fill(); err != nil {
		return r, err
	}
	stage, done, err := o.prepare()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := o.discover(); err != nil {
		return r, err
	}
	q := enroll.Request{Node: o.Node, Zone: o.Zone, PublicIP: o.PublicIP, MeshIP: o.MeshIP, Replace: o.Replace}
	if !o.MeshIP.IsValid() { // with one, the mesh is made by somebody else
		if q.MeshKey, err = mesh.EnsureKey(filepath.Join(stage, fileMeshKey)); err != nil {
			return r, err
		}
		if o.MeshPort == 0 {
			o.MeshPort = mesh.DefaultPort
		}
		q.MeshEndpoint = netip.AddrPortFrom(o.PublicIP, o.MeshPort).String()
	}
	o.tell("asking " + token.Address + " to let " + string(o.Node) + " in")
	a, err := o.ask(ctx, token, q)
	if err != nil {
		return r, err
	}
	cfg, err := o.adapt(a)
	if err != nil {
		return r, fmt.Errorf("%w; the token is used up, nothing was changed here: correct this and join again with another", err)
	}
	r = result(o.HostOptions, cfg)
	r.MeshKey, r.Notes = q.MeshKey, joinNotes(cfg)
	if err := o.stage(stage, cfg, a); err != nil {
		return r, err
	}
	return r, o.settle(stage, cfg)
}

const (
	// refusedFor is how long a host that refuses connections is asked again: an agent that was just started lets nobody in
	// before the records hold its own node.
	refusedFor   = 10 * time.Second
	refusedEvery = 250 * time.Millisecond
)

// ask asks to be let in. Where nobody listens yet nothing was said, so it may be said again.
func (o JoinOptions) ask(ctx context.Context, t enroll.Token, q enroll.Request) (enroll.Answer, error) {
	said := false
	for until := time.Now().Add(refusedFor); ; {
		a, err := enroll.Join(ctx, t, q)
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(until) {
			return a, err
		}
		if !said {
			said = true
			o.tell("nobody listens there yet; asking again for " + refusedFor.String())
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(refusedEvery):
		}
	}
}

func (o JoinOptions) tell(text string) {
	if o.Progress != nil {
		o.Progress(text)
	}
}

// prepare makes the directory in which everything is made first. Its being there without a configuration means that a
// join was broken off; whatever that left is taken away. done takes the directory away.
func (o JoinOptions) prepare() (stage string, done func() error, err error) {
	if _, err := os.Lstat(o.ConfigFile); err == nil {
		return "", nil, orama.Errorf(orama.KindConflict, "other_node", "this host is set up already: %s is there; nothing was changed. Remove that node first, or name other places with --config and --data-dir", o.ConfigFile)
	}
	if err := errors.Join(privateDir(o.DataDir), os.MkdirAll(filepath.Dir(o.ConfigFile), 0o755)); err != nil { //nolint:gosec // a directory of /etc; the file in it is 0600
		return "", nil, err
	}
	lock, err := os.Open(o.DataDir)
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return "", nil, orama.Errorf(orama.KindConflict, "join_busy", "another join is under way in %s", o.DataDir)
	}
	stage = filepath.Join(o.DataDir, ".join")
	if _, err = os.Lstat(stage); err == nil {
		err = o.sweep(stage)
	} else {
		err = o.untouched()
	}
	if err == nil {
		err = os.Mkdir(stage, 0o700)
	}
	if err != nil {
		lock.Close()
		return "", nil, err
	}
	return stage, func() error { return errors.Join(os.RemoveAll(stage), lock.Close()) }, nil
}

// sweep takes away what a join that was broken off has left: there was none of it when it began.
func (o JoinOptions) sweep(stage string) error {
	for _, name := range ownFiles() {
		if err := os.Remove(filepath.Join(o.DataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(stage)
}

// untouched refuses a directory that has a node's files.
func (o JoinOptions) untouched() error {
	for _, name := range ownFiles() {
		if _, err := os.Lstat(filepath.Join(o.DataDir, name)); !errors.Is(err, fs.ErrNotExist) {
			return orama.Errorf(orama.KindConflict, "other_node", "%s holds %s of another node; nothing was changed. Name another directory with --data-dir", o.DataDir, name)
		}
	}
	return strangersData(o.DataDir, "")
}

// ownFiles are what a joined host may have in its data directory, keys first.
func ownFiles() []string {
	return []string{fileMeshKey, fileClusterKey, fileStorePassword, fileCachePassword, fileDNSKey, fileAuthorityCert, fileAuthorityKey, fileACMERoots, filepath.Base(meshPeersFile(""))}
}

// stage writes everything but the configuration into the staging directory.
func (o JoinOptions) stage(dir string, cfg config.Node, a enroll.Answer) error {
	for name := range shared(cfg) {
		text, ok := a.Files[name]
		if !ok || len(text) == 0 || len(text) > maxOfferFile {
			return fmt.Errorf("the cluster did not send its %s; both hosts need the same version", name)
		}
		if err := writeNew(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	if _, err := readClusterKey(filepath.Join(dir, fileClusterKey)); err != nil {
		return err
	}
	if !ownMesh(cfg) {
		return nil
	}
	return mesh.SavePeers(filepath.Join(dir, filepath.Base(meshPeersFile(dir))), mesh.PeersOf(a.Nodes, cfg.ID, cfg.MeshCIDR, slog.New(slog.DiscardHandler)))
}

// settle moves what was staged to its place, and writes the configuration last. What it has moved, it takes back when
// it fails.
func (o JoinOptions) settle(dir string, cfg config.Node) (err error) {
	staged, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var moved []string
	defer func() {
		if err != nil {
			for _, f := range moved {
				err = errors.Join(err, os.Remove(f))
			}
		}
	}()
	for _, f := range staged {
		to := filepath.Join(o.DataDir, f.Name())
		if err := os.Rename(filepath.Join(dir, f.Name()), to); err != nil {
			return err
		}
		moved = append(moved, to)
	}
	return cfg.Save(o.ConfigFile)
}

// adapt makes this host's configuration of that of the member who answered: what is the cluster's stays, addresses of
// that host become ours, and files are in our directory.
func (o JoinOptions) adapt(a enroll.Answer) (config.Node, error) {
	was, err := config.Parse("of the cluster", a.Config)
	if err != nil {
		return was, err
	}
	c := was
	c.ID, c.Zone, c.PublicIP, c.MeshIP = o.Node, o.Zone, o.PublicIP, a.MeshIP
	c.DataDir, c.RunDir, c.Supervisor, c.Demo = o.DataDir, runDirFor(o.Supervisor), o.Supervisor, config.Demo{}
	in := func(name string) string { return filepath.Join(o.DataDir, name) }
	own := swap{was: was, now: c}
	c.ClusterKey = in(fileClusterKey)
	c.Mesh.Enroll, c.Mesh.Interface = own.addr(was.Mesh.Enroll), o.Interface
	if o.Interface == "" {
		c.Mesh.Interface = was.Mesh.Interface
	}
	if ownMesh(was) {
		c.Mesh.PrivateKey, c.Mesh.ListenPort = in(fileMeshKey), o.MeshPort
	}
	c.Gateway.HTTP, c.Gateway.HTTPOptional = own.addrs(was.Gateway.HTTP), nil
	c.Gateway.HTTPS, c.DNS.Listen = own.addr(was.Gateway.HTTPS), own.addrs(was.DNS.Listen)
	c.Gateway.URL = o.GatewayURL
	if c.Gateway.URL == "" && was.Gateway.URL == ownURL(was) {
		c.Gateway.URL = ownURL(c)
	}
	if c.Gateway.URL == "" {
		c.Gateway.URL = own.url(was.Gateway.URL)
	}
	c.Store, c.Cache = own.store(), own.cache()
	placed := func(name string, path *string) {
		if *path != "" {
			*path = in(name)
		}
	}
	placed(fileStorePassword, &c.Store.PasswordFile)
	placed(fileCachePassword, &c.Cache.PasswordFile)
	placed(fileDNSKey, &c.DNS.KeyFile)
	placed(fileACMERoots, &c.Certificates.Roots)
	if c.Certificates.Mode == "authority" {
		c.Certificates.Authority = o.DataDir
	}
	if c.Store.Engine == "sqlite" {
		if _, err := os.Stat(c.Store.File); err != nil {
			return c, orama.Errorf(orama.KindInvalid, "store_not_shared",
				"the cluster keeps its records in one file, %s, which this host does not see; give the cluster an rqlite store first", c.Store.File)
		}
	}
	if err := meshIsFree(c, "--mesh-cidr when the cluster is made"); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// swap replaces a member's own addresses by those of this host.
type swap struct{ was, now config.Node }

func (s swap) host(host string) string {
	switch host {
	case s.was.PublicIP.String():
		return s.now.PublicIP.String()
	case s.was.MeshIP.String():
		return s.now.MeshIP.String()
	}
	return host
}

func (s swap) addr(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	return net.JoinHostPort(s.host(host), port)
}

func (s swap) addrs(list []string) []string {
	var out []string
	for _, a := range list {
		out = append(out, s.addr(a))
	}
	return out
}

func (s swap) url(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	if u.Port() == "" {
		u.Host = s.host(u.Host)
	} else {
		u.Host = s.addr(u.Host)
	}
	return u.String()
}

// store is nearest first: where every node runs one, ours, then those that the member knew.
func (s swap) store() config.Store {
	c := s.was.Store
	if c.Run = c.Run && installed("rqlited"); !c.Run {
		return c
	}
	var own []string
	for _, u := range c.URLs {
		if n := s.url(u); n != u {
			own = append(own, n)
		}
	}
	c.URLs = append(own, c.URLs...)
	return c
}

func (s swap) cache() config.Cache {
	c := s.was.Cache
	if c.Run = c.Run && installed("olric-server"); !c.Run {
		return c
	}
	var own []string
	for _, a := range c.Addresses {
		if n := s.addr(a); n != a {
			own = append(own, n)
		}
	}
	c.Addresses = append(own, slices.Clone(c.Addresses)...)
	return c
}

func joinNotes(cfg config.Node) []string {
	var out []string
	if cfg.Certificates.Mode == "files" {
		out = append(out, fmt.Sprintf("The cluster's certificates are files. Put this host's at %s and %s.", cfg.Certificates.Cert, cfg.Certificates.Key))
	}
	if cfg.DNS.Mode == "program" {
		if info, err := os.Stat(cfg.DNS.Program[0]); err != nil || info.Mode()&0o111 == 0 {
			out = append(out, fmt.Sprintf("The cluster's names are kept by a program. Put it at %s, with what it reads.", cfg.DNS.Program[0]))
		}
	}
	if cfg.Store.Engine == "rqlite" && !cfg.Store.Run {
		out = append(out, "The records are reached over the network; none are kept on this host.")
	}
	return out
}
