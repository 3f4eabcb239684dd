package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/signal"
)

// where is what every room command has: the namespace, or a gateway and whoever may ask it.
type where struct {
	namespace, url, key string
}

// roomFlags adds the flags that say whose rooms, and has run called with a client for them.
func (a *app) roomFlags(c *cobra.Command, run func(c *cobra.Command, rooms *operator.Client, namespace string, given []string) error) *cobra.Command {
	var at where
	f := c.Flags()
	f.StringVarP(&at.namespace, "namespace", "n", "", "the namespace (required without --url)")
	f.StringVar(&at.url, "url", "", "URL of a gateway, instead of a cluster that is known by name")
	f.StringVar(&at.key, "api-key", "", "for --url: the namespace's owner key, or a token with admin")
	c.RunE = func(c *cobra.Command, given []string) error {
		rooms, err := a.roomsAt(c, at)
		if err != nil {
			return err
		}
		return run(c, rooms, at.namespace, given)
	}
	return c
}

func (a *app) roomsAt(c *cobra.Command, at where) (*operator.Client, error) {
	switch {
	case at.url == "" && at.key != "":
		return nil, usage(c, errors.New("--api-key goes with --url"))
	case at.url == "" && at.namespace == "":
		return nil, usage(c, errors.New("--namespace is needed"))
	case at.url == "":
		return a.admin(c.Context())
	case at.key == "":
		return nil, usage(c, errors.New("--url needs --api-key"))
	case at.namespace != "":
		return nil, usage(c, errors.New("--url goes without --namespace: the key says which"))
	}
	return operator.DialOwner(at.url, at.key)
}

func (a *app) room() *cobra.Command {
	return group(&cobra.Command{Use: "room", Short: "See who is in a namespace's rooms, and moderate them",
		Long: `See who is in a namespace's rooms, and moderate them, as its owner may over REST (api/openapi.yaml).

An operator names the namespace; who is no operator and has the namespace's owner key names a gateway:
--url https://ns-myapp.example.org --api-key "$OWNER_KEY". All of them take --json.`,
		Example: `  orama room list --namespace myapp
  orama room show daily --namespace myapp
  orama room set daily --namespace myapp --locked --max-participants 20
  orama room kick daily --namespace myapp --user mallory
  orama room list --url https://ns-myapp.example.org --api-key "$OWNER_KEY"`},
		a.roomList(), a.roomShow(), a.roomSet(), a.roomKick(), a.roomMute(), a.roomPermit(), a.roomEnd())
}

func (a *app) roomList() *cobra.Command {
	return a.roomFlags(&cobra.Command{
		Use: "list", Short: "List the rooms", Args: args(cobra.NoArgs),
		Example: "  orama room list --namespace myapp\n  orama room list --namespace myapp --json | jq -r '.rooms[].room_id'",
	}, func(c *cobra.Command, rooms *operator.Client, ns string, _ []string) error {
		all, err := rooms.Rooms(c.Context(), ns)
		if err != nil {
			return err
		}
		if a.json {
			a.print(map[string]any{"rooms": all})
			return nil
		}
		if len(all) == 0 {
			a.say("No rooms. The first who joins one makes it.")
			return nil
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ROOM\tPARTICIPANTS\tNODE\tCREATED")
		for _, r := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, participantsText(r.Participants), r.Node, r.CreatedAt.Local().Format(time.DateTime))
		}
		return w.Flush()
	})
}

// participantsText is a number, or that nobody told it.
func participantsText(n *int) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

func (a *app) roomShow() *cobra.Command {
	return a.roomFlags(&cobra.Command{
		Use: "show ROOM", Short: "Show a room's settings, who is in it and what they send", Args: args(cobra.ExactArgs(1)),
		Long: `Show a room's settings, who is in it and what they send.

MAY      what the peer may do: publish, subscribe, data, admin
QUALITY  excellent, good, poor or lost, and why (docs/protocol.md, "Who speaks, and how well it goes")
MUTED    yes, or locked: an admin muted it and only an admin may undo that`,
		Example: "  orama room show daily --namespace myapp\n  orama room show daily --namespace myapp --json | jq '.peers[].quality'",
	}, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		r, err := rooms.Room(c.Context(), ns, orama.RoomID(given[0]))
		if err != nil {
			return err
		}
		if a.json {
			a.print(r)
			return nil
		}
		a.say("%s", strings.TrimSuffix(roomText(r), "\n"))
		return nil
	})
}

