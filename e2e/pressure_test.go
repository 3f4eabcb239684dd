//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// pressed is how many percent of the last ten seconds somebody waited for a CPU of this machine (the kernel's
// /proc/pressure/cpu); 0 where that is not told.
func pressed() (percent float64) {
	raw, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	fmt.Sscanf(string(raw), "some avg10=%f", &percent) //nolint:errcheck // 0 then
	return percent
}

// held is the limit that a browser's part in a call is held to. A machine that is short of CPU for most of the time makes browsers wait
// for it, not for us: there it is four times as long, and the log says so.
func held(t testing.TB, limit time.Duration) time.Duration {
	t.Helper()
	const most = 40
	p := pressed()
	if p < most {
		return limit
	}
	t.Logf("this machine was short of CPU for %.0f %% of the last 10 s: %s is held instead of %s", p, 4*limit, limit)
	return 4 * limit
}
