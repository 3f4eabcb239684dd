// Package batch moves many datagrams with few system calls: recvmmsg and sendmmsg, with the kernel's segmentation and
// coalescing (GSO and GRO) where it has them, on sockets outside of Go's poller, and an epoll of its own to wait for them.
// It knows nothing of what the datagrams carry.
//
// A Receiver's buffers are filled by Receive and are good until Reset. A Sender's messages point into buffers of others;
// Flush must come before those are used again. Neither is safe for concurrent use, and neither allocates once made.
package batch
