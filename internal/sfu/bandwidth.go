package sfu

import (
	"orama.network/orama/internal/signal"
)

// tellShare is by how much the estimate, or what is wanted, has to change for the client to be told again, in percent.
const tellShare = 10

// known gives what the way to the subscriber carries, as far as its feedback has told, and what would be sent if there were room for all.
func (e *egress) known() (estimate, wanted int, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.est == nil || !e.heard {
		return 0, 0, false
	}
	return e.est.Target(), e.wanted, true
}

// tellBandwidth tells the client what is known of its way down, at most as often as connections are measured.
func (p *peer) tellBandwidth() {
	estimate, wanted, ok := p.out.known()
	if !ok || p.sock == nil || !differs(estimate, p.bandwidth.Estimate) && !differs(wanted, p.bandwidth.Wanted) {
		return
	}
	p.bandwidth = signal.Bandwidth{Estimate: estimate, Wanted: wanted}
	p.send(&signal.Bandwidth{Estimate: estimate, Wanted: wanted})
}

// differs tells whether a number has changed by as much as is worth a message.
func differs(now, told int) bool {
	return max(now, told)-min(now, told) > told/100*tellShare
}
