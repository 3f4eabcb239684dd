package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/role"
)

func (a *app) monitor() *cobra.Command {
	return group(&cobra.Command{Use: "monitor", Short: "See how a cluster does"}, a.monitorReport(), a.monitorLive())
}

func (a *app) monitorReport() *cobra.Command {
	return &cobra.Command{
		Use: "report", Short: "Print how every node and namespace does, as JSON", Args: args(cobra.NoArgs),
		Long: `Print one JSON document: every node with its last heartbeat and what its agent reports of the
machine, and every namespace with sfu_up and turn_up.

Both are observed: an agent joins each of its SFUs and takes an allocation of each of its relays
every 10 seconds, as a client would. sfu_up says that at least one SFU of the namespace is ready
and was joined within the last 30 seconds, turn_up the same of relays; sfu_ready and turn_ready
count them, sfu_wanted and turn_wanted are what is configured. observed_age_s is the age, in
seconds, of the oldest join or allocation that counts.`,
		Example: "  orama monitor report\n  orama monitor report --env devnet\n  orama monitor report --env devnet | jq '.namespaces[] | {name, sfu_up, turn_up}'",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			r, err := admin.Report(c.Context())
			if err != nil {
				return err
			}
			r.Env = a.env
			if a.json { // one line, as of every command
				a.print(r)
				return nil
			}
			enc := json.NewEncoder(a.out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			return enc.Encode(r)
		},
	}
}

// shortestInterval keeps a terminal from asking more than a gateway allows one key.
const shortestInterval = 500 * time.Millisecond

func (a *app) monitorLive() *cobra.Command {
	var interval time.Duration
	c := &cobra.Command{
		Use: "live", Short: "Watch a cluster in the terminal", Args: args(cobra.NoArgs),
		Long: `Watch the report of 'orama monitor report' in the terminal until q or Ctrl-C. Where standard
output is no terminal the same text is printed again and again, and with --json one document a line.`,
		Example: "  orama monitor live\n  orama monitor live --env devnet --interval 5s",
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < shortestInterval {
				return usage(c, fmt.Errorf("--interval is at least %s", shortestInterval))
			}
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			l := live{env: a.env, interval: interval, read: admin.Report}
			if size, ok := a.terminal(); ok && !a.json {
				l.width, l.height = size[0], size[1]
				return l.watch(c.Context(), a)
			}
			return l.repeat(c.Context(), a)
		},
	}
	c.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often to look, at least 500ms")
	return c
}

// terminal gives the columns and rows of standard output, if it is one.
func (a *app) terminal() ([2]int, bool) {
	f, ok := a.out.(*os.File)
	if !ok {
		return [2]int{}, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ) //nolint:gosec // a descriptor fits
	if err != nil {
		return [2]int{}, false
	}
	return [2]int{int(size.Col), int(size.Row)}, true
}

// live is the report that is watched. It is a tea.Model.
type live struct {
	env      string
	interval time.Duration
	read     func(context.Context) (operator.Report, error)

	width, height int // of the terminal, in cells; 0: not known yet
	last          operator.Report
	err           error // of the last look
}

type looked struct {
	report operator.Report
	err    error
}

type lookAgain struct{}

func (l live) look() tea.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := l.read(ctx)
	return looked{r, err}
}

// Init implements tea.Model.
func (l live) Init() tea.Cmd { return l.look }

// Update implements tea.Model.
func (l live) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case tea.WindowSizeMsg:
		l.width, l.height = m.Width, m.Height
	case tea.KeyPressMsg:
		switch m.String() {
		case "q", "ctrl+c", "esc":
			return l, tea.Quit
		}
	case lookAgain:
		return l, l.look
	case looked:
		if l.err = m.err; m.err == nil {
			l.last = m.report
		}
		return l, tea.Tick(l.interval, func(time.Time) tea.Msg { return lookAgain{} })
	}
	return l, nil
}

// View implements tea.Model.
func (l live) View() tea.View {
	v := tea.NewView(l.screen())
	v.AltScreen = true
	return v
}

// screen is never more lines than the terminal has, nor longer ones.
func (l live) screen() string {
	if l.width == 0 {
		return ""
	}
	return fit(l.text()+"\nq quits", l.width, l.height)
}

