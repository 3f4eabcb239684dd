package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/interceptor"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

// stockBuffer is asked for as the media socket's buffers, in bytes: what our SFU has.
const stockBuffer = 4 << 20

// stock is the SFU of pion's examples: TrackLocalStaticRTP, the default interceptors, no checks. It speaks just
// enough of the protocol for the same clients.
type stock struct {
	spec  plan.SFUSpec
	api   *webrtc.API
	certs []webrtc.Certificate

	mu    sync.Mutex
	rooms map[orama.RoomID]*stockRoom // guarded by mu
}

// stockRoom is guarded by the stock's mu.
type stockRoom struct {
	peers  map[*stockPeer]bool
	tracks map[*stockTrack]bool
}

type stockTrack struct {
	*webrtc.TrackLocalStaticRTP
	keyframe func()
}

func silent() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
}

func newCertificate() (*webrtc.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return webrtc.GenerateCertificate(key)
}

// stockSFU serves until ctx ends.
func stockSFU(ctx context.Context, spec plan.SFUSpec) error {
	sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(spec.MeshIP, spec.MediaPort)))
	if err != nil {
		return err
	}
	if err := errors.Join(sock.SetReadBuffer(stockBuffer), sock.SetWriteBuffer(stockBuffer)); err != nil {
		return err
	}
	m := &webrtc.MediaEngine{}
	registry := &interceptor.Registry{}
	if err := errors.Join(m.RegisterDefaultCodecs(), webrtc.RegisterDefaultInterceptors(m, registry)); err != nil {
		return err
	}
	set := webrtc.SettingEngine{LoggerFactory: silent()}
	set.SetLite(true)
	set.SetIncludeLoopbackCandidate(true)
	set.SetICETimeouts(time.Minute, time.Minute, 2*time.Second) // a saturated generator is no dead one
	set.SetICEUDPMux(webrtc.NewICEUDPMux(silent().NewLogger("mux"), sock))
	cert, err := newCertificate()
	if err != nil {
		return err
	}
	s := &stock{spec: spec, certs: []webrtc.Certificate{*cert}, rooms: map[orama.RoomID]*stockRoom{},
		api: webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(registry), webrtc.WithSettingEngine(set))}
	l, err := net.Listen("tcp4", netip.AddrPortFrom(spec.MeshIP, spec.SignalPort).String())
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { srv.Close(); sock.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP has one peer.
func (s *stock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow() //nolint:errcheck // a bench's
	ws.SetReadLimit(4 << 20)
	pc, err := s.api.NewPeerConnection(webrtc.Configuration{BundlePolicy: webrtc.BundlePolicyMaxBundle, AlwaysNegotiateDataChannels: true, Certificates: s.certs})
	if err != nil {
		return
	}
	defer pc.Close()
	p := &stockPeer{stock: s, ws: ws, pc: pc, todo: make(chan struct{}, 1), answered: make(chan struct{}, 1)}
	pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { p.forward(t) })
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.talk(ctx)
	p.leave()
}

type stockPeer struct {
	*stock
	ws       *websocket.Conn
	pc       *webrtc.PeerConnection
	todo     chan struct{} // there are tracks pending
	answered chan struct{}
	room     *stockRoom    // nil until it joins
	pending  []*stockTrack // guarded by the stock's mu; not offered yet
}

