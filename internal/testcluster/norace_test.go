//go:build !race

package testcluster

const slow = false
