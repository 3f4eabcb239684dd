package operator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// published is what the records should say once they are in step with the relays that were seen ready.
func (e Evidence) published() (want map[string][]string, behind int) {
	put, del := plan.DNS(e.Cluster, e.BaseDomain)
	want = map[string][]string{}
	for _, r := range append(slices.Clone(e.Cluster.DNS), put...) {
		gone := slices.ContainsFunc(del, func(d orama.DNSRecord) bool { return d.Name == r.Name && d.Value == r.Value })
		if !gone && !slices.Contains(want[r.Name], r.Value.String()) {
			want[r.Name] = append(want[r.Name], r.Value.String())
		}
	}
	for _, values := range want {
		slices.Sort(values)
	}
	return want, len(put) + len(del)
}

func checkDNS(e Evidence) []Finding {
	found, _ := e.reported(partDNS, "look at the agent's log on that node, and at port 53: ss -lunp sport = 53")
	want, behind := e.published()
	if behind > 0 {
		found = append(found, Finding{Severity: SeverityWarning, Detail: fmt.Sprintf("%d records are not yet what was seen of the relays", behind),
			Next: "ask again in a few seconds; any agent brings them in step, its log says why not"})
	}
	for _, n := range e.Cluster.Namespaces {
		for _, name := range e.unpublished(n, want) {
			found = append(found, Finding{Namespace: n.ID, Severity: SeverityCritical, Detail: name + " is in its credentials and in no record",
				Next: "is one of its relays ready? orama namespace webrtc-status --namespace " + string(n.ID)})
		}
	}
	var servers []string
	for _, s := range e.Names {
		if !slices.Contains(servers, s.Server) {
			servers = append(servers, s.Server)
		}
		found = append(found, wrongAnswer(s, want[s.Name])...)
	}
	if e.NoServers != "" {
		found = append(found, Finding{Severity: SeverityCritical, Detail: "it cannot be found out who answers for " + e.BaseDomain + ": " + e.NoServers,
			Next: "dig NS ZONE on this node; dns.zone in its configuration is the zone's name"})
	}
	if len(servers) == 0 {
		return orFine(found, "%d names in the records; no name server is configured (dns: none), so none was asked", len(want))
	}
	return orFine(found, "%d names resolve to exactly the relays that are ready, at %s", len(want), strings.Join(servers, ", "))
}

// unpublished are the names of a namespace that clients are given and that have no address.
func (e Evidence) unpublished(n orama.Namespace, want map[string][]string) []string {
	if !enabled(n) || len(instancesOf(e.Cluster, n.ID)) == 0 {
		return nil
	}
	return slices.DeleteFunc(e.named(n), func(name string) bool { return len(want[name]) > 0 })
}

func wrongAnswer(s NameSeen, want []string) []Finding {
	const next = "dig @SERVER NAME shows the answer; is the server's zone that of this cluster?"
	if s.Problem != "" {
		return []Finding{{Severity: SeverityCritical, Detail: fmt.Sprintf("%s says of %s: %s", s.Server, s.Name, s.Problem), Next: next}}
	}
	got := slices.Sorted(slices.Values(s.Values))
	if slices.Equal(slices.Compact(got), want) {
		return nil
	}
	return []Finding{{Severity: SeverityCritical, Next: next, Detail: fmt.Sprintf("%s says that %s is %s, and it should be %s",
		s.Server, s.Name, list(got), list(want))}}
}

func list(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	return strings.Join(values, ", ")
}

// A certificate is to be renewed when a third of its life is left. Half of that is late, and a twentieth is the end.
const (
	lifeWarning  = 6
	lifeCritical = 20
)

func checkCertificates(e Evidence) []Finding {
	found, _ := e.reported(partCertificate, "orama node report and the agent's log on that node say what the issuer answered")
	soonest := time.Time{}
	for _, c := range e.Certificates {
		if f, bad := judgeCertificate(c, e.At); bad {
			found = append(found, f)
		}
		if !c.NotAfter.IsZero() && (soonest.IsZero() || c.NotAfter.Before(soonest)) {
			soonest = c.NotAfter
		}
	}
	if soonest.IsZero() {
		return orFine(found, "no certificate was asked for: no relay is ready, and no gateway is on https")
	}
	return orFine(found, "%d handshakes, each with the right name and a chain that clients trust; the first certificate ends in %s",
		len(e.Certificates), days(soonest.Sub(e.At)))
}

func judgeCertificate(c CertificateSeen, now time.Time) (Finding, bool) {
	f := Finding{Node: c.Node, Severity: SeverityCritical, Next: "look at the agent's log on that node for why it is not renewed"}
	left, life := c.NotAfter.Sub(now), c.NotAfter.Sub(c.NotBefore)
	switch {
	case c.Problem != "":
		f.Detail = fmt.Sprintf("no TLS with %s for %s: %s", c.Address, c.Name, c.Problem)
		f.Next = "is the port open from here, and does the process run? orama node report on that node"
	case c.Untrusted != "":
		f.Detail = fmt.Sprintf("%s shows a certificate that no client trusts for %s: %s", c.Address, c.Name, c.Untrusted)
		f.Next = "the certificate must cover every name in the credentials, with its whole chain"
	case now.Before(c.NotBefore):
		f.Detail = fmt.Sprintf("the certificate of %s for %s begins only in %s", c.Address, c.Name, days(c.NotBefore.Sub(now)))
	case left <= 0:
		f.Detail = fmt.Sprintf("the certificate of %s for %s ended %s ago", c.Address, c.Name, days(-left))
	case left < life/lifeCritical:
		f.Detail = fmt.Sprintf("the certificate of %s for %s ends in %s", c.Address, c.Name, days(left))
	case left < life/lifeWarning:
		f.Severity, f.Detail = SeverityWarning, fmt.Sprintf("the certificate of %s for %s ends in %s and should be renewed by now", c.Address, c.Name, days(left))
	default:
		return f, false
	}
	return f, true
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func checkGateways(e Evidence) []Finding {
	const next = "on the node: journalctl -u orama; and what stands before the gateway, such as Caddy"
	found := e.needed(partGateway, next)
	answered := 0
	for _, n := range e.living() {
		g, asked := e.Gateways[n.ID]
		switch {
		case !asked:
		case g.Problem == "":
			answered++
		default:
			found = append(found, Finding{Node: n.ID, Severity: SeverityCritical, Next: next,
				Detail: fmt.Sprintf("%s does not serve %s: %s", n.GatewayURL, e.From, g.Problem)})
		}
	}
	return orFine(found, "%d gateways serve at their public URLs", answered)
}
