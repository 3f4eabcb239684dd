// Package rig is what the benchmarks have in common: processes on cores of their own in a network namespace, what they
// spend, and figures over rounds. It knows neither what is measured nor how the load is made.
package rig
