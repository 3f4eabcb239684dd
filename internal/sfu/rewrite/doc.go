// Package rewrite makes one RTP stream that a decoder accepts out of the layers of a track: it reads payload descriptors, chooses
// what goes to a subscriber, and numbers anew what does. It is pure: no clocks, no locks, no packets kept.
package rewrite
