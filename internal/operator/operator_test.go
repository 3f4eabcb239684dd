package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

const tick = 100 * time.Millisecond

// in runs a test against agents on a clock of its own, with the namespaces given.
func in(t *testing.T, nodes int, test func(t *testing.T, w *world, o *Operator), names ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nodes, tick)
		o := w.operator()
		for _, n := range names {
			_, err := o.CreateNamespace(t.Context(), n)
			require.NoError(t, err)
		}
		test(t, w, o)
		w.stop()
	})
}

// later lets time pass in the world, on its own clock.
func later(d time.Duration) { time.Sleep(d) }

func mustEnable(t *testing.T, o *Operator, ns orama.NamespaceID) Status {
	t.Helper()
	s, err := o.EnableWebRTC(t.Context(), ns, Options{}, nil)
	require.NoError(t, err)
	return s
}

func TestNamespaces(t *testing.T) {
	in(t, 1, func(t *testing.T, w *world, o *Operator) {
		shown, err := o.CreateNamespace(t.Context(), "myapp")
		require.NoError(t, err)
		id, secret, err := auth.ParseAPIKey(shown)
		require.NoError(t, err)
		require.Equal(t, id, w.keys[0].ID)
		require.Equal(t, "owner", w.keys[0].Role)
		require.Equal(t, orama.NamespaceID("myapp"), w.keys[0].Namespace)
		require.True(t, auth.CheckAPIKey(w.keys[0], secret))
		require.Equal(t, "namespace.created", w.events[0].Kind)

		_, err = o.CreateNamespace(t.Context(), "myapp")
		require.Equal(t, orama.KindConflict, orama.KindOf(err))
		for _, bad := range []string{"", "a", "Big", "turn", "x/../y", strings.Repeat("a", 41)} {
			_, err = o.CreateNamespace(t.Context(), bad)
			require.Equal(t, orama.KindInvalid, orama.KindOf(err), bad)
		}
		_, err = o.CreateNamespace(t.Context(), "another")
		require.NoError(t, err)
		all, err := o.ListNamespaces(t.Context())
		require.NoError(t, err)
		require.Equal(t, []Namespace{{Name: "another", CreatedAt: time.Now()}, {Name: "myapp", CreatedAt: time.Now()}}, all)

		require.NoError(t, o.DeleteNamespace(t.Context(), "myapp", false))
		require.Equal(t, orama.KindNotFound, orama.KindOf(o.DeleteNamespace(t.Context(), "myapp", false)))
		require.Equal(t, orama.KindNotFound, orama.KindOf(o.DeleteNamespace(t.Context(), "myapp", true)))
		require.Len(t, w.keys, 1)
	})
}

func TestANamespaceWithWebRTCIsDeletedByForce(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		err := o.DeleteNamespace(t.Context(), "demo", false)
		require.Equal(t, orama.KindConflict, orama.KindOf(err))
		require.Len(t, w.look(t).Instances, 5)
		require.NoError(t, o.DeleteNamespace(t.Context(), "demo", true))
		require.Empty(t, shape(w.look(t)))
	}, "demo")
}

