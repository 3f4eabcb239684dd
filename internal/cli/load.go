package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orama.network/orama"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/load"
	"orama.network/orama/internal/operator"
)

// loadFlags are those of `orama load` that are not the load's own.
type loadFlags struct {
	namespace, url, token, apiKey, video, relay string
}

// peopleOfToken is how many people share one user: a gateway lets one user join 30 times at once, then twice a second.
const peopleOfToken = 20

// progressEvery is how often progress is told where it cannot be drawn over.
const progressEvery = 5 * time.Second

func (a *app) load() *cobra.Command {
	var f loadFlags
	o := load.Options{}
	c := &cobra.Command{
		Use: "load", Short: "Play many people in real calls and measure what they get", Args: args(cobra.NoArgs),
		Long: `Have many people join real rooms, publish and watch, and measure what those who watch get. Everybody
is a real client of the Go SDK: a socket to a gateway, a relay, an SFU. The rooms are the load's own.

Publishers send a clip and a tone and watch nothing; subscribers watch every publisher of their room and
send nothing. With --video simulcast each video is three encodings, of a tenth, a quarter and all of --bitrate,
and every subscriber is sent one of them. Progress is shown until the table; Ctrl-C ends the run early, with the table.

The cluster is the one on this machine, or that of --env; --namespace may be left out when only one
namespace has WebRTC. Or name a gateway by --url, with an owner key or a token that is good for any room.
One token is one user, who may join 30 times at once and then twice a second. TLS needs the relays' names
in DNS, which those of 'orama up' are not: use udp or tcp there.

latency   from handing a frame to the SDK until all of it was read at the other end: relay, SFU, relay
lost      gaps in the packet numbers that no retransmission filled
freezes   as the W3C defines freezeCount, by frames that are whole; nothing is decoded
join      from before the socket is opened until the first packet of media
estimate  what the way to a subscriber carries, as its SFU last told it; the SFU looks for no more than it has to send

What the machine would carry goes by CPU alone, in a straight line, until 80 % of it are used. With the
cluster on this machine the load and the servers share it, and what the servers would carry without the
load is told too. When the load itself is short of CPU the table says so: its figures are not the servers'.`,
		Example: `  orama load
  orama load --rooms 10 --publishers 2 --subscribers 20 --relay udp --duration 60s
  orama load --env devnet --namespace myapp --video none --rooms 50 --json
  orama load --url https://ns-myapp.example.org --api-key "$OWNER_KEY" --relay tls`,
		RunE: func(c *cobra.Command, _ []string) error { return a.runLoad(c, f, o) },
	}
	fl := c.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", "", "the namespace (default the only one that has WebRTC)")
	fl.StringVar(&f.url, "url", "", "URL of a gateway, instead of a cluster that is known by name")
	fl.StringVar(&f.token, "token", "", "token for --url")
	fl.StringVar(&f.apiKey, "api-key", "", "API key for --url")
	fl.IntVar(&o.Rooms, "rooms", 1, "how many rooms")
	fl.IntVar(&o.Publishers, "publishers", 1, "who sends, in each room")
	fl.IntVar(&o.Subscribers, "subscribers", 5, "who watches, in each room")
	fl.StringVar(&f.video, "video", string(load.Single), "video of each publisher: none, single or simulcast")
	fl.BoolVar(&o.Audio, "audio", true, "send audio")
	fl.IntVar(&o.Bitrate, "bitrate", 1_000_000, "of each video, or of its largest encoding, bits a second")
	fl.StringVar(&f.relay, "relay", "any", "relays to use: udp, tcp, tls or any")
	fl.DurationVar(&o.Duration, "duration", 30*time.Second, "how long to measure, once everybody has joined")
	fl.Float64Var(&o.Ramp, "ramp", 10, "joins a second")
	return c
}

func (a *app) runLoad(c *cobra.Command, f loadFlags, o load.Options) error {
	switch f.relay {
	case "any":
	case "udp", "tcp", "tls":
		o.Transports = []string{f.relay}
	default:
		return usage(c, errors.New("--relay is udp, tcp, tls or any"))
	}
	o.Video = load.Video(f.video)
	o.URLs = []string{"http://localhost"} // what to play is looked at before where
	if err := o.Check(); err != nil {
		return usage(c, err)
	}
	if err := a.aim(c, f, &o); err != nil {
		return err
	}
	if !a.json {
		a.say("%s on %s: %s and %s join.", several(o.Rooms, "room"), strings.Join(o.URLs, " "), several(o.Rooms*o.Publishers, "publisher"),
			several(o.Rooms*o.Subscribers, "subscriber"))
	}
	r, err := load.Run(c.Context(), o, a.loadProgress())
	if err != nil {
		return err
	}
	if a.json {
		a.print(r)
		return nil
	}
	return a.showLoad(r)
}

