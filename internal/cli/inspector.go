package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"orama.network/orama/internal/operator"
)

// errChecks ends a command that has said what it found: something is critical.
var errChecks = errors.New("a check failed")

func (a *app) inspector() *cobra.Command {
	return &cobra.Command{
		Use: "inspector", Aliases: []string{"inspect"}, Short: "Look at every part of a cluster and say what is wrong", Args: args(cobra.NoArgs),
		Long: `Have an agent of the cluster look at everything: the store, the cache, clocks, versions and state
files, the mesh, firewalls and ports, the names, certificates and gateways that clients are given,
and for each namespace whether as many SFUs and relays really serve as are configured. What each
node's own agent reports is joined with what the asked agent sees of the others: a real join of
each SFU, a real allocation at each relay, a handshake for each name.

Severity is ok, warning or critical. The exit code is 1 when anything is critical.`,
		Example: "  orama inspector\n  orama inspector --env devnet\n  orama inspect --env devnet --json",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			got, err := admin.Inspect(c.Context())
			if err != nil {
				return err
			}
			got.Env = a.env
			if a.json {
				a.print(got)
			} else if err := a.showInspection(got); err != nil {
				return err
			}
			if !got.OK {
				return errChecks
			}
			return nil
		},
	}
}

var severityColours = map[operator.Severity]lipgloss.Style{
	operator.SeverityOK:       lipgloss.NewStyle().Foreground(lipgloss.Color("2")),
	operator.SeverityWarning:  lipgloss.NewStyle().Foreground(lipgloss.Color("3")),
	operator.SeverityCritical: lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true),
}

// showInspection is one line a finding, and below those that are not well what to do.
func (a *app) showInspection(got operator.Inspection) error {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEVERITY\tCHECK\tNODE\tNAMESPACE\tDETAIL")
	count := map[operator.Severity]int{}
	for _, f := range got.Checks {
		count[f.Severity]++
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Severity, f.Name, orDash(string(f.Node)), orDash(string(f.Namespace)), printable(f.Detail))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	// Colours come after the columns were measured.
	for line := range strings.Lines(text.String()) {
		word, _, _ := strings.Cut(line, " ")
		if style, ok := severityColours[operator.Severity(word)]; ok {
			line = style.Render(word) + strings.TrimPrefix(line, word)
		}
		fmt.Fprint(a.out, line)
	}
	var todo []string
	for _, f := range got.Checks {
		if f.Next != "" && !slices.Contains(todo, f.Name+": "+f.Next) {
			todo = append(todo, f.Name+": "+f.Next)
		}
	}
	if len(todo) > 0 {
		a.say("\nNext:\n  %s", strings.Join(todo, "\n  "))
	}
	a.say("\n%d critical, %d warnings, %d ok; seen from %s.", count[operator.SeverityCritical], count[operator.SeverityWarning],
		count[operator.SeverityOK], got.From)
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
