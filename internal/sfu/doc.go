// Package sfu is one namespace's media server on one node: rooms, and the forwarding of audio,
// video and data between their peers (DESIGN.md). Signalling arrives from the namespace's
// gateways, media from its TURN relays, both over the mesh.
//
// It is not: a mixer or transcoder; a store (it forgets everything with its process); an
// authenticator of users (a gateway vouches for them with a ticket). It knows no other node.
package sfu
