// Package plan decides: which nodes carry a namespace, which ports each instance gets, and
// what one node must run. Every function here is pure; effects belong to operator and node.
package plan
