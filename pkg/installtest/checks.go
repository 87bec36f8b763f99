package installtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// assertion is one question to the running system: a script for its root shell
// and the judge of what it printed.
type assertion struct {
	name, want string
	script     string
	// judge returns what is wrong, or nothing. The status is 0 unless failOK.
	judge   func(out string) string
	failOK  bool
	changes bool // the system: the facts are collected before
}

// assertions are asked in this order: those that change the system come last.
func assertions(o Options) []assertion {
	h := o.Host
	list := []assertion{
		{name: "booted by the right firmware", want: string(o.Firmware), script: "if test -d /sys/firmware/efi; then echo uefi; else echo bios; fi", judge: equal(firmwareKind(o.Firmware))},
		{name: "systemd is done", want: "running", script: "systemctl is-system-running --wait", judge: equal("running"), failOK: true},
		{name: "no failed units", want: "none", script: "systemctl list-units --failed --plain --no-legend", judge: empty},
		{name: "the agent's state", want: `"state": "ready"`, script: "sci-agent status --json", judge: agentReady, failOK: true},
		{name: "packages of the role", want: fmt.Sprintf("%d packages installed, none half installed", len(h.Packages)), script: `dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n'`, judge: installed(h.Packages)},
		{name: "dpkg --audit", want: "no output", script: "dpkg --audit", judge: empty},
		{name: "dpkg --verify", want: "no changed file but configuration", script: "dpkg --verify >/run/sci-test.verify || true; cat /run/sci-test.verify", judge: verified},
		{name: "volume group", want: "xenvg with free space", script: "vgs --reportformat json --units m --nosuffix -o vg_name,vg_size,vg_free", judge: volumeGroup},
		{name: "logical volumes", want: "root on /, swap in use", script: "lvs --noheadings -o lv_name xenvg; findmnt -no SOURCE /; swapon --show=NAME --noheadings --raw | xargs -r readlink -f; readlink -f /dev/xenvg/swap", judge: logicalVolumes},
		{name: "partitions", want: "EFI system partition (FAT, /boot/efi), BIOS boot, /boot", script: "lsblk -J -o NAME,TYPE,PARTTYPE,FSTYPE,MOUNTPOINT", judge: partitions},
		{name: "addresses in fstab", want: "no /dev/sd, /dev/vd or /dev/nvme names", script: `grep -E '^/dev/(sd|vd|nvme|hd)' /etc/fstab || true`, judge: empty},
		{name: "nothing left of the installation", want: "no policy-rc.d, no unsafe dpkg", script: "ls /usr/sbin/policy-rc.d 2>/dev/null; grep -rl force-unsafe-io /etc/dpkg 2>/dev/null; ls -d /target 2>/dev/null; true", judge: empty},
		{name: "no trust switched off", want: "no trusted=yes, no allow-insecure", script: `grep -rniE '^[^#]*(trusted[=:] *yes|allow-(insecure|weak)[=:] *yes)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null; apt-config dump | grep -iE '(AllowInsecureRepositories|AllowUnauthenticated|TrustCDROM|AllowDowngradeToInsecureRepositories) "?(true|1|yes)'; true`, judge: empty},
		{name: "nothing came from a network", want: "0 packets received", script: `for n in /sys/class/net/*; do if test -e "$n/device"; then cat "$n/statistics/rx_packets"; fi; done`, judge: eachEqual("0")},
	}
	if h.Name != "" {
		list = append(list, assertion{name: "hostname", want: fqdn(h), script: "hostname -f", judge: equal(fqdn(h))})
	}
	if h.LAN != "" {
		list = append(list, assertion{name: "bridge lan", want: "a bridge with a port and " + h.LAN, script: "ip -j -d addr show dev lan; ip -j link show master lan", judge: bridge(h.LAN)})
	}
	if o.Firmware == vm.SecureBoot {
		list = append(list, assertion{name: "Secure Boot", want: "the kernel says that it is enabled", script: "journalctl -k -b --no-pager -o cat | grep -i 'secure boot'", judge: contains("Secure boot enabled")})
	}
	return append(list,
		assertion{name: "apt-get update without a network", want: "status 0, no signature refused", script: "apt-get update 2>&1", judge: aptUpdated, changes: true},
		assertion{name: "apt-get install from the medium", want: "a package that was not installed, now installed and unchanged", script: aptInstall(h.Extra), judge: contains("\nok: "), changes: true},
	)
}

