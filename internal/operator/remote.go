package operator

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// remotePrefix is where a gateway serves what an agent's socket serves under /v1/.
const remotePrefix = "/v1/operator/"

// DialGateways makes a client that speaks to a cluster from elsewhere, by an operator key: through the first of its
// gateways that can be reached. Roots are those that their certificates are believed by; nil is the system's. Nothing
// is connected before the first call.
func DialGateways(urls []string, key string, roots *x509.CertPool) (*Client, error) {
	if len(urls) == 0 {
		return nil, orama.Errorf(orama.KindInvalid, "no_gateway", "the URL of a gateway is needed")
	}
	if _, _, err := auth.ParseAPIKey(key); err != nil {
		return nil, err
	}
	gateways := make([]*url.URL, len(urls))
	for i, text := range urls {
		u, err := GatewayURL(text)
		if err != nil {
			return nil, err
		}
		gateways[i] = u
	}
	return dialed(gateways, roots, func(out *http.Request) {
		out.URL.Path = remotePrefix + strings.TrimPrefix(out.URL.Path, "/v1/")
		if raw := out.URL.RawPath; raw != "" {
			out.URL.RawPath = remotePrefix + strings.TrimPrefix(raw, "/v1/")
		}
		out.Header.Set("X-API-Key", key)
	}), nil
}

// dialed makes a client of gateways; address makes an agent's call one of theirs.
func dialed(gateways []*url.URL, roots *x509.CertPool, address func(*http.Request)) *Client {
	r := &remote{gateways: gateways, address: address, via: &http.Transport{
		DisableKeepAlives:     true,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 2 * lookWithin, // an inspection answers when it has looked
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	var names []string
	for _, g := range gateways {
		names = append(names, g.String())
	}
	return &Client{socket: strings.Join(names, ", "), http: &http.Client{Transport: r,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// GatewayURL reads the URL of a gateway that an operator key may be sent to: over TLS, or without it on this machine or
// on a private network such as the mesh, where the gateway itself decides. Elsewhere the key would travel in clear.
func GatewayURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_gateway", "%.200q is no gateway's URL; one looks like https://gw1.example.org", text)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	near := u.Hostname() == "localhost" || err == nil && (ip.IsLoopback() || ip.IsPrivate())
	if u.Scheme != "https" && (u.Scheme != "http" || !near) {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_gateway",
			"%.200q would send the operator key in clear; use https://, or http:// to this machine or over the mesh", text)
	}
	return u, nil
}

// remote is a transport that takes an agent's calls to a gateway.
type remote struct {
	gateways []*url.URL
	address  func(*http.Request) // gives a call the path and the credential that gateways want
	via      http.RoundTripper
}

// RoundTrip tries the gateways in turn. A call that may have begun to change something is not repeated.
func (r *remote) RoundTrip(req *http.Request) (*http.Response, error) {
	var errs error
	for i, g := range r.gateways {
		out, err := r.rewrite(req, g)
		if err != nil {
			return nil, err
		}
		resp, err := r.via.RoundTrip(out)
		last := i == len(r.gateways)-1
		if err != nil {
			errs = errors.Join(errs, err)
			var op *net.OpError
			begun := !errors.As(err, &op) || op.Op != "dial"
			if last || req.Context().Err() != nil || begun && req.Method != http.MethodGet {
				return nil, errs
			}
			continue
		}
		if !last && req.Method == http.MethodGet && resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout {
			resp.Body.Close()
			continue // another gateway may have what this one lacks
		}
		return resp, nil
	}
	return nil, errs
}

func (r *remote) rewrite(req *http.Request, gateway *url.URL) (*http.Request, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.Host = gateway.Scheme, gateway.Host, ""
	r.address(out)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	return out, nil
}

// translate makes a gateway's own refusal, a problem of RFC 9457, one of an agent's.
func translate(resp *http.Response) *http.Response {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // what cannot be read is no problem's
	if kind != "application/problem+json" {
		return resp
	}
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(&p)
	resp.Body.Close()
	if err != nil || p.Code == "" {
		resp.Body = http.NoBody // no error in it: Client says so
		return resp
	}
	text, _ := json.Marshal(errorAnswer{&wireError{Kind: kindOf(resp.StatusCode), Code: p.Code, Message: p.Detail}}) // strings always can be
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return resp
}

// kindOf is the other direction of orama.Kind.HTTPStatus.
func kindOf(status int) orama.Kind {
	for _, k := range []orama.Kind{orama.KindInvalid, orama.KindUnauthenticated, orama.KindForbidden, orama.KindNotFound,
		orama.KindConflict, orama.KindLimited, orama.KindUnavailable} {
		if k.HTTPStatus() == status {
			return k
		}
	}
	return orama.KindInternal
}
