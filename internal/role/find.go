package role

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
)

// Where a host that is a node keeps what others must find.
const (
	HostConfig = "/etc/orama/node.yaml"
	HostRunDir = hostRunDir
)

// AgentSockets lists, in the order in which they are tried, patterns of the sockets that an agent of this machine may
// listen on: those of the local cluster in dataDir; then, unless that was asked for by name, those of the node that the
// configuration file is of, and those below runDir.
func AgentSockets(dataDir string, named bool, configFile, runDir string) ([]string, error) {
	local, err := RunDir(dataDir)
	if err != nil {
		return nil, err
	}
	out := []string{AgentSocket(local, "*")}
	if named {
		return out, nil
	}
	// A file that is not there or not for this user's eyes leaves the usual place.
	if cfg, err := config.Load(configFile); err == nil {
		dir := cfg.RunDir
		if dir == "" {
			dir = cfg.DataDir
		}
		out = append(out, AgentSocket(dir, cfg.ID))
	}
	return append(out, AgentSocket(runDir, "*")), nil
}

// FirstAgent gives the first socket of the patterns that answers. The error says what to do next; where is for its text.
func FirstAgent(ctx context.Context, patterns []string, where string) (string, error) {
	denied := ""
	var open []string
	for _, p := range patterns {
		sockets, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		for _, s := range sockets {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", s)
			switch {
			case err == nil:
				c.Close()
				open = append(open, s)
			case errors.Is(err, syscall.EACCES):
				denied = s
			}
		}
	}
	switch {
	case len(open) > 0:
		return firstThatSpeaks(ctx, open), nil
	case denied != "":
		return "", orama.Errorf(orama.KindForbidden, "socket_denied", "the node's agent is there, but this user may not speak to it on %s; try sudo", denied)
	}
	return "", orama.Errorf(orama.KindUnavailable, "no_cluster",
		"no cluster runs on %s, and no node on this host; start one with 'orama up', name its directory with --data-dir, or a cluster elsewhere with --env", where)
}

// speaksWithin is how long an agent may take to say who it is, when there is another to ask.
const speaksWithin = time.Second

// firstThatSpeaks passes over an agent that hangs: the kernel takes connections for it all the same. When none
// speaks, or there is no choice, it is the first.
func firstThatSpeaks(ctx context.Context, sockets []string) string {
	for _, s := range sockets {
		if len(sockets) == 1 {
			break
		}
		bounded, cancel := context.WithTimeout(ctx, speaksWithin)
		err := dialUnit(s).do(bounded, http.MethodGet, "/v1/node", nil, nil)
		cancel()
		if err == nil {
			return s
		}
	}
	return sockets[0]
}
