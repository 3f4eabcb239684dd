package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orama.network/orama"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/role"
	"orama.network/orama/internal/turn"
)

func (a *app) turn() *cobra.Command {
	return group(&cobra.Command{Use: "turn", Short: "The relay that clients reach media through"},
		a.turnRun(), a.turnList(), a.turnEnd(), a.turnLease())
}

// aloneFlags are those of a TURN server that no agent configures, as they are typed.
type aloneFlags struct {
	alone                              bool
	listen, relayIP                    []string
	realm, tenants                     string
	allow, transports                  []string
	port, tlsPort, httpsPort           string
	relayPorts                         string
	tenantPorts                        int
	cert, key, https, metrics, logForm string
	httpsProxy                         bool
}

func (a *app) turnRun() *cobra.Command {
	var u role.Unit
	var leases bool
	var f aloneFlags
	c := &cobra.Command{
		Use: "run", Short: "Run a TURN server: a host's, which its agent configures, or one that stands alone", Args: args(cobra.NoArgs),
		Long: `Run a TURN server.

With --standalone it is one of its own, in place of coturn. --tenants names a YAML file:

  myapp: 7Qv0d0m5mQm1cY8m3b6o0Xr2fGq1                  a name and its secret, or
  other:
    secret: Zt5w1rVbX0cE2nS8uKp4dHa7LmQ6
    allocations: 100                                   relays at once; and client_allocations, for one address
    bytes_per_second: 12500000                         and burst_bytes, client_bytes_per_second, client_burst_bytes
    allow: ["10.0.1.0/24:20000-20499"]                 instead of what --allow says

A credential is that of TURN REST servers: the username is EXPIRY:NAME, in seconds since 1970, the password
base64(HMAC-SHA1(secret, username)). The file is read again when it changes, and at once on SIGHUP; a tenant that stays
as it is keeps its relays, and a file that is damaged changes nothing. So are --cert and --key.

On SIGUSR2 the program that is now where this one was started from takes over what listens, with the same arguments, and
this process serves the relays it has to their end.

--allow says what relays may reach: nothing unless it is there. It takes
  10.0.0.5   10.0.0.0/24   10.0.0.5:20000   10.0.0.0/24:20000-20499   [2001:db8::/32]:5000-6000
Loopback, link-local, and IPv6 addresses with an IPv4 one inside are reached only by a rule inside 127.0.0.0/8, ::1,
169.254.0.0/16, fe80::/10 or the like; multicast, unspecified and broadcast addresses never.

Without --standalone the node's agent starts it and configures it over --control. SIGUSR2 does the same there: the agent
configures the new process, and this one serves what it has until then.`,
		Example: `  orama turn run --standalone --listen 203.0.113.5 --tenants tenants.yaml --allow 203.0.113.5:49152-65535
  orama turn run --standalone --listen 203.0.113.5 --relay-ip 10.0.0.5 --tenants tenants.yaml \
      --allow 10.0.0.0/24:20000-20499 --cert fullchain.pem --key privkey.pem --realm example.org
  orama turn run --standalone --listen 127.0.0.1 --tenants tenants.yaml --allow 127.0.0.1:20000 \
      --https-port off --metrics 127.0.0.1:9641 --control turn.sock
  orama turn run --control /run/orama/turn.sock`,
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.mixed(c); err != nil {
			return usage(c, err)
		}
		if f.alone {
			return a.runAlone(c, f, u)
		}
		if u.Control == "" {
			return usage(c, errors.New("--control is needed, which the node's agent gives; or --standalone, for a TURN server of its own"))
		}
		u.Log = a.logger(slog.LevelInfo)
		upgrade := make(chan os.Signal, 1)
		signal.Notify(upgrade, syscall.SIGUSR2)
		defer signal.Stop(upgrade)
		return role.TURN(c.Context(), u, leases, upgrade)
	}
	s := c.Flags()
	s.StringVar(&u.Control, "control", "", "Unix socket on which the agent configures this process (required, but with --standalone) and 'orama turn list' asks it")
	s.DurationVar(&u.Drain, "drain", 10*time.Second, "how long to wait for clients to leave when asked to end")
	s.BoolVar(&u.Shared, "share-control", false, "let the group of this process use that socket too")
	s.BoolVar(&leases, "leases", false, "serve a namespace only while somebody holds its lease")
	f.add(s)
	return c
}

