package installer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/hint"
)

// An export is a line that says what it is, and what it says: the root file system
// as a tar, or, of a disk that is not ours, its bytes. Ganeti compresses it.

// exportMagic begins the first line; the number is the format's.
const exportMagic = "sci-export 1 "

// exportHead is the rest of the first line.
type exportHead struct {
	Content string `json:"content"` // tar or disk
	Size    int64  `json:"size"`    // of the disk, bytes
	Root    string `json:"root,omitempty"`
	Swap    string `json:"swap,omitempty"` // UUIDs of the file systems, which the files inside name
}

const (
	tarContent  = "tar"
	diskContent = "disk"
)

// maxHead bounds the first line, in bytes.
const maxHead = 4096

func (h exportHead) write(w io.Writer) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", exportMagic, data)
	return err
}

// readHead reads the first line.
func readHead(r *bufio.Reader) (h exportHead, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return h, fmt.Errorf("cannot read the export: %w", err)
	}
	text, ok := strings.CutPrefix(string(line), exportMagic)
	if !ok {
		return h, hint.New(errors.New("cannot read the export: it was not made by the OS definition sci"), "import it with the definition that it was exported with")
	}
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return h, fmt.Errorf("cannot read the export: %w", err)
	}
	if h.Content != tarContent && h.Content != diskContent || h.Size <= 0 {
		return h, fmt.Errorf("cannot read the export: content %q of %d bytes", h.Content, h.Size)
	}
	return h, nil
}

// exportInstance is the script export: Ganeti calls it for each disk, or a
// snapshot of it.
func exportInstance(ctx context.Context, o OSOptions, in *instance) (err error) {
	if in.device == "" {
		return errors.New("EXPORT_DEVICE is not set")
	}
	d, err := attach(o, in.device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := seclude(o, d); err != nil {
		return err
	}
	ours := in.index == 0
	if ours {
		if ours, err = d.open(ctx); err != nil {
			return err
		}
	}
	if !ours {
		say(o.Console, "disk %d of %s as it is, %s", in.index, in.name, size(d.size))
		if err := (exportHead{Content: diskContent, Size: d.size}).write(o.Out); err != nil {
			return err
		}
		return copyDisk(ctx, o.Out, io.NewSectionReader(d.loop, 0, d.size))
	}
	return d.mounted(o, "ro", func(target string) error {
		say(o.Console, "files of %s", in.name)
		ids, err := fstabUUIDs(filepath.Join(target, "etc/fstab"))
		if err != nil {
			return err
		}
		if err := (exportHead{Content: tarContent, Size: d.size, Root: ids["/"], Swap: ids["none"]}).write(o.Out); err != nil {
			return err
		}
		return runTar(ctx, o, nil, o.Out, "--create", "--one-file-system", "--sparse", "--file=-", "--directory="+target, ".")
	})
}

// mounted mounts the root file system of a disk of ours.
func (d *virtualDisk) mounted(o OSOptions, options string, f func(target string) error) (err error) {
	target := filepath.Join(o.Work, "target")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := mountFS(d.part(rootPartition), target, "ext4", options); err != nil {
		return fmt.Errorf("cannot mount the instance's system: %w", err)
	}
	defer func() { err = errors.Join(err, unmountAll("/proc", target)) }()
	return f(target)
}

// runTar runs tar(1) with everything of a file that counts: it reads and writes what
// administrators put into their machines, which is more than packages hold.
func runTar(ctx context.Context, o OSOptions, in io.Reader, out io.Writer, args ...string) error {
	argv := append([]string{"--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"}, args...)
	cmd := exec.CommandContext(ctx, "tar", argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, o.Log
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	return nil
}

// copyDisk copies in pieces, so that ctx can stop it.
func copyDisk(ctx context.Context, w io.Writer, r io.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := io.CopyN(w, r, 16<<20)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot copy the disk: %w", err)
		}
	}
}

