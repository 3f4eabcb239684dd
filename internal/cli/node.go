package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/mesh"
	"orama.network/orama/internal/role"
)

func (a *app) node() *cobra.Command {
	return group(&cobra.Command{Use: "node", Short: "Set up and run a host of a cluster"},
		a.nodeInit(), a.nodeInvite(), a.nodeJoin(), a.nodeMesh(), a.nodeRotate(), a.nodeRun(), a.nodeReport())
}

func (a *app) nodeRun() *cobra.Command {
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
				if runDir, err = runDirOf(cfg); err != nil {
					return err
				}
			}
			return role.Node(c.Context(), cfg, runDir, parent, a.logger(slog.LevelInfo))
		},
	}
	run.Flags().StringVar(&file, "config", "", "the node's configuration file (required)")
	run.Flags().StringVar(&runDir, "run-dir", "", "directory for Unix sockets (default as configured, or the data directory)")
	run.Flags().IntVar(&parent, "parent", 0, "end, units included, when this process does")
	run.Flags().MarkHidden("parent") //nolint:errcheck // the flag exists
	return run
}

// runDirOf is where a node's sockets are: what its configuration says, or as FindAgent finds it.
func runDirOf(cfg config.Node) (string, error) {
	if cfg.RunDir != "" {
		return cfg.RunDir, nil
	}
	return role.RunDir(cfg.DataDir)
}

// hostFlags are what init and join are told alike.
func (a *app) hostFlags(c *cobra.Command, o *role.HostOptions) {
	f := c.Flags()
	f.StringVar(&o.ConfigFile, "config", role.DefaultConfig, "the configuration file to write")
	f.StringVar((*string)(&o.Node), "node", "", "this host's name in the cluster (default its host name)")
	f.StringVar(&o.Zone, "zone", "", "what this host shares power or network with; two relays of a namespace never share one")
	f.TextVar(&o.PublicIP, "public-ip", netip.Addr{}, "the address that clients reach this host at (default found, where it is plain)")
	f.TextVar(&o.MeshIP, "mesh-ip", netip.Addr{}, "this host's address on a mesh that you make yourself")
	f.StringVar(&o.Interface, "mesh-interface", "", "the mesh's interface (default "+mesh.DefaultInterface+")")
	f.Uint16Var(&o.MeshPort, "mesh-port", 0, fmt.Sprintf("WireGuard's UDP port (default %d)", mesh.DefaultPort))
	f.StringVar(&o.GatewayURL, "gateway-url", "", "how clients reach this host's gateway (default HTTP at the public address)")
	f.StringVar(&o.Supervisor, "supervisor", "", `who runs relays and SFUs: "systemd" or "child" (default systemd where it runs)`)
	run := c.RunE
	c.RunE = func(c *cobra.Command, given []string) error {
		o.DataDir = a.dataDir
		return run(c, given)
	}
}

func (a *app) nodeInit() *cobra.Command {
	var o role.InitOptions
	c := &cobra.Command{
		Use: "init", Short: "Set up this host as the first of a cluster", Args: args(cobra.NoArgs),
		Long: `Write this host's configuration and keys, and print the command by which the next host joins.
Nothing is started. Done again it changes nothing, and it never touches another node's files.
--data-dir is /var/lib/orama here unless it is given.`,
		Example: `  orama node init --public-ip 203.0.113.1 --base-domain example.org
  orama node init --public-ip 203.0.113.1 --mesh existing --mesh-ip 10.8.0.1 --mesh-cidr 10.8.0.0/24`,
		RunE: func(*cobra.Command, []string) error {
			r, err := role.Init(o)
			if err != nil {
				return err
			}
			if a.json {
				a.print(r)
				return nil
			}
			a.showHost(r)
			return nil
		},
	}
	a.hostFlags(c, &o.HostOptions)
	f := c.Flags()
	f.StringVar(&o.BaseDomain, "base-domain", "", "namespaces live at ns-NAME.DOMAIN (default orama.test)")
	f.TextVar(&o.MeshCIDR, "mesh-cidr", netip.Prefix{}, "the mesh's network (default 10.0.0.0/24)")
	f.StringVar(&o.Mesh, "mesh", "auto", `who makes the mesh: "auto" (WireGuard, in the kernel where it can), "userspace", or "existing" (you do)`)
	f.StringVar(&o.Enroll, "listen", "", "HOST:PORT where other hosts join, over TLS (default the public address, port 7946)")
	f.StringSliceVar(&o.Store, "store", nil, `rqlite's URLs, or "sqlite" for one file (default rqlited where it is installed)`)
	f.StringVar(&o.Firewall, "firewall", "", `"ufw", or "none" (default)`)
	f.StringVar(&o.DNS, "dns", "", `"serve" the base domain, have a "program" keep it in another's zone, or "none" (default)`)
	f.StringArrayVar(&o.DNSProgram, "dns-program", nil, "with --dns program: its absolute path, and again for each of its arguments")
	f.StringVar(&o.DNSZone, "dns-zone", "", "with --dns program: the zone that the base domain is in (default the base domain)")
	f.StringVar(&o.Certificates, "certificates", "", `"acme", or "authority" for one of our own (default)`)
	f.StringVar(&o.Email, "acme-email", "", "the ACME account's contact")
	return c
}

