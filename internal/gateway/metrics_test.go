package gateway

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// What strangers ask for makes no label of its own, and a socket is counted while it is there.
func TestMetrics(t *testing.T) {
	w := newWorld(t, 1)
	g := w.gateway()
	reg := prometheus.NewPedanticRegistry()
	g.Register(reg)
	require.Equal(t, 200, g.do("GET", roomsPath, w.token(), "").StatusCode)
	require.Equal(t, 401, g.do("GET", roomsPath, "", "").StatusCode)
	require.Equal(t, 404, g.do("GET", "/wp-login.php", "", "").StatusCode)
	require.Equal(t, 404, g.do("GET", "/.env", "", "").StatusCode)
	require.Equal(t, 405, g.do("PUT", roomsPath, "", "").StatusCode)
	_, _, err := g.dial(daily, w.token())
	require.NoError(t, err)
	w.sfus[0].join(t)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`# HELP orama_gateway_requests_total Requests by route and status; 101 is a socket that was joined to its room.
# TYPE orama_gateway_requests_total counter
orama_gateway_requests_total{route="GET /v1/webrtc/rooms",status="200"} 1
orama_gateway_requests_total{route="GET /v1/webrtc/rooms",status="401"} 1
orama_gateway_requests_total{route="GET /v1/webrtc/signal",status="101"} 1
orama_gateway_requests_total{route="none",status="404"} 2
orama_gateway_requests_total{route="none",status="405"} 1
# HELP orama_gateway_sockets Clients' sockets, those that are being joined included.
# TYPE orama_gateway_sockets gauge
orama_gateway_sockets 1
`), "orama_gateway_requests_total", "orama_gateway_sockets"))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}
