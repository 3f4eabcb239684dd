package load

import (
	"cmp"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Report is what came of a run. Shares are 0 to 1, times milliseconds. Counts are of the measurement, which begins when
// everybody has joined.
type Report struct {
	Rooms       int       `json:"rooms"`
	Publishers  int       `json:"publishers"`  // in all rooms
	Subscribers int       `json:"subscribers"` // in all rooms
	Joined      int       `json:"joined"`
	Failed      int       `json:"failed"`  // to join
	Dropped     int       `json:"dropped"` // joined, and were lost for good
	Recoveries  int       `json:"recoveries"`
	Failures    []Failure `json:"failures"` // reasons, the most frequent first
	DurationS   float64   `json:"duration_s"`
	Interrupted bool      `json:"interrupted"`

	Video   *Media    `json:"video"` // null: none was sent
	Audio   *Media    `json:"audio"`
	Freezes Freezes   `json:"freezes"`
	JoinMS  Quantiles `json:"join_ms"` // from before the socket is opened to the first packet of media
	// EstimateBPS is what the ways to those who watch carry, as the SFUs estimate it. They look for no more than they have to send.
	EstimateBPS Rates          `json:"estimate_bps"`
	Quality     map[string]int `json:"quality"` // how many people's connection is "good", "poor" or "lost", as SFUs say

	Machine Machine `json:"machine"`
}

// Failure is why people could not join, or were dropped.
type Failure struct {
	Reason string `json:"reason"`
	People int    `json:"people"`
}

// Media is how audio or video did.
type Media struct {
	Sent        uint64    `json:"sent"`     // packets
	Expected    uint64    `json:"expected"` // packets, at all who watch: received and lost
	Received    uint64    `json:"received"` // packets, each once, those that were sent again too
	Lost        uint64    `json:"lost"`     // gaps in the numbers that nothing filled
	Loss        float64   `json:"loss"`     // share of expected
	SentBPS     float64   `json:"sent_bps"` // bits a second of payload, all publishers
	ReceivedBPS float64   `json:"received_bps"`
	LatencyMS   Quantiles `json:"latency_ms"` // of whole frames, from WriteRTP to ReadRTP
}

// Quantiles of a distribution in milliseconds; all 0 when nothing was counted.
type Quantiles struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Rates are of several people, in bits a second; all 0 when there are none.
type Rates struct {
	Count int `json:"count"` // people of whom it is known
	Min   int `json:"min"`
	P50   int `json:"p50"`
	Max   int `json:"max"`
}

// Freezes are pictures that stood still, as freezeCount and totalFreezesDuration have it.
type Freezes struct {
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"share"` // of all time that video was watched
}

// Machine is this machine's CPU during the measurement.
type Machine struct {
	CPUs    int     `json:"cpus"`
	Used    float64 `json:"used"`    // share of the machine
	Load    float64 `json:"load"`    // share of the machine that the load itself used
	Servers float64 `json:"servers"` // share of the machine that Orama's processes on it used
	LateMS  float64 `json:"late_ms"` // p99 of how late frames were sent
	// Short says that the load itself was short of CPU: its figures tell of this machine and not of the servers.
	Short bool `json:"short_of_cpu"`
	// More subscribers like these until 80 % of the CPU are used, with the load on this machine; null: cannot be told.
	More *int `json:"more_subscribers"`
	// Apart is how many in all this machine's servers would carry if the load were elsewhere; null: they are not here.
	Apart *int `json:"subscribers_without_load"`
}

// What tells that the load was short of CPU.
const (
	shortUsed = 0.9 // of the machine, or
	shortLoad = 0.8 // of the machine by the load alone, or
	shortLate = 25 * time.Millisecond
)

func (r *run) progress(phase string) Progress {
	out := Progress{Phase: phase, People: len(r.people), Joined: r.joined()}
	r.mu.Lock()
	out.Failed = r.failed
	r.mu.Unlock()
	at := now()
	var latency histogram
	var sum seenOf
	for _, p := range r.people {
		for kind := range p.sent {
			s := p.read(kind, at, &latency)
			sum.expected += s.expected
			sum.received += s.received
			sum.bytes += s.bytes
			if kind == video {
				out.Freezes += s.freezes
			}
		}
	}
	out.Estimate = r.estimates()
	out.Latency = latency.quantile(0.99)
	out.Loss = share(sum.expected-sum.received, sum.expected)
	if r.began > 0 && at > r.began {
		out.Received = float64(sum.bytes*8) / (at - r.began).Seconds()
	}
	return out
}

// estimates are as the SFUs have them at the moment.
func (r *run) estimates() Rates {
	var all []int
	for _, p := range r.people {
		if bps := int(p.estimate.Load()); bps > 0 && !p.publishes {
			all = append(all, bps)
		}
	}
	if len(all) == 0 {
		return Rates{}
	}
	slices.Sort(all)
	return Rates{Count: len(all), Min: all[0], P50: all[(len(all)-1)/2], Max: all[len(all)-1]}
}

func (r *run) report(ended time.Duration, before, during usage) Report {
	span := ended - r.began
	out := Report{Rooms: r.Rooms, Publishers: r.Rooms * r.Publishers, Subscribers: r.Rooms * r.Subscribers, Joined: r.joined(),
		DurationS: round(span.Seconds()), Failures: []Failure{}, EstimateBPS: r.estimates(), Quality: map[string]int{}}
	watching := 0
	for _, p := range r.people {
		out.Recoveries += int(p.again.Load())
		p.mu.Lock()
		if p.quality != "" {
			out.Quality[p.quality]++
		}
		p.mu.Unlock()
		if p.has.Load() && !p.publishes {
			watching++
		}
	}
	if r.Audio {
		m, _ := r.media(audio, ended, span)
		out.Audio = &m
	}
	if r.Video != NoVideo {
		m, seen := r.media(video, ended, span)
		out.Video = &m
		out.Freezes = Freezes{Count: seen.freezes, Seconds: round(seen.frozen.Seconds()),
			Share: round(min(seen.frozen.Seconds()/max(span.Seconds()*float64(watching*r.Publishers), 1), 1))}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Failed, out.Dropped, out.JoinMS = r.failed, r.dropped, quantiles(&r.joins)
	for _, reason := range slices.Sorted(maps.Keys(r.failures)) {
		out.Failures = append(out.Failures, Failure{reason, r.failures[reason]})
	}
	slices.SortStableFunc(out.Failures, func(a, b Failure) int { return cmp.Compare(b.People, a.People) })
	out.Machine = machine(runtime.NumCPU(), before, during, watching, r.late.p99())
	if !here(r.URLs) {
		out.Machine.Apart = nil
	}
	return out
}

// media adds up one kind.
func (r *run) media(kind int, ended, span time.Duration) (Media, seenOf) {
	var m Media
	var sum seenOf
	var latency histogram
	var sentBytes uint64
	for _, p := range r.people {
		m.Sent += p.sent[kind].Load()
		sentBytes += p.out[kind].Load()
		s := p.read(kind, ended, &latency)
		sum.expected += s.expected
		sum.received += s.received
		sum.bytes += s.bytes
		sum.freezes += s.freezes
		sum.frozen += s.frozen
	}
	m.Expected, m.Received, m.Lost = sum.expected, sum.received, sum.expected-sum.received
	m.Loss, m.LatencyMS = share(m.Lost, m.Expected), quantiles(&latency)
	m.SentBPS, m.ReceivedBPS = math.Round(float64(sentBytes*8)/span.Seconds()), math.Round(float64(sum.bytes*8)/span.Seconds())
	return m, sum
}

func machine(n int, before, during usage, subscribers int, late time.Duration) Machine {
	of := func(cpus float64) float64 { return round(min(cpus/float64(n), 1)) }
	m := Machine{CPUs: n, Used: of(during.machine), Load: of(during.self), Servers: of(during.servers), LateMS: millis(late)}
	m.Short = m.Used > shortUsed || m.Load > shortLoad || late > shortLate
	more, apart := room(n, before, during, subscribers)
	if more >= 0 {
		m.More = &more
	}
	if apart >= 0 {
		m.Apart = &apart
	}
	return m
}

func quantiles(h *histogram) Quantiles {
	return Quantiles{h.count, millis(h.quantile(0.5)), millis(h.quantile(0.99)), millis(h.largest)}
}

func millis(d time.Duration) float64 { return round(float64(d) / float64(time.Millisecond)) }

// round keeps four places: what programs read should not look more exact than it is.
func round(x float64) float64 { return math.Round(x*10_000) / 10_000 }

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return math.Round(float64(part)/float64(whole)*1e6) / 1e6
}

// lateness is how late frames are sent: what a machine that is short of CPU shows first.
type lateness struct {
	mu sync.Mutex
	h  histogram // guarded by mu
}

func (l *lateness) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h.add(d)
}

func (l *lateness) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h = histogram{}
}

func (l *lateness) p99() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.h.quantile(0.99)
}
