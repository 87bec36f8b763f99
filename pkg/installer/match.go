package installer

import (
	"fmt"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// NoMatch says that the machine is no host of the site, or that it is several.
type NoMatch struct {
	Hosts    []string // that match: none or several
	Hardware Hardware
	Wanted   []string // a line a host: what would have matched
}

func (e *NoMatch) Error() string {
	var b strings.Builder
	if len(e.Hosts) == 0 {
		b.WriteString("this machine is no host of the site\n")
	} else {
		fmt.Fprintf(&b, "this machine matches %d hosts of the site: %s\n", len(e.Hosts), strings.Join(e.Hosts, ", "))
	}
	b.WriteString(e.Hardware.Table())
	for _, w := range e.Wanted {
		b.WriteString("wanted   " + w + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// MatchHost returns the one host of the site whose every given property the
// hardware has; of several MAC addresses one is enough. Hosts without a
// property never match. Anything but one match is a *NoMatch.
func MatchHost(s *site.Site, hw Hardware) (*site.Host, error) {
	var found []*site.Host
	e := &NoMatch{Hardware: hw}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.Match.Empty() {
			continue
		}
		e.Wanted = append(e.Wanted, wanted(h))
		if matches(h.Match, hw) {
			found = append(found, h)
			e.Hosts = append(e.Hosts, h.Name)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return nil, hint.New(e, "correct the host's match in the site file and build the medium again")
}

func matches(m site.Match, hw Hardware) bool {
	if m.Serial != "" && !strings.EqualFold(m.Serial, hw.Serial) {
		return false
	}
	if m.AssetTag != "" && !strings.EqualFold(m.AssetTag, hw.AssetTag) {
		return false
	}
	if len(m.MAC) == 0 {
		return true
	}
	for _, mac := range m.MAC {
		for _, nic := range hw.NICs {
			if strings.EqualFold(string(mac), nic.MAC) {
				return true
			}
		}
	}
	return false
}

func wanted(h *site.Host) string {
	var parts []string
	if len(h.Match.MAC) > 0 {
		macs := make([]string, len(h.Match.MAC))
		for i, m := range h.Match.MAC {
			macs[i] = string(m)
		}
		parts = append(parts, "MAC "+strings.Join(macs, " or "))
	}
	if h.Match.Serial != "" {
		parts = append(parts, fmt.Sprintf("serial %q", h.Match.Serial))
	}
	if h.Match.AssetTag != "" {
		parts = append(parts, fmt.Sprintf("asset tag %q", h.Match.AssetTag))
	}
	return fmt.Sprintf("%-10s %s", h.Name, strings.Join(parts, ", "))
}
