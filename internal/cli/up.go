package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
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

// unitFlags are those of a process that an agent starts and configures.
func unitFlags(c *cobra.Command, control *string, drain *time.Duration) *cobra.Command {
	c.Flags().StringVar(control, "control", "", "Unix socket on which the node's agent configures this process (required)")
	c.Flags().DurationVar(drain, "drain", 10*time.Second, "how long to wait for clients to leave when asked to end")
	run := c.RunE
	c.RunE = func(c *cobra.Command, given []string) error {
		if *control == "" {
			return usage(c, errors.New("--control is needed; the node's agent starts this command"))
		}
		return run(c, given)
	}
	return c
}

func (a *app) turn() *cobra.Command {
	var control string
	var drain time.Duration
	run := &cobra.Command{
		Use: "run", Short: "Run this host's TURN server (started by the node's agent)", Args: args(cobra.NoArgs),
		Example: "  orama turn run --control /run/orama/turn.sock",
		RunE: func(c *cobra.Command, _ []string) error {
			return role.TURN(c.Context(), control, drain, a.logger(slog.LevelInfo))
		},
	}
	return group(&cobra.Command{Use: "turn", Short: "The relay that clients reach media through"}, unitFlags(run, &control, &drain))
}

func (a *app) sfu() *cobra.Command {
	var control, ns string
	var drain time.Duration
	run := &cobra.Command{
		Use: "run", Short: "Run one namespace's SFU (started by the node's agent)", Args: args(cobra.NoArgs),
		Example: "  orama sfu run --namespace myapp --control /run/orama/sfu-myapp.sock",
		RunE: func(c *cobra.Command, _ []string) error {
			return role.SFU(c.Context(), orama.NamespaceID(ns), control, drain, a.logger(slog.LevelInfo).With("namespace", ns))
		},
	}
	return group(&cobra.Command{Use: "sfu", Short: "The rooms of one namespace on one node"},
		namespaceFlag(unitFlags(run, &control, &drain), &ns))
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := "development"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				v = info.Main.Version
			}
			if a.json {
				a.print(map[string]string{"version": v})
				return nil
			}
			a.say("orama %s", v)
			return nil
		},
	}
}
