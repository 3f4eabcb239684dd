package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

const (
	maxDials  = 3 // processes that one join tries
	maxClaims = 8 // races that one join may lose; every lost race has a winner, so that few are enough
)

// fresh is how recently an instance was seen for it to be trusted before others.
const fresh = 10 * time.Second

var errNoSFU = unavailable("sfu_unavailable", "no media server of the namespace is ready; try again", time.Second)

// search is one join's way to its room's owner.
type search struct {
	g    *Gateway
	ns   orama.Namespace
	room orama.RoomID

	permanent bool             // a new room stays when it empties
	state     string           // of the room, as its record has it
	lost      map[process]bool // processes that turned out not to have the room
	from      orama.NodeID     // the node that was lost last: a client is not sent back there if there is another
}

// connect finds the process that owns the room, making or moving the room where needed, and
// joins the caller to it. Errors are of a kind; nothing is left behind.
func (g *Gateway) connect(ctx context.Context, c *caller, room orama.RoomID, transports []string) (_ *socket, _ process, err error) {
	defer func() { err = orTimeout(err) }()
	ctx, cancel := context.WithTimeout(ctx, g.timing.joinWithin)
	defer cancel()
	if err := g.keptOut(ctx, c, room); err != nil {
		return nil, process{}, err
	}
	s := &search{g: g, ns: c.ns, room: room, lost: map[process]bool{}}
	for range maxDials {
		p, err := s.owner(ctx)
		if err != nil {
			return nil, process{}, err
		}
		conn, err := s.join(ctx, p, c, transports)
		if err == nil {
			return conn, p, nil
		}
		if !errors.Is(err, errLost) {
			return nil, process{}, err
		}
		g.log.LogAttrs(ctx, slog.LevelInfo, "room has lost its SFU", slog.String("namespace", string(p.ns)),
			slog.String("room", string(room)), slog.String("node", string(p.node)), slog.Any("reason", err))
		s.lost[p], s.from = true, p.node
	}
	return nil, process{}, errNoSFU
}

func (s *search) join(ctx context.Context, p process, c *caller, transports []string) (*socket, error) {
	cl, err := s.g.view.cluster(ctx)
	if err != nil {
		return nil, err
	}
	at, ok := addressOf(cl, p)
	if !ok {
		return nil, errLost
	}
	state, err := signal.DecodeRoomState([]byte(s.state))
	if err != nil {
		s.g.log.LogAttrs(ctx, slog.LevelWarn, "a room's state cannot be read", slog.String("namespace", string(p.ns)), slog.String("room", string(s.room)))
	}
	granted := c.granted
	if c.key != "" {
		granted = s.g.now()
	}
	return s.g.sfus.dial(ctx, at, signal.RoomRecord{MaxParticipants: s.ns.MaxParticipants, State: state}, auth.Ticket{
		Granted: granted, Namespace: p.ns, Node: p.node, Boot: p.boot, Room: s.room, User: c.user, Transports: transports,
		Publish: c.publish, Subscribe: c.subscribe, Data: c.data, Admin: c.admin,
	})
}

// owner gives the process that the room's record names, claiming the room for another when there is
// no record or its owner is lost. Two gateways may do so at once: the store lets one claim
// through, and the other reads again whom it named.
func (s *search) owner(ctx context.Context) (process, error) {
	for range maxClaims {
		row, err := s.g.store.Room(ctx, s.ns.ID, s.room)
		if err != nil && orama.KindOf(err) != orama.KindNotFound {
			return process{}, storeError(err)
		}
		exists := err == nil
		s.state = row.State
		if !exists && s.ns.ClosedRooms {
			return process{}, orama.Errorf(orama.KindNotFound, "room_not_found", "there is no such room; its owner has to create it")
		}
		cl, err := s.g.view.cluster(ctx)
		if err != nil {
			return process{}, err
		}
		p := process{s.ns.ID, row.Node, row.Boot}
		if exists && !s.lost[p] && serves(cl, p) {
			return p, nil
		}
		row, err = s.claim(ctx, cl, row, exists)
		if err == nil {
			return process{s.ns.ID, row.Node, row.Boot}, nil
		}
		if orama.KindOf(err) != orama.KindConflict {
			return process{}, storeError(err)
		}
	}
	return process{}, unavailable("room_contended", "the room is being moved; try again", time.Second)
}

// claim makes the best candidate the room's owner.
func (s *search) claim(ctx context.Context, cl orama.Cluster, row orama.Room, exists bool) (orama.Room, error) {
	count, err := s.g.count(ctx, s.ns.ID)
	if err != nil {
		return row, err
	}
	in, ok := s.pick(cl, count)
	if !ok {
		return row, errNoSFU
	}
	now := s.g.now().Truncate(time.Microsecond) // as fine as records are kept
	if !exists {
		row = orama.Room{Namespace: s.ns.ID, ID: s.room, CreatedAt: now, Permanent: s.permanent}
	}
	row.Node, row.Boot, row.Epoch, row.UpdatedAt = in.Node, in.Observed.Boot, row.Epoch+1, now
	if err := s.g.store.ClaimRoom(ctx, row); err != nil {
		return row, err
	}
	s.g.claimed(s.ns.ID, row.Node)
	return row, nil
}

// pick chooses among the SFUs seen ready: not the node just lost, lately seen, with few rooms, and here.
func (s *search) pick(cl orama.Cluster, count map[orama.NodeID]int) (orama.Instance, bool) {
	var ready []orama.Instance
	for _, in := range cl.Instances {
		p := process{in.Namespace, in.Node, in.Observed.Boot}
		if in.Namespace == s.ns.ID && in.Role == orama.RoleSFU && in.Desired == orama.DesiredRun &&
			in.Observed.State == orama.StateReady && in.Observed.Boot != "" && !s.lost[p] {
			ready = append(ready, in)
		}
	}
	if len(ready) == 0 {
		return orama.Instance{}, false
	}
	now := s.g.now()
	return slices.MinFunc(ready, func(a, b orama.Instance) int {
		return cmp.Or(
			before(a.Node != s.from, b.Node != s.from),
			before(now.Sub(a.Observed.At) < fresh, now.Sub(b.Observed.At) < fresh),
			cmp.Compare(count[a.Node], count[b.Node]),
			before(a.Node == s.g.cfg.Node, b.Node == s.g.cfg.Node),
			cmp.Compare(a.Node, b.Node),
		)
	}), true
}

// before orders what holds before what does not.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

// serves tells whether anything speaks against a process still having its rooms. What was seen of
// another boot says nothing: the record may be newer than the last observation, or older, and the
// process itself answers which (409 for a boot that is over). So does one that is ready or unknown.
func serves(cl orama.Cluster, p process) bool {
	in, ok := instanceOf(cl, p.ns, orama.RoleSFU, p.node)
	if !ok || in.Desired != orama.DesiredRun {
		return false
	}
	switch in.Observed.State {
	case orama.StateDraining, orama.StateFailed, orama.StateGone:
		return in.Observed.Boot != "" && in.Observed.Boot != p.boot
	default:
		return true
	}
}

// orTimeout gives a spent bound, and a gateway that stops, their kind.
func orTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return unavailable("timeout", "the room's media server could not be reached in time; try again", time.Second)
	}
	return err
}
