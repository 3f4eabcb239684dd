package cli

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/operator"
)

var sampleSince = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func sampleStatus() operator.Status {
	return operator.Status{Namespace: "myapp", Enabled: true, TURNCredentialTTL: 600,
		Instances: []operator.Instance{
			{Node: "node-1", Role: orama.RoleTURN, Desired: orama.DesiredRun, State: orama.StateReady, Since: sampleSince,
				Ports: orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800}}},
			{Node: "node-2", Role: orama.RoleSFU, Desired: orama.DesiredRun, State: orama.StateUnknown, Detail: "its node's agent has not reported it yet",
				Ports: orama.Ports{Signal: orama.PortRange{First: 30000, Count: 1}, Media: orama.PortRange{First: 20000, Count: 500}}},
			{Node: "node-3", Role: orama.RoleSFU, Desired: orama.DesiredStop, State: orama.StateDraining, Since: sampleSince},
		},
		Missing: []string{"1 of 2 turn: node-2: it shares zone a with the relay on node-1"}}
}

// The document that programs get is the issue's, key by key.
func TestStatusForProgramsIsExact(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out, json: true}
	a.print(statusForPrograms(sampleStatus()))
	require.JSONEq(t, `{"namespace":"myapp","enabled":true,"turn_credential_ttl":600,"instances":[
		{"node":"node-1","role":"turn","state":"ready","since":"2026-11-22T12:00:00Z","detail":"","ports":{"relay":{"first":49152,"count":800}}},
		{"node":"node-2","role":"sfu","state":"unknown","since":null,"detail":"its node's agent has not reported it yet",
			"ports":{"signal":{"first":30000,"count":1},"media":{"first":20000,"count":500}}},
		{"node":"node-3","role":"sfu","state":"draining","since":"2026-11-22T12:00:00Z","detail":"","ports":{}}]}`, out.String())
	out.Reset()
	a.print(statusForPrograms(operator.Status{Namespace: "myapp"}))
	require.JSONEq(t, `{"namespace":"myapp","enabled":false,"turn_credential_ttl":0,"instances":[]}`, out.String())
	out.Reset()
	a.print(statusForPrograms(operator.Status{Namespace: "myapp", MaxParticipants: 50}))
	require.JSONEq(t, `{"namespace":"myapp","enabled":false,"turn_credential_ttl":0,"max_participants":50,"instances":[]}`, out.String())
	limited := sampleStatus()
	limited.MaxParticipants = 50
	require.Contains(t, statusText(limited, ago), "last 10m0s.\nA room has at most 50 participants.\n")
}

func TestStatusForPeople(t *testing.T) {
	when := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format(time.TimeOnly)
	}
	require.Equal(t, `WebRTC is enabled for myapp; 1 of 3 instances are ready; TURN credentials last 10m0s.

NODE    ROLE  WANTED  SEEN      SINCE     PORTS                            WHY
node-1  turn  run     ready     12:00:00  relay 49152-49951                
node-2  sfu   run     unknown   -         signal 30000, media 20000-20499  its node's agent has not reported it yet
node-3  sfu   stop    draining  12:00:00                                   

Not placed yet, 1 of 2 turn: node-2: it shares zone a with the relay on node-1
`, statusText(sampleStatus(), when))
	require.Equal(t, "WebRTC is not enabled for myapp.\n", statusText(operator.Status{Namespace: "myapp"}, when))
	off := sampleStatus()
	off.Enabled = false
	require.Contains(t, statusText(off, when), "being disabled")
	require.Equal(t, "-", ago(time.Time{}))
	require.Equal(t, "-", clock(time.Time{}))
	require.Len(t, clock(time.Now()), len(time.TimeOnly))
	require.Len(t, clock(sampleSince.AddDate(-20, 0, 0)), len(time.DateTime))
}

func TestWatchShowsEachChangeOnce(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := &app{out: &out, err: &errs, json: asJSON}
			ctx, cancel := context.WithCancel(t.Context())
			looks := 0
			read := func(context.Context) (operator.Status, error) {
				looks++
				s := sampleStatus()
				switch {
				case looks > 5 && looks <= 10:
					return operator.Status{}, &orama.Error{Kind: orama.KindUnavailable, Message: "the node's agent does not answer"}
				case looks > 3:
					s.Instances[1].State = orama.StateReady
				}
				if looks == 20 {
					cancel()
				}
				return s, nil
			}
			require.NoError(t, a.watchStatus(ctx, read))
			shown := "WebRTC is enabled"
			if asJSON {
				shown = `{"namespace"`
			}
			require.Equal(t, 2, bytes.Count(out.Bytes(), []byte(shown)), out.String())
			require.Equal(t, "orama: the node's agent does not answer; trying on\n", errs.String())
		})
	}
	synctest.Test(t, func(t *testing.T) {
		a := &app{out: &bytes.Buffer{}, err: &bytes.Buffer{}}
		bad := errors.New("no cluster")
		require.ErrorIs(t, a.watchStatus(t.Context(), func(context.Context) (operator.Status, error) { return operator.Status{}, bad }), bad)
		first := true
		gone := func(context.Context) (operator.Status, error) {
			if first {
				first = false
				return sampleStatus(), nil
			}
			return operator.Status{}, orama.Errorf(orama.KindNotFound, "namespace_not_found", "gone")
		}
		require.Equal(t, orama.KindNotFound, orama.KindOf(a.watchStatus(t.Context(), gone)))
	})
}
