package sfu

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/signal"
)

// remadeAfter is how long Firefox may take from a description to decoders that want a keyframe.
const remadeAfter = 250 * time.Millisecond

// gatherWithin bounds the wait for the one local candidate, which needs no network, only its turn: three hundred people who join at
// once gather at once.
const gatherWithin = 10 * time.Second

// negotiation is where a peer's offers and answers stand. The peer's loop owns it.
type negotiation struct {
	timer       *time.Timer   // runs while the client may offer first
	outstanding *signal.Offer // our offer that has no answer yet
	dirty       bool          // something changed meanwhile, or while there was no socket
	begun       bool          // a first description went either way

	audio, video int  // sections to add for the client to send on
	restart      bool // ICE is to restart with the next offer
	due          bool // the client wants an offer, if only to answer it differently

	rounds int             // descriptions of the client's that were applied
	theirs bool            // the last of them was an offer
	remade *time.Timer     // runs until remadeAfter
	ufrag  string          // the client's, as last applied
	mids   []string        // of the sections, in order, as last agreed
	codecs map[string]bool // the client named them, such as "video/vp8"
	kinds  map[string]bool // the client has had a section of the kind
	noData bool            // the client's descriptions have no data section
}

// wait leaves the client time to offer first.
func (n *negotiation) wait(d time.Duration) { n.timer = time.NewTimer(d) }

// waited gives the channel that ends the wait; nil blocks for ever.
func (n *negotiation) waited() <-chan time.Time {
	if n.timer == nil {
		return nil
	}
	return n.timer.C
}

func (n *negotiation) stopWaiting() {
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}

// negotiate offers if there is something to offer and nothing in the way; what is in the way
// calls it again when it ends.
func (p *peer) negotiate() {
	n := &p.neg
	switch {
	case p.pc == nil || p.stopped || p.leaving || n.timer != nil:
	case n.outstanding != nil || p.sock == nil:
		n.dirty = true
	case p.needsOffer():
		if err := p.offer(); err != nil {
			p.broken(signal.CloseInternal, "an offer could not be made", err)
		}
	}
}

func (p *peer) needsOffer() bool {
	n := &p.neg
	if !n.begun || n.restart || n.due || n.audio+n.video > 0 || n.noData && p.rights.Data {
		return true
	}
	for _, w := range p.wants {
		if w.down == nil && p.takes(w.up) {
			return true
		}
	}
	for _, d := range p.downs {
		if d.state == slotActive && !d.used() {
			return true
		}
	}
	return false
}

// takes reports whether the client can decode u at all, as far as it has said.
func (p *peer) takes(u *up) bool {
	kind := u.kind.String()
	return !p.neg.kinds[kind] || p.neg.codecs[lower(u.codec.MimeType)]
}

// offer puts everything that is due into one offer and sends it.
func (p *peer) offer() error {
	n := &p.neg
	if !n.begun && p.rights.Publish {
		n.audio, n.video = max(n.audio, 1), max(n.video, 1)
	}
	if err := p.addSlots(); err != nil {
		return err
	}
	p.retire()
	if err := p.assign(); err != nil {
		return err
	}
	desc, err := p.pc.CreateOffer(&webrtc.OfferOptions{ICERestart: n.restart})
	if err != nil {
		return err
	}
	text, err := p.setLocal(desc)
	if err != nil {
		return err
	}
	n.begun, n.dirty, n.restart, n.due, n.audio, n.video = true, false, false, false, 0, 0
	n.outstanding = &signal.Offer{SDP: text, Tracks: p.sending()}
	p.send(n.outstanding)
	return nil
}

// addSlots adds the sections that the client may send on.
func (p *peer) addSlots() error {
	recv := webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}
	for i := range p.neg.audio + p.neg.video {
		kind := webrtc.RTPCodecTypeAudio
		if i >= p.neg.audio {
			kind = webrtc.RTPCodecTypeVideo
		}
		if _, err := p.pc.AddTransceiverFromKind(kind, recv); err != nil {
			return err
		}
	}
	return nil
}

