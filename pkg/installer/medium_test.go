package installer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/pgp"
)

// TestMedium: of several discs the one is taken that the site's key has signed;
// the others are unmounted again.
func TestMedium(t *testing.T) {
	dir, key := t.TempDir(), testKey(t)
	o := installerFiles(t, dir, testSite(t), key)
	signed := func(k *pgp.Key, sums, claimed string) map[string]string {
		sig, err := k.DetachSign(bytes.NewReader([]byte(claimed)), releaseDate, true)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"SHA256SUMS": sums, "SHA256SUMS.asc": string(sig)}
	}
	discs := map[string]map[string]string{
		"sr0": {"README": "a plain Debian disc"},
		"sda": signed(testKey(t), "x", "x"),      // another site's
		"sdb": signed(key, "altered", "as made"), // ours, damaged
		"sdc": signed(key, "ours", "ours"),
	}
	o.Sys = fstest.MapFS{"class/block/loop0/size": {}, "class/block/sda/size": {}, "class/block/sdb/size": {}, "class/block/sdc/size": {}, "class/block/sdd/size": {}, "class/block/sr0/size": {}, "class/block/vda/size": {}}
	var tried []string
	o.MountMedium = func(device, point, filesystem, options string) error {
		tried = append(tried, filepath.Base(device))
		files, ok := discs[filepath.Base(device)]
		if !ok {
			return errors.New("wrong fs type")
		}
		for name, content := range files {
			write(t, filepath.Join(point, name), content, 0o444)
		}
		return nil
	}
	o.UnmountMedium = os.RemoveAll
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 2 { // once it is mounted nothing is tried again
		if err := Run(ctx, "medium", o); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"sr0", "sda", "sdb", "sdc"}, tried); diff != "" {
		t.Errorf("devices tried (-want +got):\n%s", diff)
	}
	got, err := os.ReadFile(filepath.Join(o.Medium, "SHA256SUMS"))
	if err != nil || string(got) != "ours" {
		t.Errorf("mounted: %q, %v", got, err)
	}
}
