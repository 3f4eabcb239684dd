package enroll

import "crypto/tls"

// What tests outside the package look at.
var DecodeRequest = decodeRequest

// ServerConfig and ClientConfig are the two ends of TLS.
func ServerConfig(i *Identity) *tls.Config                { return i.server() }
func ClientConfig(fingerprint [printLen]byte) *tls.Config { return client(fingerprint, nil) }
