package rig

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseSchedstat(t *testing.T) {
	cpu, err := parseSchedstat("163928 861306 2\n")
	require.NoError(t, err)
	require.Equal(t, 163928*time.Nanosecond, cpu)
	for _, bad := range []string{"", "1 2", "x 2 3"} {
		_, err := parseSchedstat(bad)
		require.Error(t, err, bad)
	}
}

func TestParseIdle(t *testing.T) {
	const stat = "cpu  3 0 0 300 30\ncpu0 1 0 0 100 10 0 0 0 0 0\ncpu1 2 0 0 200 20 0 0 0 0 0\nintr 1\n"
	idle, err := parseIdle(stat, 1)
	require.NoError(t, err)
	require.Equal(t, 2200*time.Millisecond, idle)
	_, err = parseIdle(stat, 2)
	require.Error(t, err)
}

func TestParseResident(t *testing.T) {
	n, err := parseResident("00400000-7ffd [rollup]\nRss:               17256 kB\nPss:  1 kB\n")
	require.NoError(t, err)
	require.EqualValues(t, 17256<<10, n)
	_, err = parseResident("Pss: 1 kB\n")
	require.Error(t, err)
}

func TestTaken(t *testing.T) {
	u := Usage{CPU: 30, Idle: 60}.Since(Usage{CPU: 10, Idle: 20})
	require.InDelta(t, 40, u.Taken(100), 0.001)
	require.Zero(t, u.Taken(50), "ticks may say more than there was")
}

func TestReadsThisMachine(t *testing.T) {
	u, err := UsageOf(os.Getpid(), 0)
	require.NoError(t, err)
	require.Positive(t, u.CPU)
	n, err := ResidentOf(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestParsePressure(t *testing.T) {
	require.InDelta(t, 12.5, parsePressure("some avg10=12.50 avg60=1.00 avg300=0.30 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"), 0)
	for _, bad := range []string{"", "some avg10=", "some avg10=x avg60=1", "full avg10=1.00 "} {
		require.Negative(t, parsePressure(bad), bad)
	}
}