func TestEnableReportsWhatIsObserved(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		var said []string
		var placed int64
		s, err := o.EnableWebRTC(t.Context(), "demo", Options{CredentialTTL: 20 * time.Second}, func(s Step) {
			if text := s.String(); text != "" {
				said = append(said, text)
			}
			if s.Step == StepTURN && s.State == Done {
				seen := w.look(t).Instances
				i := slices.IndexFunc(seen, func(i orama.Instance) bool { return i.Node == s.Node && i.Role == orama.RoleTURN })
				require.Equal(t, orama.StateReady, seen[i].Observed.State, "said before it was seen")
			}
			if s.Step != StepDNS && s.Step != StepState {
				require.Empty(t, w.look(t).DNS, "a name before every relay was seen")
			}
			if s.Step == StepState && s.State == Done {
				seen := w.look(t).Nodes
				i := slices.IndexFunc(seen, func(n orama.Node) bool { return n.ID == s.Node })
				require.GreaterOrEqual(t, seen[i].Report.State, placed, "said before it was seen")
			}
			if s.Step == StepPorts && placed == 0 {
				placed = w.look(t).Revision
			}
		})
		require.NoError(t, err)
		slices.Sort(said[:3]) // the nodes answer as they come
		require.Equal(t, "prerequisites on node-1: store, cache and gateway serve", said[0])
		require.Equal(t, "secret: 32 random bytes, sealed with the cluster key", said[3])
		require.Equal(t, "record: credentials live 20s", said[4])
		require.Equal(t, "ports on node-1: relay 49152-49951, signalling 30000, media 20000-20499", said[5])
		require.Equal(t, "ports on node-3: signalling 30000, media 20000-20499", said[7])
		require.Contains(t, said, "turn on node-2: ready")
		require.Contains(t, said, "sfu on node-3: ready")
		require.Contains(t, said, "state on node-3: cluster_state.json is saved")
		dns := slices.IndexFunc(said, func(s string) bool { return strings.HasPrefix(s, "dns") })
		require.Equal(t, len(said)-4, dns, "the state files are last: %q", said)
		require.Equal(t, "dns: turn-1.ns-demo.orama.test is 192.0.2.1; turn-2.ns-demo.orama.test is 192.0.2.2; "+
			"turn.ns-demo.orama.test is 192.0.2.1, 192.0.2.2", said[dns])

		require.True(t, s.Enabled)
		require.Equal(t, 20, s.TURNCredentialTTL)
		require.Len(t, s.Instances, 5)
		require.Equal(t, Instance{Node: "node-1", Role: orama.RoleTURN, Desired: orama.DesiredRun, State: orama.StateReady, Since: s.Instances[0].Since,
			Ports: orama.Ports{Relay: orama.PortRange{First: 49152, Count: 800}}}, s.Instances[0])
		require.False(t, s.Instances[0].Since.IsZero())

		sealed := w.look(t).Namespaces[0].WebRTC.SealedSecret
		secret, err := auth.NewKeys([32]byte{1}).Open(sealed, plan.SecretAAD("demo"))
		require.NoError(t, err)
		require.Len(t, secret, 43)

		commits := w.commits
		mustEnable(t, o, "demo")
		require.Equal(t, commits, w.commits, "enabling again writes nothing")
	}, "demo")
}

func TestEnableRefuses(t *testing.T) {
	in(t, 1, func(t *testing.T, w *world, o *Operator) {
		for _, opt := range []Options{{Wait: -1}, {Wait: time.Hour}, {CredentialTTL: time.Second}, {CredentialTTL: 48 * time.Hour}} {
			_, err := o.EnableWebRTC(t.Context(), "demo", opt, nil)
			require.Equal(t, orama.KindInvalid, orama.KindOf(err), "%+v", opt)
		}
		_, err := o.EnableWebRTC(t.Context(), "nobody", Options{}, nil)
		require.Equal(t, orama.KindNotFound, orama.KindOf(err))
		_, err = o.EnableWebRTC(t.Context(), "../x", Options{}, nil)
		require.Equal(t, orama.KindInvalid, orama.KindOf(err))
		require.Equal(t, orama.KindNotFound, orama.KindOf(o.DisableWebRTC(t.Context(), "nobody", nil)))
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil), "nothing to disable")
	}, "demo")
}

func TestBelowTheMinimumAllIsUndone(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() {
			w.broken["node-1/turn"] = "exit 1: bind: address in use"
			w.broken["node-2/turn"] = "exit 1: no certificate"
		})
		began := time.Now()
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: 10 * time.Second}, nil)
		require.InDelta(t, 10, time.Since(began).Seconds(), 1)
		var e *orama.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, orama.KindUnavailable, e.Kind)
		require.Equal(t, "WebRTC could not be enabled for demo within 10s, and all was undone: "+
			"node-1 turn is failed: exit 1: bind: address in use; node-2 turn is failed: exit 1: no certificate", e.Message)
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
	}, "demo")
}

func TestTheMinimumIsEnough(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() {
			w.broken["node-1/turn"] = "exit 1"
			w.stuck["node-3"] = true
		})
		var failed []string
		s, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: 20 * time.Second}, func(s Step) {
			if s.State == Failed {
				failed = append(failed, s.String())
			}
		})
		require.NoError(t, err)
		require.Equal(t, []string{"turn on node-1 failed: exit 1",
			"sfu on node-3 failed: unknown: its node's agent has not reported it yet"}, failed)
		require.Equal(t, orama.StateFailed, s.Instances[0].State)
		for _, r := range w.look(t).DNS {
			require.Equal(t, "192.0.2.2", r.Value.String(), "only what serves is named")
		}
	}, "demo")
}

