package operator

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

// toServer sends every request to one server, whatever its URL says.
type toServer string

func (s toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	u, err := url.Parse(string(s))
	if err != nil {
		return nil, err
	}
	r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	return http.DefaultTransport.RoundTrip(r)
}

func TestReportOfAHealthyCluster(t *testing.T) {
	e := healthy()
	r := reportOf(e.Cluster, e.At)
	require.Len(t, r.Nodes, 3)
	for _, n := range r.Nodes {
		require.True(t, n.Alive)
		require.InDelta(t, 1.0, *n.HeartbeatAge, 0.01)
		require.Equal(t, "v1", n.Version)
		require.Contains(t, n.Checks, "store")
		require.Nil(t, n.Report.Checks, "they are said once")
	}
	require.Len(t, r.Namespaces, 2)
	my, quiet := r.Namespaces[0], r.Namespaces[1]
	require.True(t, my.Enabled && my.SFUUp && my.TURNUp)
	require.Equal(t, [4]int{3, 3, 2, 2}, [4]int{my.SFUReady, my.SFUWanted, my.TURNReady, my.TURNWanted})
	require.InDelta(t, 5.0, *my.ObservedAge, 0.01, "the oldest join or Allocate that counts")
	require.Len(t, my.Instances, 5)
	require.False(t, quiet.Enabled || quiet.SFUUp || quiet.TURNUp)
	require.Nil(t, quiet.ObservedAge)
}

// The names of the fields are a promise to programs.
func TestReportAsJSON(t *testing.T) {
	e := healthy()
	r := reportOf(e.Cluster, e.At)
	r.Env = "devnet"
	text, err := json.Marshal(r)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, "devnet", got["env"])
	node := got["nodes"].([]any)[0].(map[string]any)
	for _, k := range []string{"id", "zone", "public_ip", "mesh_ip", "gateway_url", "alive", "heartbeat_age_s", "version", "report", "checks"} {
		require.Contains(t, node, k)
	}
	ns := got["namespaces"].([]any)[0].(map[string]any)
	for _, k := range []string{"name", "enabled", "sfu_up", "turn_up", "sfu_ready", "sfu_wanted", "turn_ready", "turn_wanted", "observed_age_s", "instances"} {
		require.Contains(t, ns, k)
	}
	in := ns["instances"].([]any)[0].(map[string]any)
	for _, k := range []string{"node", "role", "state", "since", "ports", "observed_age_s", "up"} {
		require.Contains(t, in, k)
	}
}

func TestWhatIsUp(t *testing.T) {
	for name, c := range map[string]struct {
		harm      func(e *Evidence)
		sfu, turn int
	}{
		"all":              {func(*Evidence) {}, 3, 2},
		"an SFU fails":     {func(e *Evidence) { e.instance(1, orama.RoleSFU).Observed.State = orama.StateFailed }, 2, 2},
		"a relay drains":   {func(e *Evidence) { e.instance(1, orama.RoleTURN).Observed.State = orama.StateDraining }, 3, 1},
		"a relay is to go": {func(e *Evidence) { e.instance(1, orama.RoleTURN).Desired = orama.DesiredStop }, 3, 1},
		"an agent is silent": {func(e *Evidence) {
			e.instance(1, orama.RoleTURN).Observed.At = e.At.Add(-16 * time.Second)
			e.instance(1, orama.RoleSFU).Observed.At = e.At.Add(-16 * time.Second)
		}, 2, 1},
		"joins fail though the agent calls it ready": {func(e *Evidence) { e.node(1).Report.Used["sfu/myapp"] = e.At.Add(-31 * time.Second) }, 2, 2},
		"never joined":                    {func(e *Evidence) { e.node(1).Report.Used["sfu/myapp"] = time.Time{} }, 2, 2},
		"an agent that does not say when": {func(e *Evidence) { e.node(1).Report.Used = nil }, 3, 2},
		"being disabled":                  {func(e *Evidence) { e.Cluster.Namespaces[0].WebRTC.Disabling = true }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := healthy()
			c.harm(&e)
			my := reportOf(e.Cluster, e.At).Namespaces[0]
			require.Equal(t, [2]int{c.sfu, c.turn}, [2]int{my.SFUReady, my.TURNReady})
			require.Equal(t, c.sfu > 0, my.SFUUp)
			require.Equal(t, c.turn > 0, my.TURNUp)
		})
	}
}

// Whatever dies, and whenever: 30 s later nothing of it counts.
func TestNothingIsUpThirtySecondsAfterAllDied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := healthy()
		later := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "later"))
		my := reportOf(e.Cluster, e.At.Add(30*time.Second+later)).Namespaces[0]
		if my.SFUUp || my.TURNUp {
			t.Fatalf("%+v", my)
		}
	})
}

func TestReportTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewInspector(InspectorDeps{Node: "node-1", Store: records(), BaseDomain: base, Probes: &looker{}})
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/report", nil))
		var got Report
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		want, err := i.Report(t.Context())
		require.NoError(t, err)
		text, err := json.Marshal(want.Namespaces)
		require.NoError(t, err)
		again, err := json.Marshal(got.Namespaces)
		require.NoError(t, err)
		require.JSONEq(t, string(text), string(again))
	})
}
