package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Disk is a disk that records are written to. A record counts when the disk
// has said that it is stable: O_SYNC, and O_DIRECT so that what is read is what
// the disk has.
type Disk struct {
	f    *os.File
	size int64

	mu    sync.Mutex
	buf   []byte // scanSize, page-aligned
	state State  // of what is on the disk
	found State  // as the disk was when it was opened
	boot  uint64
}

// OpenDisk finds out how far earlier starts came. Writing is refused if the disk
// is damaged.
func OpenDisk(path string) (*Disk, error) {
	d, err := open(path, os.O_RDWR|unix.O_SYNC)
	if err != nil {
		return nil, err
	}
	if d.found, err = Scan(d.f, d.size, d.buf); err != nil {
		d.close()
		return nil, err
	}
	d.state, d.boot = d.found, d.found.Boot+1
	return d, nil
}

// ScanFile reads the records of a disk or an image.
func ScanFile(path string) (State, error) {
	d, err := open(path, os.O_RDONLY)
	if err != nil {
		return State{}, err
	}
	defer d.close()
	return Scan(d.f, d.size, d.buf)
}

// open opens a disk past the page cache; some file systems, which tests use,
// cannot.
func open(path string, flags int) (*Disk, error) {
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil {
		f, err = os.OpenFile(path, flags, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	d := &Disk{f: f}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		d.close()
		return nil, fmt.Errorf("cannot tell size of disk: %w", err)
	}
	if d.buf, err = unix.Mmap(-1, 0, scanSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		d.close()
		return nil, fmt.Errorf("cannot get memory: %w", err)
	}
	return d, nil
}

// close is for a disk that nothing has been written to.
func (d *Disk) close() {
	_ = d.f.Close()
	if d.buf != nil {
		_ = unix.Munmap(d.buf)
	}
}

// Append writes the next record and returns when it is stable.
func (d *Disk) Append() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found.Damage != "" {
		return fmt.Errorf("cannot write: %s", d.found.Damage)
	}
	n := d.state.Records
	if int64(n+1)*BlockSize > d.size {
		return io.ErrShortWrite
	}
	Record{N: n, Boot: d.boot}.Put(d.buf[:BlockSize])
	if _, err := d.f.WriteAt(d.buf[:BlockSize], int64(n)*BlockSize); err != nil {
		return fmt.Errorf("cannot write record %d: %w", n, err)
	}
	d.state = State{Records: n + 1, Boot: d.boot}
	return nil
}

// Digest is the SHA-256 of the first n records as the disk has them.
func (d *Disk) Digest(n uint64) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n > d.state.Records {
		return "", fmt.Errorf("there are %d records only", d.state.Records)
	}
	h := sha256.New()
	for off, end := int64(0), int64(n)*BlockSize; off < end; {
		part := d.buf[:min(int64(len(d.buf)), end-off)]
		if _, err := d.f.ReadAt(part, off); err != nil {
			return "", fmt.Errorf("cannot read records: %w", err)
		}
		h.Write(part)
		off += int64(len(part))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Status is what a guest says of itself.
type Status struct {
	Boot    uint64  // this start, from 1
	Records uint64  // that are stable
	Found   State   // what this start found on the disk
	Uptime  float64 // seconds
	Error   string  // why no more records are written; empty: they are
}

// JSON by hand: encoding/json would double the program.
func (s Status) JSON() string {
	return fmt.Sprintf(`{"boot": %d, "records": %d, "found": %s, "uptime": %.1f, "error": %s}`+"\n",
		s.Boot, s.Records, s.Found.JSON(), s.Uptime, quote(s.Error))
}

// JSON is the state for machines.
func (s State) JSON() string {
	return fmt.Sprintf(`{"records": %d, "boot": %d, "damage": %s}`, s.Records, s.Boot, quote(s.Damage))
}

// quote writes a JSON string (RFC 8259, 7).
func quote(s string) string {
	b := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, string(r)...)
		}
	}
	return string(append(b, '"'))
}

// status is d's part of a Status.
func (d *Disk) status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Status{Boot: d.boot, Records: d.state.Records, Found: d.found}
}
