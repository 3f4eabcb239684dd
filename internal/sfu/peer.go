package sfu

import (
	"encoding/json"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/sfu/allot"
	"orama.network/orama/internal/sfu/srtp"
	"orama.network/orama/internal/signal"
)

const (
	// maxTracks is how many tracks one peer may publish at once.
	maxTracks = 32
	// maxWants is how many tracks one peer may be subscribed to.
	maxWants = 128
	// lookEvery is how often a peer looks at its clocks.
	lookEvery = time.Second
)

// want is a track that the peer is subscribed to.
type want struct {
	up     *up
	down   *down // nil until the SFU has offered it
	paused bool  // by the client
	held   bool  // by the client's last-n

	priority int // the client's
	width    int // the most pixels across that the client shows; 0: any
	fps      int // the most frames a second; 0: any
}

// peer is one participant: its PeerConnection, its socket while it has one, what it sends and
// what it is sent. Its loop alone touches the fields below inbox.
type peer struct {
	id     orama.PeerID
	user   orama.UserID
	ticket signal.Permissions // what it came with
	room   *room
	srv    *Server
	log    *slog.Logger
	done   chan struct{} // closed when the loop and all its goroutines have ended
	inbox  *mailbox

	// The room's loop alone touches these.
	name     string
	metadata json.RawMessage

	movingFrom orama.PeerID // what its join said
	granted    signal.Permissions
	changes    allowance

	rights     signal.Permissions
	sock       *socket // nil while lost
	hung       bool    // sock was told to close
	transports []string
	born       time.Time
	life       lifeline
	at         string // the client's end of the path in use
	refreshAt  time.Time
	auto       bool
	stopped    bool
	leaving    bool // the room was asked to remove us

	api       *webrtc.API
	pc        *webrtc.PeerConnection
	out       *egress
	taps      *taps // nil without pc
	allot     *allot.Allocator
	ceiling   ceiling
	wanted    []signal.WantedTrack // as the client was told; nil: never
	bandwidth signal.Bandwidth     // as the client was told
	limited   bool                 // less is sent than is wanted, because the path takes no more
	neg       negotiation
	wants     []*want // in the order of their publication
	tracks    map[orama.TrackID]*published
	ups       map[orama.TrackID]*up
	reading   map[*webrtc.TrackRemote]string // by what is read now: the section, "" where it does not matter
	downs     []*down
	refs      map[string]signal.TrackRef // by mid: what the client says it sends there
	barred    map[*webrtc.TrackRemote]*barred
	taken     map[*up]bool // whose reader was woken because the peer may not publish any more

	opened   int                              // data channels of the client's that are open
	channels map[*webrtc.DataChannel]*channel // those of them that are forwarded
	copies   map[*dataCopy]struct{}           // of others' channels
	numbers  channelNumbers                   // of copies that have ended

	lastN    *int            // videos the client wants at once; nil: all
	held     []orama.TrackID // as the client was told
	measured time.Time
	meter    meter

	sends   dataAllowance // of its data channels
	behind  atomic.Int64  // bytes of data that wait for it, as its loop saw them last
	readers sync.WaitGroup
}

func rightsOf(t auth.Ticket) signal.Permissions {
	return signal.Permissions{Publish: t.Publish, Subscribe: t.Subscribe, Data: t.Data, Admin: t.Admin}
}

