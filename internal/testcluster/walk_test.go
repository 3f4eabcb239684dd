package testcluster

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/operator"
)

const zebra = orama.NamespaceID("zebra-9")

// ready waits until every node is known, and makes the namespace.
func (l *lab) ready(h *host) {
	later(200 * time.Millisecond)
	_, err := h.op.CreateNamespace(l.Context(), string(zebra))
	require.NoError(l, err)
}

func (l *lab) enable(h *host) error {
	_, err := h.op.EnableWebRTC(context.Background(), zebra, operator.Options{}, nil)
	return err
}

func (l *lab) disable(h *host) error { return h.op.DisableWebRTC(context.Background(), zebra, nil) }

// enabled checks that the namespace has what it is to have, once, and nothing else.
func (l *lab) enabled(h *host) {
	l.Helper()
	require.NoError(l, l.enable(h))
	s, err := h.op.Status(l.Context(), zebra)
	require.NoError(l, err)
	require.True(l, s.Enabled)
	require.Len(l, s.Instances, 5)
	var want []string
	for _, i := range s.Instances {
		require.Equal(l, orama.StateReady, i.State, "%+v", i)
		if i.Role == orama.RoleTURN {
			want = append(want, string(i.Node)+" turn/") // which serves all namespaces
		} else {
			want = append(want, string(i.Node)+" sfu/"+string(zebra))
		}
	}
	require.ElementsMatch(l, want, l.running())
	require.Equal(l, 8, l.rows("webrtc_port_allocations.kind"), "2 relay blocks, 3 times signalling and media")
	require.Equal(l, 4, l.rows("dns_records.name"))
}

// disabled checks that nothing is left, and that it can be enabled again at once.
func (l *lab) disabled(h *host) {
	l.Helper()
	require.NoError(l, l.disable(h))
	require.Empty(l, l.traces(zebra))
	require.Empty(l, l.running())
	for _, table := range []string{"webrtc_port_allocations.kind", "webrtc_instances.role", "namespace_webrtc_config.namespace", "webrtc_rooms.room_id", "dns_records.name"} {
		require.Zero(l, l.rows(table), table)
	}
	l.enabled(h)
}

// rows counts a table's rows by one of its columns.
func (l *lab) rows(of string) (n int) {
	for _, c := range l.cells() {
		if strings.HasPrefix(c, of+": ") {
			n++
		}
	}
	return n
}

func TestNothingIsLeftOfADisabledNamespace(t *testing.T) {
	inLab(t, func(l *lab) {
		hosts := l.hosts()
		l.ready(hosts[0])
		l.enabled(hosts[0])
		require.NotEmpty(l, l.traces(zebra), "the search finds what is there")
		later(20 * time.Second)
		l.disabled(hosts[1])
		require.NoError(l, l.disable(hosts[2]))
		later(20 * time.Second)
		require.Empty(l, l.traces(zebra), "and nothing comes back")
	})
}

func TestManyAtOnceEndInOneState(t *testing.T) {
	inLab(t, func(l *lab) {
		hosts := l.hosts()
		l.ready(hosts[0])
		var all sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			all.Go(func() { errs[i] = l.enable(hosts[i%3]) })
		}
		all.Wait()
		require.NoError(l, errors.Join(errs...))
		l.enabled(hosts[0])
		require.Equal(l, 5, l.starts(), "no process was started twice")

		for round := range 2 {
			for i := range errs {
				all.Go(func() {
					later(time.Duration(i*31*(round+1)) * time.Millisecond)
					if i%2 == 0 {
						errs[i] = l.enable(hosts[i%3])
					} else {
						errs[i] = l.disable(hosts[i%3])
					}
				})
			}
			all.Wait()
			for _, err := range errs {
				if err != nil {
					require.Equal(l, orama.KindConflict, orama.KindOf(err), "%v", err)
				}
			}
		}
		l.disabled(hosts[2])
	})
}

// killedAtEach kills node-1's process at the first, second.. thing that it does while somebody does act, starts it
// again from nothing but the records, the disk and what runs, and checks. by says through whose operator act is done: 0 is the one that is killed.
func killedAtEach(t *testing.T, by int, before, act func(l *lab, h *host) error, check func(l *lab, h *host, starts int)) {
	t.Helper()
	for _, late := range []bool{false, true} {
		died, n := true, map[bool]int{true: stride() / 2}[late]
		for ; died; n += stride() {
			require.Less(t, n, 1000)
			inLab(t, func(l *lab) {
				hosts := l.hosts()
				l.ready(hosts[1])
				require.NoError(l, before(l, hosts[1]))
				hosts[0].stop() // and starts as one that will die
				began := l.starts()
				mayDie := &life{left: -1, late: late}
				hosts[0] = l.start(l.sites[0], mayDie)
				later(200 * time.Millisecond)
				mayDie.mu.Lock()
				mayDie.left = n
				mayDie.mu.Unlock()
				err := act(l, hosts[by])
				mayDie.mu.Lock()
				died = mayDie.dead
				mayDie.left = -1
				mayDie.mu.Unlock()
				if !died || by != 0 && orama.KindOf(err) != orama.KindUnavailable { // that of what is not seen gone on a dead node
					require.NoError(l, err)
				}
				hosts[0].stop()
				hosts[0] = l.start(l.sites[0], &life{left: -1})
				later(2 * time.Second)
				check(l, hosts[0], began)
			})
			if t.Failed() {
				t.Fatalf("late=%t, killed at thing %d", late, n)
			}
		}
		t.Logf("killed at %d things, every %d of them, late=%t", n, stride(), late)
	}
}

// stride is how many things lie between two kills. ORAMA_WALK=every kills at each, which takes minutes: packages node and
// operator do that always, with played records.
func stride() int {
	if os.Getenv("ORAMA_WALK") == "every" {
		return 1
	}
	if slow {
		return 30
	}
	return 5
}

func TestKilledAtEachThingOfEnabling(t *testing.T) {
	none := func(*lab, *host) error { return nil }
	for by, who := range []string{"by the one that is killed", "by another"} {
		t.Run(who, func(t *testing.T) {
			killedAtEach(t, by, none, (*lab).enable, func(l *lab, h *host, _ int) {
				l.enabled(h)
				require.Equal(l, 5, l.starts(), "each process was started once")
			})
		})
	}
}

func TestKilledAtEachThingOfDisabling(t *testing.T) {
	for by, who := range []string{"by the one that is killed", "by another"} {
		t.Run(who, func(t *testing.T) {
			killedAtEach(t, by, (*lab).enable, (*lab).disable, func(l *lab, h *host, began int) {
				require.Equal(l, began, l.starts(), "nothing was started that was to stop")
				l.disabled(h)
			})
		})
	}
}
