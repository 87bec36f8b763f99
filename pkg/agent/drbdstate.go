package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	drbdProc = "proc/drbd"
	// maxDRBD bounds what is read of it, in bytes: a device has less than 600.
	maxDRBD = 1 << 20
	// maxMinors bounds the devices. Ganeti uses up to 128, see drbdMinors.
	maxMinors = 1 << 10
)

// DRBD is what the kernel says of the replicated disks, from /proc/drbd of
// DRBD 8.4 (drbd_proc.c in the kernel; drbdsetup(8) of 8.4 names the states).
type DRBD struct {
	Version string  `json:"version"`
	Minors  []Minor `json:"minors"`
}

// Minor is one replicated disk as this node sees it. What the node does not
// know of its peer is Unknown or DUnknown.
type Minor struct {
	Minor      int    `json:"minor"`              // of /dev/drbdN
	Instance   string `json:"instance,omitempty"` // whose disk it is, on the master and its candidates
	Connection string `json:"connection"`         // Connected, SyncSource, WFConnection, StandAlone, Unconfigured …
	Role       string `json:"role,omitempty"`     // Primary or Secondary
	PeerRole   string `json:"peerRole,omitempty"`
	Disk       string `json:"disk,omitempty"` // UpToDate, Inconsistent, Outdated, Diskless …
	PeerDisk   string `json:"peerDisk,omitempty"`
	OutOfSync  int64  `json:"outOfSyncBytes"` // what the two are known to differ in
	Sync       *Sync  `json:"sync,omitempty"` // while data is copied or compared
}

// Sync is how far copying or comparing is.
type Sync struct {
	Percent float64 `json:"percent"`
	// Left is the kernel's own guess, in seconds; of no use while Stalled.
	Left    int64 `json:"leftSeconds"`
	Stalled bool  `json:"stalled,omitempty"`
}

// Configured reports whether the minor is a disk at all: the kernel lists those
// that were one as well.
func (m Minor) Configured() bool { return m.Connection != "Unconfigured" }

// Connected reports whether this node and its peer talk about the disk.
func (m Minor) Connected() bool {
	switch m.Connection {
	case "Unconfigured", "StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure",
		"ProtocolError", "TearDown", "WFConnection", "WFReportParams":
		return false
	}
	return true
}

// Syncing reports whether one side gets what it lacks from the other.
func (m Minor) Syncing() bool {
	return m.Connected() && (strings.Contains(m.Connection, "Sync") || strings.HasPrefix(m.Connection, "WFBitMap"))
}

// Mirrored reports whether both sides have all of the data.
func (m Minor) Mirrored() bool {
	return m.Connected() && m.Disk == "UpToDate" && m.PeerDisk == "UpToDate"
}

// Summary is one line for people, "" without a replicated disk. It has no
// number that changes from second to second.
func (d *DRBD) Summary() string {
	var all, mirrored, syncing, alone int
	for _, m := range d.Minors {
		switch {
		case !m.Configured():
			continue
		case m.Mirrored():
			mirrored++
		case m.Syncing():
			syncing++
		case !m.Connected():
			alone++
		}
		all++
	}
	switch {
	case all == 0:
		return ""
	case all == mirrored:
		return count(all, "disk") + " mirrored, all UpToDate"
	}
	list := []string{fmt.Sprintf("%d UpToDate", mirrored)}
	for _, p := range []struct {
		n    int
		what string
	}{{syncing, "being synchronised"}, {alone, "NOT connected"}, {all - mirrored - syncing - alone, "NOT UpToDate"}} {
		if p.n > 0 {
			list = append(list, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return count(all, "disk") + " mirrored: " + strings.Join(list, ", ")
}

var (
	drbdMinor    = regexp.MustCompile(`^ *(\d{1,7}): cs:([A-Za-z]+)(?: ro:([A-Za-z]+)/([A-Za-z]+) ds:([A-Za-z]+)/([A-Za-z]+) |$)`)
	drbdCounts   = regexp.MustCompile(`^ +ns:\d+ .* oos:(\d{1,15})$`)
	drbdProgress = regexp.MustCompile(`^\t\[[=>.]*\] *(?:sync'ed|verified): *(\d{1,3}\.\d)% `)
	drbdFinish   = regexp.MustCompile(`^\tfinish: (\d{1,10}):(\d\d):(\d\d) speed: `)
)

// parseDRBD reads /proc/drbd. Lines that it does not know belong to details that
// an admin switched on, and are passed over.
func parseDRBD(text string) (*DRBD, error) {
	line, rest, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "version:" {
		return nil, errors.New("it is not from DRBD")
	}
	if !strings.HasPrefix(f[1], "8.") {
		// DRBD 9 has a file of this name without any device in it.
		return nil, fmt.Errorf("it is from DRBD %.20q, which keeps its state elsewhere", f[1])
	}
	d := &DRBD{Version: f[1], Minors: []Minor{}}
	var m *Minor
	for l := range strings.Lines(rest) {
		l = strings.TrimSuffix(l, "\n")
		if p := drbdMinor.FindStringSubmatch(l); p != nil {
			if len(d.Minors) == maxMinors {
				return nil, fmt.Errorf("more than %d devices", maxMinors)
			}
			d.Minors = append(d.Minors, Minor{Connection: p[2], Role: p[3], PeerRole: p[4], Disk: p[5], PeerDisk: p[6]})
			m = &d.Minors[len(d.Minors)-1]
			m.Minor, _ = strconv.Atoi(p[1]) // seven digits
			continue
		}
		if m != nil {
			m.more(l)
		}
	}
	return d, nil
}

// more reads a line below that of the device. The numbers are short enough for
// their types.
func (m *Minor) more(l string) {
	if p := drbdCounts.FindStringSubmatch(l); p != nil {
		kib, _ := strconv.ParseInt(p[1], 10, 64)
		m.OutOfSync = kib << 10
	}
	if p := drbdProgress.FindStringSubmatch(l); p != nil {
		percent, _ := strconv.ParseFloat(p[1], 64)
		m.Sync = &Sync{Percent: min(percent, 100)}
	}
	if p := drbdFinish.FindStringSubmatch(l); p != nil && m.Sync != nil {
		var n [3]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(p[i+1], 10, 64)
		}
		m.Sync.Left = n[0]*3600 + n[1]*60 + n[2]
		m.Sync.Stalled = strings.HasSuffix(l, " (stalled)")
	}
}

// String is the progress for people.
func (s *Sync) String() string {
	if s.Stalled {
		return fmt.Sprintf("%.1f %%, stalled", s.Percent)
	}
	left := time.Duration(min(s.Left, 1e9)) * time.Second
	return fmt.Sprintf("%.1f %%, %v left", s.Percent, left)
}

// drbd reads the state of this machine's replicated disks; nil where the module
// is not loaded.
func (n *Node) drbd() (*DRBD, error) {
	data, err := readBounded(n.path(drbdProc), maxDRBD)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseDRBD(string(data))
}
