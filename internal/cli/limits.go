package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/signal"
)

func (a *app) namespaceLimits() *cobra.Command {
	var most int
	c := &cobra.Command{
		Use: "limits NAME", Short: "Show or set how many participants a room may have", Args: args(cobra.ExactArgs(1)),
		Long: `Show or set how many participants each room of a namespace may have. A room's own limit ('orama room
set') may be lower and not higher; admins join in any case. Without a flag the limits are shown. A room learns of
a change with the next join, and who is there already stays.`,
		Example: `  orama namespace limits myapp --participants 50
  orama namespace limits myapp --participants 0     any number`,
		PreRunE: func(c *cobra.Command, _ []string) error {
			if most < 0 || most > signal.MaxParticipants {
				return usage(c, fmt.Errorf("--participants is 0 to %d", signal.MaxParticipants))
			}
			return nil
		},
		RunE: func(c *cobra.Command, given []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			var got operator.Limits
			if c.Flags().Changed("participants") {
				got, err = admin.SetLimits(c.Context(), given[0], operator.Limits{MaxParticipants: most})
			} else {
				got, err = admin.Limits(c.Context(), given[0])
			}
			if err != nil {
				return err
			}
			if a.json {
				a.print(got)
				return nil
			}
			if got.MaxParticipants == 0 {
				a.say("A room of %s has any number of participants.", given[0])
				return nil
			}
			a.say("A room of %s has at most %s.", given[0], several(got.MaxParticipants, "participant"))
			return nil
		},
	}
	c.Flags().IntVar(&most, "participants", 0, "how many may be in a room at once; 0: any number")
	return c
}