// checks asks them all; one that fails does not keep the others from being
// asked.
func (r *run) checks(ctx context.Context, sh *vm.Shell) {
	collected := false
	for _, a := range assertions(r.o) {
		if a.changes && !collected {
			if collected = true; !r.facts(ctx, sh) {
				return
			}
		}
		c := r.begin("system", a.name, a.want)
		c.Script = a.script
		limit, cancel := context.WithTimeout(ctx, r.o.Limits.Check)
		out, err := sh.Run(limit, a.script)
		cancel()
		c.Output = out
		problem := a.decide(out, err)
		r.report.Close(c, problem)
		if problem != "" {
			r.say("failed: %s: %s", a.name, problem)
		}
		if exit := (*vm.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			return // the shell is gone
		}
	}
}

// facts keeps the facts of the system and compares them with the other one's,
// if there is one. It returns false if the shell is of no further use.
func (r *run) facts(ctx context.Context, sh *vm.Shell) bool {
	c := r.begin("system", "facts of the system", "packages, accounts, units, /etc and more, in "+FactsFile)
	limit, cancel := context.WithTimeout(ctx, r.o.Limits.Check)
	defer cancel()
	f, err := CollectFacts(limit, sh)
	if err == nil {
		err = f.Write(r.o.ReportDir)
	}
	if err != nil {
		r.report.Close(c, err.Error())
		r.say("failed: %s: %v", c.Name, err)
		return limit.Err() == nil && !errors.Is(err, vm.ErrEnded)
	}
	var counts []string
	for _, class := range f.classes() {
		counts = append(counts, fmt.Sprintf("%s: %d", class.name, len(class.class)))
	}
	c.Output = strings.Join(counts, "\n")
	r.report.Close(c, "")
	r.compare(f)
	return true
}

// compare checks that the system equals the one of another report.
func (r *run) compare(f Facts) {
	if r.like == nil {
		return
	}
	c := r.begin("system", "the same machine as in "+r.o.Like, "no difference but those that are expected")
	var found []string
	for _, d := range Compare(f, *r.like) {
		if d.Expected != "" {
			r.report.Accepted = append(r.report.Accepted, d)
			continue
		}
		found = append(found, d.String())
	}
	c.Output = strings.Join(found, "\n")
	problem := ""
	if n := len(found); n > 0 {
		problem = fmt.Sprintf("%d differences: %s", n, strings.Join(found[:min(n, 5)], " | "))
		if n > 5 {
			problem += " | …"
		}
		r.say("failed: %s: %s", c.Name, problem)
	}
	r.report.Close(c, problem)
}

func (a assertion) decide(out string, err error) string {
	exit := (*vm.ExitError)(nil)
	switch {
	case err != nil && !errors.As(err, &exit):
		return err.Error()
	case exit != nil && !a.failOK:
		return exit.Error()
	}
	return a.judge(out)
}

// secureBoot asks for the state of Secure Boot in the running installer, where
// systemd's credentials are of no use: the kernel's first lines on the console
// say it, or if they are suppressed, the shell on the second virtual terminal.
func (r *run) secureBoot(ctx context.Context, m *vm.Machine) error {
	c := r.begin("boot", "Secure Boot is on", "the kernel says that it is enabled")
	ctx, cancel := context.WithTimeout(ctx, r.o.Limits.Check)
	defer cancel()
	re := regexp.MustCompile(`(?i)secure ?boot enabled`)
	line, ok := m.Console.Contains(re)
	for !ok && ctx.Err() == nil {
		// The terminal exists only when the installer's init is through with
		// its first scripts; until then the keys lead nowhere.
		if err := r.askTerminal(ctx, m, "dmesg | grep -i secure >/dev/ttyS0"); err != nil {
			return r.end(ctx, c, m, err)
		}
		answer, stop := context.WithTimeout(ctx, 10*time.Second)
		match, err := m.Expect(answer, re.String())
		stop()
		line, ok = match.Line, err == nil
	}
	if !ok {
		return r.end(ctx, c, m, fmt.Errorf("the kernel did not say so: %w", context.Cause(ctx)))
	}
	c.Output = line.Text
	return r.end(ctx, c, m, nil)
}

// askTerminal types a command on the second virtual terminal.
func (r *run) askTerminal(ctx context.Context, m *vm.Machine, command string) error {
	keys := []string{"alt-f2", "ret"}
	special := map[rune]string{' ': "spc", '|': "shift-backslash", '>': "shift-dot", '/': "slash", '-': "minus", '.': "dot"}
	for _, c := range command {
		switch name, ok := special[c]; {
		case ok:
			keys = append(keys, name)
		case c >= 'A' && c <= 'Z':
			keys = append(keys, "shift-"+strings.ToLower(string(c)))
		default:
			keys = append(keys, string(c))
		}
	}
	for i, k := range append(keys, "ret") {
		wait := 150 * time.Millisecond // send-key holds a key for 100 ms
		if i < 2 {
			wait = 3 * time.Second // the terminal switches, the shell starts
		}
		if err := m.Keys(ctx, k); err != nil {
			return err
		}
		pause(ctx, wait)
	}
	return context.Cause(ctx)
}

