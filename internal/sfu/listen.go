package sfu

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// mediaBuffer is asked for as the media socket's buffers, in bytes; the kernel gives what
// net.core.rmem_max allows. All peers share the socket: 4 MB is 30 ms of a gigabit.
const mediaBuffer = 4 << 20

// listeners are the two sockets of a server, both on the mesh address.
type listeners struct {
	tcp   net.Listener
	guard *guard
	mux   ice.UDPMux // nil until openMux
	http  *http.Server
	wg    sync.WaitGroup
}

// listen binds both sockets or none.
func listen(spec plan.SFUSpec) (*listeners, error) {
	at := netip.AddrPortFrom(spec.MeshIP.Unmap(), spec.SignalPort)
	tcp, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, unavailable("the signalling port could not be bound", err)
	}
	media := netip.AddrPortFrom(spec.MeshIP.Unmap(), spec.MediaPort)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(media))
	if err != nil {
		return nil, errors.Join(unavailable("the media port could not be bound", err), tcp.Close())
	}
	// Less than asked for is no reason not to serve.
	udp.SetReadBuffer(mediaBuffer)  //nolint:errcheck // see above
	udp.SetWriteBuffer(mediaBuffer) //nolint:errcheck // see above
	g, err := openGuard(udp, spec.Relays)
	if err != nil {
		return nil, errors.Join(unavailable("the media port cannot be used", err), tcp.Close(), udp.Close())
	}
	return &listeners{tcp: meshOnly{tcp, spec.MeshCIDR}, guard: g}, nil
}

// meshOnly hangs up on whoever is not on the mesh before a byte is exchanged. On a host the mesh
// interface and the firewall see to that already; where both fail, this is what is left.
type meshOnly struct {
	net.Listener
	cidr netip.Prefix
}

// Accept gives the next connection from inside the mesh.
func (m meshOnly) Accept() (net.Conn, error) {
	for {
		c, err := m.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if ok && m.cidr.Contains(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()) {
			return tcp, nil
		}
		if ok {
			tcp.SetLinger(0) //nolint:errcheck // a reset says as little as can be said
		}
		c.Close() //nolint:errcheck // unwanted
	}
}

func unavailable(message string, err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "bind", Message: message, Err: err}
}

// openMux starts reading the media socket.
func (l *listeners) openMux(logs logging.LoggerFactory) *pathMux {
	m := newPathMux(nil)
	m.out, m.relays, l.guard.hear = l.guard.out, l.guard.allowed.Load, m.hear
	m.UDPMux = webrtc.NewICEUDPMux(logs.NewLogger("mux"), l.guard)
	l.mux = m
	return m
}

func (l *listeners) signalAddr() netip.AddrPort { return l.tcp.Addr().(*net.TCPAddr).AddrPort() }

func (l *listeners) mediaAddr() netip.AddrPort { return l.guard.LocalAddr().(*net.UDPAddr).AddrPort() }

func (l *listeners) serve(h http.Handler, log *slog.Logger) {
	l.http = &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	l.wg.Go(func() {
		if err := l.http.Serve(l.tcp); !errors.Is(err, http.ErrServerClosed) {
			log.Error("signalling ended", "err", err)
		}
	})
}

// stopSignalling accepts no further connection. WebSockets are not the HTTP server's any more
// and go on.
func (l *listeners) stopSignalling() {
	if l.http == nil {
		l.tcp.Close() //nolint:errcheck // it was never served
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if l.http.Shutdown(ctx) != nil {
		l.http.Close() //nolint:errcheck // ending
	}
	l.wg.Wait()
}

// close ends both sockets and waits for the mux's reader.
func (l *listeners) close() error {
	l.stopSignalling()
	if l.mux == nil {
		return l.guard.Close()
	}
	return l.mux.Close()
}
