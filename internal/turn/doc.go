// Package turn is the public edge of media: one TURN server (RFC 8656) per host that serves
// every namespace of that host, on UDP, TCP, TLS and DTLS, and that shares 443/tcp with HTTPS
// by the name in the TLS ClientHello.
//
// A datagram's way up: UDP port → worker → the client's channel or permission → the tenant's fence and quota →
// the relay's socket → the SFU's media socket; what is no media goes to an engine, which answers. Down is the
// same way back. wire has the formats, batch the system calls. See DESIGN.md for why there is one server, and why it is our own.
//
// It does not know clusters, rooms or users, decides no placement, reads no file, and trusts
// nothing but the plan.TURNSpec that Apply is given.
package turn