// collect keeps what the system knows about itself, by the name of its machine;
// sh may be nil.
func (r *run) collect(ctx context.Context, sh *vm.Shell, name string) {
	if sh == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, l := range []struct{ file, script string }{
		{name + ".journal.log", "journalctl -b --no-pager -o short-monotonic | tail -n 2000"},
		{name + ".agent.log", "journalctl -b --no-pager -u sci-agent -o short-monotonic | tail -n 500; sci-agent status; systemd-analyze blame | head -n 20"},
	} {
		out, err := sh.Run(ctx, l.script)
		if exit := (*vm.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			return
		}
		_ = r.keep(l.file, out) // the report lacks it then
	}
}

// keep writes a file beside the report and has the page show its end.
func (r *run) keep(name, text string) error {
	path := filepath.Join(r.o.ReportDir, r.name(name))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	r.report.Log(path)
	return nil
}

// aptInstall installs a package and proves it. Without a name it takes the
// smallest one on the medium that is not installed and that apt would install
// without removing anything: the check is about apt and the medium, and each
// second of it costs twenty in emulation.
func aptInstall(name string) string {
	pick := "p=" + name
	if name == "" {
		pick = `dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' >/run/sci-test.have
apt-cache dumpavail | awk '/^Package: /{p=$2} /^Size: /{print $2, p}' | sort -n | awk 'NR == FNR {have[$1]; next} !($2 in have) {print $2}' /run/sci-test.have - >/run/sci-test.more
p=
for c in $(head -n 10 /run/sci-test.more); do
	if apt-get -s install --no-install-recommends "$c" >/run/sci-test.sim 2>&1 && ! grep -q ^Remv /run/sci-test.sim; then p=$c; break; fi
done
if test -z "$p"; then echo "no package to install"; exit 1; fi`
	}
	return "set -e\n" + pick + `
echo "package: $p"
apt-get install -y --no-install-recommends "$p" 2>&1
dpkg-query -W -f '\nok: ${Package} ${Version} ${db:Status-Abbrev}\n' "$p"
test -z "$(dpkg --verify "$p")"
rm -f /run/sci-test.*`
}

func firmwareKind(f vm.Firmware) string {
	if f == vm.BIOS {
		return "bios"
	}
	return "uefi"
}

func fqdn(h Host) string {
	if h.Domain == "" {
		return h.Name
	}
	return h.Name + "." + h.Domain
}

// The judges.

func equal(want string) func(string) string {
	return func(out string) string {
		if got := strings.TrimSpace(out); got != want {
			return fmt.Sprintf("got %q; want %q", got, want)
		}
		return ""
	}
}

func eachEqual(want string) func(string) string {
	return func(out string) string {
		lines := strings.Fields(out)
		if len(lines) == 0 {
			return "no output"
		}
		for _, l := range lines {
			if l != want {
				return fmt.Sprintf("got %q; want %q", l, want)
			}
		}
		return ""
	}
}

func contains(want string) func(string) string {
	return func(out string) string {
		if !strings.Contains("\n"+out, want) {
			return fmt.Sprintf("the output lacks %q", strings.TrimSpace(want))
		}
		return ""
	}
}

func empty(out string) string {
	if strings.TrimSpace(out) != "" {
		return "there should be no output"
	}
	return ""
}

func agentReady(out string) string {
	var status struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return "cannot read the agent's answer: " + err.Error()
	}
	return equal("ready")(status.State)
}

func installed(want []string) func(string) string {
	return func(out string) string {
		have := make(map[string]bool)
		var bad []string
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			f := strings.Fields(line)
			if len(f) != 2 || f[0] != "ii" && f[0] != "hi" {
				bad = append(bad, line)
				continue
			}
			have[f[1]] = true
		}
		if len(bad) > 0 {
			return "half installed: " + strings.Join(bad, ", ")
		}
		var missing []string
		for _, p := range want {
			if !have[p] {
				missing = append(missing, p)
			}
		}
		if len(missing) > 0 {
			sort.Strings(missing)
			return fmt.Sprintf("%d of %d missing: %s", len(missing), len(want), strings.Join(missing, ", "))
		}
		return ""
	}
}

// verified reads `dpkg --verify`: nine test results, "c" for a configuration
// file, the path (dpkg(1)).
func verified(out string) string {
	var bad []string
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || len(f) == 3 && f[1] == "c" && f[0] != "missing" {
			continue
		}
		bad = append(bad, strings.Join(f, " "))
	}
	if len(bad) > 0 {
		return fmt.Sprintf("%d changed or missing files: %s", len(bad), strings.Join(bad[:min(len(bad), 10)], ", "))
	}
	return ""
}