func (p *stockPeer) talk(ctx context.Context) {
	for {
		_, frame, err := p.ws.Read(ctx)
		if err != nil {
			return
		}
		m, err := signal.Decode(frame)
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *signal.Join:
			err = p.welcome(ctx, m.Room)
		case *signal.Negotiate: // the first offer has a section of each kind
			p.wake()
		case *signal.Answer:
			err = p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.SDP})
			select {
			case p.answered <- struct{}{}:
			default:
			}
		case *signal.Leave:
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *stockPeer) welcome(ctx context.Context, name orama.RoomID) error {
	username, credential := auth.MintTURN(p.spec.Secret, p.spec.Namespace, time.Now().Add(p.spec.CredentialTTL))
	c := signal.Credentials{Username: username, Credential: credential, TTL: int(p.spec.CredentialTTL.Seconds())}
	for _, s := range p.spec.Servers {
		c.URLs = append(c.URLs, s.URL)
	}
	joined := &signal.Joined{Room: name, PeerID: orama.PeerID("p_" + strconv.FormatInt(time.Now().UnixNano(), 36)), Resume: "r",
		Permissions: signal.Permissions{Publish: true, Subscribe: true, Data: true}}
	if err := errors.Join(p.send(ctx, joined), p.send(ctx, &signal.TURNCredentials{Credentials: c})); err != nil {
		return err
	}
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		if _, err := p.pc.AddTransceiverFromKind(kind, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}); err != nil {
			return err
		}
	}
	p.mu.Lock()
	if p.rooms[name] == nil {
		p.rooms[name] = &stockRoom{peers: map[*stockPeer]bool{}, tracks: map[*stockTrack]bool{}}
	}
	p.room = p.rooms[name]
	p.room.peers[p] = true
	for t := range p.room.tracks {
		p.pending = append(p.pending, t)
	}
	p.mu.Unlock()
	p.wake()
	go p.negotiate(ctx)
	return nil
}

func (p *stockPeer) wake() {
	select {
	case p.todo <- struct{}{}:
	default:
	}
}

// negotiate offers whatever is new, once the last offer was answered.
func (p *stockPeer) negotiate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.todo:
		}
		if p.offer(ctx) != nil {
			p.ws.CloseNow() //nolint:errcheck // a bench's
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-p.answered:
		}
	}
}

func (p *stockPeer) offer(ctx context.Context) error {
	p.mu.Lock()
	pending := p.pending
	p.pending = nil
	p.mu.Unlock()
	for _, t := range pending {
		tr, err := p.pc.AddTransceiverFromTrack(t, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		if err != nil {
			return err
		}
		go readKeyframes(tr.Sender(), t.keyframe)
	}
	o, err := p.pc.CreateOffer(nil)
	if err != nil {
		return err
	}
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(o); err != nil {
		return err
	}
	<-gathered
	return p.send(ctx, &signal.Offer{SDP: p.pc.LocalDescription().SDP})
}

// readKeyframes passes keyframe requests on.
func readKeyframes(s *webrtc.RTPSender, keyframe func()) {
	for {
		packets, _, err := s.ReadRTCP()
		if err != nil {
			return
		}
		for _, p := range packets {
			if _, ok := p.(*rtcp.PictureLossIndication); ok {
				keyframe()
			}
		}
	}
}

// forward is the fan-out: one read, one write that pion multiplies.
func (p *stockPeer) forward(remote *webrtc.TrackRemote) {
	local, err := webrtc.NewTrackLocalStaticRTP(remote.Codec().RTPCodecCapability, remote.ID(), "publisher")
	if err != nil {
		return
	}
	t := &stockTrack{local, func() {
		p.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(remote.SSRC())}}) //nolint:errcheck // a bench's
	}}
	p.publish(t)
	for {
		packet, _, err := remote.ReadRTP()
		if err != nil {
			return
		}
		if err := local.WriteRTP(packet); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return
		}
	}
}

func (p *stockPeer) publish(t *stockTrack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room.tracks[t] = true
	for other := range p.room.peers {
		if other != p {
			other.pending = append(other.pending, t)
			other.wake()
		}
	}
}

func (p *stockPeer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room != nil {
		delete(p.room.peers, p)
	}
}

func (p *stockPeer) send(ctx context.Context, m signal.Message) error {
	frame, err := signal.Encode(m)
	if err != nil {
		return err
	}
	return p.ws.Write(ctx, websocket.MessageText, frame)
}
