package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/device"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/iso"
)

func newWrite(ui *ui) *cobra.Command {
	var serial string
	var file bool
	c := &cobra.Command{
		Use:   "write ISO DEVICE",
		Short: "Write an ISO to a USB stick, and read it back",
		Long: `Write an ISO to a USB stick, read it back and compare. All that is on the stick
is lost.

DEVICE is a whole disk (/dev/sdb, or a link to it from /dev/disk/by-id). It is
refused if it or a part of it is mounted, swap, or held by RAID, LVM or
encryption; if it is not removable, unless --serial names it; if it is too
small. What boots is written last: an interrupted stick is an empty one.`,
		Args:              arguments(2, 2),
		ValidArgsFunction: files("iso"),
		RunE: func(c *cobra.Command, args []string) error {
			return writeImage(c, ui, args[0], args[1], serial, file)
		},
	}
	c.Flags().StringVar(&serial, "serial", "", "the disk's serial number: allows one that is not removable")
	c.Flags().BoolVar(&file, "file", false, "DEVICE is a regular file, made if needed")
	return c
}

func writeImage(c *cobra.Command, ui *ui, image, path, serial string, file bool) error {
	f, length, err := openImage(image)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	img, err := iso.Open(f, length)
	if err != nil {
		return hint.New(fmt.Errorf("cannot write %s: %w", image, err), "usage: "+c.UseLine())
	}
	target, err := openTarget(path, img.Size(), serial, file)
	if err != nil {
		return err
	}
	ui.step("writing to " + path)
	verbs := map[string]string{device.Writing: "written", device.Comparing: "compared"}
	err = device.Write(c.Context(), target, device.Options{Image: f, Size: img.Size(), Progress: func(part string, done, total int64) {
		ui.transfer(verbs[part], done, total)
	}})
	if err == nil && !file && device.Reload(target) != nil {
		ui.note("the kernel shows the old partitions until the stick is plugged in again")
	}
	if err = errors.Join(err, target.Close()); err != nil {
		err = errors.Join(err, device.Discard(target))
		if as[*device.DifferentError](err) {
			return checkError{err}
		}
		return err
	}
	return ui.result(map[string]any{"device": path, "size": img.Size()}, "%s: %s written, read back, the same\n", path, size(img.Size()))
}

// openTarget opens a disk that may be overwritten, or a file.
func openTarget(path string, size int64, serial string, file bool) (device.Target, error) {
	if file {
		return device.OpenFile(path)
	}
	disk, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("cannot write to device: %w", err)
	}
	if info, err := os.Stat(disk); err == nil && info.Mode().IsRegular() {
		return nil, usageError{hint.New(fmt.Errorf("cannot write to %s: it is a file, not a disk", path), "to write to a file: --file")}
	}
	if err := device.Supported(); err != nil {
		return nil, err
	}
	if _, err := device.Choose(os.DirFS("/"), device.Wish{Path: disk, Size: size, Serial: serial}); err != nil {
		return nil, err
	}
	return device.Open(disk)
}
