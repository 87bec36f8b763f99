package sitetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// nested is the first QEMU whose emulated machines can run KVM themselves:
// under 7.2 every instance panicked, under 10.0 they ran.
const nested = 10

// instances tries the cluster with an instance of our own, see package guest:
// made, started, migrated, failed over, removed, and none of its records lost.
func (t *test) instances(ctx context.Context, master *node) error {
	if why := t.noInstances(); why != "" {
		t.report.Skip("instance", "an instance is made, migrated and failed over", why)
		t.say("skipped: instances: " + why)
		return nil
	}
	tr, err := t.trial(master)
	if err != nil {
		return err
	}
	err = tr.run(ctx)
	tr.keepLogs(ctx, "ganeti.log")
	return err
}

// trial prepares an instance whose primary is the master.
func (t *test) trial(master *node) (*trial, error) {
	other := t.members()[0]
	if other == master {
		other = t.members()[1]
	}
	ip, err := t.freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(t.o.WorkDir, "sci-guest")
	if err := os.WriteFile(file, t.o.Guest, 0o755); err != nil {
		return nil, fmt.Errorf("cannot write guest: %w", err)
	}
	return &trial{t: t, file: file, dir: t.o.guestDir, master: master, other: other, ip: ip, name: instanceName + "." + t.o.Domain}, nil
}

// keepLogs keeps what Ganeti has to say on the nodes that are on.
func (tr *trial) keepLogs(ctx context.Context, name string) {
	for _, n := range tr.alive() {
		if out, err := n.session.Run(ctx, tr.logs()); err == nil {
			_ = n.session.Keep(name, out) // the report lacks it then
		}
	}
}

// noInstances says why instances cannot be tried here; empty: they can.
func (t *test) noInstances() string {
	switch {
	case len(t.o.Guest) == 0:
		return "this sci-cd carries no guest"
	case t.o.nodes() < 2:
		return "a site with one node has no mirrored disks"
	case t.o.Accel != vm.KVM && t.qemu.Major < nested:
		return fmt.Sprintf("QEMU %v cannot start instances inside emulated nodes, QEMU %d can: see --qemu-root", t.qemu, nested)
	}
	return ""
}

