package build_test

import (
	"bytes"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/media"
)

// credentials are those in the initrd of an ISO, by the files' names.
func credentials(t *testing.T, r *build.Result) map[string]enrol.Credential {
	t.Helper()
	_, _, img := openISO(t, r.Output)
	initrd, err := fs.ReadFile(img.FS(), media.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]enrol.Credential)
	magic := []byte("\x28\xb5\x2f\xfd") // of zstd
	for at := bytes.Index(initrd, magic); at >= 0; {
		readCredentials(t, initrd[at:], found)
		next := bytes.Index(initrd[at+1:], magic)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return found
}

// readCredentials reads an archive at the beginning of data, if one is there.
func readCredentials(t *testing.T, data []byte, found map[string]enrol.Credential) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		return
	}
	defer z.Close()
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			return
		}
		if !strings.HasPrefix(h.Name, enrol.MediumDir+"/") || !strings.HasSuffix(h.Name, ".json") {
			continue
		}
		if h.Mode.Perm() != 0o600 {
			t.Errorf("%s has mode %v", h.Name, h.Mode)
		}
		var text bytes.Buffer
		if _, err := text.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		c, err := enrol.ParseCredential(text.Bytes())
		if err != nil {
			t.Errorf("%s: %v", h.Name, err)
		}
		found[h.Name] = c
	}
}

// TestCredentials guards which hosts get a credential, that the same folder gives
// the same ones, that another site file or key gives others, and that the site's
// key cannot be found among them.
func TestCredentials(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := credentials(t, b.build())
	if diff := cmp.Diff([]string{"sci/enrol/node1.json", "sci/enrol/node2.json"}, slices.Sorted(maps.Keys(first))); diff != "" {
		t.Fatalf("the nodes, and neither service nor virtual machines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(first, credentials(t, b.build())); diff != "" {
		t.Errorf("a second build differs (-want +got):\n%s", diff)
	}
	o := b.options()
	o.Site.Hosts[1].Addresses["lan"] = netip.MustParseAddr("192.168.50.77")
	r, err := build.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range credentials(t, r) {
		if c.Authority() == first[name].Authority() || bytes.Equal(c.Key, first[name].Key) {
			t.Errorf("%s: another site file gives the same credential", name)
		}
	}
	if err := os.Remove(o.Key); err != nil {
		t.Fatal(err)
	}
	for name, c := range credentials(t, b.build()) {
		if c.Authority() == first[name].Authority() || bytes.Equal(c.Key, first[name].Key) {
			t.Errorf("%s: another site key gives the same credential", name)
		}
	}
	o = b.options()
	o.Site.Cluster = nil
	if err := os.Remove(o.Lock); err != nil { // its virtual machines are gone with it
		t.Fatal(err)
	}
	if r, err = build.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := credentials(t, r); len(got) > 0 {
		t.Errorf("a site without a cluster has the credentials %q", slices.Sorted(maps.Keys(got)))
	}
}
