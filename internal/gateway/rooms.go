package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// RoomInfo is a room as REST shows it.
type RoomInfo struct {
	ID           orama.RoomID `json:"room_id" example:"my-room"`
	Participants *int         `json:"participants" nullable:"true" doc:"null when the room's SFU did not answer in time"`
	Node         orama.NodeID `json:"sfu_node" doc:"The node whose SFU owns the room"`
	CreatedAt    time.Time    `json:"created_at"`
}

func infoOf(r orama.Room) RoomInfo {
	return RoomInfo{ID: r.ID, Node: r.Node, CreatedAt: r.CreatedAt.UTC()}
}

type listOutput struct {
	Body struct {
		Rooms []RoomInfo `json:"rooms" nullable:"false"`
	}
}

func (g *Gateway) listRooms(ctx context.Context, _ *struct{}) (*listOutput, error) {
	c := callerOf(ctx)
	if _, err := webrtcOf(c.ns); err != nil {
		return nil, err
	}
	rooms, err := g.readRooms(ctx, c.ns.ID)
	if err != nil {
		return nil, err
	}
	present := g.askParticipants(ctx, c.ns.ID, rooms)
	out := &listOutput{}
	out.Body.Rooms = []RoomInfo{}
	for _, r := range rooms {
		if c.mayUse(r.ID) != nil {
			continue
		}
		info := infoOf(r)
		if in, ok := present[process{r.Namespace, r.Node, r.Boot}]; ok {
			n := in[r.ID] // a room that nobody joined yet is not in the SFU's list
			info.Participants = &n
		}
		out.Body.Rooms = append(out.Body.Rooms, info)
	}
	return out, nil
}

func (g *Gateway) readRooms(ctx context.Context, ns orama.NamespaceID) ([]orama.Room, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timing.storeWithin)
	defer cancel()
	rooms, err := g.store.Rooms(ctx, ns)
	if err != nil {
		return nil, storeError(err)
	}
	return rooms, nil
}

// askParticipants asks every owner at once. Who does not answer in time is missing from the result.
func (g *Gateway) askParticipants(ctx context.Context, ns orama.NamespaceID, rooms []orama.Room) map[process]map[orama.RoomID]int {
	ctx, cancel := context.WithTimeout(ctx, g.timing.askWithin)
	defer cancel()
	out := map[process]map[orama.RoomID]int{}
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return out
	}
	owners := map[process]bool{}
	for _, r := range rooms {
		owners[process{ns, r.Node, r.Boot}] = true
	}
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	for p := range owners {
		at, ok := addressOf(cl, p)
		if !ok {
			continue
		}
		wg.Go(func() {
			in, err := g.sfus.rooms(ctx, at, p)
			if err != nil {
				g.log.LogAttrs(ctx, slog.LevelInfo, "participants not known", slog.String("node", string(p.node)), slog.Any("error", err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[p] = in
		})
	}
	wg.Wait()
	return out
}

type createInput struct {
	Body struct {
		_    struct{}     `additionalProperties:"true"`
		Room orama.RoomID `json:"room_id" minLength:"1" maxLength:"128" doc:"Printable ASCII without space or any of \" / \\ ? #, not beginning with _"`
	}
}

type createOutput struct {
	Status int
	Body   RoomInfo
}

// createRoom makes a room that stays when it empties, or keeps one that a join has made.
func (g *Gateway) createRoom(ctx context.Context, in *createInput) (*createOutput, error) {
	c := callerOf(ctx)
	if err := errors.Join(auth.ValidRoom(string(in.Body.Room)), c.mayUse(in.Body.Room)); err != nil {
		return nil, err
	}
	if _, err := webrtcOf(c.ns); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timing.joinWithin)
	defer cancel()
	s := &search{g: g, ns: c.ns, room: in.Body.Room, permanent: true, lost: map[process]bool{}}
	row, created, err := s.create(ctx)
	if err != nil {
		return nil, orTimeout(err)
	}
	out := &createOutput{Status: http.StatusOK, Body: infoOf(row)}
	if created {
		out.Status, out.Body.Participants = http.StatusCreated, new(int)
	}
	return out, nil
}

// create makes the record, or makes an existing one permanent without moving the room.
func (s *search) create(ctx context.Context) (row orama.Room, created bool, err error) {
	for range maxClaims {
		row, err := s.g.store.Room(ctx, s.ns.ID, s.room)
		switch {
		case orama.KindOf(err) == orama.KindNotFound:
			var cl orama.Cluster
			if cl, err = s.g.view.cluster(ctx); err != nil {
				return row, false, err
			}
			row, err = s.claim(ctx, cl, orama.Room{}, false)
			created = true
		case err == nil && !row.Permanent:
			row.Permanent, row.Epoch, row.UpdatedAt = true, row.Epoch+1, s.g.now()
			err = s.g.store.ClaimRoom(ctx, row)
		}
		if err == nil {
			return row, created, nil
		}
		if orama.KindOf(err) != orama.KindConflict {
			return row, false, storeError(err)
		}
		created = false
	}
	return row, false, unavailable("room_contended", "the room is being changed by others; try again", time.Second)
}

type closeInput struct {
	Room orama.RoomID `query:"room_id" required:"true" minLength:"1" maxLength:"128"`
}

// closeRoom sends everybody home and forgets the room. The SFU hears of it first: once the record is gone
// nobody would know whom to tell. One that does not answer is not waited for: its clients are cut
// off by the sweeps of their gateways.
func (g *Gateway) closeRoom(ctx context.Context, in *closeInput) (*struct{}, error) {
	c := callerOf(ctx)
	if err := errors.Join(auth.ValidRoom(string(in.Room)), c.mayUse(in.Room)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.timing.joinWithin)
	defer cancel()
	for range maxClaims {
		row, err := g.store.Room(ctx, c.ns.ID, in.Room)
		if err == nil {
			g.tellClosed(ctx, row)
			err = g.store.DeleteRoom(ctx, c.ns.ID, in.Room, row.Epoch)
		}
		switch orama.KindOf(err) {
		case "":
			return nil, nil
		case orama.KindConflict: // it has moved meanwhile
			continue
		case orama.KindNotFound:
			return nil, orama.Errorf(orama.KindNotFound, "room_not_found", "there is no such room")
		default:
			return nil, storeError(err)
		}
	}
	return nil, unavailable("room_contended", "the room is being moved; try again", time.Second)
}

func (g *Gateway) tellClosed(ctx context.Context, row orama.Room) {
	ctx, cancel := context.WithTimeout(ctx, g.timing.askWithin)
	defer cancel()
	cl, err := g.view.cluster(ctx)
	if err != nil {
		return
	}
	p := process{row.Namespace, row.Node, row.Boot}
	at, ok := addressOf(cl, p)
	if !ok {
		return
	}
	if err := g.sfus.closeRoom(ctx, at, p, row.ID); err != nil {
		g.log.LogAttrs(ctx, slog.LevelWarn, "an SFU was not told of a closed room", slog.String("namespace", string(p.ns)),
			slog.String("room", string(row.ID)), slog.String("node", string(p.node)), slog.Any("error", err))
	}
}