// watch draws until q, Ctrl-C or the end of ctx.
func (l live) watch(ctx context.Context, a *app) error {
	_, err := tea.NewProgram(l, tea.WithContext(ctx), tea.WithOutput(a.out)).Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// repeat prints until ctx ends. A first look that fails ends it: there is nobody to wait for better times.
func (l live) repeat(ctx context.Context, a *app) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for first := true; ; first = false {
		r, err := l.read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err == nil:
			l.last = r
		}
		l.err = err
		if a.json {
			if err == nil {
				r.Env = l.env
				a.print(r)
			}
		} else {
			a.say("%s", l.text())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// text is the whole view.
func (l live) text() string {
	var b strings.Builder
	r := l.last
	if r.At.IsZero() {
		fmt.Fprintf(&b, "orama  %s\n", l.env)
	} else {
		fmt.Fprintf(&b, "orama  %s  %s\n", l.env, r.At.Local().Format(time.DateTime))
	}
	if l.err != nil {
		fmt.Fprintf(&b, "! %v\n", l.err)
	}
	if r.At.IsZero() {
		return b.String()
	}
	b.WriteString("\n")
	namespacesText(&b, r.Namespaces)
	b.WriteString("\n")
	nodesText(&b, r.Nodes)
	return b.String()
}

func namespacesText(b *strings.Builder, all []operator.NamespaceReport) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tSFU\tTURN\tSEEN\tTROUBLE")
	off := 0
	for _, n := range all {
		if !n.Enabled {
			off++
			continue
		}
		var trouble []string
		for _, i := range n.Instances {
			if !i.Up {
				trouble = append(trouble, strings.TrimSuffix(fmt.Sprintf("%s %s %s: %s", i.Role, i.Node, i.State, i.Detail), ": "))
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Name, upText(n.SFUUp, n.SFUReady, n.SFUWanted), upText(n.TURNUp, n.TURNReady, n.TURNWanted),
			ageText(n.ObservedAge), strings.Join(trouble, "; "))
	}
	w.Flush() //nolint:errcheck // a strings.Builder takes all
	if off > 0 {
		fmt.Fprintf(b, "and %d without WebRTC\n", off)
	}
}

func upText(up bool, ready, wanted int) string {
	return fmt.Sprintf("%s %d/%d", map[bool]string{true: "up", false: "DOWN"}[up], ready, wanted)
}

func ageText(s *float64) string {
	if s == nil {
		return "never"
	}
	return fmt.Sprintf("%.0fs ago", *s)
}

func nodesText(b *strings.Builder, all []operator.NodeReport) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tZONE\tAGENT\tLOAD\tMEM FREE\tRELAYS\tMBIT/S\tTROUBLE")
	for _, n := range all {
		state := "alive"
		if !n.Alive {
			state = "SILENT " + ageText(n.HeartbeatAge)
		}
		var trouble []string
		for _, part := range slices.Sorted(maps.Keys(n.Checks)) {
			if n.Checks[part] != "" {
				trouble = append(trouble, part+": "+n.Checks[part])
			}
		}
		load := "-"
		if n.Report.CPUs > 0 {
			load = fmt.Sprintf("%.1f/%d", n.Report.Load, n.Report.CPUs)
		}
		memory := "-"
		if n.Report.MemoryTotal > 0 {
			memory = fmt.Sprintf("%d%%", n.Report.MemoryAvailable*100/n.Report.MemoryTotal)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%.1f\t%s\n", n.ID, orDash(n.Zone), state, load, memory, n.Report.Relays,
			float64(n.Report.Bandwidth)/1e6, strings.Join(trouble, "; "))
	}
	w.Flush() //nolint:errcheck // as above
}

// fit cuts text to a terminal. What does not fit is counted in its last line but one, so that nothing is hidden
// without a word.
func fit(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if height > 2 && len(lines) > height {
		last := lines[len(lines)-1]
		more := len(lines) - (height - 2) - 1
		lines = append(lines[:height-2], fmt.Sprintf("… %d more lines", more), last)
	}
	for i, line := range lines {
		line = printable(line)
		lines[i] = line
		if r := []rune(line); len(r) > width && width > 1 {
			lines[i] = string(r[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}

// printable leaves out what would move a cursor or change a colour: reasons come from other machines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

func (a *app) nodeReport() *cobra.Command {
	return &cobra.Command{
		Use: "report", Short: "Print what this node's agent runs and knows, as JSON", Args: args(cobra.NoArgs),
		Long: `Print one JSON document of this host: its processes with their pids and restarts, who listens
where, and the last report that its agent sent with its heartbeat.`,
		Example: "  orama node report\n  orama node report | jq '.units'",
		RunE: func(c *cobra.Command, _ []string) error {
			socket, err := a.socket(c.Context())
			if err != nil {
				return err
			}
			r, err := role.ReadNodeReport(c.Context(), socket)
			if err != nil {
				return err
			}
			if a.json {
				a.print(r)
				return nil
			}
			enc := json.NewEncoder(a.out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			return enc.Encode(r)
		},
	}
}