// retire offers the sections of ended subscriptions as not sending. pion would stop the sender in
// RemoveTrack, and AddTrack would then take whichever transceiver comes first, so the sender is
// only unhooked here and hooked in again by assign.
func (p *peer) retire() {
	for _, d := range p.downs {
		if d.state == slotActive && !d.used() {
			d.tr.SetSender(d.sender, nil) //nolint:errcheck // says only that it was not sending
			d.state = slotRetiring
		}
	}
}

// assign gives every new subscription a section: a free one of its codec, or a new one.
func (p *peer) assign() error {
	for _, w := range p.wants {
		if w.down != nil || !p.takes(w.up) {
			continue
		}
		d, err := p.sectionFor(w.up)
		if err != nil {
			return err
		}
		d.state = slotActive
		d.pause(w.paused || w.held)
		d.prefer(w.width, w.fps)
		w.down = d // attached to its track by settle
		w.ask()
	}
	return nil
}

func (p *peer) sectionFor(u *up) (*down, error) {
	for _, d := range p.downs {
		if d.state == slotFree && d.fits(u) {
			return d, p.reuse(d, u)
		}
	}
	// Where the client may publish, it may use the section to send as well: a browser's addTrack
	// prefers a section that it has only received on to a new one.
	direction := webrtc.RTPTransceiverDirectionSendonly
	if p.rights.Publish {
		direction = webrtc.RTPTransceiverDirectionSendrecv
	}
	d := newDown(u, p.out)
	tr, err := p.pc.AddTransceiverFromTrack(d, webrtc.RTPTransceiverInit{Direction: direction})
	if err != nil {
		return nil, err
	}
	d.tr, d.sender = tr, tr.Sender()
	p.downs = append(p.downs, d)
	return d, nil
}

// reuse gives a free section another track, and with it a sender of its own, so that the SSRC is
// new: a Chromium decodes what comes with an SSRC that was taken away before but shows nothing of
// it (libwebrtc restarts a receiver only for an SSRC that it did not have).
func (p *peer) reuse(d *down, u *up) error {
	for _, was := range d.sender.GetParameters().Encodings {
		p.out.forget(uint32(was.SSRC), uint32(was.RTX.SSRC))
	}
	d.sender.Stop() //nolint:errcheck // it was not sending
	d.assign(u)
	sender, err := p.api.NewRTPSender(d, p.pc.SCTP().Transport())
	if err != nil {
		return err
	}
	d.sender = sender
	return d.tr.SetSender(sender, d)
}

// sending names what the SFU sends in which section.
func (p *peer) sending() []signal.TrackRef {
	var refs []signal.TrackRef
	for _, w := range p.wants {
		if w.down != nil && w.down.state == slotActive {
			refs = append(refs, signal.TrackRef{Mid: w.down.tr.Mid(), TrackID: w.up.id, PeerID: w.up.owner})
		}
	}
	return refs
}

// setLocal applies our description and gives its text with the candidate in it.
func (p *peer) setLocal(desc webrtc.SessionDescription) (string, error) {
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(desc); err != nil {
		return "", err
	}
	select {
	case <-gathered:
	case <-time.After(gatherWithin):
		return "", errors.New("no local candidate")
	}
	return silenceUnused(p.pc.LocalDescription().SDP), nil
}

// offered answers the client's offer.
func (p *peer) offered(m *signal.Offer) {
	n := &p.neg
	if n.outstanding != nil {
		p.refuse(signal.CodeGlare, "the SFU's own offer is on its way; answer it, then offer again")
		return
	}
	n.stopWaiting()
	d, ok := p.filter(fillMids(m.SDP, n.mids))
	if !ok {
		return
	}
	p.unhook(d)
	remote := webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: keepInactive(d.text)}
	if err := p.pc.SetRemoteDescription(remote); err != nil {
		p.unusable(webrtc.SignalingStateStable, err)
		return
	}
	restarted := n.ufrag != "" && n.ufrag != d.ufrag
	p.learn(d, m.Tracks)
	p.heedOrder(d)
	answer, err := p.pc.CreateAnswer(nil)
	var text string
	if err == nil {
		text, err = p.setLocal(answer)
	}
	if err != nil {
		p.unusable(webrtc.SignalingStateStable, err)
		return
	}
	n.begun = true
	p.send(&signal.Answer{SDP: text})
	if restarted {
		p.pathChanged()
	}
	p.mayRemake(d, true)
	p.negotiate()
}