// roomText words a room for people. What its people have chosen goes to a terminal, so only what can be printed does.
func roomText(r operator.RoomDetails) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Room %s on %s, made %s.\n%s\n", r.ID, r.Node, r.CreatedAt.Local().Format(time.DateTime), settingsText(r.Settings))
	switch {
	case r.Peers == nil:
		b.WriteString("\nIts SFU did not answer in time: who is in it is not known.\n")
		return b.String()
	case len(r.Peers) == 0:
		b.WriteString("\nNobody is in it.\n")
		return b.String()
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PEER\tUSER\tNAME\tMAY\tQUALITY")
	tracks := 0
	for _, p := range r.Peers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.PeerID, printable(string(p.UserID)), cmp.Or(printable(p.Name), "-"), mayText(p.Permissions), qualityText(p))
		tracks += len(p.Tracks)
	}
	w.Flush() //nolint:errcheck // a strings.Builder takes all
	if tracks == 0 {
		b.WriteString("\nNobody sends anything.\n")
		return b.String()
	}
	b.WriteString("\n")
	fmt.Fprintln(w, "TRACK\tUSER\tKIND\tSOURCE\tLAYERS\tMUTED")
	for _, p := range r.Peers {
		for _, t := range p.Tracks {
			muted := map[bool]string{true: "yes", false: "-"}[t.Muted]
			if t.Locked {
				muted = "locked"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", printable(string(t.TrackID)), printable(string(p.UserID)), t.Kind, printable(t.Source), max(1, len(t.Layers)), muted)
		}
	}
	w.Flush() //nolint:errcheck // as above
	return b.String()
}

func settingsText(s signal.RoomSettings) string {
	lock, most, meta := "Not locked", "as many participants as the namespace allows", "no metadata"
	if s.Locked {
		lock = "Locked: only admins join"
	}
	if s.MaxParticipants > 0 {
		most = "at most " + several(s.MaxParticipants, "participant")
	}
	if len(s.Metadata) > 0 {
		meta = "metadata " + printable(string(s.Metadata))
	}
	return lock + "; " + most + "; " + meta + "."
}

func mayText(p signal.Permissions) string {
	var may []string
	for _, x := range []struct {
		name string
		may  bool
	}{{"publish", p.Publish}, {"subscribe", p.Subscribe}, {"data", p.Data}, {"admin", p.Admin}} {
		if x.may {
			may = append(may, x.name)
		}
	}
	return cmp.Or(strings.Join(may, ","), "nothing")
}

func qualityText(p signal.PeerView) string {
	switch {
	case p.Quality == "":
		return "-"
	case p.Cause == "":
		return p.Quality
	}
	return p.Quality + " (" + p.Cause + ")"
}

