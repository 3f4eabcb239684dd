package client

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// session is one PeerConnection of a Room. Its fields and methods belong to the Room's loop.
type session struct {
	room    *Room
	place   *place
	pc      *webrtc.PeerConnection
	refs    map[string]signal.TrackRef // by mid: what the SFU sends, from its latest offer
	down    map[string]*downlink       // by mid
	offers  int                        // answered so far
	asked   bool                       // an offer was asked for that has not come yet
	slots   map[string]bool            // by mid: sections of the latest offer on which the SFU would receive
	upSince time.Time                  // since when pc is connected; zero: it is not
	hurried bool                       // hurry was called for this gathering
	hurries atomic.Uint32              // candidates that hurry made up
	early   []webrtc.ICECandidateInit  // arrived before the first offer
	freed   map[string]bool            // by mid: let go of since the last answer; not to be taken before the next
	sending map[*LocalTrack]*section
	seen    atomic.Int64 // Unix nanoseconds of the latest RTP packet of any track
}

// section is what one of our own tracks is sent on.
type section struct {
	mid    string
	sender *webrtc.RTPSender
	lanes  []*lane
	answer int           // which of our answers made it
	id     orama.TrackID // of the track at this place; "" until the SFU has published it
}

func configuration(c Credentials) webrtc.Configuration {
	return webrtc.Configuration{
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
		BundlePolicy:       webrtc.BundlePolicyMaxBundle,
		ICEServers:         []webrtc.ICEServer{{URLs: c.URLs, Username: c.Username, Credential: c.Credential}},
	}
}

// newSession makes the connection that the SFU's first offer will start.
func newSession(p *place, c Credentials) (*session, error) {
	r := p.room
	pc, err := r.api.NewPeerConnection(configuration(c))
	if err != nil {
		return nil, err
	}
	s := &session{room: r, place: p, pc: pc, down: map[string]*downlink{}, freed: map[string]bool{}, sending: map[*LocalTrack]*section{}}
	post := func(fn func()) {
		r.tasks.post(func() {
			if p.sess == s && r.at(p) {
				fn()
			}
		})
	}
	pc.OnICECandidate(func(c *webrtc.ICECandidate) { post(func() { s.trickle(c) }) })
	pc.OnConnectionStateChange(func(webrtc.PeerConnectionState) { post(s.changed) })
	pc.OnICEConnectionStateChange(func(webrtc.ICEConnectionState) { post(s.changed) })
	pc.OnTrack(func(t *webrtc.TrackRemote, rec *webrtc.RTPReceiver) { post(func() { s.received(t, rec) }) })
	pc.OnDataChannel(r.listen)
	if p == r.here {
		return s, r.openChannels(pc)
	}
	return s, nil
}

// setServers takes new credentials. Living relays keep theirs; the next ICE restart uses these.
func (s *session) setServers(c Credentials) error { return s.pc.SetConfiguration(configuration(c)) }

// changed looks at the connection's state again: events may be late, the state is not.
func (s *session) changed() {
	state := s.pc.ConnectionState()
	switch state {
	case webrtc.PeerConnectionStateConnected:
		if s.upSince.IsZero() {
			s.upSince = time.Now()
		}
		s.room.review()
		s.room.look()
		return
	default:
		s.upSince = time.Time{}
	}
	if s.place != s.room.here {
		if state == webrtc.PeerConnectionStateClosed || state == webrtc.PeerConnectionStateFailed {
			s.room.tryAgain("media at the new place: " + state.String())
		}
		return
	}
	switch state {
	case webrtc.PeerConnectionStateDisconnected, webrtc.PeerConnectionStateFailed:
		s.room.lose("media", state.String())
	case webrtc.PeerConnectionStateClosed: // by the SFU: DTLS said so
		s.room.lose("media", state.String())
		s.room.startOver("the SFU closed the connection")
	default:
	}
}

func (s *session) trickle(c *webrtc.ICECandidate) {
	m := &signal.ICECandidate{}
	if c != nil {
		init := c.ToJSON()
		m.Candidate = &signal.CandidateInit{Candidate: init.Candidate, SDPMid: init.SDPMid,
			SDPMLineIndex: init.SDPMLineIndex, UsernameFragment: init.UsernameFragment}
	}
	s.place.send(m)
	if c != nil && !s.hurried {
		s.hurried = true
		s.room.wg.Go(s.hurry)
	}
}

// hurryAt is when, after the first relay of a gathering, pion is made to look at its checks.
var hurryAt = []time.Duration{5 * time.Millisecond, 15 * time.Millisecond, 35 * time.Millisecond, 75 * time.Millisecond, 135 * time.Millisecond}

