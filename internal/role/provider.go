package role

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/dns"
)

const (
	// pushEvery is how often a name server's zone is compared with what it should be.
	pushEvery = 10 * time.Second
	// programEvery is the same of a program, behind which there is somebody's API that counts its calls.
	programEvery = time.Minute
	// programTurn is how much later each further node pushes a change by a program: few APIs forgive that the same
	// record is added by several nodes at once. The next node takes over where the first one's program fails.
	programTurn = 15 * time.Second
	// heardWithin is how long after its last beat a node still has its turn.
	heardWithin = 15 * time.Second
)

// foreign is a zone of somebody else's that this cluster keeps its names in.
type foreign struct {
	dns.Provider
	find  func(ctx context.Context, name string) (zone string, err error) // that a name is in
	what  string                                                          // in words, for the log
	every time.Duration
	turn  time.Duration // 0: all nodes push at once
}

// openForeign makes what the configuration names; nil where it names none.
func openForeign(c config.Node, log *slog.Logger) (*foreign, error) {
	switch c.DNS.Mode {
	case "rfc2136":
		secret, err := dns.LoadKey(c.DNS.KeyFile)
		if err != nil {
			return nil, err
		}
		u, err := dns.NewUpdater(dns.UpdaterOptions{Server: c.DNS.Server, KeyName: c.DNS.KeyName, Secret: secret, Algorithm: c.DNS.Algorithm})
		if err != nil {
			return nil, err
		}
		return &foreign{Provider: u, find: u.FindZone, what: "the name server", every: pushEvery}, nil
	case "program":
		zone := programZone(c)
		return &foreign{Provider: dns.NewProgram(c.DNS.Program, log), what: "the zone of the dns program", every: programEvery, turn: programTurn,
			find: func(context.Context, string) (string, error) { return zone, nil }}, nil
	}
	return nil, nil //nolint:nilnil // there is none
}

// compared is when the zone was last compared with what it should be.
func (n *names) compared() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at
}

// programZone is the zone that a program changes.
func programZone(c config.Node) string { return cmp.Or(c.DNS.Zone, c.BaseDomain) }

// after is how long this node leaves a change to the nodes before it.
func (f *foreign) after(c orama.Cluster, self orama.NodeID, now time.Time) time.Duration {
	before := 0
	for _, n := range c.Nodes {
		if n.ID < self && now.Sub(n.Heartbeat) <= heardWithin {
			before++
		}
	}
	return time.Duration(before) * f.turn
}

// due reports whether the zone is to be compared now: when what it should be has changed, in this node's turn, or when
// it was not compared for a while.
func (n *names) due(c orama.Cluster, want []orama.DNSRecord, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(want, n.wanted) || n.since.IsZero() {
		n.wanted, n.since = want, now
	}
	if n.at.Before(n.since) { // not since it changed
		return now.Sub(n.since) >= n.foreign.after(c, n.cfg.ID, now)
	}
	return now.Sub(n.at) >= n.foreign.every
}
