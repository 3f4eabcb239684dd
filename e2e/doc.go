// Package e2e proves the built binary from outside: real processes, real sockets, real browsers.
//
// Everything runs in a network namespace of its own where that is allowed, so that a developer's
// cluster on the same addresses is left in peace, and so that whatever a test leaves behind is found
// by the namespace it lives in. Chromium and Firefox are driven by browsers.mjs, one line of JSON a
// command; what is measured inside a page is in probe.js. The package is not a place for what a unit test
// can show: it imports nothing of internal/, and of this module only the public Go client.
package e2e