func (a *app) showHost(r role.InitResult) {
	if r.Already {
		a.say("Node %s is set up already; nothing was changed.\n", r.Node)
	} else {
		a.say("Node %s is set up.\n", r.Node)
	}
	a.say("  Configuration   %s\n  Data            %s\n  Public address  %s\n  Mesh address    %s\n  Records         %s", r.ConfigFile, r.DataDir, r.PublicIP, r.MeshIP, r.Store)
	for _, n := range r.Notes {
		a.say("\n%s", n)
	}
	start := "orama node run --config " + r.ConfigFile
	if r.Systemd {
		start = "systemctl enable --now orama"
	}
	a.say("\nStart it:\n\n  %s", start)
	switch {
	case r.Token != "":
		a.say("\nThen, on the next host, before %s:\n\n  orama node join --token %s\n\nThe token works once. For each further host: orama node invite", r.Expires.Local().Format("15:04"), r.Token)
	case r.Already:
		a.say("\nLet another host in: orama node invite")
	}
}

// socketFlag adds the flag by which a command finds this host's agent.
func (a *app) socketFlag(c *cobra.Command) (socket func() (string, error)) {
	file := c.Flags().String("config", role.DefaultConfig, "this host's configuration file")
	return func() (string, error) {
		cfg, err := config.Load(*file)
		if err != nil {
			return "", orama.Errorf(orama.KindInvalid, "invalid_config", "%v", err)
		}
		dir, err := runDirOf(cfg)
		return role.AgentSocket(dir, cfg.ID), err
	}
}

func (a *app) nodeInvite() *cobra.Command {
	var ttl time.Duration
	var socket func() (string, error)
	c := &cobra.Command{
		Use: "invite", Short: "Print the command by which one more host joins", Args: args(cobra.NoArgs),
		Example: "  orama node invite\n  orama node invite --ttl 24h",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := socket()
			if err != nil {
				return err
			}
			i, err := role.Invite(c.Context(), s, ttl)
			if err != nil {
				return err
			}
			if a.json {
				a.print(i)
				return nil
			}
			a.say("orama node join --token %s", i.Token)
			fmt.Fprintf(a.err, "It works once, until %s.\n", i.Expires.Local().Format(time.DateTime))
			return nil
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it works, at most 168h")
	socket = a.socketFlag(c)
	return c
}

func (a *app) nodeJoin() *cobra.Command {
	var o role.JoinOptions
	c := &cobra.Command{
		Use: "join", Short: "Set up this host as another of a cluster", Args: args(cobra.NoArgs),
		Long: `Ask the cluster that the token names to let this host in, and write the configuration and keys
that it gives. The host's own WireGuard key is made here and stays here. Nothing is started. When
it fails, nothing is left. --data-dir is /var/lib/orama here unless it is given.`,
		Example: `  orama node join --token orama-join-1.…
  orama node join --token - < token.txt`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Token == "-" {
				text, err := io.ReadAll(io.LimitReader(os.Stdin, 4<<10))
				if err != nil {
					return err
				}
				o.Token = string(text)
			}
			if strings.TrimSpace(o.Token) == "" {
				return usage(c, errors.New("--token is needed; 'orama node invite' prints it on a host of the cluster"))
			}
			if !a.json {
				o.Progress = func(text string) { a.say("  %s", text) }
			}
			r, err := role.Join(c.Context(), o)
			if err != nil {
				return err
			}
			if a.json {
				a.print(r)
				return nil
			}
			a.showHost(r)
			return nil
		},
	}
	a.hostFlags(c, &o.HostOptions)
	c.Flags().StringVar(&o.Token, "token", "", `what 'orama node invite' printed, or "-" to read it from standard input (required)`)
	c.Flags().BoolVar(&o.Replace, "replace", false, "take the place of a node of this name that is gone for good")
	return c
}

func (a *app) nodeMesh() *cobra.Command {
	var socket func() (string, error)
	c := &cobra.Command{
		Use: "mesh", Short: "Show this host's place on the mesh, as observed", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := socket()
			if err != nil {
				return err
			}
			m, err := role.MeshStatus(c.Context(), s)
			if err != nil {
				return err
			}
			if a.json {
				a.print(m)
				return nil
			}
			a.say("%s %s %s, %s\n", m.Kind, m.Interface, m.Address, map[bool]string{true: "up", false: "down"}[m.Up])
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PEER\tENDPOINT\tADDRESSES\tHANDSHAKE\tRECEIVED\tSENT")
			for _, p := range m.Peers {
				fmt.Fprintf(w, "%s\t%s\t%v\t%s\t%d\t%d\n", p.Key, p.Endpoint, p.AllowedIPs, ago(p.LastHandshake), p.Received, p.Sent)
			}
			return w.Flush()
		},
	}
	socket = a.socketFlag(c)
	return c
}

func (a *app) nodeRotate() *cobra.Command {
	var socket func() (string, error)
	c := &cobra.Command{
		Use: "rotate-key", Short: "Change this host's mesh key now; it changes by itself every 30 days", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := socket()
			if err != nil {
				return err
			}
			if err := role.RotateKey(c.Context(), s); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]bool{"rotated": true})
				return nil
			}
			a.say("The mesh key has changed, and every peer that lives uses it.")
			return nil
		},
	}
	socket = a.socketFlag(c)
	return c
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
