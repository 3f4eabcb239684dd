package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	neturl "net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/pion/webrtc/v4"
	"google.golang.org/protobuf/encoding/protowire"

	"orama.network/orama/bench/rig"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// liveKitAt is where LiveKit's media goes, whichever contender it is: one address of the loopback interface.
var liveKitAt = netip.MustParseAddr("127.0.0.1")

const (
	liveKitKey    = "bench"
	liveKitSecret = "a-secret-of-the-bench-alone-0123456789" //nolint:gosec // of a server that ends with the run
	tokenFor      = time.Hour
)

// startLiveKit runs it as its own documentation has a single node: one UDP port, everything else at its default.
func (l *lab) startLiveKit(ctx context.Context, c *contender) (err error) {
	conf := filepath.Join(l.dir, fmt.Sprintf("livekit-%d.yaml", c.number))
	text := fmt.Sprintf(`port: %d
bind_addresses: ["%s"]
rtc:
  udp_port: %d
  node_ip: %s
  enable_loopback_candidate: true
  ips: {includes: ["%s/32"]}
keys: {%s: %s}
logging: {level: error}
`, signalPort, c.ip(1), mediaPort, liveKitAt, liveKitAt, liveKitKey, liveKitSecret)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if c.server, err = rig.Start(ctx, c.sfu, l.dir, l.core, l.liveKit, "--config", conf); err != nil {
		return err
	}
	if err := listening(ctx, c); err != nil {
		return c.server.Failed(err)
	}
	return nil
}

// The fields of its signalling (livekit_rtc.proto), as far as a person needs them.
const (
	// SignalRequest and SignalResponse.
	fieldOffer, fieldAnswer, fieldTrickle = 1, 2, 3 // of requests
	fieldAddTrack                         = 4
	fieldJoin, fieldAnswered, fieldOffers = 1, 2, 3 // of responses
	fieldTrickled, fieldLeave             = 4, 8

	// SessionDescription.
	fieldType, fieldSDP, fieldID = 1, 2, 3

	// TrickleRequest.
	fieldCandidate, fieldTarget = 1, 2

	// AddTrackRequest.
	fieldCID, fieldName, fieldKind, fieldWidth, fieldHeight, fieldSource = 1, 2, 3, 4, 5, 8
	kindAudio, kindVideo                                                 = 0, 1
	sourceCamera, sourceMicrophone                                       = 1, 2
)

// The peer connections of TrickleRequest.target.
const (
	targetUp = iota
	targetDown
)

// liveKit is a person's conversation with LiveKit: it receives on a connection that the server offers, and sends, if
// it speaks, on another that it offers itself.
type liveKit struct {
	*person
	waiting [2][]webrtc.ICECandidateInit // by target, until there is a description
}

// dial opens the socket; the token says everything.
func (k *liveKit) dial(ctx context.Context, name string) (err error) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": liveKitKey, "sub": name, "exp": time.Now().Add(tokenFor).Unix(),
		"video": map[string]any{"roomJoin": true, "room": k.room.name}}).SignedString([]byte(liveKitSecret))
	if err != nil {
		return err
	}
	url := fmt.Sprintf("ws://%s/rtc?protocol=9&auto_subscribe=1&access_token=%s", k.room.of.signalAt(), neturl.QueryEscape(token))
	if k.ws, _, err = websocket.Dial(ctx, url, nil); err != nil { //nolint:bodyclose // the library closes it
		return err
	}
	k.ws.SetReadLimit(4 << 20)
	return nil
}

// listen has the conversation until the socket ends, and says why it did.
func (k *liveKit) listen() error {
	for {
		_, frame, err := k.ws.Read(k.ctx)
		if err != nil {
			return err
		}
		response, err := parseFields(frame)
		if err != nil {
			return err
		}
		for number, f := range response {
			if err := k.hear(number, f.bytes); err != nil {
				return err
			}
		}
	}
}

func (k *liveKit) hear(number protowire.Number, body []byte) error {
	switch number {
	case fieldJoin, fieldAnswered, fieldOffers, fieldTrickled, fieldLeave:
	default:
		return nil
	}
	m, err := parseFields(body)
	if err != nil {
		return err
	}
	switch number {
	case fieldJoin:
		return k.start()
	case fieldAnswered:
		return k.publish(string(m[fieldSDP].bytes))
	case fieldOffers:
		return k.accept(string(m[fieldSDP].bytes), m[fieldID].number)
	case fieldTrickled:
		return k.candidate(m)
	}
	return errors.New("LiveKit had it leave")
}