func newPeer(r *room, q joinRequest, rights signal.Permissions) *peer {
	id := orama.PeerID(newID("p_"))
	p := &peer{
		id: id, user: q.ticket.User, name: q.join.Name, metadata: q.join.Metadata, movingFrom: q.join.MovingFrom, ticket: rightsOf(q.ticket), rights: rights, granted: rights,
		room: r, srv: r.srv, log: r.log.With("peer", id), done: make(chan struct{}), inbox: newMailbox(),
		auto: q.join.AutoSubscribe == nil || *q.join.AutoSubscribe, born: time.Now(),
		tracks: map[orama.TrackID]*published{}, ups: map[orama.TrackID]*up{}, reading: map[*webrtc.TrackRemote]string{}, refs: map[string]signal.TrackRef{},
		barred: map[*webrtc.TrackRemote]*barred{}, taken: map[*up]bool{}, channels: map[*webrtc.DataChannel]*channel{}, copies: map[*dataCopy]struct{}{},
		sends: newDataAllowance(), allot: allot.New(),
	}
	p.out = newEgress(r.srv.metrics, func() { p.post(func() { p.shareOut(time.Now()) }) })
	return p
}

func (p *peer) post(f func()) bool { return p.inbox.post(f) }

// run is the peer's loop. It returns when everything of the peer has ended.
func (p *peer) run(q joinRequest, m *signal.Joined, tracks []*published, copies []*dataCopy) {
	defer close(p.done)
	defer p.cleanUp()
	p.start(q, m, tracks, copies)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !p.stopped {
		select {
		case <-p.inbox.wake:
			for _, f := range p.inbox.take() {
				f()
			}
		case now := <-tick.C:
			p.look(now)
		case <-p.neg.waited():
			p.neg.stopWaiting()
			p.negotiate()
		}
	}
}

func (p *peer) start(q joinRequest, m *signal.Joined, tracks []*published, copies []*dataCopy) {
	p.sock, p.transports = q.sock, q.ticket.Transports
	p.send(m)
	p.sendCredentials(false)
	for _, t := range tracks {
		p.track(t)
	}
	if err := p.connect(); err != nil {
		p.log.Error("no PeerConnection", "err", err)
		p.hangUp(signal.CloseInternal, "the server failed")
		p.leave("lost")
		return
	}
	for _, c := range copies {
		p.addCopy(c)
	}
	if q.offerNow {
		p.negotiate()
	} else {
		p.neg.wait(signal.OfferAfter)
	}
}

// connect makes the PeerConnection. Its callbacks only post.
func (p *peer) connect() error {
	engine, heard := p.srv.engine.Load(), &srtp.Handshake{}
	p.taps = &taps{out: p.out, flood: func() { p.post(p.flooded) }, arrivals: arrivals{send: p.writeReports}}
	p.out.secure.to, p.out.secure.heard = engine.mux.route(p.taps), heard
	api, err := engine.api(p.taps, p.out.secure.to, heard)
	if err != nil {
		return err
	}
	p.api = api
	pc, err := api.NewPeerConnection(webrtc.Configuration{
		Certificates: p.srv.certificates, BundlePolicy: webrtc.BundlePolicyMaxBundle,
		AlwaysNegotiateDataChannels: p.rights.Data, // one data section, and no channel in it
	})
	if err != nil {
		return err
	}
	p.pc = pc
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) { p.post(func() { p.mediaState(s) }) })
	pc.OnTrack(func(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) { p.post(func() { p.trackArrived(t, r) }) })
	pc.SCTP().Transport().OnStateChange(func(s webrtc.DTLSTransportState) {
		if s == webrtc.DTLSTransportStateConnected {
			p.out.begin()
		}
	})
	pc.SCTP().Transport().ICETransport().OnSelectedCandidatePairChange(func(pair *webrtc.ICECandidatePair) {
		at := net.JoinHostPort(pair.Remote.Address, strconv.Itoa(int(pair.Remote.Port)))
		p.post(func() { p.selected(at) })
	})
	pc.OnDataChannel(p.channelArrived)
	return nil
}

// send queues m at the socket, if there is one.
func (p *peer) send(m signal.Message) {
	if p.sock != nil {
		p.sock.send(m)
	}
}

// tell posts messages that are to follow.
func (p *peer) tell(messages []signal.Message) {
	if len(messages) == 0 {
		return
	}
	p.post(func() {
		for _, m := range messages {
			p.send(m)
		}
	})
}

