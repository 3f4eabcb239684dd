// Package bwe estimates what the path to one subscriber carries, from transport-wide feedback, and
// says when packets may leave. It is arithmetic: no goroutine, no socket, no clock of its own.
package bwe
