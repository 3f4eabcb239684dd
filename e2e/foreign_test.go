//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/turn"
)

// WebRTC stacks that nobody here wrote and that are no browser, through our TURN server: aiortc and GStreamer.

// Addresses of the run's own interface: GStreamer gathers nothing where the server is on loopback.
const (
	foreignPublic = "203.0.113.10" // where the server listens
	foreignRelay  = "203.0.113.11" // where its relays are
	foreignMedia  = "203.0.113.12" // where the peer is, who hears nobody but the relays
	foreignName   = "turn.ns-foreign.orama.test"
)

// python is the distribution's, which its packages belong to.
const python = "/usr/bin/python3"

// foreignBlock is where no system takes a client's own ports from: aiortc tries a way from each address of this
// interface, the relays' too.
var foreignBlock = orama.PortRange{First: 20000, Count: 100}

// relayOnly is a socket that hears the relays.
type relayOnly struct{ net.PacketConn }

func (r relayOnly) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.PacketConn.ReadFrom(p)
		if err != nil {
			return n, from, err
		}
		if at := from.(*net.UDPAddr).AddrPort(); at.Addr().Unmap().String() == foreignRelay && foreignBlock.Contains(at.Port()) {
			return n, from, nil
		}
	}
}

// echoes makes peers on one socket.
func echoes(t testing.TB, socket net.PacketConn) *webrtc.API {
	mux := webrtc.NewICEUDPMux(nil, socket)
	t.Cleanup(func() { mux.Close() })
	set := webrtc.SettingEngine{}
	set.SetLite(true)
	set.SetICEUDPMux(mux)
	set.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	return webrtc.NewAPI(webrtc.WithSettingEngine(set))
}

// echo answers an offer, and sends back what comes: messages, sound and pictures.
func echo(t testing.TB, api *webrtc.API, offer string) (answer string) {
	t.Helper()
	pc, err := api.NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	back := map[webrtc.RTPCodecType]*webrtc.TrackLocalStaticRTP{}
	for kind, mime := range map[webrtc.RTPCodecType]string{webrtc.RTPCodecTypeAudio: webrtc.MimeTypeOpus, webrtc.RTPCodecTypeVideo: webrtc.MimeTypeVP8} {
		back[kind], err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime}, kind.String(), "echo")
		require.NoError(t, err)
		_, err = pc.AddTrack(back[kind])
		require.NoError(t, err)
	}
	pc.OnTrack(func(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			packet, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			_ = back[track.Kind()].WriteRTP(packet) // lost packets are lost
		}
	})
	pc.OnDataChannel(func(d *webrtc.DataChannel) {
		d.OnMessage(func(m webrtc.DataChannelMessage) { _ = d.SendText(string(m.Data)) })
	})
	require.NoError(t, pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}))
	made, err := pc.CreateAnswer(nil)
	require.NoError(t, err)
	gathered := webrtc.GatheringCompletePromise(pc)
	require.NoError(t, pc.SetLocalDescription(made))
	<-gathered
	return pc.LocalDescription().SDP
}

// foreignServer is our TURN server in this process, on the run's interface, with one namespace that may reach the
// peer's socket.
func foreignServer(t testing.TB, peer netip.AddrPort) (username, credential, ca string) {
	t.Helper()
	for _, a := range []string{foreignPublic, foreignRelay} {
		ip(t, "addr add "+a+"/24 dev e0")
		t.Cleanup(func() { ip(t, "addr del "+a+"/24 dev e0") })
	}
	cert, key := selfSigned(t, net.ParseIP(foreignPublic), foreignName)
	secret := auth.NewTURNSecret()
	srv := turn.New(slog.New(slog.NewTextHandler(t.Output(), nil)), nil)
	require.NoError(t, srv.Apply(plan.TURNSpec{
		Node: "foreign", PublicIP: netip.MustParseAddr(foreignPublic), RelayIP: netip.MustParseAddr(foreignRelay), Realm: "orama.test",
		CertPEM: string(cert), KeyPEM: string(key),
		Tenants: []plan.TenantSpec{{Namespace: "foreign", Secret: secret, Relay: foreignBlock, Allow: []netip.AddrPort{peer}}},
	}))
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	ca = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, cert, 0o600))
	username, credential = auth.MintTURN(secret, "foreign", time.Now().Add(10*time.Minute))
	return username, credential, ca
}

