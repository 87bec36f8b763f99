// Package guest is what runs inside an instance of a cluster under test: the
// whole of its user space, one static program as /init. It numbers records,
// brings each to the disk before the next, and tells by HTTP how far it is. So
// whoever fails an instance over can say afterwards that nothing was lost: not
// by what the cluster's commands returned, but by what is on the disk.
//
// The same program packs the initramfs on a node, from the node's own kernel
// modules, and asks other guests from there.
//
// It is no part of any medium: sci-cd carries it for `sci-cd test --site`.
package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// BlockSize is the size of a record in bytes: what a disk writes as a whole or
// not at all.
const BlockSize = 512

// Record is what record n holds, at offset n*BlockSize.
type Record struct {
	N    uint64 // its number, from 0
	Boot uint64 // which start of the guest wrote it, from 1
}

// A record is: magic, number, boot (big endian), a filling that depends on both,
// so that no record is like another one, and the SHA-256 of all that.
const (
	magic   = "SCIREC1\n"
	filling = 24
	sumAt   = BlockSize - sha256.Size
)

// Put writes the record into a block.
func (r Record) Put(block []byte) {
	copy(block, magic)
	binary.BigEndian.PutUint64(block[8:], r.N)
	binary.BigEndian.PutUint64(block[16:], r.Boot)
	x := r.N*0x9e3779b97f4a7c15 + r.Boot
	for i := filling; i < sumAt; i += 8 { // xorshift64*
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.BigEndian.PutUint64(block[i:], x*0x2545f4914f6cdd1d)
	}
	sum := sha256.Sum256(block[:sumAt])
	copy(block[sumAt:], sum[:])
}

var (
	errMagic = errors.New("no record")
	errSum   = errors.New("a torn record: its digest is wrong")
	errOther = errors.New("no record that a guest writes")
)

// ParseRecord reads a block. A block that is not exactly what Put writes is an
// error.
func ParseRecord(block []byte) (Record, error) {
	if len(block) != BlockSize || string(block[:len(magic)]) != magic {
		return Record{}, errMagic
	}
	if sum := sha256.Sum256(block[:sumAt]); !bytes.Equal(sum[:], block[sumAt:]) {
		return Record{}, errSum
	}
	r := Record{binary.BigEndian.Uint64(block[8:]), binary.BigEndian.Uint64(block[16:])}
	var want [BlockSize]byte
	if r.Put(want[:]); !bytes.Equal(want[:], block) || r.Boot == 0 {
		return Record{}, errOther
	}
	return r, nil
}

// State is what is on a disk.
type State struct {
	Records uint64 // 0 … Records-1 are there
	Boot    uint64 // of the last of them; 0: there is none
	// Damage says what cannot come from a guest whose power failed; empty:
	// nothing.
	Damage string
}

// beyond is how many blocks behind the first one without a record are looked
// at: a record there means that one before it was lost.
const beyond = 4096

// scanSize is what is read at once, a multiple of BlockSize.
const scanSize = 1 << 20

// Scan reads the records of a disk of size bytes. The last record may be torn
// or missing, as when the power failed; anything else is damage. buf is of
// scanSize bytes, aligned as the disk needs it; nil: any.
func Scan(disk io.ReaderAt, size int64, buf []byte) (State, error) {
	if buf == nil {
		buf = make([]byte, scanSize)
	}
	s := State{}
	ended := false
	for off := int64(0); off+BlockSize <= size; {
		n := int(min(int64(len(buf)), size-off)) / BlockSize * BlockSize
		if _, err := disk.ReadAt(buf[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return s, fmt.Errorf("cannot read records: %w", err)
		}
		for i := 0; i < n; i += BlockSize {
			at := uint64(off+int64(i)) / BlockSize
			r, err := ParseRecord(buf[i : i+BlockSize])
			switch {
			case ended && err == nil:
				s.Damage = fmt.Sprintf("record %d is lost: record %d, of start %d, is there", s.Records, r.N, r.Boot)
				return s, nil
			case ended && at > s.Records+beyond:
				return s, nil
			case ended:
			case err != nil:
				ended = true
			case r.N != at:
				s.Damage = fmt.Sprintf("record %d stands at the place of record %d", r.N, at)
				return s, nil
			case r.Boot != s.Boot && r.Boot != s.Boot+1:
				s.Damage = fmt.Sprintf("record %d is of start %d, behind one of start %d", r.N, r.Boot, s.Boot)
				return s, nil
			default:
				s.Records, s.Boot = at+1, r.Boot
			}
		}
		off += int64(n)
	}
	return s, nil
}
