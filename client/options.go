package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// Options say which room to join, as whom, and what to do with what arrives. One of Token,
// TokenFunc and APIKey is needed. The zero value of everything else works.
type Options struct {
	Room string // 1 to 128 bytes; "" when the token names it

	Token     string                                    // a JWT
	TokenFunc func(ctx context.Context) (string, error) // called for every socket; wins over Token
	APIKey    string                                    // "orama_…", for services

	Name     string          // shown to the others, at most 128 bytes
	Metadata json.RawMessage // any JSON value for the others, at most 4 KiB

	Transports    []string // which relays to use: "udp", "tcp", "tls", "dtls"; nil: what the cluster offers
	AutoSubscribe *bool    // nil means true: every track of the others arrives without asking

	// OnTrack is called with the first packet of a track, and again for the same track after a
	// recovery that needed a new connection and after a move to another server. OnTrack and OnEvent share one goroutine, in order:
	// they should return soon and may call any method of the Room but Close and Leave.
	OnTrack func(*RemoteTrack)
	OnEvent func(Event)
	// OnData is called for every message of the others, in order within one channel,
	// concurrently between channels. While it runs, its channel's sender is held back.
	OnData func(DataMessage)

	// GiveUpAfter is how long a recovery may take before the Room closes; 0 means 2 minutes.
	GiveUpAfter time.Duration

	Logger     *slog.Logger // nil: silent
	HTTPClient *http.Client // for the socket; nil: one of the Room's own
	TLSConfig  *tls.Config  // for wss: and turns: over TCP; nil: the system's roots
	// DialContext replaces net.Dialer for relays over TCP and TLS and, without HTTPClient, for the socket.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

const defaultGiveUp = 2 * time.Minute

func (o *Options) complete() error {
	switch {
	case o.Token == "" && o.TokenFunc == nil && o.APIKey == "":
		return orama.Errorf(orama.KindInvalid, "no_credential", "one of Token, TokenFunc and APIKey is needed")
	case len(o.Room) > signal.MaxID:
		return orama.Errorf(orama.KindInvalid, "invalid_room", "a room's name is at most 128 bytes long")
	case len(o.Name) > signal.MaxName:
		return orama.Errorf(orama.KindInvalid, "invalid_name", "a name is at most 128 bytes long")
	case len(o.Metadata) > signal.MaxMetadata || len(o.Metadata) > 0 && !json.Valid(o.Metadata):
		return orama.Errorf(orama.KindInvalid, "invalid_metadata", "metadata is one JSON value of at most 4 KiB")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.GiveUpAfter <= 0 {
		o.GiveUpAfter = defaultGiveUp
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	if o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return nil
}

// endpoint makes the socket's URL from a gateway's: http(s) and ws(s) both do.
func (o *Options) endpoint(gateway string) (string, error) {
	u, err := url.Parse(gateway)
	if err != nil || u.Host == "" {
		return "", orama.Errorf(orama.KindInvalid, "invalid_url", "the gateway's URL is not of the form https://host")
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", orama.Errorf(orama.KindInvalid, "invalid_url", "the gateway's URL begins with http, https, ws or wss")
	}
	const path = "/v1/webrtc/signal"
	if !strings.HasSuffix(u.Path, path) {
		u.Path = strings.TrimSuffix(u.Path, "/") + path
	}
	q := url.Values{}
	if o.Room != "" {
		q.Set("room", o.Room)
	}
	if len(o.Transports) > 0 {
		q.Set("transports", strings.Join(o.Transports, ","))
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// header carries the credential; it is made anew for every socket.
func (o *Options) header(ctx context.Context) (http.Header, error) {
	h := http.Header{}
	if o.TokenFunc == nil && o.Token == "" {
		h.Set("X-API-Key", o.APIKey)
		return h, nil
	}
	token := o.Token
	if o.TokenFunc != nil {
		var err error
		if token, err = o.TokenFunc(ctx); err != nil {
			return nil, &orama.Error{Kind: orama.KindUnavailable, Code: "no_token", Message: "the token function failed", Err: err}
		}
	}
	h.Set("Authorization", "Bearer "+token)
	return h, nil
}