// nameForeign gives an address a name until the test ends.
func nameForeign(t testing.TB, name, addr string) {
	t.Helper()
	before, err := os.ReadFile(hostsFile())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(hostsFile(), append(before, addr+" "+name+"\n"...), 0o644))
	t.Cleanup(func() { require.NoError(t, os.WriteFile(hostsFile(), before, 0o644)) })
}

// foreignWords is a line of a driver.
type foreignWords struct {
	Offer string         `json:"offer"`
	State string         `json:"state"`
	Got   map[string]int `json:"got"`
}

// foreignCall runs a driver until it has got back what it wants, and says what that was.
func foreignCall(t testing.TB, api *webrtc.API, script string, conf map[string]any, env ...string) map[string]int {
	t.Helper()
	told, err := json.Marshal(conf)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), python, script, string(told))
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs strings.Builder
	cmd.Stderr = &errs
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	tooLong := time.AfterFunc(40*time.Second, func() { _ = cmd.Process.Kill() })
	defer tooLong.Stop()
	defer cmd.Wait() //nolint:errcheck // the words tell
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	states := []string{}
	for lines.Scan() {
		var w foreignWords
		require.NoError(t, json.Unmarshal(lines.Bytes(), &w), lines.Text())
		switch {
		case w.Offer != "":
			require.Contains(t, w.Offer, "typ relay", "no relay was had:\n%s", errs.String())
			require.NotContains(t, w.Offer, "typ host")
			answer, err := json.Marshal(map[string]string{"answer": echo(t, api, w.Offer)})
			require.NoError(t, err)
			_, err = io.WriteString(stdin, string(answer)+"\n")
			require.NoError(t, err)
		case w.Got != nil:
			return w.Got
		default:
			states = append(states, w.State)
		}
	}
	t.Fatalf("%s ended without what it wanted; its states were %v:\n%s", script, states, errs.String())
	return nil
}

// TestForeign is a call by each stack over each way in that it knows: messages, sound and pictures through the relay
// and back. GStreamer's TLS is not among them: libnice 0.1.21 begins with what is no TLS handshake.
func TestForeign(t *testing.T) {
	if os.Getenv(insideEnv) != "namespace" {
		t.Skip("needs a network namespace of its own: GStreamer gathers nothing where the server is on loopback")
	}
	ip(t, "addr add "+foreignMedia+"/24 dev e0")
	t.Cleanup(func() { ip(t, "addr del "+foreignMedia+"/24 dev e0") })
	socket, err := net.ListenPacket("udp4", foreignMedia+":0")
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	nameForeign(t, foreignName, foreignPublic)
	api := echoes(t, relayOnly{socket})
	username, credential, ca := foreignServer(t, socket.LocalAddr().(*net.UDPAddr).AddrPort())
	for _, stack := range []struct {
		name, script, needs string
		urls                []string
	}{
		{"aiortc", "clients/aio.py", "import aiortc", []string{
			"turn:" + foreignPublic + ":3478?transport=udp", "turn:" + foreignPublic + ":3478?transport=tcp",
			"turns:" + foreignPublic + ":5349?transport=tcp", "turns:" + foreignName + ":443?transport=tcp",
		}},
		{"GStreamer", "clients/gst.py", "import gi; gi.require_version('GstWebRTC', '1.0')", []string{
			"turn:" + foreignPublic + ":3478?transport=udp", "turn:" + foreignPublic + ":3478?transport=tcp",
		}},
	} {
		t.Run(stack.name, func(t *testing.T) {
			if out, err := exec.Command(python, "-c", stack.needs).CombinedOutput(); err != nil {
				t.Skipf("%s is not installed, tools/install gets it: %v: %s", stack.name, err, out)
			}
			for _, url := range stack.urls {
				t.Run(url, func(t *testing.T) {
					began := time.Now()
					conf := map[string]any{"url": url, "username": username, "credential": credential, "want": 20}
					got := foreignCall(t, api, stack.script, conf, "SSL_CERT_FILE="+ca)
					t.Logf("%v within %s", got, ms(time.Since(began)))
				})
			}
		})
	}
}
