package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/nack"
	"github.com/pion/interceptor/pkg/report"
	"github.com/pion/interceptor/pkg/twcc"
	"github.com/pion/sdp/v3"
	"github.com/pion/transport/v5/stdnet"
	"github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

const joinWithin = 20 * time.Second

// mostNACKs is how often one packet is asked for again: what browsers do (libwebrtc's kMaxNackRetries). pion alone would
// go on for as long as it remembers, and what it asks for keeps a server busy that has been overloaded.
const mostNACKs = 10

// part is what a person does in a room.
type part int

const (
	partListens part = iota
	partSilent       // sends the audio of silence
	partSpeaks       // sends audio and video
)

// person is one in a room, with a PeerConnection of its own.
type person struct {
	room  *room
	part  part
	probe bool // its media goes through pion, for the latency
	want  int  // streams

	ctx             context.Context //nolint:containedctx // a person lives until it leaves
	leave           context.CancelFunc
	wg              sync.WaitGroup // what ends with pc
	spoke           chan struct{}  // closed when listen has ended; nil before it has begun
	ws              *websocket.Conn
	line, upLine    *line                  // upLine is nil but of who has a connection of its own for what it sends
	pc              *webrtc.PeerConnection // what it receives, from the credentials on
	up              *webrtc.PeerConnection // what it sends: pc, but with LiveKit
	answer          *rate.Limiter          // frames a second, below the protocol's limit
	joined          chan struct{}          // closed by the first answer
	failed, refused atomic.Pointer[error]
	voice           *voice // nil of who listens

	mu       sync.Mutex
	chain    interceptor.Interceptor // what a pion client has for what it receives
	streams  map[uint32]*stream      // guarded by mu; by SSRC
	recorder *twcc.Recorder          // guarded by mu
	recorded int                     // guarded by mu; packets since the last feedback
}

// stream is one SSRC that a person receives.
type stream struct {
	ssrc      uint32
	media     bool  // no retransmission
	seen      bool  // guarded by the person's mu
	transport uint8 // id of the transport-wide sequence number's extension, 0 without one
	reader    interceptor.RTPReader
	arrivals  *arrivals // nil unless of a probe
}

// receiving makes what pion's clients have by default: NACK, receiver reports; transport-wide feedback is in feedBack.
func receiving() (*interceptor.Registry, error) {
	again, err := nack.NewGeneratorInterceptor(nack.GeneratorMaxNacksPerPacket(mostNACKs))
	if err != nil {
		return nil, err
	}
	reports, err := report.NewReceiverInterceptor()
	r := &interceptor.Registry{}
	r.Add(again)
	r.Add(reports)
	return r, err
}

// sending is the same for what a client sends.
func sending(m *webrtc.MediaEngine) (*interceptor.Registry, error) {
	r := &interceptor.Registry{}
	again, err := nack.NewResponderInterceptor()
	if err != nil {
		return nil, err
	}
	reports, err := report.NewSenderInterceptor()
	if err != nil {
		return nil, err
	}
	r.Add(again)
	r.Add(reports)
	return r, webrtc.ConfigureTWCCHeaderExtensionSender(m, r)
}