// Somebody looks again while the nodes are down: that is no reason to take a namespace's WebRTC away.
func TestAnOutageUndoesNothing(t *testing.T) {
	in(t, 2, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		w.set(func() { w.silent["node-1"], w.silent["node-2"] = true, true })
		time.Sleep(20 * time.Second)
		before := shape(w.look(t))
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: time.Second}, nil)
		require.ErrorContains(t, err, "stays enabled")
		require.Equal(t, before, shape(w.look(t)))

		s, err := o.Status(t.Context(), "demo")
		require.NoError(t, err)
		for _, i := range s.Instances {
			require.Equal(t, orama.StateUnknown, i.State)
			require.Equal(t, "last seen ready; its node's agent has been silent since", i.Detail)
		}
	}, "demo")
}

func TestDisableLeavesNothing(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "other")
		mustEnable(t, o, "demo")
		require.NoError(t, o.DisableWebRTC(t.Context(), "other", nil))
		want := shape(w.look(t))
		mustEnable(t, o, "other")
		var said []string
		require.NoError(t, o.DisableWebRTC(t.Context(), "other", func(s Step) {
			said = append(said, s.Step+"/"+string(s.Node)+"/"+s.State)
		}))
		require.Equal(t, want, shape(w.look(t)))
		require.Equal(t, "dns//done", said[0], "out of DNS first")
		require.Less(t, slices.Index(said, "sfu/node-3/waiting"), slices.Index(said, "sfu/node-3/done"))
		require.Less(t, slices.Index(said, "turn/node-1/done"), slices.Index(said, "ports//done"), "ports last")
		require.NoError(t, o.DisableWebRTC(t.Context(), "other", nil))
		mustEnable(t, o, "other")
	}, "demo", "other")
}

// What cannot be seen gone keeps its ports; when its node is back, Run finishes.
func TestADeadNodeKeepsItsPortsUntilItIsSeen(t *testing.T) {
	in(t, 2, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		w.set(func() { w.silent["node-2"] = true })
		err := o.DisableWebRTC(t.Context(), "demo", nil)
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.ErrorContains(t, err, "node-2 turn is unknown")
		c := w.look(t)
		require.Len(t, c.Instances, 2)
		require.Empty(t, c.DNS)
		s, err := o.Status(t.Context(), "demo")
		require.NoError(t, err)
		require.False(t, s.Enabled)

		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { require.NoError(t, o.Run(ctx)) })
		w.set(func() { w.silent["node-2"] = false })
		time.Sleep(5 * time.Second)
		cancel()
		running.Wait()
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
	}, "demo")
}

func TestConflictsAreTriedAgainAndEnd(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		left := 5
		w.set(func() {
			w.before = func(orama.Change) error {
				if left > 0 {
					left--
					w.c.Revision++ // somebody else was first
				}
				return nil
			}
		})
		mustEnable(t, o, "demo")
		require.Zero(t, left)
		left = 1 << 30
		require.Equal(t, orama.KindConflict, orama.KindOf(o.DisableWebRTC(t.Context(), "demo", nil)))
	}, "demo")
}

func TestTwoEnablesEndInOneState(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		want := shape(w.look(t))
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))

		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() { _, errs[i] = w.operator().EnableWebRTC(t.Context(), "demo", Options{}, nil) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, want, shape(w.look(t)))
	}, "demo")
}

