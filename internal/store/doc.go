// Package store keeps the cluster's records: it reads them, and commits a planned change against the
// revision it was planned from. It decides nothing and watches nothing.
//
// The unit of work is a batch of statements with expectations: all happen, or, when one did not touch the
// number of rows it was expected to, none. That is what both SQLite and RQLite can promise, so the SQL stays
// within what both mean alike: no interactive transaction, no default that is not a constant, no
// function of time or chance. Times and ids come from the caller.
//
// There are two engines: an SQLite file that the processes of a local cluster share, and RQLite, a cluster of its own that is
// reached over HTTP. What both must mean alike is written down as one suite of tests.
package store
