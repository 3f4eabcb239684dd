package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama/internal/operator"
)

// group is a command that only holds others: alone it shows its help.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, given []string) error {
		if len(given) > 0 {
			return usage(c, fmt.Errorf("there is no %q in '%s'", given[0], c.CommandPath()))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(subs...)
	return c
}

func (a *app) namespace() *cobra.Command {
	return group(&cobra.Command{Use: "namespace", Aliases: []string{"ns"}, Short: "Make tenants and give them WebRTC"},
		a.namespaceCreate(), a.namespaceList(), a.namespaceDelete(), a.namespaceOrigins(), a.namespaceLimits(), a.webrtcStatus(),
		group(&cobra.Command{Use: "enable", Short: "Turn a service on for a namespace"}, a.enableWebRTC()),
		group(&cobra.Command{Use: "disable", Short: "Turn a service off for a namespace"}, a.disableWebRTC()))
}

func (a *app) namespaceCreate() *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Make a namespace and print its owner key, once", Args: args(cobra.ExactArgs(1)),
		Example: "  orama namespace create myapp",
		RunE: func(c *cobra.Command, given []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			key, err := admin.CreateNamespace(c.Context(), given[0])
			if err != nil {
				return err
			}
			if a.json {
				a.print(map[string]string{"namespace": given[0], "owner_key": key})
				return nil
			}
			a.say("Namespace %s is made. Its owner key, shown this once:\n\n  %s\n\nNext: orama namespace enable webrtc --namespace %s", given[0], key, given[0])
			return nil
		},
	}
}

func (a *app) namespaceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the namespaces", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			all, err := admin.ListNamespaces(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				a.print(map[string]any{"namespaces": all})
				return nil
			}
			if len(all) == 0 {
				a.say("No namespaces yet. Make one: orama namespace create myapp")
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tWEBRTC\tCREATED")
			for _, n := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\n", n.Name, map[bool]string{true: "enabled", false: "-"}[n.WebRTC], n.CreatedAt.Local().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
}

func (a *app) namespaceDelete() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete NAME", Short: "Remove a namespace with its keys and rooms", Args: args(cobra.ExactArgs(1)),
		Example: "  orama namespace delete myapp\n  orama namespace delete myapp --force   disable WebRTC first",
		RunE: func(c *cobra.Command, given []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := admin.DeleteNamespace(c.Context(), given[0], force); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]any{"namespace": given[0], "deleted": true})
				return nil
			}
			a.say("Namespace %s is gone.", given[0])
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "disable WebRTC first if it is enabled")
	return c
}

// namespaceFlag adds the flag that says which namespace.
func namespaceFlag(c *cobra.Command, ns *string) *cobra.Command {
	c.Flags().StringVarP(ns, "namespace", "n", "", "the namespace (required)")
	run := c.RunE
	c.RunE = func(c *cobra.Command, given []string) error {
		if *ns == "" {
			return usage(c, errors.New("--namespace is needed"))
		}
		return run(c, given)
	}
	return c
}

func (a *app) enableWebRTC() *cobra.Command {
	var ns string
	var ttl, wait time.Duration
	c := &cobra.Command{
		Use: "webrtc", Short: "Give a namespace TURN relays and SFUs", Args: args(cobra.NoArgs),
		Long: `Give a namespace TURN relays on two nodes and SFUs on three, or on as many as can be.

Each step is shown when it was seen done: first that store, cache and gateway serve; then the secret, the
record, the ports; that each relay gave an allocation and each SFU let somebody join; the names in DNS; and
the state files of the nodes. A step that failed says why. Run it again at any time: what is there is kept, what
is missing is added. When not even one relay and one SFU serve within --wait, everything is undone.`,
		Example: "  orama namespace enable webrtc --namespace myapp\n  orama namespace enable webrtc --namespace myapp --credential-ttl 5m --wait 2m\n" +
			"  orama namespace enable webrtc --namespace myapp --json | jq .instances",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			status, err := admin.EnableWebRTC(c.Context(), ns, operator.Options{CredentialTTL: ttl, Wait: wait}, a.showStep)
			if err != nil {
				return err
			}
			if a.json {
				a.print(statusForPrograms(status))
				return nil
			}
			for _, m := range status.Missing {
				a.say("  Not placed yet, %s", m)
			}
			a.say("\nWebRTC is enabled for %s.\nNext: orama token --namespace %s --user alice", ns, ns)
			return nil
		},
	}
	c.Flags().DurationVar(&ttl, "credential-ttl", 0, "how long a TURN credential lets a client in (default 10m)")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until it serves before everything is undone")
	return namespaceFlag(c, &ns)
}

func (a *app) disableWebRTC() *cobra.Command {
	var ns string
	c := &cobra.Command{
		Use: "webrtc", Short: "Drain and remove a namespace's relays and SFUs", Args: args(cobra.NoArgs),
		Long: `Take a namespace's WebRTC away. Its names go first, then its SFUs send their people away and stop, then its
relays; ports are released when the processes were seen gone; then records, rooms and events are removed.
What is on a node that does not answer is finished when it is back, or when it was away for 10 minutes.`,
		Example: "  orama namespace disable webrtc --namespace myapp",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := admin.DisableWebRTC(c.Context(), ns, a.showStep); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]any{"namespace": ns, "enabled": false})
				return nil
			}
			a.say("\nWebRTC is disabled for %s.", ns)
			return nil
		},
	}
	return namespaceFlag(c, &ns)
}

func (a *app) showStep(s operator.Step) {
	if text := s.String(); text != "" && !a.json {
		a.say("  %s", text)
	}
}

func (a *app) token() *cobra.Command {
	var ns string
	req := operator.TokenRequest{}
	c := &cobra.Command{
		Use: "token", Short: "Print a token that lets a user into a namespace's rooms", Args: args(cobra.NoArgs),
		Example: "  orama token --namespace myapp --user alice\n  orama token --namespace myapp --user alice --room daily --ttl 1h",
		RunE: func(c *cobra.Command, _ []string) error {
			if req.User == "" {
				return usage(c, errors.New("--user is needed"))
			}
			admin, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			t, err := admin.MintToken(c.Context(), ns, req)
			if err != nil {
				return err
			}
			if a.json {
				a.print(t)
				return nil
			}
			a.say("%s", t.Token)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar((*string)(&req.User), "user", "", "who the token is for (required)")
	f.StringVar((*string)(&req.Room), "room", "", "the one room it is good for (default any)")
	f.DurationVar(&req.TTL, "ttl", 15*time.Minute, "how long it is good for, at most 24h")
	f.BoolVar(&req.Admin, "admin", false, "it may also create and close rooms")
	return namespaceFlag(c, &ns)
}
