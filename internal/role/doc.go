// Package role wires the packages into processes: a TURN server, an SFU, a node, and a whole
// local cluster. Each function here is one process's life, read from top to bottom, with its
// shutdown order at the end. It decides nothing that a test of a smaller package could decide.
package role
