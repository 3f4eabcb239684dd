package turn

import (
	"fmt"
	"net"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
)

// maxRealm bounds the realm, in bytes: it is part of every 401, and so of what a spoofed request
// makes us send.
const maxRealm = 128

// checkSpec refuses a spec that cannot be served whole; it fails closed.
func checkSpec(spec plan.TURNSpec) error {
	switch {
	case !spec.PublicIP.IsValid() || spec.PublicIP.IsMulticast():
		return bad("public_ip %s is no address to listen on", spec.PublicIP)
	case !spec.RelayIP.IsValid() || spec.RelayIP.IsUnspecified() || spec.RelayIP.IsMulticast() || spec.RelayIP.Is4In6():
		return bad("relay_ip %s is no address to advertise", spec.RelayIP)
	case spec.PublicIP6.IsValid() && (!spec.PublicIP6.Is6() || spec.PublicIP6.Is4In6() || !spec.PublicIP.Is4()):
		return bad("public_ip6 %s is an IPv6 address beside an IPv4 public_ip", spec.PublicIP6)
	case spec.RelayIP6.IsValid() && (!spec.RelayIP6.Is6() || spec.RelayIP6.Is4In6() || spec.RelayIP6.IsUnspecified() || spec.RelayIP6.IsMulticast() || !spec.RelayIP.Is4()):
		return bad("relay_ip6 %s is an IPv6 address beside an IPv4 relay_ip", spec.RelayIP6)
	case spec.Realm == "" || len(spec.Realm) > maxRealm:
		return bad("the realm is 1 to %d bytes", maxRealm)
	}
	if spec.HTTPSBackend != "" {
		if _, _, err := net.SplitHostPort(spec.HTTPSBackend); err != nil {
			return bad("https_backend: %v", err)
		}
	}
	return checkTenants(spec.Tenants)
}

func checkTenants(tenants []plan.TenantSpec) error {
	seen := map[orama.NamespaceID]bool{}
	for i, t := range tenants {
		if seen[t.Namespace] {
			return bad("namespace %s is there twice", t.Namespace)
		}
		seen[t.Namespace] = true
		if err := checkTenant(t); err != nil {
			return bad("namespace %s: %v", t.Namespace, err)
		}
		for _, o := range tenants[:i] {
			if overlap(o.Relay, t.Relay) {
				return bad("namespaces %s and %s share relay ports", o.Namespace, t.Namespace)
			}
		}
	}
	return nil
}

func checkTenant(t plan.TenantSpec) error {
	if err := auth.ValidNamespace(string(t.Namespace)); err != nil {
		return err
	}
	if t.Secret == "" {
		return fmt.Errorf("no secret")
	}
	if t.Relay.First == 0 || t.Relay.Count == 0 || int(t.Relay.First)+int(t.Relay.Count) > 1<<16 {
		return fmt.Errorf("relay block %d+%d is no range of ports", t.Relay.First, t.Relay.Count)
	}
	for _, ap := range t.Allow {
		if err := fence.Check(ap); err != nil {
			return err
		}
	}
	if len(t.Rules) > fence.MaxRules {
		return fmt.Errorf("%d rules are too many; %d may be", len(t.Rules), fence.MaxRules)
	}
	for _, r := range t.Rules {
		if err := fence.CheckRule(r); err != nil {
			return fmt.Errorf("rule %s: %w", r, err)
		}
	}
	return t.Limits.Check()
}

func overlap(a, b orama.PortRange) bool {
	return int(a.First) < int(b.First)+int(b.Count) && int(b.First) < int(a.First)+int(a.Count)
}

func bad(format string, args ...any) error {
	return orama.Errorf(orama.KindInvalid, "bad_turn_spec", "TURN configuration: "+format, args...)
}
