package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// arOf makes an ar archive: name, data, name, data…
func arOf(parts ...string) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for i := 0; i < len(parts); i += 2 {
		b.WriteString(arMemberHeader(parts[i], 0, int64(len(parts[i+1]))))
		b.WriteString(parts[i+1])
		if len(parts[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// tarOf makes a tar of headers; regular files hold "12345".
func tarOf(t testing.TB, headers ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 5
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, "12345"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func controlTar(t testing.TB, control string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "./control", Typeflag: tar.TypeReg, Size: int64(len(control))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, control); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const minimal = "Package: x\nVersion: 1\nArchitecture: all\n"

func openBytes(data []byte) (*File, error) {
	return New("x.deb", bytes.NewReader(data), int64(len(data)))
}

func TestOpenErrors(t *testing.T) {
	ctl := controlTar(t, minimal)
	for _, test := range []struct {
		summary, data, want string
	}{
		{"empty", "", "cannot open package x.deb: unexpected EOF"},
		{"page of a captive portal", "<html>Log in</html>", "cannot open package x.deb: not an ar archive"},
		{"no members", arMagic, "cannot open package x.deb: no member debian-binary"},
		{"cut in a header", arMagic + "debian-binary", "cannot open package x.deb: ar header at byte 8: unexpected EOF"},
		{"cut in a member", string(arOf("debian-binary", "2.0\n", "control.tar", ctl))[:500], `cannot open package x.deb: ar member "control.tar": 2048 bytes announced, 368 left in the file: unexpected EOF`},
		{"bad end mark", strings.Replace(string(arOf("debian-binary", "2.0\n")), arEnd, "xx", 1), "cannot open package x.deb: ar header at byte 8: wrong end mark"},
		{"bad size", strings.Replace(string(arOf("debian-binary", "2.0\n")), "4         `", "-4        `", 1), `cannot open package x.deb: ar member "debian-binary": "-4        " is no size`},
		{"no control", string(arOf("debian-binary", "2.0\n", "data.tar", ctl)), `cannot open package x.deb: member "data.tar" where control.tar is expected`},
		{"no data", string(arOf("debian-binary", "2.0\n", "control.tar", ctl)), "cannot open package x.deb: no member data.tar"},
		{"version 3", string(arOf("debian-binary", "3.0\n", "control.tar", ctl, "data.tar", ctl)), `cannot open package x.deb: format version "3.0\n" is not 2.x`},
		{"too many members", string(arOf("debian-binary", "2.0\n", "control.tar", ctl, "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "", "_a", "")), "cannot open package x.deb: more than 16 ar members"},
	} {
		if _, err := openBytes([]byte(test.data)); err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, test.want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.deb")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestUnknownMembers(t *testing.T) {
	ctl, data := controlTar(t, minimal), tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "./a", Typeflag: tar.TypeReg})
	f, err := openBytes(arOf("debian-binary", "2.1\nmore\n", "_future", "x", "control.tar/", ctl, "_x", "xyz", "data.tar", data, "later", ""))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := f.Control(); err != nil || c.Get("Package") != "x" {
		t.Errorf("control %v, error %v", c, err)
	}
	if got := listing(t, f); got != "---------- 0/0 1970-01-01 a" {
		t.Errorf("data %q", got)
	}
}

func TestDataErrors(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	gz := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, s); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	good := gz(tarOf(t, reg("./a")))
	for _, test := range []struct {
		summary, member, data, want string
	}{
		{"leaves the root", "data.tar", tarOf(t, reg("./../a")), `data.tar: "./../a" leaves the root`},
		{"leaves the root inside", "data.tar", tarOf(t, reg("./usr/../../a")), `data.tar: "./usr/../../a" leaves the root`},
		{"absolute", "data.tar", tarOf(t, reg("/etc/passwd")), `data.tar: "/etc/passwd" is no relative name`},
		{"hard link out", "data.tar", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}), `data.tar: "../../etc/shadow" leaves the root`},
		{"absolute hard link", "data.tar", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}), `data.tar: "/etc/shadow" is no relative name`},
		{"root is a link", "data.tar", tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}), "data.tar: the root is no directory"},
		{"unknown type", "data.tar", tarOf(t, tar.Header{Name: "./a", Typeflag: '7'}), `data.tar: "./a" has the unknown type '7'`},
		{"no tar", "data.tar", strings.Repeat("x", 1024), "data.tar: archive/tar: invalid tar header"},
		{"cut tar", "data.tar", tarOf(t, reg("./a"))[:514], "data.tar: unexpected EOF"},
		{"bzip2", "data.tar.bz2", "BZh9", `data.tar.bz2: compression ".bz2" is not known; gz, xz, zst and none are`},
		{"no gzip", "data.tar.gz", "xxxxxxxxxxxxxxxx", "data.tar.gz: gzip: invalid header"},
		{"gzip with a wrong checksum", "data.tar.gz", good[:len(good)-8] + "\x00" + good[len(good)-7:], "data.tar.gz: gzip: invalid checksum"},
		{"cut gzip", "data.tar.gz", good[:len(good)-4], "data.tar.gz: unexpected EOF"},
		{"empty xz", "data.tar.xz", "", "data.tar.xz: xz: unexpected EOF"},
		{"empty zst", "data.tar.zst", "xxxxxxxxxxxxxxxx", "data.tar.zst: invalid input: magic number mismatch"},
	} {
		f, err := openBytes(arOf("debian-binary", "2.0\n", "control.tar", controlTar(t, minimal), test.member, test.data))
		if err != nil {
			t.Errorf("%s: %v", test.summary, err)
			continue
		}
		err = f.Data(func(h *tar.Header, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		// An error of the reader passes through fn as it is.
		if want := "cannot read package x.deb: " + test.want; err == nil || (err.Error() != want && !strings.HasSuffix(test.want, ": "+err.Error())) {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, want)
		}
	}
}

