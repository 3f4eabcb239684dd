package sfu

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

const patience = 15 * time.Second // for what normally takes milliseconds; two slow cores, -race

// world is a server and the keys that open it.
type world struct {
	t    *testing.T
	srv  *Server
	keys *auth.Keys
	spec plan.SFUSpec

	record signal.RoomRecord // what the gateway of the next sockets knows of the room
}

func testLog() *slog.Logger {
	if os.Getenv("SFU_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, keys: auth.NewKeys([32]byte{1, 2, 3})}
	w.spec = plan.SFUSpec{
		Namespace: "demo", Node: "node-1", MeshIP: netip.MustParseAddr("127.0.0.1"), MeshCIDR: netip.MustParsePrefix("127.0.0.0/8"),
		TicketKey: w.keys.TicketKey(), Secret: "secret", CredentialTTL: 10 * time.Minute,
		Relays:  []plan.RelaySource{{IP: netip.MustParseAddr("127.0.0.1"), Ports: orama.PortRange{First: 1024, Count: 64511}}},
		Servers: []orama.TURNServer{{URL: "turn:192.0.2.1:3478?transport=udp", Transport: "udp", Default: true}},
	}
	w.srv = New(testLog(), nil)
	require.NoError(t, w.srv.Apply(w.spec))
	t.Cleanup(func() { require.NoError(t, w.srv.Close()) })
	return w
}

func (w *world) ticket(edit ...func(*auth.Ticket)) string {
	t := auth.Ticket{
		Namespace: w.spec.Namespace, Node: w.spec.Node, Boot: w.srv.Status().Boot, Room: "daily", User: "alice",
		Publish: true, Subscribe: true, Data: true,
	}
	for _, e := range edit {
		e(&t)
	}
	raw, err := w.keys.MintTicket(t)
	require.NoError(w.t, err)
	return raw
}

func (w *world) url(path string) string {
	signalAt, _ := w.srv.Addrs()
	return "http://" + signalAt.String() + path
}

// do makes one HTTP request with a ticket.
func (w *world) do(method, path, ticket string) *http.Response {
	req, err := http.NewRequest(method, w.url(path), nil)
	require.NoError(w.t, err)
	req.Header.Set("Authorization", "Ticket "+ticket)
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		resp.Body.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return resp
}

// wire is a bare signalling connection.
type wire struct {
	t      *testing.T
	ws     *websocket.Conn
	mu     sync.Mutex
	got    []signal.Message // guarded by mu
	closed error            // guarded by mu; why reading ended
	news   chan struct{}
	on     func(signal.Message) // called by the reader
	done   chan struct{}
}

func (w *world) dial(edit ...func(*auth.Ticket)) *wire {
	w.t.Helper()
	return w.dialWith(nil, edit...)
}

func (w *world) dialWith(on func(signal.Message), edit ...func(*auth.Ticket)) *wire {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	record, err := w.record.Encode()
	require.NoError(w.t, err)
	ws, _, err := websocket.Dial(ctx, w.url("/v1/signal"), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Ticket " + w.ticket(edit...)}, signal.HeaderRoom: {record}},
	})
	require.NoError(w.t, err)
	ws.SetReadLimit(1 << 20)
	c := &wire{t: w.t, ws: ws, news: make(chan struct{}, 1), on: on, done: make(chan struct{})}
	go c.read()
	w.t.Cleanup(func() {
		ws.CloseNow()
		<-c.done
	})
	return c
}

