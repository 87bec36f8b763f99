package installtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/vm"
)

// flip exchanges the image for a copy with a fault.
func (r *run) flip() error {
	if r.o.Flip == "" {
		return nil
	}
	spoilt := filepath.Join(r.o.WorkDir, "spoilt.iso")
	name, err := FlipBit(r.o.ISO, r.o.Flip, spoilt)
	if err != nil {
		return err
	}
	r.o.ISO = spoilt
	r.report.Property("Fault", "one bit of %s is flipped", name)
	return nil
}

// cut installs until the agent says the line of the cut, and pulls the plug.
//
// What the guest gave to its disk before is there afterwards, what was in its
// memory is not. That a disk loses what it had acknowledged is not tried.
func (r *run) cut(ctx context.Context) error {
	m, err := r.startMedium(ctx, "cut")
	if err != nil {
		return err
	}
	defer r.stop(m, "cut")
	if err := r.bootMedium(ctx, m, false); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, r.o.Limits.Install)
	defer cancel()
	c := r.begin("power cut", "the power fails during the installation",
		fmt.Sprintf("it is cut %s behind the line \"sci-agent: %s\"", duration(r.o.Limits.Settle), r.o.Cut))
	if err := r.follow(limit, m, r.o.Cut, cutLabel); err != nil {
		if errors.Is(err, vm.ErrEnded) {
			err = fmt.Errorf("that line did not come: %w", err)
		}
		return r.end(ctx, c, m, err)
	}
	pause(limit, r.o.Limits.Settle)
	select {
	case <-m.Done():
		return r.end(ctx, c, m, vm.ErrEnded)
	default:
	}
	m.Kill()
	r.say("the power is cut")
	return r.end(ctx, c, m, nil)
}

func cutLabel(text string) string {
	if name := installLabel(text); name != "" {
		return "before the cut, " + name
	}
	return ""
}

// refusal boots the medium and expects the installer to refuse it with nothing
// written.
func (r *run) refusal(ctx context.Context) error {
	m, err := r.startMedium(ctx, "install")
	if err != nil {
		return err
	}
	defer r.stop(m, "install")
	if err := r.bootMedium(ctx, m, false); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, r.o.Limits.Install)
	defer cancel()
	c := r.begin("refusal", "the installer refuses the medium", fmt.Sprintf("a line \"sci-agent: failed: …%s…\"", r.o.Refused))
	said := (*agentError)(nil)
	err = r.follow(limit, m, "installed", installLabel)
	switch {
	case err == nil:
		err = errors.New("it installed the machine")
	case errors.As(err, &said) && strings.Contains(said.text, r.o.Refused):
		c.Output, err = said.text, nil
	}
	if err := r.end(ctx, c, m, err); err != nil {
		return err
	}
	r.phase("after the refusal")
	c = r.begin("refusal", "nothing was written to the disk",
		"no write has reached the disk, and its image has no data anywhere, "+duration(r.o.Limits.Settle)+" behind that line")
	pause(limit, r.o.Limits.Settle)
	return r.end(ctx, c, m, r.untouched(limit, m))
}

// untouched says what was written to the disk. It ends the machine.
func (r *run) untouched(ctx context.Context, m *vm.Machine) error {
	if err := writes(ctx, m); err != nil {
		return err
	}
	m.Kill()
	return noData(r.disk())
}

// writes asks QEMU for what the machine wrote to its disks. A write of zeros
// leaves no trace in the image (detect-zeroes), but it is counted here. UEFI
// variables are another drive.
func writes(ctx context.Context, m *vm.Machine) error {
	var drives []struct {
		Device string `json:"device"`
		Stats  struct {
			Writes int64 `json:"wr_operations"`
			Bytes  int64 `json:"wr_bytes"`
			Unmaps int64 `json:"unmap_operations"`
		} `json:"stats"`
	}
	if err := m.QMP(ctx, "query-blockstats", nil, &drives); err != nil {
		return fmt.Errorf("cannot tell what was written: %w", err)
	}
	disks := 0
	for _, d := range drives {
		if !strings.HasPrefix(d.Device, "disk") {
			continue
		}
		disks++
		if s := d.Stats; s.Writes+s.Bytes+s.Unmaps > 0 {
			return fmt.Errorf("%s got %d writes of %d bytes and %d discards", d.Device, s.Writes, s.Bytes, s.Unmaps)
		}
	}
	if disks == 0 {
		return errors.New("cannot tell what was written: QEMU names no disk")
	}
	return nil
}

// noData says where in a file there is data: in a sparse file that nobody has
// written to there is none, lseek(2).
func noData(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot tell what was written: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	at, err := f.Seek(0, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return nil
	case err != nil:
		return fmt.Errorf("cannot tell what was written: %w", err)
	}
	return fmt.Errorf("the disk has data at byte %d", at)
}