// aim finds the gateways and who lets people in.
func (a *app) aim(c *cobra.Command, f loadFlags, o *load.Options) error {
	if f.url != "" {
		if (f.token == "") == (f.apiKey == "") {
			return usage(c, errors.New("--url needs --token or --api-key"))
		}
		o.URLs = []string{f.url}
		o.Credential = func(context.Context, int) (load.Credential, error) {
			return load.Credential{Token: f.token, APIKey: f.apiKey}, nil
		}
		return nil
	}
	if f.token != "" || f.apiKey != "" {
		return usage(c, errors.New("--token and --api-key go with --url"))
	}
	admin, err := a.admin(c.Context())
	if err != nil {
		return err
	}
	if f.namespace, err = webrtcNamespace(c.Context(), admin, f.namespace); err != nil {
		return err
	}
	report, err := admin.Report(c.Context())
	if err != nil {
		return err
	}
	o.URLs = nil
	for _, n := range report.Nodes {
		if u, err := url.Parse(n.GatewayURL); n.Alive && err == nil && u.Host != "" {
			o.URLs = append(o.URLs, n.GatewayURL)
		}
	}
	if len(o.URLs) == 0 {
		return orama.Errorf(orama.KindUnavailable, "no_gateway", "no living node has a gateway; 'orama inspector' says why")
	}
	if o.TLS, err = a.clientTLS(); err != nil {
		return err
	}
	o.Credential = mintFor(admin, f.namespace, o.Duration)
	return nil
}

// webrtcNamespace checks the namespace that was asked for, or finds the one that has WebRTC.
func webrtcNamespace(ctx context.Context, admin *operator.Client, asked string) (string, error) {
	all, err := admin.ListNamespaces(ctx)
	if err != nil {
		return "", err
	}
	var with []string
	for _, n := range all {
		if n.WebRTC {
			with = append(with, string(n.Name))
		}
		if string(n.Name) == asked && !n.WebRTC {
			return "", orama.Errorf(orama.KindConflict, "webrtc_disabled", "%s has no WebRTC; next: orama namespace enable webrtc --namespace %s", asked, asked)
		}
	}
	switch {
	case asked != "" && slices.Contains(with, asked):
		return asked, nil
	case asked != "":
		return "", orama.Errorf(orama.KindNotFound, "no_namespace", "there is no namespace %q; 'orama namespace list' shows those there are", asked)
	case len(with) == 1:
		return with[0], nil
	case len(with) == 0:
		return "", orama.Errorf(orama.KindNotFound, "no_namespace", "no namespace has WebRTC; next: orama namespace enable webrtc --namespace NAME")
	}
	return "", orama.Errorf(orama.KindInvalid, "which_namespace", "several namespaces have WebRTC, name one with --namespace: %s", strings.Join(with, ", "))
}

// mintFor makes a user for every so many people, as they come.
func mintFor(admin *operator.Client, namespace string, lasts time.Duration) func(context.Context, int) (load.Credential, error) {
	var mu sync.Mutex
	minted := map[int]string{} // guarded by mu
	return func(ctx context.Context, person int) (load.Credential, error) {
		mu.Lock()
		defer mu.Unlock()
		user := person / peopleOfToken
		if minted[user] == "" {
			t, err := admin.MintToken(ctx, namespace, operator.TokenRequest{User: orama.UserID(fmt.Sprintf("load-%d", user+1)), TTL: lasts.Round(time.Second) + time.Hour})
			if err != nil {
				return load.Credential{}, err
			}
			minted[user] = t.Token
		}
		return load.Credential{Token: minted[user]}, nil
	}
}