// hurry makes pion nominate the relay as soon as a check has been answered: by itself it looks every
// 200 ms, which is most of the time that a join takes. What makes it look is a remote candidate
// that it does not know yet; one of passive TCP is never paired with anything while active TCP is off.
func (s *session) hurry() {
	began := time.Now()
	for _, at := range hurryAt {
		t := time.NewTimer(at - time.Since(began))
		select {
		case <-s.room.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if s.pc.ICEConnectionState() == webrtc.ICEConnectionStateConnected {
			return
		}
		zero := uint16(0)
		s.pc.AddICECandidate(webrtc.ICECandidateInit{ //nolint:errcheck // the connection may be closed
			Candidate:     fmt.Sprintf("candidate:1 1 tcp 1 127.0.0.1 %d typ host tcptype passive", s.hurries.Add(1)),
			SDPMLineIndex: &zero,
		})
	}
}

func (s *session) addCandidate(c *signal.CandidateInit) error {
	if c == nil {
		return nil
	}
	init := webrtc.ICECandidateInit{Candidate: c.Candidate, SDPMid: c.SDPMid,
		SDPMLineIndex: c.SDPMLineIndex, UsernameFragment: c.UsernameFragment}
	if s.offers == 0 {
		s.early = append(s.early, init)
		return nil
	}
	return s.pc.AddICECandidate(init)
}

// answer takes an offer of the SFU's: first or later, with sections added, ended or recycled.
func (s *session) answer(o *signal.Offer) (*signal.Answer, error) {
	if err := s.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: o.SDP}); err != nil {
		return nil, fmt.Errorf("offer: %w", err)
	}
	slots, err := slotsOf(o.SDP)
	if err != nil {
		return nil, fmt.Errorf("offer: %w", err)
	}
	s.slots = slots
	s.release()
	if err := s.fill(); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	a, err := s.pc.CreateAnswer(&webrtc.AnswerOptions{OfferAnswerOptions: webrtc.OfferAnswerOptions{ICETricklingSupported: true}})
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if err := s.pc.SetLocalDescription(a); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	s.offers++
	s.hurried = s.up() // the next candidate is the first one of a gathering, unless nothing is gathered
	s.asked, s.freed = false, map[string]bool{}
	s.follow(o.Tracks)
	text, err := s.closeUnused(a.SDP)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	for _, c := range s.early {
		s.pc.AddICECandidate(c) //nolint:errcheck // a bad candidate is none
	}
	s.early = nil
	return &signal.Answer{SDP: text, Tracks: s.named()}, nil
}

// slotsOf lists the sections on which the SFU would receive, by mid.
func slotsOf(offer string) (map[string]bool, error) {
	var parsed sdp.SessionDescription
	if err := parsed.UnmarshalString(offer); err != nil {
		return nil, err
	}
	slots := map[string]bool{}
	for _, m := range parsed.MediaDescriptions {
		mid, _ := m.Attribute("mid")
		_, recv := m.Attribute("recvonly")
		_, both := m.Attribute("sendrecv")
		if recv || both {
			slots[mid] = true
		}
	}
	return slots, nil
}

// release lets go of the tracks whose section the SFU ended.
func (s *session) release() {
	for t, at := range s.sending {
		if !s.slots[at.mid] {
			s.room.forget(t)
		}
	}
}

// fill puts waiting tracks on free sections. pion's AddTrack takes the first free section of the
// kind that the remote would receive on, the same that is found free here.
func (s *session) fill() error {
	for _, t := range s.room.locals {
		if s.sending[t] != nil || s.free(t.opts.Kind) == 0 {
			continue
		}
		if err := s.put(t); err != nil {
			return err
		}
	}
	return nil
}

// put puts one on the next free section.
func (s *session) put(t *LocalTrack) error {
	at := &section{answer: s.offers + 1}
	s.sending[t] = at
	for _, u := range t.encodings() {
		at.lanes = append(at.lanes, u.newLane(""))
	}
	sender, err := s.pc.AddTrack(at.lanes[0])
	if err != nil {
		return err
	}
	for _, tr := range s.pc.GetTransceivers() {
		if tr.Sender() == sender {
			at.mid = tr.Mid()
		}
	}
	at.sender = sender
	for n, l := range at.lanes {
		l.bound.Lock()
		l.mid = at.mid
		l.bound.Unlock()
		if n > 0 {
			if err := sender.AddEncoding(l); err != nil {
				return err
			}
		}
	}
	for n, l := range t.layers {
		s.room.wg.Go(func() { l.readRTCP(sender, at.lanes[n]) })
	}
	if len(t.layers) == 0 {
		s.room.wg.Go(func() { t.readRTCP(sender) })
	}
	return nil
}

