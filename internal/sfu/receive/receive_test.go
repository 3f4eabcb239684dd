package receive

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var start = time.Unix(1000, 0)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func due(l *Losses, ms int, rtt time.Duration) (list []uint16, after int) {
	list, wait := l.Due(nil, at(ms), rtt)
	return list, int(wait.Milliseconds())
}

func TestWhatIsMissingIsAskedFor(t *testing.T) {
	var l Losses
	require.False(t, l.Note(65_533, at(0)))
	require.True(t, l.Note(65_535, at(1)))
	require.True(t, l.Note(2, at(2)))
	list, after := due(&l, 5, 0)
	require.Empty(t, list, "it may only have been overtaken")
	require.Equal(t, 6, after)
	require.False(t, l.Note(0, at(6)), "this one was")
	list, after = due(&l, 12, 0)
	require.Equal(t, []uint16{65_534, 1}, list)
	require.Equal(t, 100, after)
	list, _ = due(&l, 50, 40*time.Millisecond)
	require.Empty(t, list, "the answers are on their way")
	l.Note(1, at(60))
	list, after = due(&l, 112, 40*time.Millisecond)
	require.Equal(t, []uint16{65_534}, list)
	require.Equal(t, 50, after, "a quarter more than a round trip")
	l.Note(65_534, at(120))
	list, after = due(&l, 400, 40*time.Millisecond)
	require.Empty(t, list)
	require.Zero(t, after)
}

func TestAskingEnds(t *testing.T) {
	var l Losses
	l.Note(1, at(0))
	l.Note(3, at(0))
	asked, ms := 0, 0
	for ; ms < 10_000; ms++ {
		list, after := due(&l, ms, 0)
		asked += len(list)
		if after == 0 {
			break
		}
	}
	require.Equal(t, tries, asked)
	require.InDelta(t, 1010, ms, 1)
}

// After a long gap only what is near is asked for, and after a jump nothing.
func TestGaps(t *testing.T) {
	var l Losses
	l.Note(1, at(0))
	l.Note(1002, at(0))
	list, _ := due(&l, 10, 0)
	require.Len(t, list, Window)
	require.Equal(t, uint16(1001), list[Window-1])
	l.Note(1102, at(0))
	list, _ = due(&l, 200, 0)
	require.Len(t, list, Window-1, "the place of 1002 is in it, and that came")
	require.NotContains(t, list, uint16(1102-Window-1))
	l.Note(40_000, at(0))
	_, after := due(&l, 300, 0)
	require.Zero(t, after)
}

// Whatever comes in whatever order: what is asked for never came, is no older than the window, and is not forgotten while it is in it.
func TestLossesAreThoseOfAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Losses
		came, first, newest := map[int]bool{}, 70_000, 70_000
		for n := range rapid.IntRange(1, 200).Draw(t, "packets") {
			seq := newest
			if n > 0 {
				seq = max(first, newest+rapid.IntRange(-60, 60).Draw(t, "step"))
			}
			came[seq], newest = true, max(newest, seq)
			l.Note(uint16(seq), at(0))
		}
		var want []uint16
		for seq := max(first, newest-Window); seq < newest; seq++ {
			if !came[seq] {
				want = append(want, uint16(seq))
			}
		}
		got, _ := l.Due(nil, at(50), 0)
		slices.SortFunc(got, func(a, b uint16) int { return int(int16(a - b)) })
		require.Equal(t, want, got)
	})
}

func TestReception(t *testing.T) {
	r := Reception{Clock: 90_000}
	_, ok := r.Report(7, 0, time.Time{}, at(0))
	require.False(t, ok)
	for _, seq := range []uint16{65_534, 65_535, 1, 0, 3, 5} { // 2 and 4 are missing
		r.Note(seq, uint32(seq)*900, at(0))
	}
	b, ok := r.Report(7, 0xabcd, at(500), at(1500))
	require.True(t, ok)
	require.EqualValues(t, 7, b.SSRC)
	require.EqualValues(t, 1<<16|5, b.LastSequenceNumber)
	require.EqualValues(t, 2, b.TotalLost)
	require.EqualValues(t, 64, b.FractionLost, "two of eight")
	require.EqualValues(t, 0xabcd, b.LastSenderReport)
	require.EqualValues(t, 65536, b.Delay)
	r.Note(6, 0, at(0))
	r.Note(4, 0, at(0))
	b, _ = r.Report(7, 0, time.Time{}, at(1500))
	require.EqualValues(t, 1, b.TotalLost)
	require.Zero(t, b.FractionLost, "more came than was expected")
	require.Zero(t, b.Delay)
	b, _ = r.Report(7, 0, time.Time{}, at(1500))
	require.Zero(t, b.FractionLost, "nothing came")
	r.Note(20_000, 0, at(0))
	b, _ = r.Report(7, 0, time.Time{}, at(1500))
	require.EqualValues(t, 20_000, b.LastSequenceNumber, "it began again")
	require.Zero(t, b.TotalLost)
}

// RFC 3550 section A.8, for packets that come every 20 ms and every other one 8 ms late: 720 ticks each time, approached by a sixteenth.
func TestJitter(t *testing.T) {
	r := Reception{Clock: 90_000}
	for n := range 200 {
		r.Note(uint16(n), uint32(n*1800), at(20*n+n%2*8))
	}
	b, _ := r.Report(1, 0, time.Time{}, at(0))
	require.InDelta(t, 720, b.Jitter, 2)
}
