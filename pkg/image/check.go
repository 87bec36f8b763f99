package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// maxScan is the largest file that Check reads: keys, passwords and identities
// are small.
const maxScan = 1 << 20

// scanned are the directories whose files Check reads. Below usr is what
// packages ship, the same for everybody.
var scanned = []string{"boot/", "etc/", "home/", "opt/", "root/", "srv/", "var/"}

var privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----\n`)

// credential is the mark of pkg/enrol's credentials, and of the master's ledger,
// which holds one.
var credential = regexp.MustCompile(`"kind":\s*"sci-cd enrolment credential"`)

// Check reads a tar and reports what must not be in an image: files that belong
// to one machine, private keys, password hashes, and the traces, which are the
// names and identities of the machine that it was made on.
func Check(r io.Reader, traces []string) error {
	var problems []error
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot check image: %w", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		mode := h.FileInfo().Mode()
		part := General(name, mode)
		inside := h.Typeflag != tar.TypeDir && General(path.Dir(name), fs.ModeDir) == Empty
		if part == None || inside || part == Empty && h.Size > 0 {
			problems = append(problems, fmt.Errorf("%s belongs to one machine", name))
			continue
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxScan || !below(name, scanned) {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return fmt.Errorf("cannot check image: %w", err)
		}
		if what := secret(name, data, traces); what != "" {
			problems = append(problems, fmt.Errorf("%s holds %s", name, what))
		}
		if len(problems) > 20 {
			break
		}
	}
	return errors.Join(problems...)
}

func below(name string, dirs []string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(name, d) {
			return true
		}
	}
	return false
}

// secret says what a file holds that no image may.
func secret(name string, data []byte, traces []string) string {
	if privateKey.Match(data) {
		return "a private key"
	}
	if credential.Match(data) {
		return "a credential for joining a cluster"
	}
	if base := path.Base(name); path.Dir(name) == "etc" && (base == "shadow" || base == "shadow-" || base == "gshadow" || base == "gshadow-") {
		for _, line := range strings.Split(string(data), "\n") {
			f := strings.Split(line, ":")
			if len(f) > 1 && strings.Trim(f[1], "!*") != "" {
				return "the password of " + f[0]
			}
		}
	}
	for _, trace := range traces {
		if trace != "" && bytes.Contains(data, []byte(trace)) {
			return fmt.Sprintf("%q, which is of the machine that the image was made on", trace)
		}
	}
	return ""
}