func (f *aloneFlags) add(s *pflag.FlagSet) {
	s.BoolVar(&f.alone, "standalone", false, "be a TURN server of its own; the flags below are for it")
	s.StringSliceVar(&f.listen, "listen", nil, "address that clients reach, one of IPv4, of IPv6, or both (required)")
	s.StringSliceVar(&f.relayIP, "relay-ip", nil, "address of the relays, as peers see it, likewise (default that of --listen)")
	s.StringVar(&f.tenants, "tenants", "", "YAML file of names and secrets (required)")
	s.StringArrayVar(&f.allow, "allow", nil, "what relays may reach, as CIDR[:PORTS]; may be repeated (default nothing)")
	s.StringVar(&f.port, "port", "3478", "port of TURN over UDP and TCP, or off")
	s.StringVar(&f.tlsPort, "tls-port", "5349", "port of TURN over TLS, or off")
	s.StringVar(&f.httpsPort, "https-port", "443", "port of TURN over TLS and DTLS for clients behind strict firewalls, or off")
	s.StringSliceVar(&f.transports, "transports", allTransports, "how clients may come")
	s.StringVar(&f.realm, "realm", "orama", "the realm that clients are told")
	s.StringVar(&f.relayPorts, "relay-ports", "49152-65535", "UDP ports of the relays, a block of them for each tenant")
	s.IntVar(&f.tenantPorts, "tenant-ports", 0, "relay ports of each tenant (default half of all, divided; the other half is for tenants to come)")
	s.StringVar(&f.cert, "cert", "", "certificate chain, PEM, read again when it changes (default one made at the start, for trying)")
	s.StringVar(&f.key, "key", "", "its private key, PEM")
	s.StringVar(&f.https, "https-backend", "", "HOST:PORT that gets the connections to --https-port which ask for another name than turn or turn-*")
	s.BoolVar(&f.httpsProxy, "https-proxy", false, "tell the backend the client's address by the PROXY protocol, version 2")
	s.StringVar(&f.metrics, "metrics", "", "HOST:PORT for /metrics and /healthz (default nowhere)")
	s.StringVar(&f.logForm, "log-format", "text", "text or json")
}

var allTransports = []string{"udp", "tcp", "tls", "dtls"}

// mixed refuses flags that say nothing without or with --standalone.
func (f *aloneFlags) mixed(c *cobra.Command) error {
	var own pflag.FlagSet
	new(aloneFlags).add(&own)
	var err error
	c.Flags().Visit(func(g *pflag.Flag) {
		switch {
		case f.alone && (g.Name == "leases" || g.Name == "share-control"):
			err = fmt.Errorf("--%s is for a TURN server that an agent configures; leave it out, or --standalone", g.Name)
		case !f.alone && own.Lookup(g.Name) != nil:
			err = fmt.Errorf("--%s needs --standalone", g.Name)
		}
	})
	return err
}

func (a *app) runAlone(c *cobra.Command, f aloneFlags, u role.Unit) error {
	o, err := f.read()
	if err != nil {
		return usage(c, err)
	}
	o.Control, o.Drain, o.Log = u.Control, u.Drain, a.logger(slog.LevelInfo)
	if f.logForm == "json" {
		o.Log = slog.New(slog.NewJSONHandler(a.err, nil))
	}
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	defer signal.Stop(hangUp)
	upgrade := make(chan os.Signal, 1)
	signal.Notify(upgrade, syscall.SIGUSR2)
	defer signal.Stop(upgrade)
	o.Reload, o.Upgrade = hangUp, upgrade
	return role.TURNStandalone(c.Context(), o)
}