// Enabling and disabling at the same time, again and again: at the end one disable leaves nothing.
func TestEnableAndDisableMayRace(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for n := range 5 {
					time.Sleep(time.Duration(i*37+n*101) * time.Millisecond)
					var err error
					if i%2 == 0 {
						_, err = w.operator().EnableWebRTC(t.Context(), "demo", Options{}, nil)
					} else {
						err = w.operator().DisableWebRTC(t.Context(), "demo", nil)
					}
					if err != nil && orama.KindOf(err) != orama.KindConflict {
						t.Errorf("%d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
	}, "demo")
}

// crashing is a store as seen by a process that dies after a number of its commits, or just before the next.
type crashing struct {
	*world
	left int
	late bool // dies after the commit, before it hears of it
	dead bool
}

var errCrash = errors.New("this process is dead")

func (s *crashing) Cluster(ctx context.Context) (orama.Cluster, error) {
	if s.dead {
		return orama.Cluster{}, errCrash
	}
	return s.world.Cluster(ctx)
}

func (s *crashing) Commit(ctx context.Context, ch orama.Change) error {
	if s.dead {
		return errCrash
	}
	if s.left--; s.left >= 0 {
		return s.world.Commit(ctx, ch)
	}
	s.dead = true
	if s.late {
		return errors.Join(s.world.Commit(ctx, ch), errCrash)
	}
	return errCrash
}

// crashAfterEach does something in processes that die after their first, second.. commit until one lives to the end. After
// each death others carry on; then check must find the world as it should be.
func crashAfterEach(t *testing.T, do func(ctx context.Context, o *Operator) error, prepare, check func(t *testing.T, w *world, o *Operator)) {
	for _, late := range []bool{false, true} {
		for n := 0; ; n++ {
			require.Less(t, n, 50)
			crashed := true
			t.Run(fmt.Sprintf("late=%t/%d", late, n), func(t *testing.T) {
				in(t, 3, func(t *testing.T, w *world, o *Operator) {
					prepare(t, w, o)
					err := do(t.Context(), w.operatorOn(&crashing{world: w, left: n, late: late}))
					crashed = errors.Is(err, errCrash)
					if !crashed {
						require.NoError(t, err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					var others sync.WaitGroup
					for range 2 {
						others.Go(func() { require.NoError(t, w.operator().Run(ctx)) })
					}
					time.Sleep(10 * time.Second)
					check(t, w, o)
					cancel()
					others.Wait()
				}, "demo")
			})
			if !crashed {
				break
			}
		}
	}
}

func TestEnableSurvivesACrashAfterEachStep(t *testing.T) {
	enable := func(ctx context.Context, o *Operator) error {
		_, err := o.EnableWebRTC(ctx, "demo", Options{}, nil)
		return err
	}
	var want []string
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		want = shape(w.look(t))
	}, "demo")
	crashAfterEach(t, enable, func(*testing.T, *world, *Operator) {}, func(t *testing.T, w *world, o *Operator) {
		if got := shape(w.look(t)); len(got) > 1 {
			require.Equal(t, want, got, "what was begun was carried on without being asked")
		}
		mustEnable(t, o, "demo")
		require.Equal(t, want, shape(w.look(t)))
	})
}

func TestDisableSurvivesACrashAfterEachStep(t *testing.T) {
	disable := func(ctx context.Context, o *Operator) error { return o.DisableWebRTC(ctx, "demo", nil) }
	crashAfterEach(t, disable, func(t *testing.T, _ *world, o *Operator) { mustEnable(t, o, "demo") },
		func(t *testing.T, w *world, o *Operator) {
			if c := w.look(t); !enabled(c.Namespaces[0]) {
				require.Equal(t, []string{"demo webrtc=false"}, shape(c), "what was begun was finished without being asked")
			}
			require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))
			require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
			mustEnable(t, o, "demo")
		})
}

// A caller that goes away at any step ends its call and nothing else.
func TestACallerMayGoAwayAtAnyStep(t *testing.T) {
	for n := 0; ; n++ {
		left := n
		in(t, 3, func(t *testing.T, w *world, o *Operator) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := o.EnableWebRTC(ctx, "demo", Options{}, func(Step) {
				if left--; left < 0 {
					cancel()
				}
			})
			if left < 0 {
				require.ErrorIs(t, err, context.Canceled)
				mustEnable(t, o, "demo")
			}
			require.Len(t, w.look(t).Instances, 5)
			require.Len(t, w.look(t).DNS, 4)
		}, "demo")
		if left >= 0 {
			require.Greater(t, n, 10)
			return
		}
	}
}

// While the records cannot be read, waiting goes on; nothing is undone on what is not known.
func TestEnableWaitsThroughAnOutageOfTheStore(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		gone := errors.New("no leader")
		enable := func(step string, wait time.Duration) error {
			lose := sync.OnceFunc(func() { w.set(func() { w.unread = gone }) })
			_, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: wait}, func(s Step) {
				if s.Step == step && s.State == Waiting {
					lose()
				}
			})
			return err
		}
		for _, step := range []string{StepPrerequisites, StepSFU} {
			go func() {
				time.Sleep(20 * time.Second)
				w.set(func() { w.unread = nil })
			}()
			require.NoError(t, enable(step, 0))
			require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))
		}
		require.ErrorIs(t, enable(StepSFU, 5*time.Second), gone)
		w.set(func() { w.unread = nil })
		require.Len(t, w.look(t).Instances, 5)
	}, "demo")
}

func TestConvergeFollowsTheRelays(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		commits := w.commits
		require.NoError(t, o.Converge(t.Context()))
		require.Equal(t, commits, w.commits, "nothing to do is nothing written")
		w.set(func() { w.broken["node-2/turn"] = "exit 1" })
		time.Sleep(time.Second)
		require.NoError(t, o.Converge(t.Context()))
		require.Len(t, w.look(t).DNS, 3, "turn.ns-demo has one address left, turn-2 keeps its last")
		w.set(func() { w.unread = errCrash })
		require.ErrorIs(t, o.Converge(t.Context()), errCrash)
	}, "demo")
}