func (c *wire) read() {
	defer close(c.done)
	for {
		_, b, err := c.ws.Read(context.Background())
		var m signal.Message
		if err == nil {
			m, err = signal.Decode(b)
		}
		if m != nil && c.on != nil {
			c.on(m)
		}
		c.mu.Lock()
		if err == nil {
			c.got = append(c.got, m)
		} else {
			c.closed = err
		}
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (c *wire) send(m signal.Message) {
	b, err := signal.Encode(m)
	if err == nil {
		err = c.ws.Write(context.Background(), websocket.MessageText, b)
	}
	if err != nil {
		c.t.Logf("send %s: %v", m.Type(), err)
	}
}

func (c *wire) sendRaw(kind websocket.MessageType, b []byte) error {
	return c.ws.Write(context.Background(), kind, b)
}

// until waits for a message, past or future, that ok accepts.
func (c *wire) until(what string, ok func(signal.Message) bool) signal.Message {
	c.t.Helper()
	deadline := time.After(patience)
	for i := 0; ; {
		c.mu.Lock()
		for ; i < len(c.got); i++ {
			if ok(c.got[i]) {
				defer c.mu.Unlock()
				return c.got[i]
			}
		}
		closed := c.closed
		c.mu.Unlock()
		if closed != nil {
			require.FailNow(c.t, "the socket closed", "waiting for %s: %v", what, closed)
		}
		select {
		case <-c.news:
		case <-deadline:
			require.FailNow(c.t, "nothing came", "waiting for %s; got %v", what, c.types())
		}
	}
}

func (c *wire) types() (out []signal.Type) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		out = append(out, m.Type())
	}
	return out
}

func await[M signal.Message](c *wire, ok ...func(M) bool) M {
	c.t.Helper()
	var zero M
	m := c.until(string(zero.Type()), func(m signal.Message) bool {
		x, is := m.(M)
		return is && (len(ok) == 0 || ok[0](x))
	})
	return m.(M)
}

// closeCode waits for the end of the socket and gives its code.
func (c *wire) closeCode() int {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		require.FailNow(c.t, "the socket stays open")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(websocket.CloseStatus(c.closed))
}

// client is a wire with a PeerConnection that behaves as the specification's JavaScript does.
type client struct {
	*wire
	pc    *webrtc.PeerConnection
	id    orama.PeerID
	lock  sync.Mutex          // one description at a time
	mute  bool                // offers are not answered
	edit  func(string) string // changes what it sends as SDP; nil: nothing
	read  func(string) string // changes what it is sent as SDP; nil: nothing
	refs  []signal.TrackRef
	heard chan *remote
	chans chan *copyOf
	wg    sync.WaitGroup

	sources []*source
}

// copyOf is a data channel that a client was given, and what arrives on it.
type copyOf struct {
	*webrtc.DataChannel
	got chan webrtc.DataChannelMessage
}

// remote is a track that a client receives.
type remote struct {
	t       *webrtc.TrackRemote
	r       *webrtc.RTPReceiver
	packets chan *rtp.Packet
	last    uint16 // sequence number, as quiet saw it
}

// stream is what a client says of a track: the publisher, and the track's id.
func (r *remote) stream() (orama.PeerID, orama.TrackID) {
	return orama.PeerID(r.t.StreamID()), orama.TrackID(r.t.ID())
}

func clientAPI(t *testing.T, edit ...func(*webrtc.MediaEngine)) *webrtc.API {
	t.Helper()
	return clientAPIWith(t, func(s *webrtc.SettingEngine) {
		require.NoError(t, s.SetAnsweringDTLSRole(webrtc.DTLSRoleClient)) // as browsers do
	}, edit...)
}

func clientAPIWith(t *testing.T, set func(*webrtc.SettingEngine), edit ...func(*webrtc.MediaEngine)) *webrtc.API {
	t.Helper()
	var s webrtc.SettingEngine
	set(&s)
	s.SetIncludeLoopbackCandidate(true)
	s.SetInterfaceFilter(func(name string) bool { return strings.HasPrefix(name, "lo") })
	s.SetIPFilter(func(ip net.IP) bool { return ip.Equal(net.IPv4(127, 0, 0, 1)) })
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	s.LoggerFactory = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	m := &webrtc.MediaEngine{}
	if len(edit) == 0 {
		require.NoError(t, m.RegisterDefaultCodecs())
	}
	for _, e := range edit {
		e(m)
	}
	require.NoError(t, m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: audioLevelURI}, webrtc.RTPCodecTypeAudio))
	return webrtc.NewAPI(webrtc.WithSettingEngine(s), webrtc.WithMediaEngine(m))
}

