// Package testnet runs real TURN and SFU servers in one process, on loopback addresses of their
// own, behind a gateway that believes every token. It is for tests and benches of what clients see.
//
// It is not a cluster: no store, no plan, no supervisor, and the gateway checks nobody. What
// it gives the servers is what internal/plan would: specs, tickets, credentials and fences.
package testnet