// heedOrder has the answer name the codecs of what the client sends in the order of its offer, as RFC 3264 section 6.1 asks: a browser sends the
// first of them. pion keeps to that in a section's first answer, and then to what it said there.
func (p *peer) heedOrder(d description) {
	for _, tr := range p.pc.GetTransceivers() {
		n := slices.IndexFunc(d.sections, func(s section) bool { return s.mid == tr.Mid() })
		if n < 0 || tr.Receiver() == nil || !strings.HasPrefix(d.sections[n].direction, "send") {
			continue
		}
		offered := d.sections[n].formats
		place := func(c webrtc.RTPCodecParameters) int {
			if at := slices.Index(offered, strconv.Itoa(int(c.PayloadType))); at >= 0 {
				return at
			}
			return len(offered)
		}
		codecs := tr.Receiver().GetParameters().Codecs
		by := func(a, b webrtc.RTPCodecParameters) int { return cmp.Compare(place(a), place(b)) }
		if slices.IsSortedFunc(codecs, by) {
			continue
		}
		slices.SortStableFunc(codecs, by)
		tr.SetCodecPreferences(codecs) //nolint:errcheck // they are its own
	}
}

// unhook frees the sections that the client's offer takes back. pion would stop their senders
// for good.
func (p *peer) unhook(d description) {
	for _, s := range d.sections {
		if s.rejected || s.direction == "inactive" || s.direction == "sendonly" {
			p.takenBack(s)
		}
	}
}

func (p *peer) takenBack(s section) {
	for _, d := range p.downs {
		if d.tr.Mid() != s.mid || d.state == slotDead {
			continue
		}
		if d.state == slotActive {
			d.tr.SetSender(d.sender, nil) //nolint:errcheck // says only that it was not sending
			p.release(d)
		}
		d.state = slotFree
		if s.rejected {
			d.state = slotDead
		}
	}
}

// release ends the subscription behind d: the client has declined it.
func (p *peer) release(d *down) {
	if u := d.release(); u != nil {
		u.detach(d)
	}
	for i, w := range p.wants {
		if w.down == d {
			w.forget()
			p.wants = append(p.wants[:i:i], p.wants[i+1:]...)
			return
		}
	}
}

// answered applies the client's answer.
func (p *peer) answered(m *signal.Answer) {
	n := &p.neg
	if n.outstanding == nil {
		p.refuse(signal.CodeBadSDP, "no offer waits for an answer")
		return
	}
	mids := midsOf(n.outstanding.SDP)
	d, ok := p.filter(fillMids(m.SDP, mids))
	if !ok {
		return
	}
	if !d.answers(mids) {
		p.refuse(signal.CodeBadSDP, "the answer's sections are not the offer's")
		return
	}
	remote := webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: d.text}
	if err := p.pc.SetRemoteDescription(remote); err != nil {
		p.unusable(webrtc.SignalingStateHaveLocalOffer, err)
		return
	}
	n.outstanding = nil
	p.learn(d, m.Tracks)
	p.settle(d)
	p.mayRemake(d, false)
	p.negotiate()
}

// filter reads a client's description, or says what is wrong with it.
func (p *peer) filter(raw string) (description, bool) {
	d, err := filterSDP(raw)
	p.srv.metrics.candidatesRemoved.Add(uint64(d.removed))
	if err != nil {
		p.refuse(signal.CodeBadSDP, err.Error())
		return d, false
	}
	return d, true
}

// learn keeps what a client's description says about later ones.
func (p *peer) learn(d description, refs []signal.TrackRef) {
	n := &p.neg
	if n.codecs == nil {
		n.codecs, n.kinds = map[string]bool{}, map[string]bool{}
	}
	n.ufrag, n.mids, n.noData = d.ufrag, n.mids[:0], true
	p.taps.arrivals.id.Store(uint32(d.transport))
	for _, s := range d.sections {
		n.mids = append(n.mids, s.mid)
		n.kinds[s.kind] = true
		n.noData = n.noData && s.kind != "application"
		if s.mid != "" && (s.rejected || s.direction == "inactive" || s.direction == "recvonly") {
			p.wake(s.mid)
		}
		for _, c := range s.codecs {
			n.codecs[c] = true
		}
	}
	for _, r := range refs {
		if len(p.refs) < maxSections {
			p.refs[r.Mid] = r
		}
	}
}