func (a *app) roomSet() *cobra.Command {
	var locked bool
	var most int
	var metadata string
	c := &cobra.Command{
		Use: "set ROOM", Short: "Lock a room, limit it, or change its metadata", Args: args(cobra.ExactArgs(1)),
		Long: `Lock a room, limit it, or change its metadata. What is not named stays. Who is in the room is told, and stays.

In a locked or full room nobody joins but admins. The limit may be lower than the namespace's
('orama namespace limits') and not higher; 0 goes back to that. Settings are kept with the room, also when it moves.`,
		Example: `  orama room set daily --namespace myapp --locked
  orama room set daily --namespace myapp --locked=false --max-participants 20
  orama room set daily --namespace myapp --metadata '{"topic":"plans"}'
  orama room set daily --namespace myapp --metadata null`,
	}
	var ch operator.RoomChange
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed("locked") {
			ch.Locked = &locked
		}
		if c.Flags().Changed("max-participants") {
			if most < 0 || most > signal.MaxParticipants {
				return usage(c, fmt.Errorf("--max-participants is 0 to %d", signal.MaxParticipants))
			}
			ch.MaxParticipants = &most
		}
		if c.Flags().Changed("metadata") {
			if !json.Valid([]byte(metadata)) || len(metadata) > signal.MaxMetadata {
				return usage(c, fmt.Errorf("--metadata is a JSON value of at most %d bytes, such as '{\"topic\":\"plans\"}' or null", signal.MaxMetadata))
			}
			ch.Metadata = json.RawMessage(metadata)
		}
		if ch.Locked == nil && ch.MaxParticipants == nil && ch.Metadata == nil {
			return usage(c, errors.New("one of --locked, --max-participants and --metadata is needed"))
		}
		return nil
	}
	a.roomFlags(c, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		now, err := rooms.SetRoom(c.Context(), ns, orama.RoomID(given[0]), ch)
		if err != nil {
			return err
		}
		if a.json {
			a.print(map[string]any{"room_id": given[0], "settings": now})
			return nil
		}
		a.say("Room %s: %s", given[0], settingsText(now))
		return nil
	})
	f := c.Flags()
	f.BoolVar(&locked, "locked", false, "let nobody join but admins; --locked=false ends it")
	f.IntVar(&most, "max-participants", 0, "how many may be in it at once; 0: as many as the namespace allows")
	f.StringVar(&metadata, "metadata", "", "JSON value that everybody in the room is shown; null: none")
	return c
}

// done says that something was done, in either form.
func (a *app) done(about map[string]any, format string, words ...any) {
	if a.json {
		a.print(about)
		return
	}
	a.say(format, words...)
}

func (a *app) roomKick() *cobra.Command {
	var user, peer, reason string
	c := &cobra.Command{
		Use: "kick ROOM", Short: "Remove a user from a room, and end its tokens for it", Args: args(cobra.ExactArgs(1)),
		Long: `Remove a user from a room with all its peers. Its tokens that were issued until now are refused for this
room by every gateway; who may come back is for whoever issues the next one.`,
		Example: `  orama room kick daily --namespace myapp --user mallory --reason "spam"
  orama room kick daily --namespace myapp --peer p_4f1c…`,
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		switch {
		case (user == "") == (peer == ""):
			return usage(c, errors.New("one of --user and --peer is needed; 'orama room show' lists them"))
		case len(reason) > signal.MaxReason:
			return usage(c, fmt.Errorf("--reason has at most %d bytes", signal.MaxReason))
		}
		return nil
	}
	a.roomFlags(c, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		if err := rooms.Kick(c.Context(), ns, orama.RoomID(given[0]), orama.UserID(user), orama.PeerID(peer), reason); err != nil {
			return err
		}
		who := cmp.Or(user, "the user of "+peer)
		a.done(map[string]any{"room_id": given[0], "kicked": cmp.Or(user, peer)}, "%s is out of %s, and its tokens of until now are no good for it.", who, given[0])
		return nil
	})
	f := c.Flags()
	f.StringVar(&user, "user", "", "who is to go, with all its peers")
	f.StringVar(&peer, "peer", "", "or one of its peers")
	f.StringVar(&reason, "reason", "", "what the user is told, at most 100 bytes")
	return c
}

func (a *app) roomMute() *cobra.Command {
	var locked, undo bool
	c := &cobra.Command{
		Use: "mute ROOM TRACK", Short: "Stop somebody's track in the SFU, or let it go on", Args: args(cobra.ExactArgs(2)),
		Long: `Stop somebody's track in the SFU: nothing of it reaches the others, whatever its publisher sends.

The publisher may undo that, unless it is --locked: then only an admin may, by --undo, and what else of that
kind the user publishes begins muted. 'orama room show' lists the tracks.`,
		Example: `  orama room mute daily t_9ab0… --namespace myapp
  orama room mute daily t_9ab0… --namespace myapp --locked
  orama room mute daily t_9ab0… --namespace myapp --undo`,
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if locked && undo {
			return usage(c, errors.New("--locked goes without --undo"))
		}
		return nil
	}
	a.roomFlags(c, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		if err := rooms.MuteTrack(c.Context(), ns, orama.RoomID(given[0]), orama.TrackID(given[1]), !undo, locked); err != nil {
			return err
		}
		what := map[bool]string{true: "is not muted any more", false: "is muted"}[undo]
		if locked {
			what += ", and only an admin may undo that"
		}
		a.done(map[string]any{"room_id": given[0], "track_id": given[1], "muted": !undo, "locked": locked}, "%s %s.", given[1], what)
		return nil
	})
	f := c.Flags()
	f.BoolVar(&locked, "locked", false, "its publisher may not undo it")
	f.BoolVar(&undo, "undo", false, "let it go on, locked or not")
	return c
}

