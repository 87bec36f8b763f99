package media

import (
	"bytes"
	"fmt"
	"sort"
	"strings"
	"text/template"

	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/tree"
)

// menuSeconds is how long the boot menu of an unattended medium counts down.
const menuSeconds = 10

// entry is a line of the boot menu.
type entry struct {
	Label, Title, Args string
	Default            bool
}

// entries are the boot menu. "---" separates the installer's arguments from
// those that the installed system keeps.
func entries(consoles []string) []entry {
	own := consoleArgs(consoles)
	serial := "console=tty0 console=ttyS0,115200n8"
	base := "DEBIAN_FRONTEND=text priority=critical"
	return []entry{
		{"install", "Install this site's host", base + " " + own + " --- quiet", true},
		{"lowmem", "Install with little memory", base + " lowmem=1 " + own + " --- quiet", false},
		{"serial", "Install, serial console ttyS0", base + " " + serial + " --- quiet", false},
		{"rescue", "Rescue a system", "rescue/enable=true DEBIAN_FRONTEND=text " + own + " --- quiet", false},
	}
}

func consoleArgs(consoles []string) string {
	var args []string
	for _, c := range consoles {
		args = append(args, "console="+c)
	}
	return strings.Join(args, " ")
}

const header = "# Made by sci-cd (pkg/media) for site %s. A change here is lost at the next build.\n"

var isolinuxTemplate = template.Must(template.New("isolinux.cfg").Parse(
	`serial 0 115200
ui menu.c32
prompt 0
menu title {{.Title}}
{{- if .Timeout}}
timeout {{.Timeout}}0
menu autoboot Installing in # second{,s}; press a key to choose
{{- end}}
{{range .Entries}}
label {{.Label}}
  menu label {{.Title}}
{{- if .Default}}
  menu default
{{- end}}
  kernel /{{$.Kernel}}
  append initrd=/{{$.Initrd}} {{.Args}}
{{end}}
label local
  menu label Boot from the first disk
  localboot 0x80
`))

var grubTemplate = template.Must(template.New("grub.cfg").Parse(
	`serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
{{- if .Timeout}}
set timeout={{.Timeout}}
{{- else}}
set timeout=-1
{{- end}}
echo "{{.Title}}"
{{range .Entries}}
menuentry "{{.Title}}" --id {{.Label}} {
    linux /{{$.Kernel}} {{.Args}}
    initrd /{{$.Initrd}}
}
{{end}}
menuentry "Firmware setup" --id setup {
    fwsetup
}
`))

func addLoaders(files *adder, o Options, id string) {
	m := o.Manifest
	data := map[string]any{
		"Title":   fmt.Sprintf("SCI-CD: Debian %s (%s), site %s", m.Version, m.Codename, m.Site),
		"Entries": entries(m.Consoles), "Kernel": KernelPath, "Initrd": InitrdPath, "Timeout": 0,
	}
	if m.Unattended {
		data["Timeout"] = menuSeconds
	}
	files.bytes(Isolinux, o.Loaders.Isolinux)
	names := make([]string, 0, len(o.Loaders.Modules))
	for name := range o.Loaders.Modules {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		files.bytes("isolinux/"+name, o.Loaders.Modules[name])
	}
	files.bytes("isolinux/isolinux.cfg", render(isolinuxTemplate, m.Site, data))
	files.bytes("boot/grub/grub.cfg", render(grubTemplate, m.Site, data))

	// Debian's signed grub looks for its configuration in /EFI/debian of the
	// partition that it was loaded from.
	find := fmt.Sprintf(header+"search --file --set=root /.disk/id/%s\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n", m.Site, id)
	efi := &tree.Tree{}
	esp := &adder{tree: efi}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"EFI/boot/bootx64.efi", o.Loaders.Shim},
		{"EFI/boot/grubx64.efi", o.Loaders.Grub},
		{"EFI/boot/mmx64.efi", o.Loaders.MokManage},
		{"EFI/debian/grub.cfg", []byte(find)},
	} {
		esp.bytes(f.name, f.data)
		files.bytes(f.name, f.data)
	}
	if files.err = firstErr(files.err, esp.err); files.err != nil {
		return
	}
	image, err := iso.FAT(efi, "SCI-EFI", serial(id), o.Time)
	if err != nil {
		files.err = fmt.Errorf("cannot make EFI system partition: %w", err)
		return
	}
	files.bytes(EFIImage, image)
}

// serial takes a FAT volume serial number from a UUID.
func serial(id string) uint32 {
	var n uint32
	_, _ = fmt.Sscanf(id, "%8x", &n) // a UUID of ours always begins so
	return n
}

func render(t *template.Template, site string, data any) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, header, site)
	if err := t.Execute(&b, data); err != nil {
		panic(err) // a template over strings and numbers; its test renders it
	}
	return b.Bytes()
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
