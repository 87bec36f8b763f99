package vm

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

// argv is QEMU's command line.
func (o Options) argv() ([]string, error) {
	a := o.qemu()
	a = append(a, "-name", comma(o.Name), "-nodefaults", "-no-user-config", "-display", "none")
	a = append(a, o.machine()...)
	a = append(a, "-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.Memory), "-rtc", o.rtc(time.Now()))
	a = append(a, "-device", "virtio-rng-pci")
	if o.NoReboot {
		a = append(a, "-no-reboot")
	}
	if o.VGA {
		a = append(a, "-vga", "std", "-device", "qemu-xhci,id=xhci")
	} else {
		a = append(a, "-vga", "none", "-device", "qemu-xhci,id=xhci")
	}
	fw, err := o.firmware()
	if err != nil {
		return nil, err
	}
	a = append(a, fw...)
	a = append(a, "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	for i := range 2 {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=tty%d,fd=%d", i, 4+i), "-serial", fmt.Sprintf("chardev:tty%d", i))
	}
	a = append(a, o.drives()...)
	cable := firstCable
	for i, n := range o.NICs {
		a = append(a, n.args(i, cable)...)
		if n.Port != nil {
			cable++
		}
	}
	a = append(a, o.smbios()...)
	if o.Kernel != "" {
		a = append(a, "-kernel", o.Kernel, "-append", o.Append)
		if o.Initrd != "" {
			a = append(a, "-initrd", o.Initrd)
		}
	}
	return a, nil
}

// rtc sets the machine's clock, which runs in UTC.
func (o Options) rtc(now time.Time) string {
	if o.Clock == 0 {
		return "base=utc"
	}
	return "base=" + now.UTC().Add(o.Clock).Format("2006-01-02T15:04:05")
}

// qemu is the program itself with the places of its firmware.
func (o Options) qemu() []string {
	a := o.program(o.QEMU)
	if r := o.QEMURoot; r != "" {
		a = append(a, "-L", filepath.Join(r, "usr/share/qemu"), "-L", filepath.Join(r, "usr/share/seabios"), "-L", filepath.Join(r, "usr/lib/ipxe/qemu"))
	}
	return a
}

