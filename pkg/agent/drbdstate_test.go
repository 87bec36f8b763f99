package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const drbdHead = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 2A7E3D3BFA0B6CEE2B3E6B6 \n"

// What DRBD 8.4.11 writes, drbd_seq_show and drbd_syncer_progress.
const (
	drbdConnected = ` 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:1048576 nr:0 dw:113204 dr:1053421 al:41 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
`
	drbdSource = ` 1: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
    ns:92092 nr:0 dw:0 dr:95444 al:8 bm:0 lo:0 pe:1 ua:3 ap:0 ep:1 wo:f oos:724092
	[=>..................] sync'ed: 11.9% (724092/816168)K
	finish: 0:00:35 speed: 20,456 (20,456) K/sec
`
	drbdTarget = ` 2: cs:SyncTarget ro:Secondary/Primary ds:Inconsistent/UpToDate C r---d-
    ns:0 nr:5242880 dw:5242880 dr:0 al:0 bm:320 lo:2 pe:0 ua:2 ap:0 ep:1 wo:f oos:99614720
	[>....................] sync'ed:  5.1% (97280/102396)M
	finish: 12:01:09 speed: 2,288 (2,304) want: 61,440 K/sec (stalled)
`
	drbdWaiting = ` 3: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r-----
    ns:0 nr:0 dw:4 dr:1224 al:1 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:4096
`
	drbdAlone = `
11: cs:StandAlone ro:Primary/Unknown ds:UpToDate/Outdated   r-----
    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:d oos:8
`
	drbdNone = "12: cs:Unconfigured\n"
	drbdBad  = `13: cs:Connected ro:Primary/Secondary ds:Diskless/UpToDate C r-----
    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:b oos:0
`
	drbdVerify = `14: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
	[==================>.] verified: 99.9% (4/1048508)K
	finish: 0:00:00 speed: 41,936 (40,000) want: 61,440 K/sec
	 99% sector pos: 2093056/2097016
	resync: used:0/61 hits:0 misses:0 starving:0 locked:0 changed:0
`
)

func TestParseDRBD(t *testing.T) {
	up := func(n int) Minor {
		return Minor{Minor: n, Connection: "Connected", Role: "Primary", PeerRole: "Secondary", Disk: "UpToDate", PeerDisk: "UpToDate"}
	}
	for _, c := range []struct {
		summary, text string
		want          []Minor
		line          string
	}{
		{"the module alone", "", []Minor{}, ""},
		{"mirrored", drbdConnected, []Minor{up(0)}, "1 disk mirrored, all UpToDate"},
		{"source of a synchronisation", drbdConnected + drbdSource, []Minor{up(0),
			{Minor: 1, Connection: "SyncSource", Role: "Primary", PeerRole: "Secondary", Disk: "UpToDate", PeerDisk: "Inconsistent",
				OutOfSync: 724092 << 10, Sync: &Sync{Percent: 11.9, Left: 35}}},
			"2 disks mirrored: 1 UpToDate, 1 being synchronised"},
		{"target, stalled, in MB", drbdTarget, []Minor{
			{Minor: 2, Connection: "SyncTarget", Role: "Secondary", PeerRole: "Primary", Disk: "Inconsistent", PeerDisk: "UpToDate",
				OutOfSync: 99614720 << 10, Sync: &Sync{Percent: 5.1, Left: 43269, Stalled: true}}},
			"1 disk mirrored: 0 UpToDate, 1 being synchronised"},
		{"the peer is away", drbdWaiting, []Minor{
			{Minor: 3, Connection: "WFConnection", Role: "Primary", PeerRole: "Unknown", Disk: "UpToDate", PeerDisk: "DUnknown", OutOfSync: 4 << 20}},
			"1 disk mirrored: 0 UpToDate, 1 NOT connected"},
		{"standing alone, behind a gap", drbdConnected + drbdAlone, []Minor{up(0),
			{Minor: 11, Connection: "StandAlone", Role: "Primary", PeerRole: "Unknown", Disk: "UpToDate", PeerDisk: "Outdated", OutOfSync: 8 << 10}},
			"2 disks mirrored: 1 UpToDate, 1 NOT connected"},
		{"no disk any more", drbdConnected + drbdNone, []Minor{up(0), {Minor: 12, Connection: "Unconfigured"}}, "1 disk mirrored, all UpToDate"},
		{"a disk failed", drbdBad, []Minor{
			{Minor: 13, Connection: "Connected", Role: "Primary", PeerRole: "Secondary", Disk: "Diskless", PeerDisk: "UpToDate"}},
			"1 disk mirrored: 0 UpToDate, 1 NOT UpToDate"},
		{"compared, with details", drbdVerify, []Minor{
			{Minor: 14, Connection: "VerifyS", Role: "Primary", PeerRole: "Secondary", Disk: "UpToDate", PeerDisk: "UpToDate",
				Sync: &Sync{Percent: 99.9}}},
			"1 disk mirrored, all UpToDate"},
		{"lines of nobody's", "\tfinish: 0:00:35 speed: 1 K/sec\n    oos:17\n" + drbdConnected, []Minor{up(0)}, "1 disk mirrored, all UpToDate"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d, err := parseDRBD(drbdHead + c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&DRBD{Version: "8.4.11", Minors: c.want}, d); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := d.Summary(); got != c.line {
				t.Errorf("Summary = %q; want %q", got, c.line)
			}
		})
	}
}

func TestParseDRBDRefuses(t *testing.T) {
	var many strings.Builder
	for i := range maxMinors + 1 {
		fmt.Fprintf(&many, "%2d: cs:Unconfigured\n", i)
	}
	for _, c := range []struct{ summary, text, err string }{
		{"empty", "", "it is not from DRBD"},
		{"something else", "cs:Connected\n", "it is not from DRBD"},
		{"DRBD 9", "version: 9.2.11 (api:2/proto:86-122)\nTransports (api:21): tcp (9.2.11)\n", `it is from DRBD "9.2.11", which keeps its state elsewhere`},
		{"too many", drbdHead + many.String(), "more than 1024 devices"},
	} {
		if _, err := parseDRBD(c.text); err == nil || err.Error() != c.err {
			t.Errorf("%s: parseDRBD = %v; want %s", c.summary, err, c.err)
		}
	}
}

func FuzzParseDRBD(f *testing.F) {
	f.Add(drbdHead + drbdConnected + drbdSource + drbdTarget + drbdWaiting + drbdAlone + drbdNone + drbdBad + drbdVerify)
	f.Add("version: 9.2.11\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDRBD(text)
		if err != nil {
			return
		}
		for _, m := range d.Minors {
			if m.Minor < 0 || m.OutOfSync < 0 || m.Mirrored() && !m.Connected() {
				t.Errorf("%+v", m)
			}
			if s := m.Sync; s != nil && (s.Percent < 0 || s.Percent > 100 || s.Left < 0 || s.String() == "") {
				t.Errorf("%+v", s)
			}
		}
		_ = d.Summary()
		if _, err := json.Marshal(d); err != nil {
			t.Error(err)
		}
	})
}
