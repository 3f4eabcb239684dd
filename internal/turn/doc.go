// Package turn is the public edge of media: one TURN server (RFC 8656) per host that serves
// every namespace of that host, on UDP, TCP, TLS and DTLS, and that shares 443/tcp with HTTPS
// by the name in the TLS ClientHello.
//
// A datagram's way up: listener → gate (is it a request, and may it be answered?) → pion's
// protocol engine → relay → the tenant's fence → the SFU's media socket. Down is the same way
// back. See DESIGN.md for why there is one server, and which holes of the library the gate closes.
//
// It does not know clusters, rooms or users, decides no placement, reads no file, and trusts
// nothing but the plan.TURNSpec that Apply is given.
package turn
