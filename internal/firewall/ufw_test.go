package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// fakeUFW does with rules what ufw does: one rule for each match, whoever adds it.
type fakeUFW struct {
	mu       sync.Mutex
	rules    []Rule   // guarded by mu
	commands []string // guarded by mu; those that change something
	inactive bool
	deaf     bool               // says yes and does nothing
	fail     func(string) error // by the first word, if set
}

func (f *fakeUFW) put(r Rule) {
	for i := range f.rules {
		if f.rules[i].Match == r.Match {
			f.rules[i] = r
			return
		}
	}
	f.rules = append(f.rules, r)
}

func (f *fakeUFW) remove(r Rule) {
	f.rules = slices.DeleteFunc(f.rules, func(o Rule) bool { return o.Match == r.Match })
}

func (f *fakeUFW) theirs() []Rule {
	out := []Rule{}
	for _, r := range f.rules {
		if !r.Ours() {
			out = append(out, r)
		}
	}
	return out
}

func (f *fakeUFW) run(ctx context.Context, args ...string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if f.fail != nil {
		if err := f.fail(args[0]); err != nil {
			return "", err
		}
	}
	switch strings.Join(args, " ") {
	case "status":
		return map[bool]string{true: "Status: inactive\n", false: "Status: active\n\nTo   Action   From\n"}[f.inactive], nil
	case "show added":
		out := "Added user rules (see 'ufw status' for running firewall):"
		for _, r := range f.rules {
			out += "\nufw " + r.String()
		}
		return out, nil
	}
	text, deleting := strings.CutPrefix(quote(args), "delete ")
	if routed, is := strings.CutPrefix(quote(args), "route delete "); is {
		text, deleting = "route "+routed, true
	}
	line, ok := parseRule(text)
	if !ok {
		return "", fmt.Errorf("ERROR: Invalid syntax: %q", args)
	}
	f.commands = append(f.commands, quote(args))
	switch {
	case f.deaf:
	case deleting:
		f.remove(line)
	default:
		f.put(line)
	}
	return "Rule added\n", nil
}

// quote makes one line of arguments.
func quote(args []string) string {
	out := slices.Clone(args)
	for i, a := range out {
		if i > 0 && out[i-1] == "comment" || strings.Contains(a, " ") {
			out[i] = "'" + a + "'"
		}
	}
	return strings.Join(out, " ")
}

func newUFW(f *fakeUFW) (*UFW, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return New("orama0", f.run, slog.New(slog.NewTextHandler(log, nil))), log
}

func TestApplyOpensAndCloses(t *testing.T) {
	f := &fakeUFW{rules: rules("allow 22/tcp", "deny from 1.2.3.4", "allow 3478/udp comment 'mine'", "allow 99/udp comment 'orama:old'")}
	theirs := f.theirs()
	u, log := newUFW(f)
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.Equal(t, theirs, f.theirs())
	require.Len(t, f.rules, len(theirs)+len(wanted()))
	require.Equal(t, "delete allow to any port 99 proto udp comment 'orama:old'", f.commands[len(f.commands)-1], "opened before closed")
	require.Contains(t, log.String(), "orama:myapp:relay")
	st := u.Status()
	require.True(t, st.Active)
	require.Empty(t, st.Problem)

	did := len(f.commands)
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.Len(t, f.commands, did, "applying the same twice changes nothing")

	require.NoError(t, u.Apply(t.Context(), nil))
	require.Equal(t, theirs, f.rules, "nothing of ours is left, everything of theirs is")
	for _, c := range f.commands {
		for _, never := range []string{"reset", "enable", "disable", "reload", "default", "insert", "22"} {
			require.NotContains(t, strings.Fields(c), never)
		}
	}
}

func TestOpenTakesNothingAway(t *testing.T) {
	f := &fakeUFW{rules: rules("allow 99/udp comment 'orama:old'")}
	u, _ := newUFW(f)
	require.NoError(t, u.Open(t.Context(), wanted()[:2]))
	require.Len(t, f.rules, 3)
	require.Empty(t, u.Status().Extra, "it is not known whether it is wanted")
}

func TestCheckChangesNothing(t *testing.T) {
	f := &fakeUFW{rules: rules("allow 99/udp comment 'orama:old'")}
	u, _ := newUFW(f)
	st, err := u.Check(t.Context(), wanted()[:1])
	require.NoError(t, err)
	require.Empty(t, f.commands)
	require.Equal(t, []string{"allow to any port 443 proto tcp comment 'orama:gateway'"}, st.Missing)
	require.Equal(t, []string{"allow to any port 99 proto udp comment 'orama:old'"}, st.Extra)
	require.Equal(t, st, u.Status())
}

