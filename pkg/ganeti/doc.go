// Package ganeti forms and asks a Ganeti cluster: each command of Ganeti that
// the agent needs is a function with typed arguments, and the configuration is
// read from Ganeti's own file. Reading it costs nothing, where each gnt-*
// command starts Python and waits for a job queue; so checks read, and only
// work runs commands.
//
// What Ganeti leaves behind when a command is cut off by a power failure is
// known here as well: a half-made cluster ([Cluster.Reset]) and the key of a
// node whose addition failed ([Cluster.AddNode] takes it out).
//
// Sources: Ganeti 3.1's gnt-cluster(8), gnt-node(8), gnt-instance(8),
// ganeti(7), and its lib/bootstrap.py, lib/client/gnt_node.py, lib/ssh.py and
// lib/hypervisor/hv_kvm for what the pages leave open.
package ganeti
