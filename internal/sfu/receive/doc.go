// Package receive works out what a publisher is told of a stream of its packets: which are missing (RFC 4585 section 6.2.1), and how they came (RFC 3550
// section 6.4.1). It is told the time and sends nothing. Nothing here is safe for concurrent use.
package receive