// read makes what was typed what the server is told, or says what to type instead.
func (f *aloneFlags) read() (o role.Standalone, err error) {
	o = role.Standalone{Realm: f.realm, Tenants: f.tenants, TenantSize: f.tenantPorts, Cert: f.cert, Key: f.key, HTTPS: f.https, HTTPSProxy: f.httpsProxy, Metrics: f.metrics}
	switch {
	case len(f.listen) == 0:
		return o, errors.New("--listen is needed: the address of this machine that clients reach")
	case f.tenants == "":
		return o, errors.New("--tenants is needed: a YAML file with a line NAME: SECRET for each tenant; 'openssl rand -base64 32' makes a secret")
	case f.logForm != "text" && f.logForm != "json":
		return o, fmt.Errorf("--log-format is text or json, not %q", f.logForm)
	case f.tenantPorts < 0:
		return o, errors.New("--tenant-ports is 1 or more")
	}
	for _, at := range []struct{ flag, v string }{{"metrics", f.metrics}, {"https-backend", f.https}} {
		if _, _, err := net.SplitHostPort(at.v); at.v != "" && err != nil {
			return o, fmt.Errorf("--%s: %q is no HOST:PORT", at.flag, at.v)
		}
	}
	if o.Listen, o.Listen6, err = families("listen", f.listen); err != nil {
		return o, err
	}
	if o.RelayIP, o.RelayIP6 = o.Listen, o.Listen6; len(f.relayIP) > 0 {
		if o.RelayIP, o.RelayIP6, err = families("relay-ip", f.relayIP); err != nil {
			return o, err
		}
	} else if o.Listen.IsUnspecified() || o.Listen6.IsValid() && o.Listen6.IsUnspecified() {
		return o, errors.New("--relay-ip is needed beside a --listen on every address: the one that peers are told")
	}
	for _, text := range f.allow {
		r, err := fence.ParseRule(text)
		if err != nil {
			return o, fmt.Errorf("--allow: %w", err)
		}
		o.Allow = append(o.Allow, r)
	}
	if o.RelayPorts, err = portRange(f.relayPorts); err != nil {
		return o, err
	}
	return o, f.readPorts(&o.Ports)
}

// families reads one address, or one of each family; six is the second family's.
func families(flag string, texts []string) (one, six netip.Addr, err error) {
	for _, text := range texts {
		ip, err := netip.ParseAddr(text)
		switch ip = ip.Unmap(); {
		case err != nil:
			return one, six, fmt.Errorf("--%s: %q is no IP address", flag, text)
		case !one.IsValid():
			one = ip
		case six.IsValid() || one.Is4() == ip.Is4():
			return one, six, fmt.Errorf("--%s: one IPv4 and one IPv6 address at most, not %s", flag, strings.Join(texts, " and "))
		default:
			six = ip
		}
	}
	if six.IsValid() && one.Is6() {
		one, six = six, one
	}
	return one, six, nil
}

func (f *aloneFlags) readPorts(p *turn.Ports) error {
	for _, t := range f.transports {
		if !slices.Contains(allTransports, t) {
			return fmt.Errorf("--transports: %q is none; these are: %s", t, strings.Join(allTransports, ", "))
		}
	}
	without := func(t string) bool { return !slices.Contains(f.transports, t) }
	plain, plainOff, err := port("port", f.port)
	if err != nil {
		return err
	}
	tls, tlsOff, err := port("tls-port", f.tlsPort)
	if err != nil {
		return err
	}
	https, httpsOff, err := port("https-port", f.httpsPort)
	if err != nil {
		return err
	}
	*p = turn.Ports{UDP: plain, TCP: plain, TLS: tls, HTTPS: https,
		NoUDP: plainOff || without("udp"), NoTCP: plainOff || without("tcp"), NoTLS: tlsOff || without("tls"),
		NoDTLS: httpsOff || without("dtls"), NoHTTPS: httpsOff || without("tls")}
	if p.NoUDP && p.NoTCP && p.NoTLS && p.NoDTLS && p.NoHTTPS {
		return errors.New("--port, --tls-port, --https-port and --transports leave no way in; leave one on")
	}
	return nil
}

// port reads a port, or that there is to be none.
func port(flag, text string) (n uint16, off bool, err error) {
	if text == "off" || text == "0" {
		return 0, true, nil
	}
	v, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, false, fmt.Errorf("--%s is 1 to 65535, or off, not %q", flag, text)
	}
	return uint16(v), false, nil
}

