// Package signal is the protocol between a client and its SFU (docs/protocol.md): one type per
// message, a strict codec, the limits and the close codes. It does no I/O and keeps no state
// but the frame limiter's.
package signal