func TestDataStops(t *testing.T) {
	f, err := openBytes(arOf("debian-binary", "2.0\n", "control.tar", controlTar(t, minimal),
		"data.tar", tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeReg}, tar.Header{Name: "b", Typeflag: tar.TypeReg})))
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	n := 0
	if err := f.Data(func(*tar.Header, io.Reader) error { n++; return stop }); err != stop || n != 1 {
		t.Errorf("error %v after %d calls", err, n)
	}
}

func TestControlErrors(t *testing.T) {
	for _, test := range []struct{ summary, tar, want string }{
		{"no control file", tarOf(t, tar.Header{Name: "./postinst", Typeflag: tar.TypeReg}), "cannot read package x.deb: no control file"},
		{"no version", controlTar(t, "Package: x\nArchitecture: all\n"), "cannot read package x.deb: control has no Version field"},
		{"two stanzas", controlTar(t, "Package: x\n\nPackage: y\n"), "cannot read package x.deb: cannot read control data: 2 stanzas, want one"},
		{"link", tarOf(t, tar.Header{Name: "./control", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), `cannot read package x.deb: control.tar: "control" is no plain file`},
		{"in a directory", tarOf(t, tar.Header{Name: "./a/control", Typeflag: tar.TypeReg}), `cannot read package x.deb: control.tar: "a/control" is no plain file`},
		{"twice", tarOf(t, tar.Header{Name: "./control", Typeflag: tar.TypeReg}, tar.Header{Name: "control", Typeflag: tar.TypeReg}), `cannot read package x.deb: control.tar: "control" is there twice`},
	} {
		f, err := openBytes(arOf("debian-binary", "2.0\n", "control.tar", test.tar, "data.tar", tarOf(t)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Control(); err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, test.want)
		}
	}
}

func TestControlIsBounded(t *testing.T) {
	f, err := openBytes(arOf("debian-binary", "2.0\n", "control.tar", controlTar(t, minimal+"X: "+strings.Repeat("x", maxControlMember)), "data.tar", tarOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Control(); err == nil || !strings.Contains(err.Error(), `"control" has more than 16777216 bytes`) {
		t.Errorf("got %v", err)
	}
}

func TestBoundedReader(t *testing.T) {
	for _, n := range []int{0, 9, 10, 11} {
		_, err := io.ReadAll(&boundedReader{r: strings.NewReader(strings.Repeat("x", n)), left: 10, limit: 10})
		if (err != nil) != (n > 10) {
			t.Errorf("%d bytes of 10: %v", n, err)
		}
	}
}

// A sparse file in pax format says it is 8 EiB long and brings no bytes.
func TestSparseIsBounded(t *testing.T) {
	records := ""
	for _, r := range []string{"major=1", "minor=0", "name=./a", "realsize=9000000000000000000"} {
		records += fmt.Sprintf("%d GNU.sparse.%s\n", len(r)+len("00 GNU.sparse.\n"), r)
	}
	block := func(name string, typ byte, data string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(data)), Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		h := b.Bytes()
		h[156] = typ
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h[:512] {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return b.String()
	}
	sparseMap := "1\n9000000000000000000\n0\n"
	data := block("pax", 'x', records) + block("x", '0', sparseMap+strings.Repeat("\x00", 512-len(sparseMap))) + strings.Repeat("\x00", 1024)
	f, err := openBytes(arOf("debian-binary", "2.0\n", "control.tar", controlTar(t, minimal), "data.tar", data))
	if err != nil {
		t.Fatal(err)
	}
	err = f.Data(func(h *tar.Header, r io.Reader) error {
		t.Errorf("%q with %d bytes comes through", h.Name, h.Size)
		return nil
	})
	if want := "cannot read package x.deb: data.tar: unpacks to more than 34359738368 bytes"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// An xz file whose block header asks for 4 GiB is refused before it gets them.
func TestXZDictionaryIsBounded(t *testing.T) {
	header := []byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 4, 0, 0, 0, 0, 2, 0, 0x21, 1, 40, 0, 0, 0, 0, 0, 0, 0}
	_, err := decompress(bytes.NewReader(header), ".xz")
	if err == nil || err.Error() != "xz: dictionary of 4294967295 bytes is larger than 134217728" {
		t.Errorf("got %v", err)
	}
}

func TestZstdWindowIsBounded(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(512<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := decompress(&b, ".zst")
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("got %v", err)
	}
}

// What dpkg-deb builds, with each compression, we read alike.
func TestReadDpkgDeb(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	for name, text := range map[string]string{
		"DEBIAN/control":                          minimal + "Maintainer: x <x@example.org>\nDescription: x\n",
		"usr/share/x/file":                        "hello",
		"usr/share/x/" + strings.Repeat("n", 200): "long",
	} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("file", filepath.Join(src, "usr/share/x/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(src, "usr/share/x/file"), filepath.Join(src, "usr/share/x/hard")); err != nil {
		t.Fatal(err)
	}
	var want string
	for _, args := range [][]string{{"-Znone"}, {"-Zgzip"}, {"-Zxz", "-z9"}, {"-Zxz", "-z0"}, {"-Zzstd", "-z19"}, {"-Zxz", "--no-uniform-compression"}} {
		out := filepath.Join(dir, "x.deb")
		judge(t, append(append([]string{"dpkg-deb", "--root-owner-group"}, args...), "--build", src, out)...)
		f, err := Open(out)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		if c, err := f.Control(); err != nil || c.Get("Version") != "1" {
			t.Errorf("%q: control %v, error %v", args, c, err)
		}
		got := listing(t, f)
		if want == "" {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" || !strings.Contains(got, "usr/share/x/link -> file") {
			t.Errorf("%q: %s\n%s", args, diff, got)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzFile(f *testing.F) {
	small := sample(f, "1.0")
	f.Add(write(f, small))
	f.Add(arOf("debian-binary", "2.0\n", "control.tar", controlTar(f, minimal), "data.tar", tarOf(f, tar.Header{Name: "a", Typeflag: tar.TypeReg})))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := openBytes(data)
		if err != nil {
			return
		}
		_, _ = d.Control()
		_ = d.Data(func(h *tar.Header, r io.Reader) error {
			if h.Name == "." || h.Name == ".." || strings.HasPrefix(h.Name, "/") || strings.HasPrefix(h.Name, "../") || strings.Contains(h.Name, "/../") {
				t.Errorf("name %q", h.Name)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			return err
		})
	})
}
