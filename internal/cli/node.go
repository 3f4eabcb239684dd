package cli

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/role"
)

func (a *app) node() *cobra.Command {
	var file, runDir string
	var parent int
	run := &cobra.Command{
		Use: "run", Short: "Run this host's agent and gateway", Args: args(cobra.NoArgs),
		Example: "  orama node run --config /etc/orama/node.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usage(c, errors.New("--config is needed"))
			}
			cfg, err := config.Load(file)
			if err != nil {
				return orama.Errorf(orama.KindInvalid, "invalid_config", "%v", err)
			}
			if runDir == "" {
				runDir = cfg.DataDir
			}
			return role.Node(c.Context(), cfg, runDir, parent, a.logger(slog.LevelInfo))
		},
	}
	run.Flags().StringVar(&file, "config", "", "the node's configuration file (required)")
	run.Flags().StringVar(&runDir, "run-dir", "", "directory for Unix sockets (default the data directory)")
	run.Flags().IntVar(&parent, "parent", 0, "end, units included, when this process does")
	run.Flags().MarkHidden("parent") //nolint:errcheck // the flag exists
	return group(&cobra.Command{Use: "node", Short: "Run a host of the cluster"}, run)
}

func (a *app) mesh() *cobra.Command {
	var name string
	run := &cobra.Command{
		Use: "run", Short: "Run this host's WireGuard interface in user space (started by the node's agent, or by systemd)", Args: args(cobra.NoArgs),
		Long: `Make a WireGuard interface and move its packets until asked to end, when it is gone. It is a
process of its own so that calls outlive the node's agent, which gives it its keys and peers.
Hosts whose kernel has WireGuard do not need it.`,
		Example: "  orama mesh run --interface orama0",
		RunE: func(c *cobra.Command, _ []string) error {
			return mesh.RunDevice(c.Context(), name, a.logger(slog.LevelInfo))
		},
	}
	run.Flags().StringVar(&name, "interface", mesh.DefaultInterface, "the interface's name")
	return group(&cobra.Command{Use: "mesh", Short: "The WireGuard network between the hosts"}, run)
}