func (p *peer) sendFrame(b []byte) {
	if p.sock != nil {
		p.sock.sendFrame(b)
	}
}

func (p *peer) refuse(code, message string) {
	retryable := code == signal.CodeGlare || code == signal.CodeLimited || code == signal.CodeInternal || code == signal.CodeNotJoined
	p.send(&signal.Error{Code: code, Message: message, Retryable: retryable})
}

// attach gives the peer a new socket.
func (p *peer) attach(q joinRequest, m *signal.Joined) {
	if p.sock != nil {
		p.sock.close(signal.CloseResumed, "another socket resumed this peer")
	}
	p.sock, p.hung, p.transports = q.sock, false, q.ticket.Transports
	p.life.socketLost, p.bandwidth = time.Time{}, signal.Bandwidth{}
	p.send(m)
	p.sendCredentials(false)
	if len(p.held) > 0 {
		p.send(&signal.Held{TrackIDs: p.held})
	}
	p.repeatWanted()
	p.neg.stopWaiting()
	if p.neg.outstanding != nil {
		p.send(p.neg.outstanding)
		return
	}
	p.negotiate()
}

// socketGone notes that a socket has ended; it may be one that was replaced long ago.
func (p *peer) socketGone(s *socket, how parting) {
	if p.sock != s {
		return
	}
	p.sock = nil
	switch how {
	case partLeft:
		p.leave("left")
	case partOver:
		p.leave("lost")
	case partLost:
		p.life.socketLost = time.Now()
		if p.life.over(time.Now()) {
			p.leave("lost")
		}
	}
}

// hangUp closes the socket.
func (p *peer) hangUp(code int, reason string) {
	if p.sock != nil {
		p.sock.close(code, reason)
	}
}

// leave asks the room to remove this peer.
func (p *peer) leave(reason string) {
	if p.leaving {
		return
	}
	p.leaving = true
	p.room.inbox.post(func() { p.room.leave(p, reason) })
}

// stop ends the loop; the room has removed the peer.
func (p *peer) stop() { p.stopped = true }

// cleanUp ends everything that the peer owns, and waits for it.
func (p *peer) cleanUp() {
	p.inbox.close()
	p.out.close()
	if p.taps != nil {
		p.taps.arrivals.close()
	}
	if p.out.secure.to != nil {
		defer p.out.secure.to.end()
	}
	p.neg.stopWaiting()
	if p.neg.remade != nil {
		p.neg.remade.Stop()
	}
	if p.sock != nil {
		p.sock.close(signal.CloseGone, "the peer is gone") // unless it was told already
	}
	for _, u := range p.ups {
		u.end()
	}
	for _, w := range p.wants {
		w.forget()
		if w.down != nil {
			w.up.detach(w.down)
		}
	}
	defer p.letGo()
	if p.pc == nil {
		return
	}
	for _, d := range p.downs {
		d.sender.Stop() //nolint:errcheck // ending
	}
	if err := p.pc.GracefulClose(); err != nil {
		p.log.Debug("closing the PeerConnection", "err", err)
	}
	p.wake("")
	p.readers.Wait()
}

// letGo gives up what others have published: whoever still knows this peer, such as a timer, is not to hold them as well.
func (p *peer) letGo() {
	for _, d := range p.downs {
		d.release()
	}
	for c := range p.copies { // their channels stay with who has opened them
		c.close()
		c.of.remove(c)
	}
	p.downs, p.wants, p.tracks, p.copies = nil, nil, nil, nil
}

// look is what a peer does every second.
func (p *peer) look(now time.Time) {
	if p.life.over(now) {
		p.hangUp(signal.CloseGone, "no media came for too long")
		p.leave("lost")
		return
	}
	p.sendReports(now)
	p.tellReceived(now)
	p.shareOut(now)
	p.lower(now)
	p.tellWanted(now)
	p.measure(now)
	if p.pc != nil {
		p.behind.Store(int64(p.pc.SCTP().BufferedAmount()))
	}
	if !p.refreshAt.IsZero() && !now.Before(p.refreshAt) {
		p.sendCredentials(true)
	}
}

