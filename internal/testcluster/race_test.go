//go:build race

package testcluster

// With the race detector SQLite, which is translated C, takes ten times as long.
const slow = true
