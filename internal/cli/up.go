package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/role"
)

func (a *app) up() *cobra.Command {
	var nodes int
	var public string
	c := &cobra.Command{
		Use: "up", Short: "Start a cluster on this machine, ready for a call", Args: args(cobra.NoArgs),
		Long: `Start a three-node cluster on this machine: real processes and ports on loopback
addresses, nothing to install. A namespace "demo" with WebRTC is made, and the URL of its demo
page printed: open it in two tabs. Ctrl-C drains and leaves nothing running; the data stays.`,
		Example: `  orama up
  orama up --nodes 1 --public-ip 192.168.1.5   serve the local network
  orama up --json                              one line for programs when ready`,
		RunE: func(c *cobra.Command, _ []string) error {
			if public != "" && !c.Flags().Changed("nodes") {
				nodes = 1
			}
			return a.runUp(c, nodes, public)
		},
	}
	c.Flags().IntVar(&nodes, "nodes", 3, "how many nodes")
	c.Flags().StringVar(&public, "public-ip", "", "an address of this machine that others reach, instead of loopback")
	return c
}

func (a *app) runUp(c *cobra.Command, nodes int, public string) error {
	o := role.LocalOptions{Nodes: nodes, Progress: a.progress(), Log: slog.New(slog.DiscardHandler)}
	var err error
	if o.DataDir, err = a.dir(); err != nil {
		return err
	}
	if public != "" {
		if o.PublicIP, err = netip.ParseAddr(public); err != nil {
			return usage(c, fmt.Errorf("--public-ip: %q is no IP address", public))
		}
	}
	if o.Exe, err = os.Executable(); err != nil {
		return err
	}
	ready := false
	err = role.Local(c.Context(), o, func(r role.LocalReady) {
		ready = true
		if a.json {
			a.print(r)
			return
		}
		a.welcome(r)
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err == nil && !a.json {
		a.say("\nStopped.")
	}
	if err == nil && !ready {
		return orama.Errorf(orama.KindUnavailable, "interrupted", "stopped before the cluster was ready; nothing is left running")
	}
	return err
}

func (a *app) progress() func(role.Step) {
	done := lipgloss.NewStyle().Foreground(lipgloss.Color("2")).Render("✓")
	note := lipgloss.NewStyle().Foreground(lipgloss.Color("3")).Render("!")
	return func(s role.Step) {
		switch {
		case a.json && s.Notice:
			fmt.Fprintf(a.err, "orama: %s\n", s.Text)
		case a.json:
		case s.Notice:
			a.say("  %s %s", note, s.Text)
		default:
			a.say("  %s %s", done, s.Text)
		}
	}
}

func (a *app) welcome(r role.LocalReady) {
	bold := lipgloss.NewStyle().Bold(true)
	a.say("\nReady in %s. Open this in two tabs:\n\n  %s\n", r.Took.Round(10*time.Millisecond), bold.Render(r.DemoURL))
	a.say("Gateways   %s", strings.Join(r.Gateways, "  "))
	a.say("Data, logs %s", r.DataDir)
	a.say("Next       orama namespace create myapp")
	a.say("Stop       Ctrl-C")
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := role.Version()
			if a.json {
				a.print(map[string]string{"version": v})
				return nil
			}
			a.say("orama %s", v)
			return nil
		},
	}
}