// freeAddress is the last address in lan that nobody has, with its prefix
// length.
func (t *test) freeAddress() (netip.Prefix, error) {
	lan, err := netip.ParsePrefix(t.o.Networks["lan"])
	if err != nil || !lan.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("cannot choose an address for an instance: lan is %q", t.o.Networks["lan"])
	}
	taken := make(map[string]bool)
	for _, a := range t.o.Taken {
		taken[a] = true
	}
	for _, h := range t.o.Hosts {
		taken[h.Addresses["lan"]] = true
	}
	leased := func(netip.Addr) bool { return false }
	if s := t.o.Service; s != nil {
		taken[s.address()] = true
		leased = func(a netip.Addr) bool { return s.leases() && !a.Less(s.From) && !s.To.Less(a) }
	}
	last := lan.Masked().Addr().As4()
	for bit := lan.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	// The last one is for broadcasts, the first one names the network.
	for a := netip.AddrFrom4(last).Prev(); a.IsValid() && lan.Contains(a) && a != lan.Masked().Addr(); a = a.Prev() {
		if !taken[a.String()] && !leased(a) {
			return netip.PrefixFrom(a, lan.Bits()), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("cannot choose an address for an instance: all of %s are taken", lan)
}

const (
	instanceName = "sci-trial"
	guestStick   = "SCITESTGUEST"
	guestMemory  = 256  // MiB
	guestDisk    = 1024 // MiB; Ganeti's policy allows no smaller one
	guestRecords = 32   // MiB, of the disk: more than any test writes
)

// trial is the life of one instance.
type trial struct {
	t             *test
	file          string // the guest
	dir           string // on the nodes, for the guest and what it needs
	master, other *node
	name          string
	ip            netip.Prefix
	minor         string // of its DRBD device
}

// run is its order. What a step expects is what the one before has left.
func (tr *trial) run(ctx context.Context) error {
	tr.master.session.Phase("instance: bring the guest")
	for _, n := range []*node{tr.master, tr.other} {
		if err := tr.bring(ctx, n); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"add", tr.add}, {"blank", tr.blank}, {"synchronise", tr.sync}, {"start", tr.start}, {"migrate", tr.migrate}, {"fail over", tr.failover},
		{"compare copies", tr.compare}, {"remove", tr.remove},
	} {
		tr.master.session.Phase("instance: " + step.name)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// bring puts the guest, its kernel and its initramfs onto a node.
func (tr *trial) bring(ctx context.Context, n *node) error {
	if err := n.session.Machine().PlugStick(ctx, guestStick, tr.file); err != nil {
		return err
	}
	defer func() { _ = n.session.Machine().UnplugStick(ctx, guestStick) }() // in nobody's way
	return tr.ask(ctx, n, "the guest is packed from the node's kernel", "its bytes arrived, and an initramfs", bringScript(tr.dir, tr.t.o.Guest), any0)
}

func bringScript(dir string, guest []byte) string {
	return fmt.Sprintf(`set -e
mkdir -p %[1]s
cd %[1]s
i=0
until d=$(ls /dev/disk/by-id/usb-*%[2]s* 2>/dev/null); do
	i=$((i + 1))
	test $i -lt 120 || { echo "the USB stick does not appear"; exit 1; }
	sleep 1
done
head -c %[3]d "$d" >sci-guest
echo "%[4]x  sci-guest" | sha256sum -c
chmod 755 sci-guest
cp "/boot/vmlinuz-$(uname -r)" vmlinuz
./sci-guest pack "/lib/modules/$(uname -r)" initrd
ls -l`, dir, guestStick, len(guest), sha256.Sum256(guest))
}

func (tr *trial) add(ctx context.Context) error {
	return tr.ask(ctx, tr.master, "gnt-instance add", "a mirrored disk on both nodes, primary "+tr.master.host.Name, addScript(tr), any0)
}

// addScript tries three times: in emulation Ganeti's own limits of 5 seconds for
// connecting to a node, and of a minute for the start of a job, may pass. Nothing
// else is tried again.
func addScript(tr *trial) string {
	parameters := fmt.Sprintf("kvm:kernel_path=%[1]s/vmlinuz,initrd_path=%[1]s/initrd,serial_console=true,kernel_args=quiet panic=-1 sci.ip=%[2]s", tr.dir, tr.ip)
	return fmt.Sprintf(`for try in 1 2 3; do
	if out=$(gnt-instance add -t drbd -n '%[2]s:%[3]s' -o noop --no-install --no-start --no-wait-for-sync --disk 0:size=%[4]d -B memory=%[5]d,vcpus=1 -H '%[6]s' --net 0:link=lan '%[1]s' 2>&1); then
		echo "$out"
		exit 0
	fi
	echo "try $try: $out"
	case $out in
	*"Error 28"* | *"timed out"* | *"failed to start"*) ;;
	*) exit 1 ;;
	esac
	gnt-instance remove -f --ignore-failures '%[1]s' 2>&1 || true
	sleep 10
done
exit 1`, tr.name, tr.fqdn(tr.master), tr.fqdn(tr.other), guestDisk, guestMemory, parameters)
}

func (tr *trial) fqdn(n *node) string { return n.host.Name + "." + tr.t.o.Domain }

// blank takes the records of an earlier instance off the disk: Ganeti gives it
// the extents as they are, and LVM clears the first 4 KiB only.
func (tr *trial) blank(ctx context.Context) error {
	return tr.ask(ctx, tr.master, "the disk is blank", "a DRBD device without records", blankScript(tr.name), func(out string) string {
		var err error
		if tr.minor, err = drbdMinor(out); err != nil {
			return err.Error()
		}
		return ""
	})
}

func blankScript(instance string) string {
	return fmt.Sprintf(`set -e
out=$(gnt-instance activate-disks '%s' 2>&1) || { echo "$out"; exit 1; }
echo "$out"
dd if=/dev/zero of="$(echo "$out" | grep -o '/dev/drbd[0-9]*')" bs=1M count=%d oflag=direct conv=notrunc 2>&1`, instance, guestRecords)
}

// resync has the disk synchronised so slowly that there is time to disturb it;
// anew, if that was over already.
func (tr *trial) resync(ctx context.Context) error {
	if err := tr.pace(ctx, "2M"); err != nil {
		return err
	}
	return tr.ask(ctx, tr.master, "the disk is being synchronised", "a device that is", fmt.Sprintf(`state=$(cat /proc/drbd)
case $state in
*" %[1]s: cs:Connected "*)
	drbdsetup invalidate-remote %[1]s 2>&1 || exit
	sleep 2
	state=$(cat /proc/drbd)
	;;
esac
echo "$state"`, tr.minor), syncing)
}

// pace sets how much a second the synchronisation may take, on both nodes.
func (tr *trial) pace(ctx context.Context, rate string) error {
	for _, n := range []*node{tr.master, tr.other} {
		err := tr.ask(ctx, n, "the rate of the synchronisation is set to "+rate, "status 0", fmt.Sprintf(`for device in /sys/block/drbd*; do
	[ -e "$device" ] || continue
	drbdsetup disk-options "${device##*/drbd}" --c-plan-ahead=0 --resync-rate=%s 2>&1 || exit
done`, rate), any0)
		if err != nil {
			return err
		}
	}
	return nil
}

// sync waits until both copies of the disk are the same.
func (tr *trial) sync(ctx context.Context) error {
	return tr.t.until(ctx, "instance", tr.t.o.Limits.Sync, "both copies of its disk are current", "UpToDate/UpToDate",
		tr.master.drbd(func(out string) error { return upToDate(out, tr.minor) }))
}

// drbd is a question for until: what judge says of the node's /proc/drbd.
func (n *node) drbd(judge func(out string) error) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		out, err := n.session.Run(ctx, "cat /proc/drbd")
		if err == nil {
			err = judge(out)
		}
		return out, err
	}
}

