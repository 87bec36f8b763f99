package build_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/iso"
)

// makeImage makes an image as sci-cd capture does, of a disk that no virtual
// machine has written.
func makeImage(t *testing.T, img build.Image) {
	t.Helper()
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	w, err := image.NewDiskWriter(disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image.Base, image.BIOS, image.UEFI} {
		err := w.Layer(name, nil, func(w io.Writer) error {
			archive := tar.NewWriter(w)
			err := archive.WriteHeader(&tar.Header{Name: "etc/" + name, Typeflag: tar.TypeReg, Mode: 0o644})
			return errors.Join(err, archive.Close())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	head := image.DiskHead{Class: img.Manifest.Class, Kernel: "6.12", Packages: []image.Package{{Name: "dpkg", Version: "1", Architecture: "amd64"}}}
	if err := w.Commit(head); err != nil {
		t.Fatal(err)
	}
	_, err = image.Make(t.Context(), image.MakeOptions{Disk: disk, DiskSize: 64 << 20, Manifest: img.Manifest, Key: img.Key, Dir: img.Dir})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGoldenImage: an image is made for a lock, a key, an overlay and answers;
// with others it is refused.
func TestGoldenImage(t *testing.T) {
	b := newBench(t)
	text, err := os.ReadFile(filepath.Join(b.dir, "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b.write("site.yaml", strings.Replace(string(text), "release: trixie", "release: trixie\ninstall: image", 1))
	o := b.options()
	o.Images, o.SiteFile = filepath.Join(b.dir, "images"), "site.yaml"
	images := func() []build.Image {
		t.Helper()
		list, err := build.Images(t.Context(), o, nil)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	list := images()
	if len(list) != 1 || list[0].Manifest.Class != "node" || list[0].Current {
		t.Fatalf("images: %+v; want one of node, the machines that are not virtual, and not current", list)
	}
	if _, err := build.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "there is no current one of node") {
		t.Fatalf("Build without an image = %v", err)
	}
	makeImage(t, list[0])
	if !images()[0].Current {
		t.Error("the image that was just made is not current")
	}
	if _, err := build.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(o.Output)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := iso.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"image.json", "image.json.asc", "base.tar.zst", "bios.tar.zst", "uefi.tar.zst"} {
		want, err := os.ReadFile(filepath.Join(list[0].Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(img.FS(), "sci/node/"+name); err != nil || string(got) != string(want) {
			t.Errorf("sci/node/%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	s, err := inspect.Image(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.About.Roles {
		if (r.Image != "") != (r.Name == "node") {
			t.Errorf("role %s: image %q", r.Name, r.Image)
		}
	}

	for name, change := range map[string]func(*build.Options){
		"other locale":    func(o *build.Options) { s := *o.Site; s.Locale = "de_DE.UTF-8"; o.Site = &s },
		"other time zone": func(o *build.Options) { s := *o.Site; s.Timezone = "Europe/Berlin"; o.Site = &s },
		"other agent":     func(o *build.Options) { o.Agent = append([]byte(nil), append(o.Agent, 0)...) },
		"other key":       func(o *build.Options) { o.Key = filepath.Join(t.TempDir(), "sci.key") },
	} {
		t.Run(name, func(t *testing.T) {
			changed := o
			change(&changed)
			list, err := build.Images(t.Context(), changed, nil)
			if err != nil {
				t.Fatal(err)
			}
			if list[0].Current {
				t.Error("the image is still current")
			}
		})
	}
	base := filepath.Join(list[0].Dir, "base.tar.zst")
	data, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(base, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := build.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "cannot trust image") {
		t.Errorf("Build with a flipped bit = %v", err)
	}
}
