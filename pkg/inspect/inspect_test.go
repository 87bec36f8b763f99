package inspect_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/build/buildtest"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/tree"
)

func TestImage(t *testing.T) {
	m := buildtest.NewMedium(t)
	data, err := os.ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := inspect.Image(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want := []inspect.Boot{
		{Firmware: "BIOS", Medium: "cd", File: "isolinux/isolinux.bin"}, {Firmware: "UEFI", Medium: "cd", File: "boot/grub/efi.img"},
		{Firmware: "BIOS", Medium: "usb", File: "isolinux/isolinux.bin"}, {Firmware: "UEFI", Medium: "usb", File: "boot/grub/efi.img"},
	}
	if diff := cmp.Diff(want, s.Boot); diff != "" {
		t.Errorf("Boot (-want +got):\n%s", diff)
	}
	var bytesOf int64
	for _, p := range s.Parts {
		bytesOf += p.Size
		if p.Files == 0 {
			t.Errorf("no files are %s", p.Name)
		}
	}
	if bytesOf != m.Result.Payload || s.Size != m.Result.Size || s.Volume != "SCI_LAB_TRIXIE" {
		t.Errorf("volume %s, %d bytes, of it %d in files; want SCI_LAB_TRIXIE, %d, %d", s.Volume, s.Size, bytesOf, m.Result.Size, m.Result.Payload)
	}
	if s.About.Fingerprint != m.Key.Fingerprint() || s.About.Networks["lan"] != "192.168.50.0/24" || len(s.About.Hosts) != 3 {
		t.Errorf("the manifest is another one: %+v", s.About)
	}

	// Without boot code it boots from no USB stick by BIOS.
	clear(data[:512])
	s, err = inspect.Image(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[:2], s.Boot); diff != "" {
		t.Errorf("Boot without the first sector (-want +got):\n%s", diff)
	}
}

// TestOther guards that an image of somebody else is told as that.
func TestOther(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "iso")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	content := new(tree.Tree)
	if err := content.AddBytes("README", 0o644, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	r, err := iso.Write(t.Context(), f, content, iso.Options{VolumeID: "OTHER", Time: buildtest.Date()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = inspect.Image(f, r.Size)
	if err == nil || hint.Of(err) != "is it an image made by sci-cd build?" {
		t.Errorf("Image = %v, hint %q", err, hint.Of(err))
	}
}
