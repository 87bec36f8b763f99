package agent

import (
	"context"
	"strings"

	"github.com/skycover/sci-cd/pkg/run"
)

// unit is what systemd says of a unit.
type unit struct{ enabled, active, failed bool }

func (n *Node) unit(ctx context.Context, name string) (unit, error) {
	out, err := run.Output(ctx, n.Runner, "systemctl", "show", "--property=ActiveState,UnitFileState", name)
	if err != nil {
		return unit{}, err
	}
	var u unit
	for l := range strings.Lines(out) {
		switch strings.TrimSpace(l) {
		case "ActiveState=active", "ActiveState=reloading":
			u.active = true
		case "ActiveState=failed":
			u.failed = true
		case "UnitFileState=enabled":
			u.enabled = true
		}
	}
	return u, nil
}
