package iso

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"time"
)

const (
	// sectorSize is the logical sector and block size (ECMA-119 6.1.2, 6.2.2).
	sectorSize = 2048
	// maxSection is the longest extent that a 32-bit length holds and that
	// ends on a sector boundary. Longer files have several (ECMA-119 6.5.1).
	maxSection = 1<<32 - sectorSize
	// recordFixed is the length of a directory record before its identifier.
	recordFixed = 33
	// maxRecord is the longest directory record: one length byte, even.
	maxRecord = 254

	flagDirectory   = 0x02 // ECMA-119 9.1.6
	flagMultiExtent = 0x80
)

// both32 stores v in both byte orders (ECMA-119 7.3.3).
func both32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}

// both16 stores v in both byte orders (ECMA-119 7.2.3).
func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

// shortTime is the seven bytes of ECMA-119 9.1.5, in UTC.
func shortTime(t time.Time) [7]byte {
	t = t.UTC()
	return [7]byte{
		byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()),
		byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0,
	}
}

// checkTime refuses what seven bytes cannot hold.
func checkTime(t time.Time) error {
	if y := t.UTC().Year(); y < 1900 || y > 1900+255 {
		return fmt.Errorf("year %d is outside 1900 to 2155", y)
	}
	return nil
}

// longTime is the seventeen bytes of ECMA-119 8.4.26.1, in UTC. The zero time
// means "not specified".
func longTime(t time.Time) []byte {
	if t.IsZero() {
		return append([]byte("0000000000000000"), 0)
	}
	return append([]byte(t.UTC().Format("20060102150405")+"00"), 0)
}

// sectors is the number of sectors that n bytes take.
func sectors(n int64) int64 { return (n + sectorSize - 1) / sectorSize }

// record is one directory record (ECMA-119 9.1).
type record struct {
	id     string
	extent uint32
	size   uint32
	flags  byte
	time   time.Time
	system []byte // system use area, already within the room left by id
}

// recordRoom is the space for the system use area beside an identifier.
func recordRoom(id string) int { return maxRecord - recordHead(id) }

func recordHead(id string) int { return (recordFixed + len(id) + 1) &^ 1 }

func (r record) append(b []byte) []byte {
	n := (recordHead(r.id) + len(r.system) + 1) &^ 1
	at := len(b)
	b = append(b, make([]byte, n)...)
	p := b[at:]
	p[0] = byte(n)
	both32(p[2:], r.extent)
	both32(p[10:], r.size)
	t := shortTime(r.time)
	copy(p[18:], t[:])
	p[25] = r.flags
	both16(p[28:], 1)
	p[32] = byte(len(r.id))
	copy(p[33:], r.id)
	copy(p[recordHead(r.id):], r.system)
	return b
}

const (
	unixDir     = 0o040000
	unixRegular = 0o100000
	unixSymlink = 0o120000
)

// unixMode is the st_mode of POSIX, as PX stores it (RRIP 4.1.1).
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	switch {
	case m.IsDir():
		u |= unixDir
	case m&fs.ModeSymlink != 0:
		u |= unixSymlink
	default:
		u |= unixRegular
	}
	if m&fs.ModeSetuid != 0 {
		u |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		u |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		u |= 0o1000
	}
	return u
}
