// Package supervisor keeps processes running: it starts them, restarts them when they die, and stops
// them for good. They outlive it. It knows no cluster and no configuration; what a process is told beyond its
// arguments is told by others, over the process's control socket.
//
// Children is for hosts without an init system of use: each process is a child in a session of its own, and a
// supervisor that is started again adopts those that live. Systemd asks systemd for the same over D-Bus; there the units'
// files, which a package installs, say what runs and as whom.
//
// Children is for Linux: a process is held by its pidfd, so that a signal never reaches another process that was
// given the same number.
//
// For each unit there is a record DIR/NAME.json of its process: number, start time, boot. A record counts only while
// all three agree with the kernel. The moment between a child's start and its record's writing is covered by a
// marker in the child's environment, by which an unrecorded child is found.
package supervisor