type clientOptions struct {
	join   *signal.Join
	ticket []func(*auth.Ticket)
	api    *webrtc.API
	setUp  func(*client) // before joining: add tracks
	hears  func(signal.Message)
}

// joinClient joins and answers every offer.
func (w *world) joinClient(o clientOptions) *client {
	w.t.Helper()
	if o.join == nil {
		o.join = &signal.Join{AwaitOffer: true}
	}
	if o.api == nil {
		o.api = clientAPI(w.t)
	}
	c := &client{heard: make(chan *remote, 64), chans: make(chan *copyOf, 64)}
	pc, err := o.api.NewPeerConnection(webrtc.Configuration{})
	require.NoError(w.t, err)
	c.pc = pc
	pc.OnTrack(c.onTrack)
	pc.OnDataChannel(func(d *webrtc.DataChannel) { c.chans <- &copyOf{d, inbox(d)} }) // no message is read before
	if o.setUp != nil {
		o.setUp(c)
	}
	c.wire = w.dialWith(func(m signal.Message) {
		if o.hears != nil {
			o.hears(m)
		}
		c.onMessage(m)
	}, o.ticket...)
	w.t.Cleanup(c.close)
	c.send(o.join)
	c.id = await[*signal.Joined](c.wire).PeerID
	return c
}

func (c *client) close() {
	for _, s := range c.sources {
		s.close()
	}
	c.ws.CloseNow()
	<-c.done
	c.pc.GracefulClose()
	c.wg.Wait()
}

func (c *client) onMessage(m signal.Message) {
	switch m := m.(type) {
	case *signal.Offer:
		c.lock.Lock()
		defer c.lock.Unlock()
		if !c.mute {
			c.answer(m)
		}
	case *signal.Answer:
		c.lock.Lock()
		defer c.lock.Unlock()
		if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.SDP}); err != nil {
			c.t.Errorf("the SFU's answer: %v", err)
		}
	}
}

func (c *client) answer(m *signal.Offer) {
	offer := m.SDP
	if c.read != nil {
		offer = c.read(offer)
	}
	err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer})
	var answer webrtc.SessionDescription
	if err == nil {
		answer, err = c.pc.CreateAnswer(nil)
	}
	if err == nil {
		err = c.pc.SetLocalDescription(answer)
	}
	if err != nil {
		if c.pc.SignalingState() != webrtc.SignalingStateClosed { // else the SFU has let it go
			c.t.Errorf("answering the SFU: %v\n%s", err, m.SDP)
		}
		return
	}
	c.send(&signal.Answer{SDP: c.sdp(answer.SDP), Tracks: c.refs})
}

func (c *client) sdp(text string) string {
	if c.edit == nil {
		return text
	}
	return c.edit(text)
}

// offer makes the client offer by itself.
func (c *client) offer() {
	c.t.Helper()
	c.lock.Lock()
	defer c.lock.Unlock()
	offer, err := c.pc.CreateOffer(nil)
	require.NoError(c.t, err)
	require.NoError(c.t, c.pc.SetLocalDescription(offer))
	c.send(&signal.Offer{SDP: c.sdp(offer.SDP), Tracks: c.refs})
}

func (c *client) onTrack(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	x := &remote{t: t, r: r, packets: make(chan *rtp.Packet, 1024)}
	c.wg.Go(func() {
		for {
			p, _, err := t.ReadRTP()
			if err != nil {
				close(x.packets)
				return
			}
			select {
			case x.packets <- p:
			default:
			}
		}
	})
	c.heard <- x
}

