package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/interceptor/pkg/nack"
	"github.com/pion/logging"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

// A relay that answers nothing for iceDisconnected is taken for dead: checks go out every
// iceKeepalive, so two and a half were lost.
const (
	iceDisconnected = 1200 * time.Millisecond
	iceFailed       = 6 * time.Second // after that
	iceKeepalive    = 450 * time.Millisecond
)

// nackTries is how often a lost packet is asked for, as in browsers. pion's own never gives up, and an overload lasts as long as it is asked.
const nackTries = 10

// newAPI sets pion up: relays only, nothing waited for that relays do not need.
func newAPI(log *slog.Logger, d *relayDialer) (*webrtc.API, error) {
	media := &webrtc.MediaEngine{}
	if err := media.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	level := webrtc.RTPHeaderExtensionCapability{URI: sdp.AudioLevelURI}
	if err := media.RegisterHeaderExtension(level, webrtc.RTPCodecTypeAudio); err != nil {
		return nil, err
	}
	registry := &interceptor.Registry{}
	for _, err := range []error{
		webrtc.ConfigureNackWithOptions(media, registry, []nack.GeneratorOption{nack.GeneratorMaxNacksPerPacket(nackTries)}),
		webrtc.ConfigureRTCPReports(registry),
		webrtc.ConfigureSimulcastExtensionHeaders(media),
		webrtc.ConfigureTWCCSender(media, registry),
	} {
		if err != nil {
			return nil, err
		}
	}
	s := webrtc.SettingEngine{LoggerFactory: logs{log}}
	s.SetRelayAcceptanceMinWait(0)
	s.SetIncludeLoopbackCandidate(true)
	s.DisableActiveTCP(true) // see session.hurry
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetICETimeouts(iceDisconnected, iceFailed, iceKeepalive)
	s.SetICEProxyDialer(d)
	s.DetachDataChannels()                                                // see datachannel.Read
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleClient); err != nil { // as browsers do; towards an ICE-lite peer pion's own choice is the other
		return nil, err
	}
	return webrtc.NewAPI(webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry), webrtc.WithSettingEngine(s)), nil
}

// relayDialer reaches relays over TCP and TLS. pion hands it bare addresses and leaves TLS to it,
// so it is told which of them a turns: URL named.
type relayDialer struct {
	ctx    context.Context //nolint:containedctx // pion's Dialer has none; it ends with the Room
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	config *tls.Config

	mu     sync.Mutex
	secure map[string]bool // guarded by mu; host:port of turns: over TCP
}

// learn takes the URLs of new credentials.
func (d *relayDialer) learn(urls []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secure = map[string]bool{}
	for _, u := range urls {
		if rest, ok := strings.CutPrefix(u, "turns:"); ok {
			address, _, _ := strings.Cut(rest, "?")
			if _, _, err := net.SplitHostPort(address); err != nil {
				address = net.JoinHostPort(address, "5349") // RFC 7065, section 3.2
			}
			d.secure[address] = true
		}
	}
}

// Dial implements the dialer that pion wants.
func (d *relayDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, dialWithin)
	defer cancel()
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	secure := d.secure[address]
	d.mu.Unlock()
	if !secure {
		return tcpAddrs{conn}, nil
	}
	config := d.config.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	tc := tls.Client(conn, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("tls to the relay: %w", err)
	}
	return tcpAddrs{tc}, nil
}

// tcpAddrs makes any connection look like TCP: pion asserts that it is.
type tcpAddrs struct{ net.Conn }

func (c tcpAddrs) LocalAddr() net.Addr {
	if a, ok := c.Conn.LocalAddr().(*net.TCPAddr); ok {
		return a
	}
	return &net.TCPAddr{IP: net.IPv4zero}
}

// logs shows pion's warnings and errors to debuggers alone: most are no fault of ours.
type logs struct{ *slog.Logger }

func (l logs) NewLogger(scope string) logging.LeveledLogger {
	return scoped{l.With("pion", scope)}
}

type scoped struct{ log *slog.Logger }

func (scoped) Trace(string)          {}
func (scoped) Tracef(string, ...any) {}
func (scoped) Debug(string)          {}
func (scoped) Debugf(string, ...any) {}
func (scoped) Info(string)           {}
func (scoped) Infof(string, ...any)  {}

func (s scoped) Warn(msg string)               { s.log.Debug(msg) }
func (s scoped) Warnf(format string, a ...any) { s.format(format, a...) }
func (s scoped) Error(msg string)              { s.log.Debug(msg) }
func (s scoped) Errorf(format string, a ...any) {
	s.format(format, a...)
}

func (s scoped) format(format string, a ...any) {
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		s.log.Debug(fmt.Sprintf(format, a...))
	}
}
