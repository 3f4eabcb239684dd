package bwe
import ("testing";"time";"fmt")
func TestExplore(t *testing.T) {
	for _, seed := range []uint64{1,2,3} {
	s := newSim(path{rate: func(t time.Duration) int { if t > 15*time.Second && t < 30*time.Second {return 500_000}; return 3_000_000}}, seed, 150_000, 400_000, 1_200_000, 2_800_000)
	for i := 1; i <= 90; i++ {
		s.audioGap=0
		s.run(time.Duration(i)*500*time.Millisecond)
		fmt.Printf("%d %4.1fs target %7d chosen %d queue %v loss %.2f gap %v refused %d cap %.0f rtt %v deliv %.0f\n", seed, s.now.Seconds(), s.est.Target(), s.chosen, s.est.queue.Round(time.Millisecond), s.est.loss.recent, s.audioGap, s.refused, s.est.capacity, s.est.rtt.Round(time.Millisecond), s.est.arrivals.bps())
	}
	}
}