func drbdMinor(out string) (string, error) {
	m := regexp.MustCompile(`/dev/drbd(\d+)`).FindStringSubmatch(out)
	if m == nil {
		return "", errors.New("it names no DRBD device")
	}
	return m[1], nil
}

// upToDate reads /proc/drbd (DRBD 8.4 user's guide, "Status information in
// /proc/drbd").
func upToDate(out, minor string) error {
	m := regexp.MustCompile(`(?m)^ *` + minor + `: cs:(\S+) ro:\S+ ds:(\S+).*\n(.*\n.*sync'ed: *(\S+%))?`).FindStringSubmatch(out + "\n")
	switch {
	case m == nil:
		return fmt.Errorf("there is no device %s", minor)
	case m[1] == "Connected" && m[2] == "UpToDate/UpToDate":
		return nil
	case m[4] != "":
		return fmt.Errorf("device %s is %s, %s, %s done", minor, m[1], m[2], m[4])
	}
	return fmt.Errorf("device %s is %s, %s", minor, m[1], m[2])
}

func (tr *trial) start(ctx context.Context) error {
	if err := tr.ask(ctx, tr.master, "gnt-instance start", "status 0", "gnt-instance start '"+tr.name+"' 2>&1", any0); err != nil {
		return err
	}
	return tr.answers(ctx, "it answers both nodes by HTTP", "its first start, records are written", func(s status) error {
		switch {
		case s.Boot != 1 || s.Found.Records != 0:
			return final(fmt.Errorf("it is start %d and found %d records", s.Boot, s.Found.Records))
		case s.Records < 10:
			return fmt.Errorf("%d records so far", s.Records)
		}
		return nil
	})
}

