// Package wire reads and writes the bytes of TURN: STUN messages (RFC 8489) with the attributes of RFC 8656, and
// ChannelData. Messages are read in place and written into a buffer of the caller's; media costs no allocation. It keeps no
// state, does no I/O and knows no policy.
package wire
