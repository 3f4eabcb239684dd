// Package testcluster tests agents, operators and records together: three nodes with the real policies on real records, in a
// time of their own. Only the processes are played. It is for tests alone and exports nothing.
package testcluster