// migrate moves the running instance to the other node.
func (tr *trial) migrate(ctx context.Context) error {
	before, sum, err := tr.mark(ctx, tr.master)
	if err != nil {
		return err
	}
	if err := tr.ask(ctx, tr.master, "gnt-instance migrate", "status 0, without a stop", "gnt-instance migrate -f '"+tr.name+"' 2>&1", any0); err != nil {
		return err
	}
	if err := tr.answers(ctx, "it goes on behind the migration", wroteOnWant(before), wroteOn(before)); err != nil {
		return err
	}
	return tr.kept(ctx, "migration", tr.other, before, sum)
}

func wroteOnWant(before status) string {
	return fmt.Sprintf("the same start, more than %d records", before.Records)
}

// wroteOn judges an instance that must not have stopped.
func wroteOn(before status) func(status) error {
	return func(s status) error {
		switch {
		case s.Boot != before.Boot:
			return final(fmt.Errorf("it was restarted: start %d", s.Boot))
		case s.Records <= before.Records+10:
			return fmt.Errorf("%d records, %d before", s.Records, before.Records)
		}
		return nil
	}
}

// failover stops the instance, as a failure of its node would, and has it
// started on the first node again.
func (tr *trial) failover(ctx context.Context) error {
	before, sum, err := tr.mark(ctx, tr.other)
	if err != nil {
		return err
	}
	// It knows no power button, so it is killed: its last record may be torn.
	if err := tr.ask(ctx, tr.master, "gnt-instance failover", "status 0", "gnt-instance failover -f --shutdown-timeout=5 '"+tr.name+"' 2>&1", any0); err != nil {
		return err
	}
	if err := tr.startedAgain(ctx, "failover", before); err != nil {
		return err
	}
	return tr.kept(ctx, "failover", tr.master, before, sum)
}

// startedAgain waits until the instance, which was killed when it had
// acknowledged what last says, has been started again, and judges what it found.
func (tr *trial) startedAgain(ctx context.Context, behind string, last status) error {
	return tr.answers(ctx, "it is started again behind the "+behind, fmt.Sprintf("start %d, at least the %d acknowledged records", last.Boot+1, last.Records),
		startedAgain(last))
}

func startedAgain(last status) func(status) error {
	return func(s status) error {
		switch {
		case s.Boot != last.Boot+1:
			return final(fmt.Errorf("it is start %d", s.Boot))
		case s.Found.Records < last.Records:
			return final(fmt.Errorf("%d records are lost: it found %d, %d had been acknowledged", last.Records-s.Found.Records, s.Found.Records, last.Records))
		case s.Records <= s.Found.Records:
			return errors.New("it writes no records")
		}
		return nil
	}
}

// mark notes how far the guest is and the digest of its records so far.
func (tr *trial) mark(ctx context.Context, from *node) (status, string, error) {
	out, err := from.session.Run(ctx, tr.get("/status"))
	s, perr := parseStatus(out)
	if err = errors.Join(err, perr); err != nil {
		return s, "", tr.fail("the instance says how far it is", out, err)
	}
	sum, out, err := tr.digest(ctx, from, s.Records)
	if err != nil {
		return s, "", tr.fail("the instance reads its records", out, err)
	}
	return s, sum, nil
}

func (tr *trial) digest(ctx context.Context, from *node, records uint64) (sum, out string, err error) {
	out, err = from.session.Run(ctx, tr.get(fmt.Sprintf("/digest?records=%d", records)))
	if err != nil {
		return "", out, err
	}
	var d struct {
		Records uint64 `json:"records"`
		SHA256  string `json:"sha256"`
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return "", out, err
	}
	if d.Records != records || len(d.SHA256) != 64 {
		return "", out, errors.New("this is no digest of them")
	}
	return d.SHA256, out, nil
}

