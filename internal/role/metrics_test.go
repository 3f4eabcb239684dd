package role

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/dns"
)

// shownCertificates is a source that has what it is given.
type shownCertificates struct {
	cert.Source
	all []cert.Status
}

func (s shownCertificates) Status() []cert.Status { return s.all }

func TestMetricsOfAHost(t *testing.T) {
	end := time.Unix(1_800_000_000, 0)
	h := &host{
		units: &units{keep: &fakeKeeper{runs: map[string]bool{turnUnit: true}}},
		certs: shownCertificates{all: []cert.Status{{Names: []string{"orama.test"}, NotAfter: end}, {Missing: []string{"*.orama.test"}, Error: "refused"}}},
		checks: newChecks(map[string]func(context.Context) error{
			"store": func(context.Context) error { return nil }, "dns": func(context.Context) error { return errors.New("away") }}),
		names: &names{server: dns.NewServer(dns.Options{})},
	}
	h.checks.look(t.Context())
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(&hostMetrics{h})
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`# HELP orama_certificate_failed 1 when the last attempt to get or renew it failed.
# TYPE orama_certificate_failed gauge
orama_certificate_failed{names="*.orama.test"} 1
orama_certificate_failed{names="orama.test"} 0
# HELP orama_certificate_not_after_seconds When the certificate ends, as a Unix time; 0: there is none.
# TYPE orama_certificate_not_after_seconds gauge
orama_certificate_not_after_seconds{names="*.orama.test"} 0
orama_certificate_not_after_seconds{names="orama.test"} 1.8e+09
# HELP orama_check_ok 1 when this part of the node served when it was last looked at.
# TYPE orama_check_ok gauge
orama_check_ok{check="dns"} 0
orama_check_ok{check="store"} 1
# HELP orama_dns_queries_total Messages that the name server received.
# TYPE orama_dns_queries_total counter
orama_dns_queries_total 0
# HELP orama_unit_restarts How often a process of this node was started again.
# TYPE orama_unit_restarts gauge
orama_unit_restarts{namespace="",unit="turn"} 0
`), "orama_certificate_failed", "orama_certificate_not_after_seconds", "orama_check_ok", "orama_dns_queries_total", "orama_unit_restarts"))

	h.names = &names{foreign: &foreign{}}
	require.Equal(t, 0, testutil.CollectAndCount(&hostMetrics{h}, "orama_dns_compared_seconds", "orama_dns_zone_serial"), "not yet")
	h.names.at = end
	require.Equal(t, 1, testutil.CollectAndCount(&hostMetrics{h}, "orama_dns_compared_seconds"))
	problems, err := testutil.CollectAndLint(&hostMetrics{h})
	require.NoError(t, err)
	require.Empty(t, problems)
}

// A whole node shows them on its administration socket, and nowhere else.
func TestMetricsAreOnTheSocketAlone(t *testing.T) {
	first := newFirstHost(t)
	cfg := first.cfg
	cfg.Mesh, cfg.DNS = config.Mesh{}, config.DNS{}
	cfg.PublicIP, cfg.MeshIP, cfg.MeshCIDR = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.10.9.1"), netip.MustParsePrefix("127.10.9.0/24")
	h, err := newHost(t.Context(), cfg, filepath.Join(cfg.DataDir, "run"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { h.gate.Close(); h.close() })
	seen := httptest.NewRecorder()
	h.admin().ServeHTTP(seen, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, seen.Code)
	for _, name := range []string{"orama_gateway_sockets 0", "go_goroutines"} {
		require.Contains(t, seen.Body.String(), name)
	}
	seen = httptest.NewRecorder()
	h.gate.Handler().ServeHTTP(seen, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 404, seen.Code)
}
