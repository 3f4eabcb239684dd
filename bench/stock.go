package main

import (
	"context"
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
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

// stock is the SFU of pion's examples: TrackLocalStaticRTP, the default interceptors, one room, no
// checks. It speaks just enough of the protocol for the same clients: who joins later sees
// the tracks that are there.
type stock struct {
	spec plan.SFUSpec
	api  *webrtc.API

	mu     sync.Mutex
	tracks map[*webrtc.TrackLocalStaticRTP]func() // guarded by mu; the function asks for a keyframe
}

func stockSFU(spec plan.SFUSpec) (stop func() error, err error) {
	sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(spec.MeshIP, spec.MediaPort)))
	if err != nil {
		return nil, err
	}
	m := &webrtc.MediaEngine{}
	registry := &interceptor.Registry{}
	if err := errors.Join(m.RegisterDefaultCodecs(), webrtc.RegisterDefaultInterceptors(m, registry)); err != nil {
		return nil, err
	}
	set := webrtc.SettingEngine{LoggerFactory: silent()}
	set.SetLite(true)
	set.SetIncludeLoopbackCandidate(true)
	set.SetICEUDPMux(webrtc.NewICEUDPMux(silent().NewLogger("mux"), sock))
	s := &stock{spec: spec, tracks: map[*webrtc.TrackLocalStaticRTP]func(){},
		api: webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(registry), webrtc.WithSettingEngine(set))}
	l, err := net.Listen("tcp4", netip.AddrPortFrom(spec.MeshIP, spec.SignalPort).String())
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends by Close, and the process after it
	return func() error { return errors.Join(srv.Close(), sock.Close()) }, nil
}

func (s *stock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow() //nolint:errcheck // a bench's
	ws.SetReadLimit(signal.MaxFrame)
	pc, err := s.api.NewPeerConnection(webrtc.Configuration{BundlePolicy: webrtc.BundlePolicyMaxBundle, AlwaysNegotiateDataChannels: true})
	if err != nil {
		return
	}
	defer pc.Close()
	p := &stockPeer{stock: s, ws: ws, pc: pc}
	pc.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { p.forward(t) })
	p.talk(r.Context())
}

type stockPeer struct {
	*stock
	ws *websocket.Conn
	pc *webrtc.PeerConnection
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
			err = p.welcome(ctx)
		case *signal.Negotiate:
			err = p.offer(ctx, m.Audio, m.Video)
		case *signal.Answer:
			err = p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.SDP})
		case *signal.Leave:
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *stockPeer) welcome(ctx context.Context) error {
	username, credential := auth.MintTURN(p.spec.Secret, p.spec.Namespace, time.Now().Add(p.spec.CredentialTTL))
	c := signal.Credentials{Username: username, Credential: credential, TTL: int(p.spec.CredentialTTL.Seconds())}
	for _, s := range p.spec.Servers {
		c.URLs = append(c.URLs, s.URL)
	}
	joined := &signal.Joined{PeerID: orama.PeerID("p_" + strconv.FormatInt(time.Now().UnixNano(), 36)), Resume: "r",
		Permissions: signal.Permissions{Publish: true, Subscribe: true, Data: true}}
	if err := errors.Join(p.send(ctx, joined), p.send(ctx, &signal.TURNCredentials{Credentials: c})); err != nil {
		return err
	}
	p.mu.Lock()
	for t, keyframe := range p.tracks {
		sender, err := p.pc.AddTrack(t)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		go readFeedback(sender, keyframe)
	}
	p.mu.Unlock()
	return p.offer(ctx, 1, 1)
}

// readFeedback passes keyframe requests on.
func readFeedback(s *webrtc.RTPSender, keyframe func()) {
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

func (p *stockPeer) offer(ctx context.Context, audio, video int) error {
	recv := webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly}
	for i := range audio + video {
		kind := webrtc.RTPCodecTypeAudio
		if i >= audio {
			kind = webrtc.RTPCodecTypeVideo
		}
		if _, err := p.pc.AddTransceiverFromKind(kind, recv); err != nil {
			return err
		}
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

// forward is the fan-out: one read, one write that pion multiplies.
func (p *stockPeer) forward(t *webrtc.TrackRemote) {
	local, err := webrtc.NewTrackLocalStaticRTP(t.Codec().RTPCodecCapability, t.ID(), "publisher")
	if err != nil {
		return
	}
	p.mu.Lock()
	p.tracks[local] = func() {
		p.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(t.SSRC())}}) //nolint:errcheck // a bench's
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.tracks, local)
	}()
	for {
		packet, _, err := t.ReadRTP()
		if err != nil {
			return
		}
		if err := local.WriteRTP(packet); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return
		}
	}
}

func (p *stockPeer) send(ctx context.Context, m signal.Message) error {
	frame, err := signal.Encode(m)
	if err != nil {
		return err
	}
	return p.ws.Write(ctx, websocket.MessageText, frame)
}
