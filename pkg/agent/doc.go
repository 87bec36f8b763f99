// Package agent turns an installed Debian into the host that the site file
// describes. It is a plan of steps; each step can say whether it is done and
// can do its work. The plan goes through them in order, at every boot:
//
//   - a step that is done already is not done again;
//   - what a step did counts only when its own check says so afterwards;
//   - a step that fails is tried again, with growing pauses, without end; each
//     try has a limit; the console says what is being waited for;
//   - an error wrapped by [Stop] ends the plan: only a person can go on;
//   - killed or powered off anywhere, the next run goes on from there. The
//     checks decide where that is; the state file only remembers.
//
// The hosts of role node go on and form a cluster: the first one of the site
// file makes it, each other one proves who it is (pkg/enrol) and is taken in.
// From then on Ganeti knows who the master is, and the master alone works on
// what belongs to all: nodes, parameters, the configuration on all candidates,
// gnt-cluster verify.
//
// Everything that the agent knows comes from /etc/sci/site.json (mode 0600) and
// /etc/sci/host, both written by the installer. It writes /var/lib/sci/state.json
// (what `sci-agent status` shows), the banner /etc/issue.d/sci.issue above the
// login prompt, the journal, and one line an event to /dev/console.
//
// Three look at the machine and its cluster without changing anything, also while
// no plan runs: [ReadReport] for `sci-agent status`, [ServeMetrics] for Prometheus,
// [RefreshBanner] for whoever stands before the screen.
//
// Sources: systemd.network(5), systemd.netdev(5), sources.list(5) (deb822),
// chrony.conf(5), timesyncd.conf(5), hosts(5), resolv.conf(5), agetty(8); the
// FQDN as host name is what gnt-cluster(8) asks for. /proc/drbd as the kernel's
// drbd_proc.c writes it, Ganeti's ssconf files (ganeti(7)), chronyc(1), Prometheus's
// text format 0.0.4.
package agent
