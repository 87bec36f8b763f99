// Package enrol lets the machines of a site find each other without a password:
// a node that was installed from the medium proves to the cluster's master which
// host it is, the master proves that it is the master, and both learn the SSH
// keys by which everything further is done.
//
// The builder (Issue) makes an authority for each medium, and signs one
// certificate for each node with it. The authority's private key exists while
// Issue runs and never again. All keys are derived from a seed, so that the same
// site folder gives the same medium, byte for byte.
//
// The node (Join) and the master (Server) speak HTTP/1.1 over TLS 1.3 with
// certificates on both sides, on port 1810:
//
//	POST /v1/join   Request → Reply, or why it is refused
//
// A certificate never expires: a new server's clock may be decades off, so none
// is asked. What ends a credential is the master's Ledger, which counts the time
// that the master has been running:
//
//	open ──first claim──► claimed ──in the cluster──► joined
//	  │                      │                           │
//	  └──────────── window over: refused                 └─ refused: used
//	  ▲
//	  └── Open, an admin's word, from any state
//
// A claim binds the host to the machine that made it, known by its SSH host
// keys: the same machine may ask again after a power cut, another one is
// refused, and says so on both consoles.
//
// The reply holds nothing that is secret. A claim with the public host keys of
// somebody else gains nothing: the master goes on by SSH, and that machine must
// have their private halves.
//
// One server may know several media, because a host may be installed anew from a
// newer one. Each host is admitted by one of them at a time. A client names the
// medium in the server name that it asks for (a label before the master's name,
// which the certificate has, too), and gets the master's certificate of it.
//
// Sources: RFC 8446 (TLS 1.3), RFC 5869 (HKDF), RFC 8032 (Ed25519), RFC 5280
// (certificates), RFC 6066 section 3 (server names), RFC 4251, 4253, 5656 and
// 8709 (SSH keys), proc_uptime(5), flock(2). docs/threat-model.md says what a
// thief of the medium can do.
package enrol
