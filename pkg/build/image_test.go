package build_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
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
	f, size, img := openISO(t, o.Output)
	for _, name := range []string{"image.json", "image.json.asc", "base.tar.zst", "bios.tar.zst", "uefi.tar.zst"} {
		want, err := os.ReadFile(filepath.Join(list[0].Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(img.FS(), "sci/node/"+name); err != nil || string(got) != string(want) {
			t.Errorf("sci/node/%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	s, err := inspect.Image(f, size)
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

// TestEmulationProfile: the site of the cluster tests takes the golden images of
// the one that it is made from, since a profile that is no more than a script is
// no part of an image; the script is on the medium.
func TestEmulationProfile(t *testing.T) {
	b := newBench(t)
	b.write("site.yaml", strings.Replace(string(site.Example()), "release: trixie", "release: trixie\ninstall: image", 1))
	o := b.options()
	o.Images, o.SiteFile = filepath.Join(b.dir, "images"), "site.yaml"
	list, err := build.Images(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	makeImage(t, list[0])
	for _, nodes := range []string{"2", "3"} {
		t.Run(nodes+" nodes", func(t *testing.T) {
			// The script takes its site again, as make does at each run.
			dir := filepath.Join(t.TempDir(), "cluster")
			for range 2 {
				cmd := exec.Command("../../scripts/site-cluster", dir)
				cmd.Env = append(os.Environ(), "FROM="+b.dir, "NODES="+nodes)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("scripts/site-cluster: %v\n%s", err, out)
				}
			}
			s, err := profile.LoadSite(filepath.Join(dir, "site.yaml"), scicd.Profiles())
			if err != nil {
				t.Fatal(err)
			}
			if n := len(s.Nodes()); strconv.Itoa(n) != nodes {
				t.Errorf("the site has %d nodes", n)
			}
			o := o
			o.Site, o.SiteFile, o.Images = s, filepath.Join(dir, "site.yaml"), filepath.Join(dir, "images")
			o.Lock, o.Key, o.Output = filepath.Join(dir, "sci.lock"), filepath.Join(dir, "sci.key"), filepath.Join(dir, "out.iso")
			list, err := build.Images(t.Context(), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || !list[0].Current {
				t.Fatalf("images: %+v; want one, current", list)
			}
			if _, err := build.Build(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			script, err := os.ReadFile("../../testdata/cluster/profiles/emulation.postinst")
			if err != nil {
				t.Fatal(err)
			}
			_, _, img := openISO(t, o.Output)
			if got, err := fs.ReadFile(img.FS(), "sci/node/scripts/01-emulation"); err != nil || string(got) != string(script) {
				t.Errorf("the script on the medium: %v\n%s", err, got)
			}
		})
	}
}

// TestEmulationScript runs the profile's script over what Debian's Ganeti has.
func TestEmulationScript(t *testing.T) {
	script, err := filepath.Abs("../../testdata/cluster/profiles/emulation.postinst")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		summary, have, want string
		fails               bool
	}{
		{"no Ganeti", "", "", false},
		{"Debian's", "A = 1\nRPC_CONNECT_TIMEOUT = 5\n", "A = 1\nRPC_CONNECT_TIMEOUT = 60\n", false},
		{"once more", "RPC_CONNECT_TIMEOUT = 60\n", "RPC_CONNECT_TIMEOUT = 60\n", false},
		{"another Ganeti", "RPC_CONNECT_TIMEOUT = 7\n", "RPC_CONNECT_TIMEOUT = 7\n", true},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "usr/share/ganeti/3.1/ganeti/_constants.py")
		if c.have != "" {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(c.have), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		got, _ := os.ReadFile(file)
		if (err != nil) != c.fails || string(got) != c.want {
			t.Errorf("%s: %v, %q\n%s", c.summary, err, got, out)
		}
	}
}