// importInstance is the script import. Ganeti runs rename after it.
func importInstance(ctx context.Context, o OSOptions, in *instance) (err error) {
	if in.device == "" {
		return errors.New("IMPORT_DEVICE is not set")
	}
	stream := bufio.NewReaderSize(o.In, maxHead)
	head, err := readHead(stream)
	if err != nil {
		return err
	}
	if head.Content == tarContent && in.index != 0 {
		return fmt.Errorf("cannot import: the export is of a system, and disk %d is no system's disk", in.index)
	}
	d, err := attach(o, in.device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := seclude(o, d); err != nil {
		return err
	}
	if head.Content == diskContent {
		if head.Size > d.size {
			return hint.New(fmt.Errorf("cannot import: the disk exported has %d bytes, the new one %d", head.Size, d.size), "make it as large: gnt-backup import --disk …:size=…")
		}
		say(o.Console, "disk %d of %s as it was, %s", in.index, in.name, size(head.Size))
		return copyDisk(ctx, io.NewOffsetWriter(d.loop, 0), io.LimitReader(stream, head.Size))
	}
	return importSystem(ctx, o, d, head, stream)
}

// importSystem divides the disk anew, unpacks the system and makes it boot.
func importSystem(ctx context.Context, o OSOptions, d *virtualDisk, head exportHead, stream io.Reader) (err error) {
	v := Options{Console: o.Console, Log: o.Log, Runner: o.Runner, Sys: biosOnly{os.DirFS("/sys")}, Medium: o.path(nodeMedium),
		Target: filepath.Join(o.Work, "target"), State: filepath.Join(o.Work, "state")}.withDefaults()
	if err := os.MkdirAll(v.Target, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountAll(v.Proc, v.Target)) }()
	if err := divide(ctx, v, d); err != nil {
		return err
	}
	fstab := filepath.Join(v.Target, "etc/fstab")
	ids, err := fstabUUIDs(fstab)
	if err != nil {
		return err
	}
	say(v.Console, "phase unpack")
	if err := runTar(ctx, o, stream, nil, "--extract", "--file=-", "--preserve-permissions", "--overwrite", "--directory="+v.Target); err != nil {
		return err
	}
	data, err := readBounded(fstab, 1<<20)
	if err != nil {
		return err
	}
	if err := writeFile(fstab, []byte(renamed(string(data), map[string]string{head.Root: ids["/"], head.Swap: ids["none"]})), 0o644); err != nil {
		return err
	}
	say(v.Console, "phase boot")
	err = within(ctx, v, func(c *chroot) error {
		if err := c.grub(ctx, d.node, false); err != nil {
			return err
		}
		_, err := c.run(ctx, nil, "update-grub")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot make the imported system boot: %w", err)
	}
	unix.Sync()
	if err := unmountAll(v.Proc, v.Target); err != nil {
		return err
	}
	return finishTable(d.node, d.size, sector, diskRecipe(d.size).Partitions[0].Name)
}

// renamed is a text with the UUIDs of file systems replaced.
func renamed(text string, ids map[string]string) string {
	for old, id := range ids {
		if old != "" && id != "" {
			text = strings.ReplaceAll(text, "UUID="+old, "UUID="+id)
		}
	}
	return text
}

// renameInstance is the script rename, which Ganeti also runs after an import: the
// machine gets its new name, its address, what it enrols with at Puppet, and if it
// is another machine than it was, an identity of its own.
func renameInstance(ctx context.Context, o OSOptions, in *instance) (err error) {
	s, err := nodeSite(o)
	if err != nil {
		return err
	}
	s, h, err := instanceHost(s, in)
	if err != nil {
		return err
	}
	name, err := in.systemDisk()
	if err != nil {
		return err
	}
	d, err := attach(o, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := seclude(o, d); err != nil {
		return err
	}
	ours, err := d.open(ctx)
	if err == nil && !ours {
		err = hint.New(fmt.Errorf("the disk of %s is not as the OS definition sci divides it", in.name), "change the name inside the machine")
	}
	if err != nil {
		return err
	}
	data, err := s.JSON()
	if err != nil {
		return err
	}
	return d.mounted(o, "", func(target string) error {
		v := Options{Console: o.Console, Log: o.Log, Runner: o.Runner, Site: filepath.Join(o.Work, "site.json"),
			Target: target, Medium: o.path(nodeMedium)}.withDefaults()
		return within(ctx, v, func(c *chroot) error {
			// The agent puts the names into /etc/hosts when the machine boots.
			if err := c.write("/etc/hostname", s.FQDN(h.Name)+"\n", 0o644); err != nil {
				return err
			}
			if err := c.identity(h, data); err != nil {
				return err
			}
			if in.old != in.name {
				if err := c.becomeNew(ctx); err != nil {
					return err
				}
			}
			return c.challenge(o, s, h)
		})
	})
}

// becomeNew takes the identity of the machine that this one is a copy of.
func (c *chroot) becomeNew(ctx context.Context) error {
	keys, err := filepath.Glob(filepath.Join(c.o.Target, "etc/ssh/ssh_host_*"))
	if err != nil {
		return err
	}
	certificates, err := filepath.Glob(filepath.Join(c.o.Target, puppetSSL, "*"))
	if err != nil {
		return err
	}
	for _, name := range append(keys, certificates...) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := c.ownID(); err != nil {
		return err
	}
	if _, err := c.run(ctx, nil, "ssh-keygen", "-q", "-A"); err != nil {
		return fmt.Errorf("cannot make the machine's keys: %w", err)
	}
	return nil
}

// puppetSSL is where Debian's puppet-agent has its key and its certificate.
const puppetSSL = "var/lib/puppet/ssl"
