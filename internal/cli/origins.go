package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"orama.network/orama/internal/operator"
)

func (a *app) namespaceOrigins() *cobra.Command {
	var none bool
	c := &cobra.Command{
		Use: "origins NAME [ORIGIN...]", Short: "Show or set the web origins whose pages may call", Args: args(cobra.MinimumNArgs(1)),
		Long: `Browsers let a page call another host only when that host allows the page's origin. Without
an ORIGIN the list is shown; with some, they replace it; --none empties it. "*" allows every page.
Programs that are no web pages need none of this.`,
		Example: `  orama namespace origins myapp https://app.example.org
  orama namespace origins myapp --none`,
		RunE: func(c *cobra.Command, given []string) error {
			if none && len(given) > 1 {
				return usage(c, errors.New("--none goes without an ORIGIN"))
			}
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			var got operator.Origins
			if none || len(given) > 1 {
				got, err = admin.SetOrigins(c.Context(), given[0], operator.Origins{Origins: append([]string{}, given[1:]...)})
			} else {
				got, err = admin.Origins(c.Context(), given[0])
			}
			if err != nil {
				return err
			}
			if a.json {
				a.print(got)
				return nil
			}
			if len(got.Origins) == 0 {
				a.say("No page of another origin may call for %s.", given[0])
			}
			for _, o := range got.Origins {
				a.say("%s", o)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&none, "none", false, "allow no origin")
	return c
}