// program is a program of QEMU, run through the loader of QEMURoot if that is
// set.
func (o Options) program(name string) []string {
	if o.QEMURoot == "" {
		return []string{name}
	}
	r := o.QEMURoot
	libs := []string{"usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio", "usr/lib"}
	for i, l := range libs {
		libs[i] = filepath.Join(r, l)
	}
	return []string{
		filepath.Join(r, "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", strings.Join(libs, ":"),
		filepath.Join(r, "usr/bin", filepath.Base(name)),
	}
}

// env is what QEMU's environment has beyond ours. The overlay behind a USB
// stick is a file in TMPDIR. It may grow as
// large as the stick.
func (o Options) env() []string {
	env := []string{"TMPDIR=" + o.Vars}
	if o.QEMURoot != "" {
		env = append(env, "QEMU_MODULE_DIR="+filepath.Join(o.QEMURoot, "usr/lib/x86_64-linux-gnu/qemu"))
	}
	return env
}

func (o Options) machine() []string {
	smm := "off"
	if o.Firmware == SecureBoot {
		smm = "on" // only SMM may write the variables that hold the keys
	}
	m := []string{"-machine", "q35,smm=" + smm}
	if o.Accel == KVM {
		return append(m, "-accel", "kvm", "-cpu", "host")
	}
	// la57=off: KVM inside the guest does not work with five-level tables.
	return append(m, "-accel", "tcg,thread=multi", "-cpu", "max,la57=off")
}

func (o Options) drives() []string {
	var a []string
	boot := 0
	index := func() string { boot++; return ",bootindex=" + strconv.Itoa(boot) }
	if o.CDROM != "" {
		a = append(a, "-drive", "if=none,id=cd,format=raw,media=cdrom,readonly=on,file="+comma(o.CDROM),
			"-device", "ide-cd,bus=ide.0,drive=cd"+index())
	}
	if o.USB != "" {
		// Writable as a real stick is, so that an installer that mistakes its
		// own medium for a disk is found out.
		a = append(a, "-drive", "if=none,id=usb,format=raw,snapshot=on,cache=unsafe,file="+comma(o.USB),
			"-device", "usb-storage,bus=xhci.0,removable=on,serial=SCITESTSTICK,drive=usb"+index())
	}
	for i, d := range o.Disks {
		serial, format := "", "raw"
		if d.Backing != "" {
			format = "qcow2"
		}
		if d.Serial != "" {
			serial = ",serial=" + comma(d.Serial)
		}
		a = append(a, "-drive", fmt.Sprintf("if=none,id=disk%d,format=%s,cache=unsafe,aio=threads,discard=unmap,detect-zeroes=unmap,file=%s", i, format, comma(d.Path)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d%s", i, serial)+index())
	}
	return a
}

// firstCable is the descriptor of the first card that leads to a switch; the
// others follow it.
const firstCable = 6

func nicName(i int) string { return fmt.Sprintf("net%d", i) }

func (n NIC) args(i, cable int) []string {
	backend := fmt.Sprintf("hubport,id=%s,hubid=%d", nicName(i), 1000+i)
	if n.Port != nil {
		backend = fmt.Sprintf("socket,id=%s,fd=%d", nicName(i), cable)
	}
	return []string{"-netdev", backend,
		"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s,romfile=", nicName(i), comma(n.MAC))}
}

// plug connects the cards to their switches.
func (o Options) plug() ([]*os.File, error) {
	var cables []*os.File
	for _, n := range o.NICs {
		if n.Port == nil {
			continue
		}
		c, err := n.Port.plug()
		if err != nil {
			for _, c := range cables {
				_ = c.Close()
			}
			return nil, err
		}
		cables = append(cables, c)
	}
	return cables, nil
}

func (o Options) smbios() []string {
	var a []string
	s := o.SMBIOS
	if s.Serial != "" || s.Product != "" {
		t := "type=1"
		if s.Product != "" {
			t += ",product=" + comma(s.Product)
		}
		if s.Serial != "" {
			t += ",serial=" + comma(s.Serial)
		}
		a = append(a, "-smbios", t)
	}
	if s.AssetTag != "" {
		a = append(a, "-smbios", "type=3,asset="+comma(s.AssetTag))
	}
	creds := make(map[string]string, len(s.Credentials)+2)
	for k, v := range s.Credentials {
		creds[k] = v
	}
	if o.Shell {
		for k, v := range shellCredentials() {
			creds[k] = v
		}
	}
	names := make([]string, 0, len(creds))
	for k := range creds {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		// One string takes at least 20,000 bytes in QEMU 7.2; all of them
		// together must stay below the 64 KiB of an SMBIOS 2.1 table.
		a = append(a, "-smbios", "type=11,value=io.systemd.credential.binary:"+comma(k)+"="+base64.StdEncoding.EncodeToString([]byte(creds[k])))
	}
	return a
}

// comma escapes a value within a QEMU option.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// ovmfFiles are the code and the template of the variables of one firmware.
type ovmfFiles struct{ code, vars string }

// ovmf finds OVMF where Debian's package ovmf puts it.
func (o Options) ovmf() (ovmfFiles, error) {
	dir := filepath.Join("/", o.QEMURoot, "usr/share/OVMF")
	// The code differs in name only by its purpose: in Debian's package
	// OVMF_CODE_4M.ms.fd is the build with SMM, Secure Boot being on by the
	// keys in OVMF_VARS_4M.ms.fd.
	f := ovmfFiles{filepath.Join(dir, "OVMF_CODE_4M.fd"), filepath.Join(dir, "OVMF_VARS_4M.fd")}
	if o.Firmware == SecureBoot {
		f = ovmfFiles{filepath.Join(dir, "OVMF_CODE_4M.ms.fd"), filepath.Join(dir, "OVMF_VARS_4M.ms.fd")}
	}
	for _, p := range []string{f.code, f.vars} {
		if _, err := os.Stat(p); err != nil {
			return f, hint.New(fmt.Errorf("cannot find firmware %s: %w", o.Firmware, err), "install the package ovmf")
		}
	}
	return f, nil
}

func (o Options) varsPath() string {
	return filepath.Join(o.Vars, "efivars-"+string(o.Firmware)+".fd")
}

func (o Options) firmware() ([]string, error) {
	if o.Firmware == BIOS {
		return nil, nil
	}
	fw, err := o.ovmf()
	if err != nil {
		return nil, err
	}
	a := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + comma(fw.code),
		"-drive", "if=pflash,unit=1,format=raw,file=" + comma(o.varsPath()),
	}
	if o.Firmware == SecureBoot {
		a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return a, nil
}

// create makes the image of a disk unless the file exists.
func (o Options) create(ctx context.Context, d Disk) error {
	if d.Backing == "" {
		return d.create()
	}
	if _, err := os.Stat(d.Path); err == nil {
		return nil
	}
	backing, err := filepath.Abs(d.Backing)
	if err != nil {
		return fmt.Errorf("cannot create disk image: %w", err)
	}
	format := d.BackingFormat
	if format == "" {
		format = "raw"
	}
	if err := o.image(ctx, "create", "-q", "-f", "qcow2", "-F", format, "-b", backing, d.Path); err != nil {
		os.Remove(d.Path)
		return fmt.Errorf("cannot create disk image: %w", err)
	}
	return nil
}

// image runs qemu-img.
func (o Options) image(ctx context.Context, args ...string) error {
	argv := append(o.program("qemu-img"), args...)
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// Rebase tells a qcow2 image of the differences to a raw image that the latter
// is called otherwise now; a relative name counts from the directory of the
// former. Not a byte of either is looked at. root is as Options.QEMURoot.
func Rebase(ctx context.Context, root, image, backing string) error {
	if err := (Options{QEMURoot: root}).image(ctx, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, image); err != nil {
		return fmt.Errorf("cannot rebase disk image: %w", err)
	}
	return nil
}

// create makes a sparse image unless the file exists.
func (d Disk) create() error {
	f, err := os.OpenFile(d.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot create disk image: %w", err)
	}
	err = f.Truncate(d.Size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(d.Path)
		return fmt.Errorf("cannot create disk image: %w", err)
	}
	return nil
}

// copyOnce copies src to dst unless dst exists.
func copyOnce(dst, src string) error {
	if _, err := os.Stat(dst); err == nil {
		return nil
	}
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", src, err)
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.CreateTemp(filepath.Dir(dst), filepath.Base(dst)+".*")
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", src, err)
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(out.Name(), dst)
	}
	if err != nil {
		os.Remove(out.Name())
		return fmt.Errorf("cannot copy %q: %w", src, err)
	}
	return nil
}