func portRange(text string) (orama.PortRange, error) {
	from, to, _ := strings.Cut(text, "-")
	first, err := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err != nil || err2 != nil || first < 1024 || last < first {
		return orama.PortRange{}, fmt.Errorf("--relay-ports is FIRST-LAST, the smaller one first, 1024 to 65535, not %q", text)
	}
	return orama.PortRange{First: uint16(first), Count: uint16(last - first + 1)}, nil
}

// turnFlags are those of the commands that ask a running TURN server.
type turnFlags struct{ control, node string }

func (f *turnFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&f.control, "control", "", "Unix socket of the TURN server (default that of the local cluster's --node, or of this host's unit)")
	c.Flags().StringVar(&f.node, "node", "node-1", "node of the local cluster")
	return c
}

// turnSocket finds the server that is meant.
func (a *app) turnSocket(f turnFlags) (string, error) {
	if f.control != "" {
		return f.control, nil
	}
	dir, err := a.dir()
	if err != nil {
		return "", err
	}
	return role.FindTURN(dir, orama.NodeID(f.node))
}

func (a *app) turnList() *cobra.Command {
	var f turnFlags
	var ns string
	c := &cobra.Command{
		Use: "list", Short: "Show a TURN server's living relays", Args: args(cobra.NoArgs),
		Long: `Show the living relays of a TURN server of this machine: whose they are, from where the client came and how, the relay's
own address, and what went through. UP is from the client. EXPIRES is when the relay ends unless its client refreshes it.

With --json it is one document: {relays: [{id, namespace, transport, client, relay, since, expires, up_packets, up_bytes,
down_packets, down_bytes}], cut}. At most 10,000 are shown; cut says that there are more, and --namespace asks for fewer.`,
		Example: "  orama turn list\n  orama turn list --node node-2 --namespace myapp\n  orama turn list --control turn.sock --json | jq '.relays | length'",
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := a.turnSocket(f)
			if err != nil {
				return err
			}
			list, err := role.Relays(c.Context(), at, orama.NamespaceID(ns))
			if err != nil {
				return err
			}
			if a.json {
				a.print(list)
				return nil
			}
			a.say("%s", relaysText(list, time.Now()))
			return nil
		},
	}
	c.Flags().StringVarP(&ns, "namespace", "n", "", "only this namespace, or tenant")
	return f.add(c)
}

func relaysText(list role.RelayList, now time.Time) string {
	if len(list.Relays) == 0 {
		return "There is no relay."
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tVIA\tCLIENT\tRELAY\tAGE\tUP\tDOWN\tEXPIRES")
	for _, r := range list.Relays {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\tin %s\n", r.ID, r.Transport, r.Client, r.Relay, now.Sub(r.Since).Round(time.Second),
			moved(r.UpPackets, r.UpBytes), moved(r.DownPackets, r.DownBytes), r.Expires.Sub(now).Round(time.Second))
	}
	w.Flush() //nolint:errcheck // a strings.Builder takes all
	if list.Cut {
		fmt.Fprintf(&b, "There are more; --namespace shows those of one.\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// moved words packets and their payload.
func moved(packets, bytes uint64) string {
	switch {
	case bytes < 10_000:
		return fmt.Sprintf("%d (%d B)", packets, bytes)
	case bytes < 10_000_000:
		return fmt.Sprintf("%d (%d kB)", packets, bytes/1000)
	}
	return fmt.Sprintf("%d (%d MB)", packets, bytes/1_000_000)
}

func (a *app) turnEnd() *cobra.Command {
	var f turnFlags
	c := &cobra.Command{
		Use: "end ID", Short: "End one of a TURN server's relays", Args: args(cobra.ExactArgs(1)),
		Long: `End a relay by the id that 'orama turn list' shows. Its client is told nothing and may ask for another; to keep it out
change the tenant's secret, or end its credentials where they are made.`,
		Example: "  orama turn end myapp/49160\n  orama turn end myapp/49160 --control turn.sock",
		RunE: func(c *cobra.Command, given []string) error {
			at, err := a.turnSocket(f)
			if err != nil {
				return err
			}
			if err := role.EndRelay(c.Context(), at, given[0]); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]string{"ended": given[0]})
				return nil
			}
			a.say("Ended %s.", given[0])
			return nil
		},
	}
	return f.add(c)
}