// join has a person join a room. Its media may come later: see room.ready.
func (r *room) join(ctx context.Context, name string, index int, is part, probe bool) (p *person, err error) {
	p = &person{room: r, part: is, probe: probe, answer: rate.NewLimiter(8, 30), joined: make(chan struct{}),
		streams: map[uint32]*stream{}, recorder: twcc.NewRecorder(rand.Uint32())}
	p.ctx, p.leave = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.line, err = r.load.hub.open(index, p.heard); err != nil {
		return p, err
	}
	dial, listen := p.dial, p.listen
	if r.of.sfu == kindLiveKit {
		k := &liveKit{person: p}
		dial, listen = k.dial, k.listen
	}
	if err := dial(ctx, name); err != nil {
		return p, err
	}
	p.spoke = make(chan struct{})
	go func() {
		defer close(p.spoke)
		if err := listen(); p.ctx.Err() == nil {
			p.failed.Store(&err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	select {
	case <-p.joined:
		return p, nil
	case <-ctx.Done():
		return p, fmt.Errorf("%s got no offer in %s: %w", name, joinWithin, errors.Join(ctx.Err(), p.failure()))
	}
}

// dial opens the socket, and asks to join.
func (p *person) dial(ctx context.Context, name string) (err error) {
	token := string(namespace) + "/" + name
	if p.part == partListens {
		token += "+listen"
	}
	url := fmt.Sprintf("ws://%s/v1/webrtc/signal?room=%s", gatewayAt, neturl.QueryEscape(p.room.name))
	p.ws, _, err = websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		return err
	}
	p.ws.SetReadLimit(4 << 20)
	return p.send(&signal.Join{Room: orama.RoomID(p.room.name), Name: name, AwaitOffer: true})
}

// failure is why a person is not what it should be, so far as it was told.
func (p *person) failure() error {
	if err := p.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// state says how a person is.
func (p *person) state() string {
	text := fmt.Sprintf("has %d of %d streams", p.has(), p.want)
	if p.pc != nil {
		text += ", is " + p.pc.ConnectionState().String()
	}
	if err := p.refused.Load(); err != nil {
		text += ", was " + (*err).Error()
	}
	return text
}

func (p *person) send(m signal.Message) error {
	frame, err := signal.Encode(m)
	if err != nil {
		return err
	}
	if err := p.answer.Wait(p.ctx); err != nil {
		return err
	}
	return p.ws.Write(p.ctx, websocket.MessageText, frame)
}

// listen has the conversation until the socket ends, and says why it did.
func (p *person) listen() error {
	for {
		_, frame, err := p.ws.Read(p.ctx)
		if err != nil {
			return err
		}
		m, err := signal.Decode(frame)
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *signal.TURNCredentials:
			err = p.connect(m.Credentials)
		case *signal.Offer:
			err = p.take(m)
		case *signal.Ping:
			err = p.send(&signal.Pong{T: m.T})
		case *signal.Error: // what comes of it, if anything, is seen
			err := fmt.Errorf("refused: %s %s", m.Code, m.Message)
			p.refused.Store(&err)
		}
		if err != nil {
			return err
		}
	}
}

// network gives pion the person's line for every socket that it would open.
type network struct {
	*stdnet.Net
	line *line
}

// ListenPacket is where pion speaks to relays from.
func (n *network) ListenPacket(string, string) (net.PacketConn, error) { return n.line, nil }

// connect makes the PeerConnection that the first offer will start.
func (p *person) connect(c signal.Credentials) (err error) {
	if p.pc != nil {
		return nil
	}
	if p.pc, err = p.newConnection(p.line, c); err != nil {
		return err
	}
	p.up = p.pc
	return p.receive()
}

// receive has what comes to pc heard.
func (p *person) receive() error {
	in, err := receiving()
	if err != nil {
		return err
	}
	if p.chain, err = in.Build(""); err != nil {
		return err
	}
	p.chain.BindRTCPWriter(interceptor.RTCPWriterFunc(p.report))
	if p.probe {
		p.pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { p.wg.Go(func() { p.readLatency(t) }) })
	}
	return nil
}

// newConnection makes a PeerConnection on a line, through the credentials' relay if the contender has one.
func (p *person) newConnection(at *line, c signal.Credentials) (*webrtc.PeerConnection, error) {
	m := &webrtc.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	level := webrtc.RTPHeaderExtensionCapability{URI: sdp.AudioLevelURI}
	err := m.RegisterHeaderExtension(level, webrtc.RTPCodecTypeAudio)
	out, err2 := sending(m)
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	s := webrtc.SettingEngine{LoggerFactory: silent()}
	s.SetIncludeLoopbackCandidate(true)
	s.DisableActiveTCP(true)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	s.SetRelayAcceptanceMinWait(0)
	s.SetICETimeouts(time.Minute, 2*time.Minute, 2*time.Second)           // a saturated server is no dead one
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleClient); err != nil { // as browsers do
		return nil, err
	}
	conf := webrtc.Configuration{BundlePolicy: webrtc.BundlePolicyMaxBundle, Certificates: p.room.load.certificates}
	if p.room.of.turn == "" {
		s.SetICEUDPMux(webrtc.NewICEUDPMux(silent().NewLogger("mux"), at))
	} else {
		s.SetNet(&network{p.room.load.net, at})
		conf.ICETransportPolicy = webrtc.ICETransportPolicyRelay
		conf.ICEServers = []webrtc.ICEServer{{URLs: c.URLs, Username: c.Username, Credential: c.Credential}}
	}
	api := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(out), webrtc.WithSettingEngine(s))
	return api.NewPeerConnection(conf)
}

// take answers an offer.
func (p *person) take(o *signal.Offer) error {
	if p.pc == nil {
		return errors.New("an offer came before credentials")
	}
	first := p.voice == nil && p.part != partListens
	text, err := p.answerTo(o.SDP, first)
	if err != nil {
		return err
	}
	if err := p.send(&signal.Answer{SDP: text}); err != nil {
		return err
	}
	p.arrive()
	if first {
		p.wg.Go(p.voice.speak)
	}
	return nil
}