func TestAnInactiveFirewallIsToldOfAndNotEnabled(t *testing.T) {
	f := &fakeUFW{inactive: true}
	u, log := newUFW(f)
	require.NoError(t, u.Apply(t.Context(), wanted()), "nothing is closed")
	require.Len(t, f.rules, len(wanted()), "the rules wait for the day it is enabled")
	require.False(t, u.Status().Active)
	require.Contains(t, u.Status().Problem, "ufw enable")
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.Equal(t, 1, strings.Count(log.String(), "problem="), "said once")
	f.inactive = false
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.Empty(t, u.Status().Problem)
}

func TestAClashIsToldOfAndLeft(t *testing.T) {
	f := &fakeUFW{rules: rules("deny to 203.0.113.1 port 3478 proto udp")}
	u, _ := newUFW(f)
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.Equal(t, rules("deny to 203.0.113.1 port 3478 proto udp"), f.theirs())
	require.Contains(t, u.Status().Problem, "ufw deny to 203.0.113.1 port 3478")
}

func TestFailuresHaveAKindAndAreSeen(t *testing.T) {
	broken := failure("firewall_failed", "'ufw' failed", errors.New("exit status 1: ERROR: You need to be root"))
	for _, verb := range []string{"show", "status", "allow", "delete"} {
		t.Run(verb, func(t *testing.T) {
			f := &fakeUFW{rules: rules("allow 99/udp comment 'orama:old'"), fail: func(v string) error {
				if v == verb {
					return broken
				}
				return nil
			}}
			u, _ := newUFW(f)
			err := u.Apply(t.Context(), wanted())
			require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
			require.Contains(t, u.Status().Problem, "root")
			f.fail = nil
			require.NoError(t, u.Apply(t.Context(), wanted()), "the next call mends it")
			require.Empty(t, u.Status().Problem)
		})
	}
	t.Run("yes, but nothing happens", func(t *testing.T) {
		u, _ := newUFW(&fakeUFW{deaf: true})
		err := u.Apply(t.Context(), wanted())
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.Len(t, u.Status().Missing, len(wanted()))
	})
	t.Run("too many", func(t *testing.T) {
		f := &fakeUFW{}
		u, _ := newUFW(f)
		require.Equal(t, orama.KindInvalid, orama.KindOf(u.Apply(t.Context(), make([]plan.Opening, maxWanted+1))))
		require.Empty(t, f.commands)
	})
}

func TestACommandThatBeganIsLetFinish(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fakeUFW{}
	f.fail = func(verb string) error {
		if verb == "allow" {
			cancel() // the agent is stopped while ufw works
		}
		return nil
	}
	run := func(c context.Context, args ...string) (string, error) {
		out, err := f.run(c, args...)
		require.NoError(t, c.Err())
		return out, err
	}
	u := New("orama0", run, slog.New(slog.DiscardHandler))
	require.Equal(t, orama.KindUnavailable, orama.KindOf(u.Apply(ctx, wanted())))
	require.Len(t, f.commands, 1, "the one under way is finished, and no other begun")
}

func TestWaitingForTheTurnEndsWithItsContext(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	f := &fakeUFW{}
	u := New("orama0", func(ctx context.Context, args ...string) (string, error) {
		if args[0] == "show" {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-release
		}
		return f.run(ctx, args...)
	}, slog.New(slog.DiscardHandler))
	done := make(chan error)
	go func() { done <- u.Apply(context.Background(), wanted()) }()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, orama.KindUnavailable, orama.KindOf(u.Apply(ctx, nil)))
	close(release)
	require.NoError(t, <-done)
}

// Whoever comes last decides, and nobody sees half of another's change.
func TestConcurrentCallsAreOneAfterAnother(t *testing.T) {
	f := &fakeUFW{}
	u, _ := newUFW(f)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			want := wanted()
			if i%2 == 0 {
				want = want[:3]
			}
			if err := u.Apply(context.Background(), want); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Contains(t, []int{3, len(wanted())}, len(f.rules))
	require.NoError(t, u.Apply(t.Context(), wanted()))
	require.True(t, Compare(f.rules, Rules(wanted(), "orama0")).Empty())
}

func TestOutputIsBounded(t *testing.T) {
	b := &bounded{left: 5}
	for range 3 {
		n, err := b.Write([]byte("abc"))
		require.NoError(t, err)
		require.Equal(t, 3, n, "the command is not stopped by it")
	}
	require.Equal(t, "abcab", b.buf.String())
	require.True(t, b.cut)
	require.Equal(t, "ERROR: no", firstLine("\n ERROR: no\nUsage: ...\n"))
	require.Len(t, firstLine(strings.Repeat("x", 1000)), 200)
}
