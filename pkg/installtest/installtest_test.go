package installtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// fakeQEMU writes a program that behaves as QEMU does towards pkg/vm: QMP on
// descriptor 3, the console on 4. Every command succeeds; system_powerdown and
// quit end it. script runs beside that. A file beside it, named as it with
// ".writes" behind, says how many writes its disk has seen.
func fakeQEMU(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	code := `#!/bin/sh
trap 'exit 0' TERM
pid=
echo '{"QMP": {}}' >&3
while read -r line <&3; do
	id=$(echo "$line" | sed 's/.*"id"://; s/}$//')
	case $line in
	*query-blockstats*)
		n=$(cat "$0.writes" 2>/dev/null || echo 0)
		stats='"stats": {"wr_operations": '$n', "wr_bytes": 0, "unmap_operations": 0}'
		echo '{"return": [{"device": "pflash1", "stats": {"wr_operations": 7}}, {"device": "disk0", '$stats'}], "id": '$id'}' >&3 ;;
	*screendump*) echo '{"error": {"class": "GenericError", "desc": "no screen"}, "id": '$id'}' >&3 ;;
	*) echo '{"return": {}, "id": '$id'}' >&3 ;;
	esac
	case $line in
	*system_powerdown*) kill $pid; exit 0 ;;
	*qmp_capabilities*)
		(
` + script + `
		) >&4 2>/dev/null 3>&- &
		pid=$! ;;
	esac
done
`
	syscall.ForkLock.RLock() // a child of another test would have it open: "text file busy"
	err := os.WriteFile(path, []byte(code), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunStages(t *testing.T) {
	const boot = "echo 'loading ...'; echo 'sci-agent: installer started'; "
	for _, test := range []struct {
		summary string
		stage   Stage
		script  string
		want    []string // problems, as substrings; none: it passes
		phases  string
	}{
		{"boots", Boot, boot + "sleep 9", nil, "firmware, boot loader, kernel"},
		{"the agent gives up", Full, boot + "echo 'sci-agent: failed: no host matches'; sleep 9", []string{"the agent says: failed: no host matches"}, ""},
		{"panic while booting", Boot, "echo '[  1.0] Kernel panic - not syncing: no init'; sleep 9", []string{"the boot came to an end"}, ""},
		// A guest that panicked behind its last line used to be waited for
		// until the whole time was over.
		{"panic while powering off", Full, boot + "echo 'sci-agent: installed, powering off'; echo 'Kernel panic - not syncing'; sleep 9", []string{"the boot came to an end"}, ""},
		{"GRUB without a configuration", Boot, "printf '\\033[02;35HGNU GRUB\\n   Minimal BASH-like line editing is supported. For\\n\\ngrub> '; sleep 9", []string{"BASH-like"}, ""},
		{"ends too early", Full, boot + "sleep 0.3; kill -9 $$", []string{"virtual machine has ended"}, ""},
		{"silence", Boot, "sleep 9", []string{"context deadline exceeded"}, ""},
		{"installs, disk does not boot", Full,
			`if test -e "$FLAG"; then echo 'No bootable device'; sleep 9; else : >"$FLAG"; ` + boot +
				`echo 'sci-agent: phase base'; printf '... 10%%... 20%%sci-agent: phase boot\n'; echo 'sci-agent: installed, powering off'; sleep 0.2; kill $$; fi`,
			[]string{"No bootable device"}, "firmware, boot loader, kernel|install: base|install: boot|power off|firmware, boot loader, kernel, systemd"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			flag := filepath.Join(t.TempDir(), "flag")
			dir := filepath.Join(t.TempDir(), "report")
			script := "FLAG=" + flag + "\n" + test.script
			qemu := fakeQEMU(t, script)
			second := time.Second
			r, err := Run(t.Context(), Options{ISO: "/no.iso", Stage: test.stage, QEMU: qemu, ReportDir: dir, DiskSize: 1 << 20,
				Limits: Limits{Boot: 2 * second, Install: 5 * second, First: 5 * second, Check: 2 * second}})
			if err != nil {
				t.Fatal(err)
			}
			var problems []string
			for _, c := range r.Failed() {
				problems = append(problems, c.problem())
			}
			if len(problems) != len(test.want) {
				t.Fatalf("problems %q; want %q", problems, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(problems[i], want) {
					t.Errorf("problem %q; want %q", problems[i], want)
				}
			}
			var phases []string
			for _, p := range r.Phases {
				phases = append(phases, p.Name)
			}
			if got := strings.Join(phases, "|"); test.phases != "" && got != test.phases {
				t.Errorf("phases %q; want %q", got, test.phases)
			}
			for _, f := range []string{"report.html", "junit.xml", "install.ttyS0.log"} {
				if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A run with a fault: the machine is started again behind a cut and must be left
// alone behind a refusal.
func TestRunFaults(t *testing.T) {
	const boot = "echo 'sci-agent: installer started'; echo 'sci-agent: phase disks'; "
	const refuses = boot + "echo 'sci-agent: failed: cannot read image: base.tar.zst is damaged'; "
	for _, test := range []struct {
		summary string
		o       Options
		script  string
		writes  string
		want    []string // problems, as substrings
		phases  string
	}{
		{"cut, then it installs", Options{Cut: "base 40"},
			boot + `echo 'sci-agent: base 40 %'; if test -e "$FLAG"; then echo 'sci-agent: memory: 412 MiB at most of 1536 MiB'; echo 'sci-agent: installed'; sleep 0.2; kill $$; else : >"$FLAG"; sleep 9; fi`, "",
			[]string{"virtual machine has ended"}, // the fake installs no system
			"firmware, boot loader, kernel|before the cut, install: disks|firmware, boot loader, kernel|install: disks|power off|firmware, boot loader, kernel, systemd"},
		{"the line of the cut does not come", Options{Cut: "base 40"}, boot + "echo 'sci-agent: installed'; sleep 0.3; kill $$", "",
			[]string{"that line did not come: virtual machine has ended"}, ""},
		{"cut, then it fails", Options{Cut: "phase disks"}, boot + `if test -e "$FLAG"; then echo 'sci-agent: failed: the disk is not empty'; fi; : >"$FLAG"; sleep 9`, "",
			[]string{"the disk is not empty"}, ""},
		{"ends by itself before the cut", Options{Cut: "phase disks", Limits: Limits{Settle: 5 * time.Second}}, boot + "sleep 0.2; kill $$", "",
			[]string{"virtual machine has ended"}, ""},
		{"refused", Options{Refused: "base.tar.zst"}, refuses + "sleep 9", "", nil, "firmware, boot loader, kernel|install: disks|after the refusal"},
		{"refused for another reason", Options{Refused: "signature"}, refuses + "sleep 9", "", []string{"base.tar.zst is damaged"}, ""},
		{"refused too late", Options{Refused: "damaged"}, refuses + "sleep 9", "3", []string{"disk0 got 3 writes"}, ""},
		{"refused, with data on the disk", Options{Refused: "damaged"}, `echo data | dd of="$DISK" seek=9 conv=notrunc 2>/dev/null; ` + refuses + "sleep 9", "",
			[]string{"the disk has data at byte 4096"}, ""},
		{"not refused", Options{Refused: "damaged"}, boot + "echo 'sci-agent: installed'; sleep 9", "", []string{"it installed the machine"}, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			o := test.o
			o.WorkDir, o.ReportDir, o.ISO, o.DiskSize = t.TempDir(), t.TempDir(), "/no.iso", 1<<20
			o.QEMU = fakeQEMU(t, fmt.Sprintf("FLAG=%[1]s/flag; DISK=%[1]s/disk.img\n", o.WorkDir)+test.script)
			if test.writes != "" {
				if err := os.WriteFile(o.QEMU+".writes", []byte(test.writes), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			second := time.Second
			def(&o.Limits.Settle, second/5)
			o.Limits = Limits{Boot: 5 * second, Install: 5 * second, First: second, Check: second, Settle: o.Limits.Settle}
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			var problems, phases []string
			for _, c := range r.Failed() {
				problems = append(problems, c.problem())
			}
			for _, p := range r.Phases {
				phases = append(phases, p.Name)
			}
			if len(problems) != len(test.want) {
				t.Fatalf("problems %q; want %q", problems, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(problems[i], want) {
					t.Errorf("problem %q; want %q", problems[i], want)
				}
			}
			if got := strings.Join(phases, "|"); test.phases != "" && got != test.phases {
				t.Errorf("phases %q; want %q", got, test.phases)
			}
			if want := strings.Contains(test.script, "memory:"); want != (r.PeakMemory == 412) {
				t.Errorf("PeakMemory = %d", r.PeakMemory)
			}
		})
	}
}

func TestRunWithoutQEMU(t *testing.T) {
	_, err := Run(t.Context(), Options{ISO: "/no.iso", QEMU: "/no/qemu", ReportDir: t.TempDir(), DiskSize: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), `cannot start "/no/qemu"`) {
		t.Errorf("Run: %v", err)
	}
}

func TestRunIsCutOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r, err := Run(ctx, Options{ISO: "/no.iso", Stage: Boot, QEMU: fakeQEMU(t, "sleep 9"), ReportDir: t.TempDir(), DiskSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if failed := r.Failed(); len(failed) != 1 {
		t.Errorf("failed = %v", failed)
	}
}

func TestJudges(t *testing.T) {
	const lsblk = `{"blockdevices": [{"name":"vda","type":"disk","parttype":null,"fstype":null,"mountpoint":null,"children":[
{"name":"vda1","type":"part","parttype":"21686148-6449-6e6f-744e-656564454649","fstype":null,"mountpoint":null},
{"name":"vda2","type":"part","parttype":"c12a7328-f81f-11d2-ba4b-00a0c93ec93b","fstype":"vfat","mountpoint":"/boot/efi"},
{"name":"vda3","type":"part","parttype":"0fc63daf-8483-4772-8e79-3d69d8477de4","fstype":"ext4","mountpoint":"/boot"}]}]}`
	const vgs = `{"report":[{"vg":[{"vg_name":"xenvg","vg_size":"30000.00","vg_free":"%s"}]}]}`
	const lan = `[{"ifname":"lan","linkinfo":{"info_kind":"bridge"},"addr_info":[{"local":"192.168.50.11","prefixlen":24},{"local":"fe80::1","prefixlen":64}]}]`
	for _, test := range []struct {
		summary string
		judge   func(string) string
		out     string
		want    string // substring of the problem; empty: it holds
	}{
		{"equal", equal("running"), "running\n", ""},
		{"not equal", equal("running"), "degraded\n", `got "degraded"; want "running"`},
		{"empty", empty, "\n", ""},
		{"not empty", empty, "x", "there should be no output"},
		{"ready", agentReady, `{"state": "ready", "host": "node1"}`, ""},
		{"working", agentReady, `{"state": "working"}`, `got "working"`},
		{"no JSON", agentReady, "sci-agent: not found", "cannot read the agent's answer"},
		{"installed", installed([]string{"a", "b"}), "ii  a\nii  b\nii  c\n", ""},
		{"missing", installed([]string{"b", "a", "z"}), "ii  a\n", "2 of 3 missing: b, z"},
		{"half installed", installed(nil), "ii  a\niU  b\n", "half installed: iU  b"},
		{"verify: configuration", verified, "??5??????   c /etc/default/grub\n", ""},
		{"verify: changed", verified, "??5??????     /usr/bin/true\n", "1 changed or missing files: ??5?????? /usr/bin/true"},
		{"verify: missing", verified, "missing     c /etc/x\n", "1 changed or missing files"},
		{"volume group", volumeGroup, fmt.Sprintf(vgs, "20480.00"), ""},
		{"volume group full", volumeGroup, fmt.Sprintf(vgs, "0"), "xenvg has 0 MiB free of 30000.00"},
		{"no volume group", volumeGroup, `{"report":[{"vg":[]}]}`, "there is no volume group xenvg"},
		{"volumes", logicalVolumes, "  root\n  swap\n/dev/mapper/xenvg-root\n/dev/dm-1\n/dev/dm-1\n", ""},
		{"no swap in use", logicalVolumes, "  root\n  swap\n/dev/mapper/xenvg-root\n/dev/dm-1\n", "xenvg/swap is not in use"},
		{"root elsewhere", logicalVolumes, "  root\n  swap\n/dev/vda1\n/dev/dm-1\n/dev/dm-1\n", "not on xenvg/root"},
		{"partitions", partitions, lsblk, ""},
		{"ESP not mounted", partitions, strings.Replace(lsblk, `"/boot/efi"`, "null", 1), `mounted on "", not /boot/efi`},
		{"no partitions", partitions, `{"blockdevices":[]}`, "no EFI system partition; no BIOS boot partition; /boot is no partition of its own"},
		{"bridge", bridge("192.168.50.11/24"), lan + "\n[{\"ifname\":\"enp0s2\"}]\n", ""},
		{"bridge without port", bridge("192.168.50.11/24"), lan + "\n[]\n", "no port"},
		{"no bridge", bridge("192.168.50.11/24"), strings.Replace(lan, "bridge", "dummy", 1) + "\n[{}]\n", `lan is a "dummy", no bridge`},
		{"other address", bridge("192.168.50.12/24"), lan + "\n[{}]\n", `want "192.168.50.12/24"`},
		{"no interface", bridge("x"), "Device \"lan\" does not exist.", "there is no interface lan"},
		{"packets", eachEqual("0"), "0\n0\n", ""},
		{"a packet", eachEqual("0"), "0\n7\n", `got "7"`},
		{"apt", aptUpdated, "Get:1 file:/media/sci trixie InRelease\nIgn:2 http://ftp.debian.org/debian trixie InRelease\nReading package lists...\n", ""},
		{"apt: signature", aptUpdated, "Get:1 file:/media/sci trixie InRelease\nErr:1 file:/media/sci trixie InRelease\n  The following signatures couldn't be verified: NO_PUBKEY\n", "NO_PUBKEY"},
		{"apt: nothing read", aptUpdated, "Reading package lists...\n", "the medium's repository was not read"},
		{"apt: installed", contains("\nok: "), "Setting up hello\n\nok: hello 2.10 ii \n", ""},
		{"apt: not installed", contains("\nok: "), "no package to install", `the output lacks "ok:"`},
	} {
		got := test.judge(test.out)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q; want %q", test.summary, got, test.want)
		}
	}
}

func TestDecide(t *testing.T) {
	strict := assertion{judge: empty}
	for _, test := range []struct {
		summary string
		a       assertion
		err     error
		want    string
	}{
		{"holds", strict, nil, ""},
		{"status counts", strict, &vm.ExitError{Status: 2}, "exit status 2"},
		{"status does not count", assertion{judge: empty, failOK: true}, &vm.ExitError{Status: 2}, ""},
		{"shell gone", assertion{judge: empty, failOK: true}, vm.ErrEnded, "virtual machine has ended"},
	} {
		if got := test.a.decide("", test.err); got != test.want {
			t.Errorf("%s: %q; want %q", test.summary, got, test.want)
		}
	}
}

// Every script must at least be one that a shell can read.
func TestScriptsParse(t *testing.T) {
	o := Options{Firmware: vm.SecureBoot, Host: Host{Name: "node1", Domain: "lab.example", LAN: "192.168.50.11/24", Extra: "hello"}}
	for _, extra := range []string{"hello", ""} {
		o.Host.Extra = extra
		for _, a := range assertions(o) {
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(a.script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", a.name, err, out)
			}
			if a.name == "" || a.want == "" || a.judge == nil {
				t.Errorf("%+v is not complete", a)
			}
		}
	}
}

func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("shellcheck is not installed")
	}
	all := append(assertions(Options{Host: Host{Name: "n", LAN: "192.168.50.11/24"}}), assertion{name: "facts", script: factsScript()})
	for _, a := range all {
		// SC2015, SC2012: A && B || true and ls are meant here.
		cmd := exec.Command("shellcheck", "-s", "sh", "-e", "SC2015,SC2012,SC2010", "-")
		cmd.Stdin = strings.NewReader(a.script + "\n")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s", a.name, err, out.String())
		}
	}
}

func TestParse(t *testing.T) {
	if m, err := ParseMedium("usb"); m != USB || err != nil {
		t.Errorf("ParseMedium = %q, %v", m, err)
	}
	if _, err := ParseMedium("floppy"); err == nil || err.Error() != `cannot use medium "floppy": want cd or usb` {
		t.Errorf("ParseMedium: %v", err)
	}
	if err := CheckTools(func(string) (string, error) { return "", errors.New("not found") }, Options{}); err == nil {
		t.Error("CheckTools: no error")
	}
}
