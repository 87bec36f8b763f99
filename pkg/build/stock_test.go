package build_test

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/media"
)

// TestStock guards that the medium of the comparison holds Debian's installer
// with its answers, and nothing of ours in the initrd.
func TestStock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := b.options()
	o.Lock, o.Output = filepath.Join(b.dir, "stock.lock"), filepath.Join(b.dir, "stock.iso")
	flow := fstest.MapFS{"preseed.cfg": {Data: []byte("d-i netcfg/get_hostname string {{.Host}}\nd-i pkgsel/include string {{range .Packages}}{{.}} {{end}}\n")}}
	for _, name := range []string{"installer.udebs", "installer.tools"} {
		data, err := fs.ReadFile(scicd.Preseed(), name)
		if err != nil {
			t.Fatal(err)
		}
		flow[name] = &fstest.MapFile{Data: data}
	}
	o.Preseed = flow
	r, err := build.Stock(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	_, _, img := openISO(t, r.Output)
	initrd, err := fs.ReadFile(img.FS(), media.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	files := segment(t, initrd)
	if got := files["preseed.cfg"]; !strings.Contains(got, "get_hostname string node1\n") || !strings.Contains(got, " sci-agent ") {
		t.Errorf("preseed.cfg = %q; want host node1 and its packages", got)
	}
	for name := range files {
		if strings.Contains(name, "sci") && !strings.HasSuffix(name, "scsi") && !strings.Contains(name, "modules") {
			t.Errorf("the initrd holds %s", name)
		}
	}
	if status := files["var/lib/dpkg/status"]; strings.Contains(status, "Package: sci-disks") {
		t.Error("a step of ours is registered")
	}
}

// segment returns the files of the part behind the stock initrd.
func segment(t *testing.T, initrd []byte) map[string]string {
	t.Helper()
	at := bytes.Index(initrd, []byte("\x28\xb5\x2f\xfd")) // zstd's magic number
	if at < 0 {
		t.Fatal("nothing behind the stock initrd")
	}
	z, err := zstd.NewReader(bytes.NewReader(initrd[at:]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := make(map[string]string)
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return files // the end, or the padding behind it
		}
		var data bytes.Buffer
		if _, err := data.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data.String()
	}
}
