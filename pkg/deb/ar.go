package deb

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// An ar archive is the magic and then members: a header of 60 bytes, the data,
// and a newline if the data's length is odd (ar(5), deb(5)).
const (
	arMagic  = "!<arch>\n"
	arHeader = 60
	arEnd    = "`\n"
)

// arMembers bounds the members of a .deb: three, and some that begin with "_".
const arMembers = 16

// member is one member of an ar archive.
type member struct {
	name string
	*io.SectionReader
}

// readAr lists the members of the archive in r.
func readAr(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if err := readFullAt(r, magic, 0); err != nil {
		return nil, err
	}
	if string(magic) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	var list []member
	for at := int64(len(arMagic)); at < size; {
		if len(list) == arMembers {
			return nil, fmt.Errorf("more than %d ar members", arMembers)
		}
		h := make([]byte, arHeader)
		if err := readFullAt(r, h, at); err != nil {
			return nil, fmt.Errorf("ar header at byte %d: %w", at, err)
		}
		if string(h[58:60]) != arEnd {
			return nil, fmt.Errorf("ar header at byte %d: wrong end mark", at)
		}
		// deb(5): a slash after the name is ignored.
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		n, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("ar member %q: %q is no size", name, h[48:58])
		}
		at += arHeader
		if n > size-at {
			return nil, fmt.Errorf("ar member %q: %d bytes announced, %d left in the file: %w", name, n, size-at, io.ErrUnexpectedEOF)
		}
		list = append(list, member{name, io.NewSectionReader(r, at, n)})
		at += n + n&1
	}
	return list, nil
}

func readFullAt(r io.ReaderAt, p []byte, at int64) error {
	n, err := r.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// arMemberHeader is the header that dpkg-deb writes: owner 0, mode 100644.
func arMemberHeader(name string, mtime, size int64) string {
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d%s", name, mtime, 0, 0, "100644", size, arEnd)
}