// flooded ends a peer that names sources without end.
func (p *peer) flooded() {
	p.hangUp(signal.CloseMalformed, "too many media sources")
	p.leave("lost")
}

// mediaState follows the connection. ICE-lite calls it disconnected after silentAfter without a
// packet, and failed restartWithin later.
func (p *peer) mediaState(s webrtc.PeerConnectionState) {
	now := time.Now()
	switch s {
	case webrtc.PeerConnectionStateConnected:
		if !p.life.connected {
			p.srv.metrics.connected.Observe(now.Sub(p.born).Seconds())
		}
		p.life.mediaFlows()
		p.pathChanged()
	case webrtc.PeerConnectionStateDisconnected:
		p.life.mediaSilent(now)
	case webrtc.PeerConnectionStateFailed:
		p.life.connected = true
		p.life.mediaSilent(now)
	case webrtc.PeerConnectionStateClosed: // the client closed it: nothing can be negotiated any more
		p.life.connected, p.life.ended = true, true
		p.life.mediaSilent(now)
		if p.life.over(now) {
			p.leave("left")
		}
	}
}

// selected is told of the pair in use, by the client's end of it, whenever one is chosen: with every check of the client's the same one again (path.follow).
func (p *peer) selected(at string) {
	if p.at == at {
		return
	}
	p.at = at
	p.pathChanged()
}

// pathChanged asks for whole pictures both ways, also where a client has restarted ICE. What went
// with the old path, a relay that died, is too much to send again, and a decoder left to itself may
// wait seconds for its next keyframe.
func (p *peer) pathChanged() {
	if !p.life.connected {
		return // the first path: nothing flows before DTLS is done, and mediaState will call again
	}
	p.out.moved(time.Now())
	p.refreshPictures()
	for _, u := range p.ups {
		u.askKeyframe()
	}
}

// refreshPictures asks for a keyframe of every video track that the peer receives.
func (p *peer) refreshPictures() {
	for _, w := range p.wants {
		if w.down != nil && !w.paused && w.down.state == slotActive {
			w.down.askKeyframe()
		}
	}
}

// sendCredentials tells the peer what to reach a relay with, and plans the next time.
func (p *peer) sendCredentials(refresh bool) {
	c, ttl := p.srv.credentials(p.transports)
	p.refreshAt = time.Now().Add(ttl * 4 / 5)
	if refresh {
		p.send(&signal.RefreshCredentials{Credentials: c})
		return
	}
	p.send(&signal.TURNCredentials{Credentials: c})
}

// message handles one frame.
func (p *peer) message(m signal.Message) {
	switch m := m.(type) {
	case *signal.Offer:
		p.offered(m)
	case *signal.Answer:
		p.answered(m)
	case *signal.Negotiate:
		p.asked(m)
	case *signal.ICECandidate:
		p.candidate(m)
	case *signal.Subscribe:
		p.subscribe(m.TrackID)
	case *signal.Unsubscribe:
		p.unsubscribe(m.TrackID)
	case *signal.Prefer:
		p.prefer(m)
	case *signal.LastN:
		p.lastN = m.Videos
		p.choose()
	case *signal.Mute, *signal.SetPeer, *signal.Kick, *signal.Permit, *signal.SetRoom:
		p.ask(m)
	case *signal.Leave:
		p.hangUp(signal.CloseLeft, "left")
		p.leave("left")
	case *signal.Join:
		p.refuse(signal.CodeInvalid, "join: the peer has joined already")
	case *signal.Ping: // here, so that the answer says that what came before it is done
		p.send(&signal.Pong{T: m.T})
	case *signal.Pong:
	default:
		p.refuse(signal.CodeUnknownType, "clients do not send "+string(m.Type()))
	}
}
