package cli

import (
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/role"
)

// unitFlags are those of a process that an agent starts and configures.
func unitFlags(c *cobra.Command, u *role.Unit) *cobra.Command {
	c.Flags().BoolVar(&u.Shared, "share-control", false, "let the group of this process use that socket too")
	c.Flags().DurationVar(&u.Drain, "drain", 10*time.Second, "how long to wait for clients to leave when asked to end")
	return controlFlag(c, &u.Control, "Unix socket on which the node's agent configures this process (required)")
}

func controlFlag(c *cobra.Command, control *string, what string) *cobra.Command {
	c.Flags().StringVar(control, "control", "", what)
	run := c.RunE
	c.RunE = func(c *cobra.Command, given []string) error {
		if *control == "" {
			return usage(c, errors.New("--control is needed; the node's agent starts this command"))
		}
		return run(c, given)
	}
	return c
}

func (a *app) turnLease() *cobra.Command {
	var control, ns string
	c := &cobra.Command{
		Use: "lease", Short: "Have this host's TURN server serve a namespace while this runs (started by the node's agent)", Args: args(cobra.NoArgs),
		Long: `Hold a namespace's lease on this host's TURN server: while this command runs the namespace is
served, and its relays and refusals are printed, a line each. Ended, it closes the namespace's relays.`,
		Example: "  orama turn lease --namespace myapp --control /run/orama-turn/control.sock",
		RunE: func(c *cobra.Command, _ []string) error {
			return role.Lease(c.Context(), orama.NamespaceID(ns), control, a.out, a.logger(slog.LevelInfo).With("namespace", ns))
		},
	}
	return namespaceFlag(controlFlag(c, &control, "Unix socket of the TURN server (required)"), &ns)
}

func (a *app) sfu() *cobra.Command {
	var u role.Unit
	var ns string
	run := &cobra.Command{
		Use: "run", Short: "Run one namespace's SFU (started by the node's agent)", Args: args(cobra.NoArgs),
		Example: "  orama sfu run --namespace myapp --control /run/orama/sfu-myapp.sock",
		RunE: func(c *cobra.Command, _ []string) error {
			u.Log = a.logger(slog.LevelInfo).With("namespace", ns)
			return role.SFU(c.Context(), orama.NamespaceID(ns), u)
		},
	}
	return group(&cobra.Command{Use: "sfu", Short: "The rooms of one namespace on one node"},
		namespaceFlag(unitFlags(run, &u), &ns))
}

func (a *app) firewall() *cobra.Command {
	run := &cobra.Command{
		Use: "run", Short: "Change UFW's rules for this host's agent (started by systemd, as root)", Args: args(cobra.NoArgs),
		Long: `Run ufw for the node's agent, which is not root. It takes commands on the socket that systemd
gives it, and refuses all that do not keep rules whose comment begins with orama:.`,
		Example: "  systemctl start orama-firewall.socket",
		RunE: func(c *cobra.Command, _ []string) error {
			return role.Firewall(c.Context(), a.logger(slog.LevelInfo))
		},
	}
	c := group(&cobra.Command{Use: "firewall", Short: "The host's firewall"}, run)
	c.Hidden = true
	return c
}
