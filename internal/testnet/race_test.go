//go:build race

package testnet

// slow is how much more time everything is given: the race detector makes all servers and
// clients of a test, which share a process, several times slower.
const slow = 4
