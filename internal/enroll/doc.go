// Package enroll lets new nodes into a cluster: an invitation is a token that is shown once, works once and not for long;
// whoever holds it is recorded as a node and given what the cluster's members know. It writes no file and makes no
// interface; the records, and what is handed out, belong to others.
//
// Both sides prove themselves. The listener's TLS key is derived from the cluster key, and its fingerprint is in the
// token: a joiner says nothing to a host that does not hold it. The joiner proves itself by the token's secret, which it
// sends only then, inside TLS 1.3. The private key of its own WireGuard never leaves it.
//
//	POST /v1/join   Request → 200 Answer
//	POST /v1/nodes  → 200 {"nodes":[…]}, for members alone: the client's certificate has the cluster's key
//
// A refusal is {"error":{"kind","code","message"}} with the kind's status.
package enroll