// start makes what is needed, and offers what this person sends.
func (k *liveKit) start() (err error) {
	c := k.room.load.lab.credentials(k.room.of)
	if k.pc, err = k.newConnection(k.line, c); err != nil {
		return err
	}
	if err := k.receive(); err != nil {
		return err
	}
	if k.part == partListens {
		k.arrive()
		return nil
	}
	if k.upLine, err = k.room.load.hub.open(mostPeople-1-k.line.index, func([]byte, int64) bool { return true }); err != nil {
		return err
	}
	if k.up, err = k.newConnection(k.upLine, c); err != nil {
		return err
	}
	if k.voice, err = newVoice(k.person); err != nil {
		return err
	}
	add := number(number(text(text(nil, fieldCID, k.voice.audio.ID()), fieldName, "microphone"), fieldKind, kindAudio), fieldSource, sourceMicrophone)
	if err := k.say(fieldAddTrack, add); err != nil {
		return err
	}
	if k.voice.video != nil {
		add = number(text(text(nil, fieldCID, k.voice.video.ID()), fieldName, "camera"), fieldKind, kindVideo)
		add = number(number(number(add, fieldSource, sourceCamera), fieldWidth, frameWidth), fieldHeight, frameHeight)
		if err := k.say(fieldAddTrack, add); err != nil {
			return err
		}
	}
	offer, err := k.up.CreateOffer(nil)
	if err != nil {
		return err
	}
	gathered := webrtc.GatheringCompletePromise(k.up)
	if err := k.up.SetLocalDescription(offer); err != nil {
		return err
	}
	<-gathered
	return k.say(fieldOffer, text(text(nil, fieldType, "offer"), fieldSDP, k.up.LocalDescription().SDP))
}

// publish has the answer to what start offered.
func (k *liveKit) publish(sdp string) error {
	if err := k.up.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: sdp}); err != nil {
		return err
	}
	k.wg.Go(k.voice.speak)
	k.arrive()
	return k.flush(targetUp)
}

// accept answers an offer of what others send, with the candidates that this person has.
func (k *liveKit) accept(sdp string, id uint64) error {
	gathered := webrtc.GatheringCompletePromise(k.pc)
	if _, err := k.answerTo(sdp, false); err != nil {
		return err
	}
	<-gathered
	answer, err := k.closeUnused(k.pc.LocalDescription().SDP)
	if err != nil {
		return err
	}
	if err := k.say(fieldAnswer, number(text(text(nil, fieldType, "answer"), fieldSDP, answer), fieldID, id)); err != nil {
		return err
	}
	return k.flush(targetDown)
}

// candidate has one of the server's, which may come before the description it belongs to.
func (k *liveKit) candidate(m map[protowire.Number]field) error {
	target := m[fieldTarget].number
	if target > targetDown {
		return fmt.Errorf("a candidate for connection %d", target)
	}
	var c webrtc.ICECandidateInit
	if err := json.Unmarshal(m[fieldCandidate].bytes, &c); err != nil || c.Candidate == "" {
		return nil //nolint:nilerr // the end of them
	}
	k.waiting[target] = append(k.waiting[target], c)
	return k.flush(int(target)) //nolint:gosec // one of two
}

// flush adds the candidates of a connection that has its description.
func (k *liveKit) flush(target int) error {
	pc := []*webrtc.PeerConnection{k.up, k.pc}[target]
	if pc == nil || pc.RemoteDescription() == nil {
		return nil
	}
	for _, c := range k.waiting[target] {
		if err := pc.AddICECandidate(c); err != nil {
			return err
		}
	}
	k.waiting[target] = nil
	return nil
}

// say sends a request of one field.
func (k *liveKit) say(kind protowire.Number, body []byte) error {
	return k.ws.Write(k.ctx, websocket.MessageBinary, protowire.AppendBytes(protowire.AppendTag(nil, kind, protowire.BytesType), body))
}

// credentials are for a contender's relay.
func (l *lab) credentials(of *contender) (c signal.Credentials) {
	if of.turn == "" {
		return c
	}
	c.Username, c.Credential = auth.MintTURN(l.secret, namespace, time.Now().Add(tokenFor))
	c.URLs = []string{fmt.Sprintf("turn:%s?transport=udp", of.turnAt())}
	return c
}

// field is the last value of one, by its type.
type field struct {
	number uint64
	bytes  []byte
}

// parseFields reads one protobuf message.
func parseFields(b []byte) (map[protowire.Number]field, error) {
	out := map[protowire.Number]field{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		var f field
		switch kind {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		out[number], b = f, b[n:]
	}
	return out, nil
}

func text(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}