// kept checks that the instance is where it should be and that the records of
// before are the same, byte for byte.
func (tr *trial) kept(ctx context.Context, behind string, on *node, before status, sum string) error {
	c := tr.t.report.Begin("", "instance", "each record is the same behind the "+behind, fmt.Sprintf("SHA-256 of %d records: %s", before.Records, sum))
	got, out, err := tr.digest(ctx, tr.master, before.Records)
	c.Output = out
	if err == nil && got != sum {
		err = fmt.Errorf("their SHA-256 is %s now", got)
	}
	if err := tr.t.close(c, err); err != nil {
		return err
	}
	return tr.ask(ctx, tr.master, "the instance runs on "+on.host.Name, tr.fqdn(on), whereScript(tr.name), installtest.Equal(tr.fqdn(on)+" running"))
}

// whereScript asks three times where a node does not answer Ganeti in its few
// seconds, as onlineScript does. No other state is asked for again.
func whereScript(instance string) string {
	return `for pause in 5 10 0; do
	out=$(gnt-instance list --no-headers --separator=' ' -o pnode,status '` + instance + `') || exit
	case $out in *" ERROR_nodedown") sleep $pause ;; *) break ;; esac
done
echo "$out"`
}

// compare stops the instance and looks at both copies of its disk, below DRBD.
func (tr *trial) compare(ctx context.Context) error {
	before, _, err := tr.mark(ctx, tr.other)
	if err != nil {
		return err
	}
	if err := tr.ask(ctx, tr.master, "gnt-instance shutdown", "status 0", "gnt-instance shutdown --timeout=5 '"+tr.name+"' 2>&1", any0); err != nil {
		return err
	}
	var states []string
	for _, n := range []*node{tr.master, tr.other} {
		err := tr.ask(ctx, n, "the copy of the disk on this node", fmt.Sprintf("%d records or more, none lost", before.Records), scanScript(tr.dir, tr.name), func(out string) string {
			s, problem := scanned(out)
			if problem == "" && s.Records < before.Records {
				problem = fmt.Sprintf("%d records are lost: %d of %d are there", before.Records-s.Records, s.Records, before.Records)
			}
			states = append(states, fmt.Sprintf("%+v", s))
			return problem
		})
		if err != nil {
			return err
		}
	}
	c := tr.t.report.Begin("", "instance", "both copies hold the same records", states[0])
	if states[0] != states[1] {
		err = fmt.Errorf("the other one holds %s", states[1])
	}
	return tr.t.close(c, err)
}

// volumeScript finds the volume below an instance's disk. Ganeti tags the
// volumes of an instance with its name.
func volumeScript(name string) string {
	return fmt.Sprintf(`v=$(lvs --noheadings -o vg_name,lv_name --separator=/ '@originstname+%s' | tr -d ' ' | grep '_data$')
test -n "$v" || { echo "the volume is not found"; exit 1; }
`, name)
}

// scanScript scans it.
func scanScript(dir, name string) string {
	return volumeScript(name) + dir + `/sci-guest scan "/dev/$v"`
}

// scanned reads what `sci-guest scan` prints.
func scanned(out string) (found, string) {
	var s found
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, "cannot read the result: " + err.Error()
	}
	return s, s.Damage
}

func (tr *trial) remove(ctx context.Context) error {
	if err := tr.ask(ctx, tr.master, "gnt-instance remove", "status 0", "gnt-instance remove -f '"+tr.name+"' 2>&1", any0); err != nil {
		return err
	}
	return tr.ask(ctx, tr.master, "gnt-cluster verify behind it all", "status 0, no ERROR, no WARNING", verifyScript, verified)
}

// found and status are what the guest says, see package guest.
type found struct {
	Records uint64 `json:"records"`
	Boot    uint64 `json:"boot"`
	Damage  string `json:"damage"`
}

type status struct {
	Boot    uint64 `json:"boot"`
	Records uint64 `json:"records"`
	Found   found  `json:"found"`
	Error   string `json:"error"`
}

func parseStatus(out string) (status, error) {
	var s status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("cannot read the guest's answer: %w", err)
	}
	switch {
	case s.Found.Damage != "":
		return s, final(errors.New(s.Found.Damage))
	case s.Error != "":
		return s, final(errors.New(s.Error))
	}
	return s, nil
}

// finalError is one that waiting does not mend.
type finalError struct{ error }

