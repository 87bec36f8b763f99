package agent

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/run"
)

// minGroup is the smallest volume group that Ganeti takes, in MiB
// (MIN_VG_SIZE in its constants).
const minGroup = 20480

// storageDone reports whether the volume group is there and large enough.
func (n *Node) storageDone(ctx context.Context) (bool, error) {
	size, err := n.groupSize(ctx)
	return err == nil && size >= minGroup, err
}

// storageDo cannot make a disk larger; it says what is wrong.
func (n *Node) storageDo(ctx context.Context) error {
	size, err := n.groupSize(ctx)
	if err != nil || size >= minGroup {
		return err
	}
	return Stop(fmt.Errorf("the volume group %s has %.0f MiB, and Ganeti takes none below %d MiB", volumeGroup, size, minGroup),
		fmt.Sprintf("add a disk: pvcreate DISK && vgextend %s DISK; or install this machine anew on a larger disk", volumeGroup))
}

func (n *Node) groupSize(ctx context.Context) (float64, error) {
	out, err := run.Output(ctx, n.Runner, "vgs", "--noheadings", "--units", "m", "--nosuffix", "-o", "vg_size", volumeGroup)
	if err != nil {
		return 0, err
	}
	size, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read the size of %s: %w", volumeGroup, err)
	}
	return size, nil
}