func volumeGroup(out string) string {
	var r struct {
		Report []struct {
			VG []struct {
				Name string `json:"vg_name"`
				Size string `json:"vg_size"`
				Free string `json:"vg_free"`
			} `json:"vg"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return "cannot read vgs: " + err.Error()
	}
	for _, rep := range r.Report {
		for _, vg := range rep.VG {
			if vg.Name != "xenvg" {
				continue
			}
			if free, err := strconv.ParseFloat(vg.Free, 64); err != nil || free < 1024 {
				return fmt.Sprintf("xenvg has %s MiB free of %s; want 1024 at least", vg.Free, vg.Size)
			}
			return ""
		}
	}
	return "there is no volume group xenvg"
}

func logicalVolumes(out string) string {
	lines := strings.Fields(out)
	if len(lines) < 2 {
		return "no logical volumes"
	}
	have := make(map[string]bool)
	for _, l := range lines {
		have[l] = true
	}
	switch {
	case !have["root"] || !have["swap"]:
		return "want logical volumes root and swap"
	case !have["/dev/mapper/xenvg-root"]:
		return "the root file system is not on xenvg/root"
	case lines[len(lines)-2] != lines[len(lines)-1]:
		return "xenvg/swap is not in use"
	}
	return ""
}

// Partition types, UEFI specification 2.10, 5.3.3, and GRUB's manual, "BIOS
// installation".
const (
	typeESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeBIOSBoot = "21686148-6449-6e6f-744e-656564454649"
)

type blockDevice struct {
	Name, Type, PartType, FSType, MountPoint string
	Children                                 []blockDevice
}

func partitions(out string) string {
	var r struct{ BlockDevices []blockDevice }
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return "cannot read lsblk: " + err.Error()
	}
	var problems []string
	esp := findDevice(r.BlockDevices, func(d blockDevice) bool { return d.PartType == typeESP })
	switch {
	case esp == nil:
		problems = append(problems, "no EFI system partition")
	case esp.FSType != "vfat":
		problems = append(problems, fmt.Sprintf("the EFI system partition holds %q, not vfat", esp.FSType))
	case esp.MountPoint != "/boot/efi":
		problems = append(problems, fmt.Sprintf("the EFI system partition is mounted on %q, not /boot/efi", esp.MountPoint))
	}
	if findDevice(r.BlockDevices, func(d blockDevice) bool { return d.PartType == typeBIOSBoot }) == nil {
		problems = append(problems, "no BIOS boot partition")
	}
	if boot := findDevice(r.BlockDevices, func(d blockDevice) bool { return d.MountPoint == "/boot" }); boot == nil || boot.Type != "part" {
		problems = append(problems, "/boot is no partition of its own")
	}
	return strings.Join(problems, "; ")
}

func findDevice(list []blockDevice, ok func(blockDevice) bool) *blockDevice {
	for i := range list {
		if ok(list[i]) {
			return &list[i]
		}
		if d := findDevice(list[i].Children, ok); d != nil {
			return d
		}
	}
	return nil
}

func bridge(want string) func(string) string {
	return func(out string) string {
		type link struct {
			LinkInfo struct {
				Kind string `json:"info_kind"`
			} `json:"linkinfo"`
			AddrInfo []struct {
				Local     string `json:"local"`
				PrefixLen int    `json:"prefixlen"`
			} `json:"addr_info"`
		}
		d := json.NewDecoder(strings.NewReader(out))
		var self, ports []link
		if err := d.Decode(&self); err != nil || len(self) != 1 {
			return "there is no interface lan"
		}
		if err := d.Decode(&ports); err != nil || len(ports) == 0 {
			return "the bridge lan has no port"
		}
		if kind := self[0].LinkInfo.Kind; kind != "bridge" {
			return fmt.Sprintf("lan is a %q, no bridge", kind)
		}
		var have []string
		for _, a := range self[0].AddrInfo {
			if have = append(have, fmt.Sprintf("%s/%d", a.Local, a.PrefixLen)); have[len(have)-1] == want {
				return ""
			}
		}
		return fmt.Sprintf("lan has the addresses %q; want %q", have, want)
	}
}

func aptUpdated(out string) string {
	if m := regexp.MustCompile(`(?im)^.*(NO_PUBKEY|not signed|GPG error|signature|unauthenticated|does not have a Release file).*$`).FindString(out); m != "" {
		return m
	}
	if !regexp.MustCompile(`(?m)^(Get|Hit|Ign):\d+ (file|copy|cdrom):`).MatchString(out) {
		return "the medium's repository was not read"
	}
	return ""
}
