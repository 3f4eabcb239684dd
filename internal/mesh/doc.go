// Package mesh is the WireGuard network between the nodes, as seen from one of them: it makes or adopts this
// host's interface, keeps its peers what the cluster's records say, and changes its own key from time to time. It
// lets nobody in (see enroll), opens no firewall, and knows no namespace. See DESIGN.md for how a key changes.
//
// In the kernel an interface outlives whoever configured it. In user space it lives as long as the process that
// moves its packets, so that process is one of its own, RunDevice, which is told everything over its UAPI socket.
// Either way the agent can be killed while calls flow.
//
// Everything here is level-triggered: Apply compares what is there with what is wanted and changes the difference, so
// that a peer that did not change keeps its session.
package mesh