func (a *app) roomPermit() *cobra.Command {
	var want signal.Permissions
	c := &cobra.Command{
		Use: "permit ROOM PEER", Short: "Change what a peer's user may do in a room", Args: args(cobra.ExactArgs(2)),
		Long: `Change what the user of a peer may do in a room, from now on and after joining it again. What is not named
stays as it is.`,
		Example: `  orama room permit daily p_4f1c… --namespace myapp --publish=false
  orama room permit daily p_4f1c… --namespace myapp --admin`,
	}
	rights := []struct {
		name, help string
		of         func(*signal.Permissions) *bool
	}{
		{"publish", "send tracks", func(p *signal.Permissions) *bool { return &p.Publish }},
		{"subscribe", "receive tracks", func(p *signal.Permissions) *bool { return &p.Subscribe }},
		{"data", "use data channels", func(p *signal.Permissions) *bool { return &p.Data }},
		{"admin", "moderate the room", func(p *signal.Permissions) *bool { return &p.Admin }},
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, r := range rights {
			if c.Flags().Changed(r.name) {
				return nil
			}
		}
		return usage(c, errors.New("one of --publish, --subscribe, --data and --admin is needed, as it is to be"))
	}
	a.roomFlags(c, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		room, peer := orama.RoomID(given[0]), orama.PeerID(given[1])
		now, err := permissionsOf(c.Context(), rooms, ns, room, peer)
		if err != nil {
			return err
		}
		for _, r := range rights {
			if c.Flags().Changed(r.name) {
				*r.of(&now) = *r.of(&want)
			}
		}
		if err := rooms.Permit(c.Context(), ns, room, peer, now); err != nil {
			return err
		}
		a.done(map[string]any{"room_id": room, "peer_id": peer, "permissions": now}, "%s may: %s.", peer, mayText(now))
		return nil
	})
	for _, r := range rights {
		c.Flags().BoolVar(r.of(&want), r.name, false, "may "+r.help+"; --"+r.name+"=false takes it away")
	}
	return c
}

// permissionsOf reads what a peer may do now, as a change replaces all of it.
func permissionsOf(ctx context.Context, rooms *operator.Client, ns string, room orama.RoomID, peer orama.PeerID) (signal.Permissions, error) {
	r, err := rooms.Room(ctx, ns, room)
	switch {
	case err != nil:
		return signal.Permissions{}, err
	case r.Peers == nil:
		return signal.Permissions{}, orama.Errorf(orama.KindUnavailable, "sfu_unreachable", "the room's media server did not answer; try again")
	}
	for _, p := range r.Peers {
		if p.PeerID == peer {
			return p.Permissions, nil
		}
	}
	return signal.Permissions{}, orama.Errorf(orama.KindNotFound, signal.CodeNotFound, "there is no peer %s in %s; 'orama room show' lists them", peer, room)
}

func (a *app) roomEnd() *cobra.Command {
	return a.roomFlags(&cobra.Command{
		Use: "end ROOM", Short: "Send everybody home and forget a room", Args: args(cobra.ExactArgs(1)),
		Long: `Send everybody home and forget a room with its settings. Unless the namespace keeps joins from making rooms, the
next who joins makes it anew.`,
		Example: "  orama room end daily --namespace myapp",
	}, func(c *cobra.Command, rooms *operator.Client, ns string, given []string) error {
		if err := rooms.EndRoom(c.Context(), ns, orama.RoomID(given[0])); err != nil {
			return err
		}
		a.done(map[string]any{"room_id": given[0], "ended": true}, "Room %s is closed.", given[0])
		return nil
	})
}