func final(err error) error { return finalError{err} }

// get asks the guest from a node.
func (tr *trial) get(path string) string {
	return fmt.Sprintf("%s/sci-guest get 'http://%s%s'", tr.dir, tr.ip.Addr(), path)
}

// alive are the nodes that are on; if none is, asking the master says so.
func (tr *trial) alive() []*node {
	switch {
	case tr.other.session.Shell() == nil:
		return []*node{tr.master}
	case tr.master.session.Shell() == nil:
		return []*node{tr.other}
	}
	return []*node{tr.master, tr.other}
}

// answers waits until the guest answers each node as it should.
func (tr *trial) answers(ctx context.Context, name, want string, judge func(status) error) error {
	return tr.t.until(ctx, "instance", tr.t.o.Limits.Guest, name, want, func(ctx context.Context) (string, error) {
		said := ""
		for _, n := range tr.alive() {
			out, err := n.session.Run(ctx, tr.get("/status"))
			said += n.host.Name + ": " + out
			if err != nil {
				return said, fmt.Errorf("%s: %w: %s", n.host.Name, err, strings.TrimSpace(out))
			}
			s, err := parseStatus(out)
			if err == nil {
				err = judge(s)
			}
			if err != nil {
				return said, fmt.Errorf("%s: %w", n.host.Name, err)
			}
		}
		return said, nil
	})
}

// until asks until there is no error, or a final one, or the time is over. That
// does not cut off a question: its shell would be of no further use.
func (t *test) until(ctx context.Context, stage string, limit time.Duration, name, want string, ask func(context.Context) (string, error)) error {
	c := t.report.Begin("", stage, name, want)
	t.say(stage + ": " + name)
	pause := min(5*time.Second, limit/20)
	for end := time.Now().Add(limit); ; {
		out, err := ask(ctx)
		c.Output = out
		last := finalError{}
		if err == nil || errors.As(err, &last) || errors.Is(err, vm.ErrEnded) || ctx.Err() != nil {
			return t.close(c, err)
		}
		if time.Now().After(end) {
			return t.close(c, fmt.Errorf("not within %v: %w", limit, err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// close decides a check; one that fails ends the test.
func (t *test) close(c *installtest.Check, err error) error {
	if err == nil {
		t.report.Close(c, "")
		return nil
	}
	t.report.Close(c, err.Error())
	t.say("failed: " + c.Name + ": " + err.Error())
	return installtest.ErrFailed
}

// fail notes a step that could not even be asked.
func (tr *trial) fail(name, out string, err error) error {
	c := tr.t.report.Begin("", "instance", name, "an answer")
	c.Output = out
	return tr.t.close(c, err)
}

// ask asks a node; what does not hold ends the trial.
func (tr *trial) ask(ctx context.Context, n *node, name, want, script string, judge func(string) string) error {
	return tr.t.ask(ctx, n, installtest.Question{Stage: "instance", Name: name, Want: want, Script: script, Judge: judge})
}

// ask asks a node; what does not hold ends the test.
func (t *test) ask(ctx context.Context, n *node, q installtest.Question) error {
	t.say(q.Stage + ": " + q.Name + " (" + n.host.Name + ")")
	if _, ok := n.session.Ask(ctx, q); !ok {
		return installtest.ErrFailed
	}
	return nil
}

// any0 takes any output of a command that succeeded.
func any0(string) string { return "" }

// logs shows what Ganeti and the instance have to say.
func (tr *trial) logs() string {
	return fmt.Sprintf(`cd /var/log/ganeti 2>/dev/null || exit 0
for f in jobs.log master-daemon.log wconf-daemon.log node-daemon.log kvm/*; do
	test -s "$f" || continue
	echo "== $f"
	tail -n 60 "$f"
done
s=$(ls /run/ganeti/kvm-hypervisor/ctrl/%s.serial 2>/dev/null) || exit 0
echo "== serial line of the instance"
timeout 12 socat -u "UNIX-CONNECT:$s" - </dev/null || true`, tr.name)
}
