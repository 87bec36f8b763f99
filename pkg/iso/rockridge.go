package iso

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/tree"
)

// maxName is the longest name in one NM entry. isolinux looks at one only.
const maxName = 250

// maxTarget is the longest target of a link that libisofs reads.
const maxTarget = 1023

const ceSize = 28

// suspEntry is one system use entry: signature, length, version 1, data.
func suspEntry(sig string, data ...byte) []byte {
	return append([]byte{sig[0], sig[1], byte(4 + len(data)), 1}, data...)
}

// rootEntries mark the image as SUSP and Rock Ridge; they belong into the "."
// record of the root (SUSP 5.3, 5.5; RRIP 4.3).
func rootEntries() (sp, er []byte) {
	const (
		id   = "RRIP_1991A"
		desc = "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
		src  = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
	)
	er = append([]byte{byte(len(id)), byte(len(desc)), byte(len(src)), 1}, id+desc+src...)
	return suspEntry("SP", 0xbe, 0xef, 0), suspEntry("ER", er...)
}

// attributes are PX and TF (RRIP 4.1.1, 4.1.6): mode, links, owner, and the
// one time three times, so that no reader has to guess the other two.
func attributes(e tree.Entry, links uint32, t time.Time) [][]byte {
	px := make([]byte, 32)
	both32(px, unixMode(e.Mode))
	both32(px[8:], links)
	both32(px[16:], uint32(e.UID))
	both32(px[24:], uint32(e.GID))
	stamp := shortTime(t)
	tf := []byte{0x02 | 0x04 | 0x08}
	for range 3 {
		tf = append(tf, stamp[:]...)
	}
	return [][]byte{suspEntry("PX", px...), suspEntry("TF", tf...)}
}

// nameEntry is NM (RRIP 4.1.4).
func nameEntry(name string) ([]byte, error) {
	if len(name) > maxName {
		return nil, fmt.Errorf("name is %d bytes long, the limit is %d", len(name), maxName)
	}
	return suspEntry("NM", append([]byte{0}, name...)...), nil
}

const (
	slContinue = 1 // of an SL entry, or of a component
	slCurrent  = 2
	slParent   = 4
	slRoot     = 8
	slMaxData  = 255 - 5 // component records in one SL entry
)

// linkEntries are the SL entries of a target (RRIP 4.1.3). Doubled and trailing
// slashes mean nothing to the kernel and are not kept.
func linkEntries(target string) ([][]byte, error) {
	if target == "" || strings.ContainsRune(target, 0) {
		return nil, errors.New("empty target or NUL in it")
	}
	if len(target) > maxTarget {
		return nil, fmt.Errorf("target is %d bytes long, the limit is %d", len(target), maxTarget)
	}
	var parts [][]byte
	if target[0] == '/' {
		parts = append(parts, []byte{slRoot, 0})
	}
	for _, c := range strings.Split(target, "/") {
		switch c {
		case "":
		case ".":
			parts = append(parts, []byte{slCurrent, 0})
		case "..":
			parts = append(parts, []byte{slParent, 0})
		default:
			for len(c) > slMaxData-2 {
				parts = append(parts, append([]byte{slContinue, slMaxData - 2}, c[:slMaxData-2]...))
				c = c[slMaxData-2:]
			}
			parts = append(parts, append([]byte{0, byte(len(c))}, c...))
		}
	}
	var entries [][]byte
	data := []byte{0}
	for _, p := range parts {
		if len(data)-1+len(p) > slMaxData {
			data[0] = slContinue
			entries = append(entries, suspEntry("SL", data...))
			data = []byte{0}
		}
		data = append(data, p...)
	}
	return append(entries, suspEntry("SL", data...)), nil
}

// split packs entries into a system use area of at most room bytes and the
// rest into a continuation area, for which it leaves space for a CE entry.
func split(entries [][]byte, room int) (inline, rest []byte, err error) {
	total := 0
	for _, e := range entries {
		total += len(e)
	}
	if total > room {
		room -= ceSize
	}
	for _, e := range entries {
		if len(rest) == 0 && len(inline)+len(e) <= room {
			inline = append(inline, e...)
		} else {
			rest = append(rest, e...)
		}
	}
	if len(rest) > sectorSize {
		return nil, nil, fmt.Errorf("internal error: continuation area of %d bytes is more than one sector", len(rest))
	}
	return inline, rest, nil
}

// continuation is CE (SUSP 5.1).
func continuation(lba, offset, length uint32) []byte {
	data := make([]byte, 24)
	both32(data, lba)
	both32(data[8:], offset)
	both32(data[16:], length)
	return suspEntry("CE", data...)
}
