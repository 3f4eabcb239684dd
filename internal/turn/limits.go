package turn

import "time"

// Ports are where the server listens on its public address. 0 means the standard port.
type Ports struct {
	UDP   uint16 // 3478: TURN over UDP
	TCP   uint16 // 3478: TURN over TCP
	TLS   uint16 // 5349: TURN over TLS
	HTTPS uint16 // 443: DTLS on UDP; TLS shared with HTTPS on TCP

	NoUDP, NoTCP, NoTLS, NoDTLS, NoHTTPS bool // listeners to leave out; NoHTTPS is TLS on the port that is shared

	// Unshared: TLS on the HTTPS port is TURN whatever name a client asks for.
	Unshared bool
}

func (p Ports) orStandard() Ports {
	p.UDP, p.TCP, p.TLS, p.HTTPS = or(p.UDP, 3478), or(p.TCP, 3478), or(p.TLS, 5349), or(p.HTTPS, 443)
	return p
}

// Limits bound what strangers and clients can make the server spend. 0 means the default.
type Limits struct {
	// Lifetime is granted by a Refresh: RFC 8656's default, 10 min. A longer LIFETIME is cut to it.
	Lifetime time.Duration
	// FirstLifetime is granted until a permission or channel exists, 2 min: 800 ports at 10 min
	// each are gone at 1.33 forgotten relays a second, and a page that reloads forgets them.
	FirstLifetime time.Duration
	// Session ends any relay, however often refreshed: 24 h.
	Session time.Duration
	// Idle is for how long a relay's client must have sent nothing before the relay may be taken
	// back for a newcomer in a full block: 30 s. ICE consent alone sends every 5 s (RFC 7675).
	Idle time.Duration

	// Handshake bounds a TLS or DTLS handshake and the wait for a ClientHello: 5 s.
	Handshake time.Duration
	// Silent is how long a connection may live without a relay: 15 s.
	Silent time.Duration

	// ClientRelays is how many relays one client address (IPv6: one /64) may hold: 200. Loopback
	// addresses, which only this machine can send from, are bounded by the block alone.
	ClientRelays int
	// ClientConns is how many TCP, TLS, DTLS and spliced HTTPS connections one client address may
	// hold: 1024, for an office behind one address has a web socket beside each relay. Loopback as above.
	ClientConns int
	// Conns is how many connections there may be in all: 16384.
	Conns int
	// HalfOpenDTLS is how many DTLS handshakes may be under way, each about 34 kB: 1024.
	HalfOpenDTLS int
	// ClientHalfOpenDTLS is the same for one prefix (IPv4 /24, IPv6 /48): 64.
	ClientHalfOpenDTLS int

	// Answers is how many UDP answers a second one prefix gets without a valid credential: 200,
	// in bursts of AnswerBurst, 1000. An answer is at most three times as long as its request, so this
	// keeps what a victim can be sent below 30 kB/s.
	Answers     float64
	AnswerBurst float64
	// Failures is how many wrong credentials a second of one prefix are answered, over any transport: 20, in bursts of
	// FailureBurst, 200. Guessing gets no further; who has a good credential is not concerned.
	Failures     float64
	FailureBurst float64
}

func (l Limits) orDefaults() Limits {
	return Limits{
		Lifetime:           or(l.Lifetime, 10*time.Minute),
		FirstLifetime:      or(l.FirstLifetime, 2*time.Minute),
		Session:            or(l.Session, 24*time.Hour),
		Idle:               or(l.Idle, 30*time.Second),
		Handshake:          or(l.Handshake, 5*time.Second),
		Silent:             or(l.Silent, 15*time.Second),
		ClientRelays:       or(l.ClientRelays, 200),
		ClientConns:        or(l.ClientConns, 1024),
		Conns:              or(l.Conns, 16384),
		HalfOpenDTLS:       or(l.HalfOpenDTLS, 1024),
		ClientHalfOpenDTLS: or(l.ClientHalfOpenDTLS, 64),
		Answers:            or(l.Answers, 200),
		AnswerBurst:        or(l.AnswerBurst, 1000),
		Failures:           or(l.Failures, 20),
		FailureBurst:       or(l.FailureBurst, 200),
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