// detach forgets the section of a track.
func (s *session) detach(t *LocalTrack) {
	if at := s.sending[t]; at != nil {
		for _, l := range at.lanes {
			l.drop(l)
		}
	}
	delete(s.sending, t)
}

// confirm asks the SFU whether it has taken our latest answer. It handles the frames of a socket in their order, so its pong says so.
func (s *session) confirm() {
	for _, at := range s.sending {
		if !at.lanes[0].open.Load() {
			s.place.send(&signal.Ping{T: float64(s.offers)})
			return
		}
	}
}

// taken opens the sections of an answer that the SFU has taken.
func (s *session) taken(answer int) {
	for t, at := range s.sending {
		if at.answer > answer {
			continue
		}
		for _, l := range at.lanes {
			l.open.Store(true)
		}
		t.settle(nil)
	}
}

// free counts the sections of a kind that a track could be put on.
func (s *session) free(kind string) int {
	n := 0
	for _, t := range s.pc.GetTransceivers() {
		if t.Kind().String() == kind && t.Sender() == nil && s.slots[t.Mid()] && !s.freed[t.Mid()] {
			n++
		}
	}
	return n
}

// closeUnused marks the sections that this side could send on and does not. pion answers them
// with sendonly, which would announce a track.
func (s *session) closeUnused(answer string) (string, error) {
	unused := map[string]bool{}
	for _, t := range s.pc.GetTransceivers() {
		unused[t.Mid()] = t.Sender() == nil
	}
	d := sdp.SessionDescription{}
	if err := d.UnmarshalString(answer); err != nil {
		return "", err
	}
	for _, m := range d.MediaDescriptions {
		mid, _ := m.Attribute("mid")
		for i, a := range m.Attributes {
			switch {
			case unused[mid] && a.Key == "sendonly":
				m.Attributes[i].Key = "inactive"
			case unused[mid] && a.Key == "sendrecv":
				m.Attributes[i].Key = "recvonly"
			}
		}
	}
	out, err := d.Marshal()
	return string(out), err
}

// received takes a receiver's first packet.
func (s *session) received(remote *webrtc.TrackRemote, rec *webrtc.RTPReceiver) {
	mid := ""
	for _, t := range s.pc.GetTransceivers() {
		if t.Receiver() == rec {
			mid = t.Mid()
		}
	}
	if mid == "" {
		return // stopped meanwhile
	}
	d := &downlink{mid: mid, remote: remote}
	s.down[mid] = d
	s.assign(d)
	s.room.wg.Go(func() { d.pump(&s.seen) })
	s.room.wg.Go(func() { drainRTCP(rec) })
}

// follow compares what comes through each receiver with what the SFU says it sends there now.
func (s *session) follow(refs []signal.TrackRef) {
	s.refs = map[string]signal.TrackRef{}
	for _, r := range refs {
		s.refs[r.Mid] = r
	}
	for mid, d := range s.down {
		if !s.running(d) {
			d.replace(nil)
			delete(s.down, mid)
			continue
		}
		s.assign(d)
	}
}

func (s *session) running(d *downlink) bool {
	for _, t := range s.pc.GetTransceivers() {
		if t.Mid() == d.mid && t.Receiver() != nil && t.Receiver().Track() == d.remote {
			return true
		}
	}
	return false
}

// assign gives the downlink its track. Without refs the msid tells whose it is.
func (s *session) assign(d *downlink) {
	id, peer := orama.TrackID(d.remote.ID()), orama.PeerID(d.remote.StreamID())
	if ref, ok := s.refs[d.mid]; ok {
		id, peer = ref.TrackID, ref.PeerID
	} else if len(s.refs) > 0 {
		id = ""
	}
	cur := d.track()
	switch {
	case cur != nil && cur.ID() == id:
	case id == "":
		d.replace(nil)
	default:
		pc, ssrc := s.pc, d.remote.SSRC()
		t := newRemoteTrack(peer, s.place.describe(peer, id, d.remote.Kind().String()), d.remote.Codec(), func() error {
			return requestKeyframe(pc, ssrc)
		})
		if d.replace(t) && s.place == s.room.here {
			s.room.announce(t)
		}
	}
}

// packets counts what came through the chosen relay beside STUN.
func (s *session) packets() uint32 {
	stats, ok := s.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePairStats()
	if !ok {
		return 0
	}
	return stats.PacketsReceived
}

func (s *session) relay() netip.AddrPort {
	pair, err := s.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil || pair.Local == nil {
		return netip.AddrPort{}
	}
	ip, err := netip.ParseAddr(pair.Local.Address)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), pair.Local.Port)
}

// close ends the connection and waits for pion's goroutines. It may take long: not for the loop.
func (s *session) close() {
	s.pc.GracefulClose() //nolint:errcheck // nothing is left to do about it
}
