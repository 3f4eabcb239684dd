package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// validateParts checks the choice of each real part, and that it has what it needs and nothing of another's.
func (c Node) validateParts() error {
	for _, part := range []struct {
		name string
		err  error
	}{
		{"store", c.Store.validate()},
		{"cache", c.Cache.validate()},
		{"mesh", c.Mesh.validate()},
		{"supervisor", oneOf(c.Supervisor, "", "child", "systemd")},
		{"firewall", oneOf(c.Firewall, "", "none", "ufw")},
		{"dns", c.DNS.validate(c.BaseDomain)},
		{"certificates", c.Certificates.validate()},
		{"turn.https", oneOf(c.TURN.HTTPS, "", "shared", "off")},
	} {
		if part.err != nil {
			return fmt.Errorf("%s: %w", part.name, part.err)
		}
	}
	return nil
}

func (s Store) validate() error {
	switch {
	case s.Engine == "sqlite" && !filepath.IsAbs(s.File):
		return fmt.Errorf("engine sqlite needs file, an absolute path")
	case s.Engine == "rqlite" && len(s.URLs) == 0:
		return fmt.Errorf("engine rqlite needs urls, such as http://10.0.0.1:4001")
	}
	for _, u := range s.URLs {
		if p, err := url.Parse(u); err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" || p.User != nil {
			return fmt.Errorf("urls: http://HOST:PORT without a password is needed")
		}
	}
	return either(absOrNone("password_file", s.PasswordFile), oneOf(s.Engine, "sqlite", "rqlite"))
}

func (c Cache) validate() error {
	if c.Engine == "olric" && len(c.Addresses) == 0 {
		return fmt.Errorf("engine olric needs addresses, such as 10.0.0.1:3320")
	}
	return either(hostPorts("addresses", c.Addresses...), absOrNone("password_file", c.PasswordFile), oneOf(c.Engine, "", "memory", "olric"))
}

func (m Mesh) validate() error {
	if (m.WireGuard == "auto" || m.WireGuard == "userspace") && m.PrivateKey == "" {
		return fmt.Errorf("private_key, an absolute path, is needed when this agent makes the mesh")
	}
	if len(m.Interface) > 15 {
		return fmt.Errorf("interface: at most 15 characters")
	}
	return either(absOrNone("private_key", m.PrivateKey), hostPorts("enroll", someOf(m.Enroll)...), oneOf(m.WireGuard, "", "existing", "auto", "userspace"))
}

func (d DNS) validate(base string) error {
	switch {
	case d.Mode == "serve" && len(d.Listen) == 0:
		return fmt.Errorf("mode serve needs listen, such as 203.0.113.1:53")
	case d.Mode == "rfc2136" && (d.Server == "" || d.KeyName == "" || d.KeyFile == ""):
		return fmt.Errorf("mode rfc2136 needs server, key_name and key_file")
	case d.Mode == "program" && len(d.Program) == 0:
		return fmt.Errorf("mode program needs program, such as [/usr/local/bin/orama-dns-cloudflare]")
	case d.Mode != "program" && (len(d.Program) > 0 || d.Zone != ""):
		return fmt.Errorf("program and zone are of mode program")
	case len(d.Program) > 0 && !filepath.IsAbs(d.Program[0]):
		return fmt.Errorf("program: %q is not an absolute path; its arguments are further items of the list", d.Program[0])
	case d.Zone != "" && !inZone(base, d.Zone):
		return fmt.Errorf("zone: base_domain %s is not in the zone %s", base, d.Zone)
	}
	return either(hostPorts("listen", d.Listen...), hostPorts("server", someOf(d.Server)...), absOrNone("key_file", d.KeyFile),
		oneOf(d.Algorithm, "", "hmac-sha256", "hmac-sha512"), oneOf(d.Mode, "", "none", "serve", "rfc2136", "program"))
}

func inZone(name, zone string) bool {
	name, zone = strings.ToLower(strings.TrimSuffix(name, ".")), strings.ToLower(strings.TrimSuffix(zone, "."))
	return name == zone || strings.HasSuffix(name, "."+zone)
}

func (c Certificates) validate() error {
	switch {
	case c.Mode == "authority" && !filepath.IsAbs(c.Authority):
		return fmt.Errorf("mode authority needs authority, an absolute directory")
	case c.Mode == "files" && (!filepath.IsAbs(c.Cert) || !filepath.IsAbs(c.Key)):
		return fmt.Errorf("mode files needs cert and key, absolute paths")
	}
	return either(absOrNone("roots", c.Roots), hostPorts("resolver", someOf(c.Resolver)...), oneOf(c.Mode, "authority", "files", "acme"))
}

func either(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func oneOf(v string, of ...string) error {
	if slices.Contains(of, v) {
		return nil
	}
	return fmt.Errorf("%q is not one of %q", v, slices.DeleteFunc(of, func(s string) bool { return s == "" }))
}

func absOrNone(name, path string) error {
	if path != "" && !filepath.IsAbs(path) {
		return fmt.Errorf("%s: an absolute path is needed", name)
	}
	return nil
}

func someOf(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}

func hostPorts(name string, addrs ...string) error {
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			return fmt.Errorf("%s: HOST:PORT is needed, not %q", name, a)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%s: a port of 1 to 65535 is needed, not %q", name, port)
		}
	}
	return nil
}
