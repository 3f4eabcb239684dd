package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/operator"
)

// statusJSON is what programs are shown of a namespace's WebRTC: every key is always there, but for a limit that there is none of.
type statusJSON struct {
	Namespace         orama.NamespaceID `json:"namespace"`
	Enabled           bool              `json:"enabled"`
	TURNCredentialTTL int               `json:"turn_credential_ttl"`        // seconds; 0 when not enabled
	MaxParticipants   int               `json:"max_participants,omitempty"` // in a room; left out: any number
	Instances         []instanceJSON    `json:"instances"`                  // TURN before SFU, by node
}

// instanceJSON is a TURN or an SFU on one node.
type instanceJSON struct {
	Node   orama.NodeID `json:"node"`
	Role   orama.Role   `json:"role"`  // "turn" or "sfu"
	State  orama.State  `json:"state"` // "ready", "starting", "draining", "failed" or "unknown"
	Since  *time.Time   `json:"since"` // null: its agent never reported it
	Detail string       `json:"detail"`
	Ports  orama.Ports  `json:"ports"`
}

func statusForPrograms(s operator.Status) statusJSON {
	out := statusJSON{s.Namespace, s.Enabled, s.TURNCredentialTTL, s.MaxParticipants, []instanceJSON{}}
	for _, i := range s.Instances {
		line := instanceJSON{Node: i.Node, Role: i.Role, State: i.State, Detail: i.Detail, Ports: i.Ports}
		if !i.Since.IsZero() {
			line.Since = &i.Since
		}
		out.Instances = append(out.Instances, line)
	}
	return out
}

func (a *app) webrtcStatus() *cobra.Command {
	var ns string
	var watch bool
	c := &cobra.Command{
		Use: "webrtc-status", Short: "Compare what is wanted of a namespace's relays and SFUs with what was seen", Args: args(cobra.NoArgs),
		Long: `Compare what is wanted of each relay and SFU of a namespace with what was seen of it.

ready     its node's agent used it as a client does: a real allocation, a real join
starting  its process is on its way up, or does not serve a client yet
draining  it is on its way out; its ports are released when it was seen gone
failed    it does not come up; WHY says what went wrong
unknown   its node's agent has not been heard for 15 seconds

With --watch the table is drawn again whenever something changes, until Ctrl-C. With --json it is one
document: {namespace, enabled, turn_credential_ttl, instances: [{node, role, state, since, detail, ports}]},
with max_participants too where 'orama namespace limits' set it, and with both one such line for each change.`,
		Example: "  orama namespace webrtc-status --namespace myapp\n  orama namespace webrtc-status --namespace myapp --watch\n" +
			"  orama namespace webrtc-status --namespace myapp --json | jq -r '.instances[] | select(.state != \"ready\") | .detail'",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			read := func(ctx context.Context) (operator.Status, error) { return admin.Status(ctx, ns) }
			if watch {
				return a.watchStatus(c.Context(), read)
			}
			s, err := read(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				a.print(statusForPrograms(s))
				return nil
			}
			a.say("%s", statusText(s, ago))
			return nil
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "draw it again whenever something changes")
	return namespaceFlag(c, &ns)
}

// watchEvery is how soon a change is shown.
const watchEvery = shortestInterval

// watchStatus shows a status whenever it changes until ctx ends. A first look that fails ends it; later ones are said and
// tried again, unless the namespace is gone.
func (a *app) watchStatus(ctx context.Context, read func(context.Context) (operator.Status, error)) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	shown, failing := "", ""
	for {
		s, err := read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (shown == "" || orama.KindOf(err) == orama.KindNotFound):
			return err
		case err != nil && failing != err.Error():
			failing = err.Error()
			fmt.Fprintf(a.err, "orama: %v; trying on\n", err)
		case err == nil:
			failing = ""
			if now := fingerprint(s); now != shown {
				shown = now
				a.showStatus(s)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fingerprint changes with everything that is shown.
func fingerprint(s operator.Status) string {
	text, _ := json.Marshal(s) // it always can be
	return string(text)
}

// showStatus shows one change: a line for programs, a screen of its own on a terminal, else a block with its time.
func (a *app) showStatus(s operator.Status) {
	if a.json {
		a.print(statusForPrograms(s))
		return
	}
	text := statusText(s, clock)
	if size, ok := a.terminal(); ok {
		fmt.Fprintf(a.out, "\x1b[H\x1b[2J%s", fit(text+"\nCtrl-C ends", size[0], size[1])) // home, and clear what was there
		return
	}
	a.say("%s\n%s", time.Now().Format(time.DateTime), text)
}

// statusText words a status for people; when words the time since when something is so.
func statusText(s operator.Status, when func(time.Time) string) string {
	var b strings.Builder
	ready := 0
	for _, i := range s.Instances {
		if i.State == orama.StateReady && i.Desired == orama.DesiredRun {
			ready++
		}
	}
	switch {
	case s.Enabled:
		fmt.Fprintf(&b, "WebRTC is enabled for %s; %d of %d instances are ready; TURN credentials last %s.\n",
			s.Namespace, ready, len(s.Instances), time.Duration(s.TURNCredentialTTL)*time.Second)
	case len(s.Instances) > 0:
		fmt.Fprintf(&b, "WebRTC is being disabled for %s; what is left of it:\n", s.Namespace)
	default:
		fmt.Fprintf(&b, "WebRTC is not enabled for %s.\n", s.Namespace)
		return b.String()
	}
	if s.MaxParticipants > 0 {
		fmt.Fprintf(&b, "A room has at most %s.\n", several(s.MaxParticipants, "participant"))
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tWANTED\tSEEN\tSINCE\tPORTS\tWHY")
	for _, in := range s.Instances {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", in.Node, in.Role, in.Desired, in.State, when(in.Since), portsText(in.Ports), in.Detail)
	}
	w.Flush() //nolint:errcheck // a strings.Builder takes all
	for _, m := range s.Missing {
		fmt.Fprintf(&b, "\nNot placed yet, %s", m)
	}
	if len(s.Missing) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

// clock is for what stays on the screen: a time does not age.
func clock(t time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case time.Since(t) > 12*time.Hour:
		return t.Local().Format(time.DateTime)
	}
	return t.Local().Format(time.TimeOnly)
}

func portsText(p orama.Ports) string {
	var parts []string
	for _, b := range []struct {
		name  string
		block orama.PortRange
	}{{"relay", p.Relay}, {"signal", p.Signal}, {"media", p.Media}} {
		switch b.block.Count {
		case 0:
		case 1:
			parts = append(parts, fmt.Sprintf("%s %d", b.name, b.block.First))
		default:
			parts = append(parts, fmt.Sprintf("%s %d-%d", b.name, b.block.First, int(b.block.First)+int(b.block.Count)-1))
		}
	}
	return strings.Join(parts, ", ")
}