// hear waits for the next track that arrives.
func (c *client) hear() *remote {
	c.t.Helper()
	select {
	case x := <-c.heard:
		return x
	case <-time.After(patience):
		require.FailNow(c.t, "no track arrived", "got %v", c.types())
		return nil
	}
}

// packet waits for the next packet.
func (x *remote) packet(t *testing.T) *rtp.Packet {
	t.Helper()
	select {
	case p, ok := <-x.packets:
		require.True(t, ok, "the track ended")
		x.last = p.SequenceNumber
		return p
	case <-time.After(patience):
		require.FailNow(t, "no packet")
		return nil
	}
}

// source is a track that a client sends: a packet every 10 ms until it is closed.
type source struct {
	track  *webrtc.TrackLocalStaticRTP
	sender *webrtc.RTPSender
	pli    chan time.Time
	nack   chan uint16 // sequence numbers asked for again
	stop   chan struct{}
	once   sync.Once
	level  atomic.Int32 // -dBov to mark packets with, from 1; 0: none
	deaf   atomic.Bool  // send no keyframes
	gaps   atomic.Bool  // leave out every tenth packet
	red    atomic.Bool  // wrap the payload
}

var (
	opus = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	vp8  = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
	h264 = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH264, ClockRate: 90000,
		SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"}
)

// addTrack adds a source to the PeerConnection, as addTrack would.
func (c *client) addTrack(t *testing.T, codec webrtc.RTPCodecCapability) *source {
	t.Helper()
	track, err := webrtc.NewTrackLocalStaticRTP(codec, newID("x"), "stream")
	require.NoError(t, err)
	sender, err := c.pc.AddTrack(track)
	require.NoError(t, err)
	s := &source{track: track, sender: sender, pli: make(chan time.Time, 64), nack: make(chan uint16, 64), stop: make(chan struct{})}
	c.wg.Go(func() { s.run() })
	c.wg.Go(func() { s.readRTCP() })
	c.sources = append(c.sources, s)
	return s
}

func (s *source) close() { s.once.Do(func() { close(s.stop) }) }

func (s *source) run() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	clock := s.track.Codec().ClockRate
	for n := uint16(0); ; n++ {
		p := &rtp.Packet{
			Header:  rtp.Header{Version: 2, SequenceNumber: n, Timestamp: uint32(n) * clock / 100, Marker: true},
			Payload: []byte{0x10, 0x02, 0x00, 0x9d, byte(n >> 8), byte(n)},
		}
		s.dress(p)
		if !s.gaps.Load() || n%10 != 5 {
			if err := s.track.WriteRTP(p); errors.Is(err, io.ErrClosedPipe) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
	}
}

// dress adds what a test asked for.
func (s *source) dress(p *rtp.Packet) {
	if l := s.level.Load(); l != 0 {
		for _, e := range s.sender.GetParameters().HeaderExtensions {
			if e.URI == audioLevelURI {
				p.SetExtension(uint8(e.ID), []byte{byte(l)})
			}
		}
	}
	if s.deaf.Load() {
		p.Payload[1] |= 1 // VP8: predicted
	}
	if s.red.Load() { // one redundant block of two bytes, then the primary one
		p.Payload = append([]byte{0x80 | 111, 0, 0, 2, 111, 0xee, 0xee}, p.Payload...)
	}
}

func (s *source) readRTCP() {
	for {
		packets, _, err := s.sender.ReadRTCP()
		if err != nil {
			return
		}
		for _, p := range packets {
			switch p := p.(type) {
			case *rtcp.PictureLossIndication:
				select {
				case s.pli <- time.Now():
				default:
				}
			case *rtcp.TransportLayerNack:
				for _, n := range p.Nacks {
					select {
					case s.nack <- n.PacketID:
					default:
					}
				}
			}
		}
	}
}

// decode is for what a test reads over HTTP.
func decode[T any](t *testing.T, r io.Reader) (v T) {
	t.Helper()
	require.NoError(t, json.NewDecoder(r).Decode(&v))
	return v
}