// settle moves the sections on after an answer, and asks for what new subscribers wait for.
func (p *peer) settle(answer description) {
	for _, s := range answer.sections {
		for _, d := range p.downs {
			if d.tr.Mid() != s.mid {
				continue
			}
			switch {
			case s.rejected:
				p.release(d)
				d.state = slotDead
			case d.state == slotRetiring:
				d.state = slotFree
			case d.state == slotActive:
				p.begin(d)
			}
		}
	}
}

// mayRemake knows that Firefox makes its video decoders anew with its second description and
// whenever the offering side changes (seen: its statistics begin at 0 again, and the picture stands
// still until a keyframe).
func (p *peer) mayRemake(d description, theirs bool) {
	n := &p.neg
	n.rounds++
	changed := n.rounds == 2 || n.rounds > 2 && n.theirs != theirs
	n.theirs = theirs
	if !d.firefox || !changed {
		return
	}
	if n.remade != nil {
		n.remade.Stop()
	}
	n.remade = time.AfterFunc(remadeAfter, func() { p.post(p.refreshPictures) })
}

// begin sends the packets of d's track. It waits for the answer: what comes before it is, to a
// client, of an unknown source, and makes a new one at a pion client.
func (p *peer) begin(d *down) {
	d.mu.Lock()
	u := d.up
	d.mu.Unlock()
	if u == nil {
		return
	}
	if !u.attach(d) {
		return
	}
	p.shareOut(time.Now()) // before its first packet: it begins with what there is room for
	if p.pc.ConnectionState() == webrtc.PeerConnectionStateConnected {
		d.askKeyframe()
	}
}

// asked is a client that cannot offer itself.
func (p *peer) asked(m *signal.Negotiate) {
	n := &p.neg
	if (m.Audio > 0 || m.Video > 0) && !p.rights.Publish {
		p.refuse(signal.CodeForbidden, "the token does not allow publishing")
		return
	}
	if len(n.mids)+n.audio+n.video+m.Audio+m.Video > maxSections/2 {
		p.refuse(signal.CodeLimited, "too many media sections")
		return
	}
	n.audio, n.video, n.restart = n.audio+m.Audio, n.video+m.Video, n.restart || m.ICERestart && n.begun
	n.due = true
	n.stopWaiting()
	p.negotiate()
}

// candidate looks at a trickled candidate. An ICE-lite agent learns its peers' addresses from
// their checks (RFC 8445 section 7.3), so a good one changes nothing.
func (p *peer) candidate(m *signal.ICECandidate) {
	if m.Candidate == nil || m.Candidate.Candidate == "" {
		return
	}
	relay, err := relayCandidate(trimCandidate(m.Candidate.Candidate))
	switch {
	case err != nil:
		p.refuse(signal.CodeBadSDP, err.Error())
	case !relay:
		p.srv.metrics.candidatesRemoved.Add(1)
	}
}

// unusable reports a description that pion refused. pion knows no rollback: unless it is still
// where it was before, the connection cannot be negotiated any more and the client starts over.
func (p *peer) unusable(before webrtc.SignalingState, err error) {
	p.log.Debug("a description was refused", "err", err)
	p.refuse(signal.CodeBadSDP, "the description could not be applied")
	if p.pc.SignalingState() != before {
		p.broken(signal.CloseMalformed, "the description was left half applied", err)
	}
}

// broken ends a peer whose connection cannot be used any more.
func (p *peer) broken(code int, what string, err error) {
	if p.pc.ConnectionState() == webrtc.PeerConnectionStateClosed {
		return // the client closed it; look will notice if it stays
	}
	p.log.Warn(what, "err", err)
	p.hangUp(code, what)
	p.leave("lost")
}