// clientTLS trusts what the environment names, or the authority of the local cluster, beside the system's roots.
func (a *app) clientTLS() (*tls.Config, error) {
	var e environment
	if a.env == localEnv {
		dir, err := a.dir()
		if err != nil {
			return nil, err
		}
		if file := filepath.Join(dir, cert.CertFile); fileExists(file) {
			e.CAFile = file
		}
	} else if _, f, err := readEnvironments(); err == nil {
		e = f.Environments[a.env]
	}
	roots, err := e.roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// loadProgress draws over one line of a terminal, and prints a line from time to time elsewhere.
func (a *app) loadProgress() func(load.Progress) {
	if a.json {
		return nil
	}
	size, drawn := a.terminal()
	width := size[0] - 1
	if width <= 0 {
		width = 79 // a terminal that does not say
	}
	var last time.Time
	phase := ""
	return func(p load.Progress) {
		switch {
		case drawn:
			fmt.Fprintf(a.out, "\r\x1b[K%s", fit(progressText(p), width, 0))
			if p.Phase == "leaving" {
				fmt.Fprint(a.out, "\r\x1b[K")
			}
		case p.Phase != phase || time.Since(last) >= progressEvery:
			a.say("%s", progressText(p))
			last, phase = time.Now(), p.Phase
		}
	}
}

func progressText(p load.Progress) string {
	text := fmt.Sprintf("%s  %d of %d joined", p.Phase, p.Joined, p.People)
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d failed", p.Failed)
	}
	if p.Phase == "measuring" {
		text += fmt.Sprintf("  %s left  received %s  loss %s  latency p99 %s  freezes %d", p.Left.Round(time.Second), bits(p.Received),
			percent(p.Loss), milli(float64(p.Latency)/float64(time.Millisecond)), p.Freezes)
		if p.Estimate.Count > 0 {
			text += "  estimate " + bits(float64(p.Estimate.P50))
		}
	}
	return text
}

// several is a number of things.
func several(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// showLoad prints the table.
func (a *app) showLoad(r load.Report) error {
	how := ""
	if r.Interrupted {
		how = ", stopped early"
	}
	a.say("\n%d of %d people joined: %s, %s in %s. Measured for %s%s.\n", r.Joined, r.Publishers+r.Subscribers, several(r.Publishers, "publisher"),
		several(r.Subscribers, "subscriber"), several(r.Rooms, "room"), time.Duration(r.DurationS*float64(time.Second)).Round(100*time.Millisecond), how)
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tSENT\tRECEIVED\tLOST\tLATENCY p50\tp99\tFREEZES")
	for _, m := range []struct {
		name    string
		media   *load.Media
		freezes string
	}{{"video", r.Video, fmt.Sprintf("%d, %.1f s (%s)", r.Freezes.Count, r.Freezes.Seconds, percent(r.Freezes.Share))}, {"audio", r.Audio, "-"}} {
		if m.media != nil {
			fmt.Fprintf(w, "%s\t%d (%s)\t%d (%s)\t%d (%s)\t%s\t%s\t%s\n", m.name, m.media.Sent, bits(m.media.SentBPS), m.media.Received, bits(m.media.ReceivedBPS),
				m.media.Lost, percent(m.media.Loss), milli(m.media.LatencyMS.P50), milli(m.media.LatencyMS.P99), m.freezes)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	a.say("")
	if r.JoinMS.Count > 0 {
		a.say("join        p50 %s, p99 %s, to the first packet of media", milli(r.JoinMS.P50), milli(r.JoinMS.P99))
	}
	if e := r.EstimateBPS; e.Count > 0 {
		a.say("estimate    p50 %s, least %s, most %s, of the ways to %s", bits(float64(e.P50)), bits(float64(e.Min)), bits(float64(e.Max)),
			several(e.Count, "subscriber"))
	}
	if r.Recoveries > 0 || r.Dropped > 0 {
		a.say("calls       %d recoveries, %d people lost for good", r.Recoveries, r.Dropped)
	}
	m := r.Machine
	a.say("machine     %d CPUs, %s used: the load %s, Orama's servers %s, the rest %s", m.CPUs, percent(m.Used), percent(m.Load), percent(m.Servers),
		percent(max(m.Used-m.Load-m.Servers, 0)))
	if m.More != nil {
		a.say("            by CPU it would carry %d more subscribers like these beside the load", *m.More)
	}
	if m.Apart != nil {
		a.say("            by CPU it would carry %d in all if the load were elsewhere", *m.Apart)
	}
	if m.Short {
		a.say("\n! The load itself was short of CPU (frames left %s late, p99): these figures tell of this machine and not of the servers.", milli(m.LateMS))
	}
	for _, f := range r.Failures {
		a.say("! %d people: %s", f.People, printable(f.Reason))
	}
	return nil
}

func percent(share float64) string {
	if share > 0 && share < 0.001 {
		return "<0.1 %"
	}
	return fmt.Sprintf("%.1f %%", 100*share)
}

func milli(ms float64) string {
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func bits(bps float64) string {
	if bps < 1e6 {
		return fmt.Sprintf("%.0f kbit/s", bps/1e3)
	}
	return fmt.Sprintf("%.1f Mbit/s", bps/1e6)
}
