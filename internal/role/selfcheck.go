package role

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/node"
	"orama.network/orama/internal/probe"
)

// silentAfter is how old a node's heartbeat may be for others to look for it on the mesh: a node that is down is no
// fault of theirs.
const silentAfter = 10 * time.Second

// lookEvery is how often what costs more than a question is looked at. Its last answer stands in between.
const lookEvery = 10 * time.Second

// lookAround adds the checks that a node makes of its surroundings: whether the others answer over the mesh, and who
// listens where its instances should.
func (h *host) lookAround(l map[string]func(context.Context) error) {
	handshakes := l["mesh"] // where the mesh is ours
	reach := meshCheck(h.cfg.ID, h.store.Cluster, probes{cfg: h.cfg}.Mesh)
	l["mesh"] = func(ctx context.Context) error {
		if handshakes != nil {
			if err := handshakes(ctx); err != nil {
				return err
			}
		}
		return reach(ctx)
	}
	self := orama.Node{ID: h.cfg.ID, PublicIP: h.cfg.PublicIP, MeshIP: h.cfg.MeshIP}
	l["ports"] = seldom(portsCheck(self, h.store.Cluster, func() []node.Unit { return h.units.Units() },
		func() ([]probe.Listener, error) { return probe.Listeners("/proc") }))
}

// seldom makes a check that is called often look every lookEvery. It is for one caller at a time.
func seldom(check func(context.Context) error) func(context.Context) error {
	var last error
	var at time.Time
	return func(ctx context.Context) error {
		if time.Since(at) >= lookEvery {
			at, last = time.Now(), check(ctx)
		}
		return last
	}
}

// meshCheck says which living nodes do not answer on their mesh addresses.
func meshCheck(self orama.NodeID, read func(context.Context) (orama.Cluster, error), reach func(context.Context, orama.Node) error) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := read(ctx)
		if err != nil {
			return nil //nolint:nilerr // the store's own check says so
		}
		var all sync.WaitGroup
		errs := make([]error, len(c.Nodes))
		for i, n := range c.Nodes {
			if n.ID == self || time.Since(n.Heartbeat) > silentAfter {
				continue
			}
			all.Go(func() {
				if err := reach(ctx, n); err != nil {
					errs[i] = fmt.Errorf("%s does not answer on %s: %w", n.ID, n.MeshIP, err)
				}
			})
		}
		all.Wait()
		return oneLine(errs)
	}
}

func oneLine(errs []error) error {
	var said []string
	for _, err := range errs {
		if err != nil {
			said = append(said, strings.ReplaceAll(err.Error(), "\n", ", "))
		}
	}
	if len(said) == 0 {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}

// portsCheck holds what this node's instances should listen on against who does.
func portsCheck(self orama.Node, read func(context.Context) (orama.Cluster, error), units func() []node.Unit,
	listeners func() ([]probe.Listener, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := read(ctx)
		if err != nil {
			return nil //nolint:nilerr // the store's own check says so
		}
		have, err := listeners()
		if err != nil {
			return fmt.Errorf("who listens cannot be read: %w", err)
		}
		return oneLine(wrongListeners(c, self, units(), have))
	}
}

// wrongListeners names each socket that an instance that is ready should have, and that nobody has or somebody else.
func wrongListeners(c orama.Cluster, self orama.Node, units []node.Unit, have []probe.Listener) []error {
	pid := map[string]int{}
	for _, u := range units {
		pid[string(u.Role)+"/"+string(u.Namespace)] = u.PID
	}
	var errs []error
	turn := false
	for _, i := range c.Instances {
		if i.Node != self.ID || i.Desired != orama.DesiredRun || i.Observed.State != orama.StateReady {
			continue
		}
		if i.Role == orama.RoleTURN {
			turn = true // one process has the sockets of all; relay sockets are there only while a client has one
			continue
		}
		owner := pid[string(i.Role)+"/"+string(i.Namespace)]
		errs = append(errs,
			heldBy(have, "tcp", netip.AddrPortFrom(self.MeshIP, i.Ports.Signal.First), owner, "the SFU of "+string(i.Namespace)),
			heldBy(have, "udp", netip.AddrPortFrom(self.MeshIP, i.Ports.Media.First), owner, "the SFU of "+string(i.Namespace)))
	}
	if turn {
		for _, l := range []struct {
			network string
			port    uint16
		}{{"udp", 3478}, {"tcp", 3478}, {"tcp", 5349}} {
			errs = append(errs, heldBy(have, l.network, netip.AddrPortFrom(self.PublicIP, l.port), pid[string(orama.RoleTURN)+"/"], "TURN"))
		}
	}
	return errs
}

// heldBy says what is wrong with one socket. A holder that we may not see is believed, and so is any when we do not
// know our own process.
func heldBy(have []probe.Listener, network string, at netip.AddrPort, owner int, whose string) error {
	any := netip.IPv4Unspecified()
	i := slices.IndexFunc(have, func(l probe.Listener) bool {
		ip := l.Address.Addr()
		return l.Network == network && l.Address.Port() == at.Port() && (ip == at.Addr() || ip == any || ip == netip.IPv6Unspecified())
	})
	switch {
	case i < 0:
		return fmt.Errorf("%s/%s of %s: nobody listens", at, network, whose)
	case owner != 0 && have[i].PID != 0 && have[i].PID != owner:
		return fmt.Errorf("%s/%s of %s: process %d has it", at, network, whose, have[i].PID)
	}
	return nil
}