func TestTokens(t *testing.T) {
	in(t, 1, func(t *testing.T, _ *world, o *Operator) {
		keys, no := auth.NewKeys([32]byte{1}), false
		m, err := o.MintToken(t.Context(), "demo", TokenRequest{User: "alice"})
		require.NoError(t, err)
		got, err := keys.VerifyToken(m.Token, time.Now())
		require.NoError(t, err)
		require.Equal(t, auth.Token{Namespace: "demo", User: "alice", Issued: got.Issued, Expires: got.Expires, ID: got.ID, Publish: true, Subscribe: true, Data: true}, got)
		require.True(t, m.ExpiresAt.Equal(got.Expires))
		require.Equal(t, 15*time.Minute, time.Until(m.ExpiresAt))

		m, err = o.MintToken(t.Context(), "demo", TokenRequest{User: "bob", Room: "daily", TTL: time.Hour, Publish: &no, Subscribe: &no, Data: &no, Admin: true})
		require.NoError(t, err)
		got, err = keys.VerifyToken(m.Token, time.Now())
		require.NoError(t, err)
		require.Equal(t, auth.Token{Namespace: "demo", User: "bob", Room: "daily", Issued: got.Issued, Expires: got.Expires, ID: got.ID, Admin: true}, got)
		require.Zero(t, time.Since(got.Issued).Truncate(time.Second), "it says since when")

		for _, bad := range []TokenRequest{{}, {User: "a\nb"}, {User: "a", TTL: 25 * time.Hour}, {User: "a", TTL: -1}, {User: "a", TTL: time.Millisecond},
			{User: "a", Room: "_probe"}, {User: "a", Room: "a/b"}} {
			_, err := o.MintToken(t.Context(), "demo", bad)
			require.Equal(t, orama.KindInvalid, orama.KindOf(err), "%+v", bad)
		}
		_, err = o.MintToken(t.Context(), "nobody", TokenRequest{User: "alice"})
		require.Equal(t, orama.KindNotFound, orama.KindOf(err))
	}, "demo")
}

func TestHowAnObservationIsWorded(t *testing.T) {
	now := time.Now()
	seenAs := func(d orama.Desired, s orama.State, ago time.Duration) orama.State {
		return seen(orama.Instance{Desired: d, Observed: orama.Observation{State: s, At: now.Add(-ago)}}, now).State
	}
	run, stop := orama.DesiredRun, orama.DesiredStop
	require.Equal(t, orama.StateReady, seenAs(run, orama.StateReady, 15*time.Second))
	require.Equal(t, orama.StateUnknown, seenAs(run, orama.StateReady, 16*time.Second))
	require.Equal(t, orama.StateFailed, seenAs(run, orama.StateGone, 0))
	require.Equal(t, orama.StateDraining, seenAs(stop, orama.StateReady, 0))
	require.Equal(t, orama.StateDraining, seenAs(stop, orama.StateGone, time.Hour))
	require.Equal(t, orama.StateFailed, seenAs(stop, orama.StateFailed, 0))
	require.Equal(t, orama.StateUnknown, seen(orama.Instance{Desired: run, Observed: orama.Observation{State: orama.StateUnknown}}, now).State)
}

// Who began and went away while it is undone has it undone all the same.
func TestUndoingOutlivesTheCaller(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() { w.broken["node-1/turn"], w.broken["node-2/turn"] = "exit 1", "exit 1" })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := o.EnableWebRTC(ctx, "demo", Options{Wait: time.Second}, func(s Step) {
			if s.Step == StepDNS {
				cancel() // names are withdrawn first
			}
		})
		require.ErrorContains(t, err, "all was undone")
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
	}, "demo")
}

// While one waits for the last process, another finishes and enables again: the first is done, too.
func TestDisableEndsThoughSomebodyEnablesAgain(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		meanwhile := sync.OnceFunc(func() {
			require.NoError(t, w.operator().DisableWebRTC(t.Context(), "demo", nil))
			mustEnable(t, w.operator(), "demo")
		})
		began := time.Now()
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", func(s Step) {
			if s.State == Waiting {
				meanwhile()
			}
		}))
		require.Less(t, time.Since(began), 10*time.Second)
		require.True(t, enabled(w.look(t).Namespaces[0]))
	}, "demo")
}
