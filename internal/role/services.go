package role

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"orama.network/orama"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/store"
	"orama.network/orama/internal/supervisor"
)

// services are the store and the cache of a host that runs its own: rqlited and olric-server, children of the agent that
// outlive one that is killed.
type services struct {
	children *supervisor.Children // nil: none are ours
}

// startServices has those run that the configuration says. It returns before they serve: the records' own patience sees
// to that.
func startServices(ctx context.Context, cfg config.Node, log *slog.Logger) (*services, error) {
	s := &services{}
	if !cfg.Store.Run && !cfg.Cache.Run {
		return s, nil
	}
	s.children = supervisor.New(filepath.Join(cfg.DataDir, "services"), log)
	if cfg.Store.Run {
		unit, err := rqlitedUnit(cfg)
		if err == nil {
			err = s.children.Ensure(ctx, unit)
		}
		if err != nil {
			return s, fmt.Errorf("store: %w", err)
		}
	}
	if cfg.Cache.Run {
		unit, err := olricUnit(cfg)
		if err == nil {
			err = s.children.Ensure(ctx, unit)
		}
		if err != nil {
			return s, fmt.Errorf("cache: %w", err)
		}
	}
	return s, nil
}

// close ends the services with their node.
func (s *services) close(ctx context.Context) error {
	if s.children == nil {
		return nil
	}
	return s.children.Close(ctx, nodeGrace)
}

// rqlitedUnit is this host's node of the records' store. Members are the hosts of the configured URLs: those that were there
// when this host was set up, and itself.
func rqlitedUnit(cfg config.Node) (supervisor.Unit, error) {
	exe, err := program("rqlited", "store")
	if err != nil {
		return supervisor.Unit{}, err
	}
	r := store.Rqlited{Node: string(cfg.ID), DataDir: filepath.Join(cfg.DataDir, "rqlite")}
	for _, text := range cfg.Store.URLs {
		at, err := addrOf(text)
		if err != nil {
			return supervisor.Unit{}, err
		}
		raft := netip.AddrPortFrom(at.Addr(), at.Port()+1)
		if at.Addr() == cfg.MeshIP {
			r.HTTP, r.Raft = at, raft
		}
		r.Members = append(r.Members, raft)
	}
	if !r.HTTP.IsValid() {
		return supervisor.Unit{}, orama.Errorf(orama.KindInvalid, "invalid_config", "store.run: one of store.urls has to be this host's, such as http://%s:%d", cfg.MeshIP, store.RQLiteHTTPPort)
	}
	if cfg.Store.User != "" {
		password, err := readPassword(cfg.Store.PasswordFile)
		if err != nil {
			return supervisor.Unit{}, err
		}
		r.User, r.Auth = cfg.Store.User, filepath.Join(cfg.DataDir, "rqlite-users.json")
		if err := os.WriteFile(r.Auth, store.RqlitedAuth(cfg.Store.User, password), 0o600); err != nil {
			return supervisor.Unit{}, err
		}
	}
	return supervisor.Unit{Name: "rqlited", Args: append([]string{exe}, store.RqlitedArgs(r)...), Dir: cfg.DataDir,
		Log: filepath.Join(cfg.DataDir, "rqlited.log")}, nil
}

// addrOf reads the address in a URL of the store; members know each other by address.
func addrOf(text string) (netip.AddrPort, error) {
	u, err := url.Parse(text)
	if err == nil {
		var at netip.AddrPort
		if at, err = netip.ParseAddrPort(u.Host); err == nil {
			return at, nil
		}
	}
	return netip.AddrPort{}, orama.Errorf(orama.KindInvalid, "invalid_config", "store.run needs store.urls with addresses and ports, such as http://10.0.0.1:%d", store.RQLiteHTTPPort)
}

// olricUnit is this host's member of the cache.
func olricUnit(cfg config.Node) (supervisor.Unit, error) {
	exe, err := program("olric-server", "cache")
	if err != nil {
		return supervisor.Unit{}, err
	}
	password, err := readPassword(cfg.Cache.PasswordFile)
	if err != nil {
		return supervisor.Unit{}, err
	}
	o := cache.Olric{Password: password}
	for _, text := range cfg.Cache.Addresses {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return supervisor.Unit{}, orama.Errorf(orama.KindInvalid, "invalid_config", "cache.run needs cache.addresses with addresses and ports, such as 10.0.0.1:%d", cache.OlricPort)
		}
		gossip := netip.AddrPortFrom(at.Addr(), at.Port()+cache.OlricGossipPort-cache.OlricPort)
		if at.Addr() == cfg.MeshIP {
			o.Address, o.Gossip = at, gossip
		}
		o.Peers = append(o.Peers, gossip)
	}
	if !o.Address.IsValid() {
		return supervisor.Unit{}, orama.Errorf(orama.KindInvalid, "invalid_config", "cache.run: one of cache.addresses has to be this host's, such as %s:%d", cfg.MeshIP, cache.OlricPort)
	}
	file := filepath.Join(cfg.DataDir, "olric.yaml")
	if err := os.WriteFile(file, cache.OlricConfig(o), 0o600); err != nil {
		return supervisor.Unit{}, err
	}
	return supervisor.Unit{Name: "olric", Args: []string{exe, "-c", file}, Dir: cfg.DataDir, Log: filepath.Join(cfg.DataDir, "olric.log")}, nil
}

func program(name, part string) (string, error) {
	exe, err := exec.LookPath(name)
	if err != nil {
		return "", orama.Errorf(orama.KindUnavailable, "not_installed", "%s.run is set, but %s is not installed on this host; install it, or set run: false and name a cluster that somebody else runs", part, name)
	}
	return filepath.Abs(exe)
}