// arrive tells join that this person is there.
func (p *person) arrive() {
	select {
	case <-p.joined:
	default:
		close(p.joined)
	}
}

// answerTo applies an offer and the answer to it, with what this person sends if it speaks.
func (p *person) answerTo(text string, speaks bool) (answer string, err error) {
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: text}); err != nil {
		return "", err
	}
	var offer sdp.SessionDescription
	if err := offer.UnmarshalString(text); err != nil {
		return "", err
	}
	p.expect(&offer)
	if speaks {
		if p.voice, err = newVoice(p); err != nil {
			return "", err
		}
	}
	a, err := p.pc.CreateAnswer(nil)
	if err != nil {
		return "", err
	}
	if err := p.pc.SetLocalDescription(a); err != nil {
		return "", err
	}
	return p.closeUnused(a.SDP)
}

// closeUnused marks the sections that this side could send on and does not. pion answers them with sendonly, which
// would announce a track.
func (p *person) closeUnused(answer string) (string, error) {
	used := map[string]bool{}
	for _, t := range p.pc.GetTransceivers() {
		used[t.Mid()] = t.Sender() != nil && t.Sender().Track() != nil
	}
	var d sdp.SessionDescription
	if err := d.UnmarshalString(answer); err != nil {
		return "", err
	}
	for _, m := range d.MediaDescriptions {
		mid, _ := m.Attribute("mid")
		for i, a := range m.Attributes {
			switch {
			case used[mid]:
			case a.Key == "sendonly":
				m.Attributes[i].Key = "inactive"
			case a.Key == "sendrecv":
				m.Attributes[i].Key = "recvonly"
			}
		}
	}
	text, err := d.Marshal()
	return string(text), err
}

// expect learns the streams of an offer.
func (p *person) expect(offer *sdp.SessionDescription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range offer.MediaDescriptions {
		_, receives := m.Attribute("recvonly")
		_, idle := m.Attribute("inactive")
		if m.MediaName.Media == "application" || receives || idle {
			continue
		}
		var transport uint8
		again := map[uint32]bool{}
		for _, a := range m.Attributes {
			var id uint8
			var first, second uint32
			if n, _ := fmt.Sscanf(a.Value, "%d "+sdp.TransportCCURI, &id); a.Key == "extmap" && n == 1 && strings.HasSuffix(a.Value, sdp.TransportCCURI) { //nolint:errcheck // counted
				transport = id
			}
			if n, _ := fmt.Sscanf(a.Value, "FID %d %d", &first, &second); a.Key == "ssrc-group" && n == 2 { //nolint:errcheck // counted
				again[second] = true
			}
		}
		for _, a := range m.Attributes {
			var ssrc uint32
			if n, _ := fmt.Sscanf(a.Value, "%d ", &ssrc); a.Key == "ssrc" && n == 1 && p.streams[ssrc] == nil { //nolint:errcheck // counted
				p.streams[ssrc] = p.newStream(ssrc, m.MediaName.Media == "video", !again[ssrc], transport)
			}
		}
	}
}

func (p *person) newStream(ssrc uint32, video, media bool, transport uint8) *stream {
	s := &stream{ssrc: ssrc, media: media, transport: transport}
	if p.probe && media {
		s.arrivals = &arrivals{}
	}
	info := &interceptor.StreamInfo{SSRC: ssrc, ClockRate: 48000}
	if video {
		info.ClockRate, info.RTCPFeedback = 90000, []interceptor.RTCPFeedback{{Type: "nack"}}
	}
	same := interceptor.RTPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) { return len(b), a, nil })
	if s.reader = same; media {
		s.reader = p.chain.BindRemoteStream(info, same)
	}
	return s
}

// report sends what the chain or feedBack has to say. While nothing is sent to its room, nobody has.
func (p *person) report(packets []rtcpPacket, _ interceptor.Attributes) (int, error) {
	if p.room.scale() == 0 {
		return 0, nil
	}
	return len(packets), p.pc.WriteRTCP(packets)
}

func (p *person) close() {
	p.leave()
	if p.ws != nil {
		p.ws.CloseNow() //nolint:errcheck // it leaves
	}
	if p.spoke != nil {
		<-p.spoke
	}
	for _, pc := range []*webrtc.PeerConnection{p.pc, p.up} {
		if pc != nil {
			pc.Close() //nolint:errcheck // it leaves; a second time is as good as one
		}
	}
	p.wg.Wait()
	if p.chain != nil {
		p.chain.Close() //nolint:errcheck // it leaves
	}
	for _, l := range []*line{p.line, p.upLine} {
		if l != nil {
			l.Close() //nolint:errcheck // never fails
		}
	}
}
