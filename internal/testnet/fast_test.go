//go:build !race

package testnet

// slow is how much more time everything is given.
const slow = 1
