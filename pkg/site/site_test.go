package site

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skycover/sci-cd/pkg/hint"
)

var update = flag.Bool("update", false, "rewrite goldens")

// golden compares got with the file, or rewrites the file with -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); rewrite with -update:\n%s", file, diff)
	}
}

// TestBroken loads every broken file and compares all messages with the .want
// file beside it.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d broken files (%v); want at least 12", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			_, err := Load(file)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Load = %v; want Problems", err)
			}
			text := strings.ReplaceAll(problems.Error(), "testdata/broken/", "") + "\n"
			golden(t, strings.TrimSuffix(file, ".yaml")+".want", []byte(text))
			if strings.Contains(text, "hunter2") {
				t.Errorf("a message shows a secret:\n%s", text)
			}
		})
	}
}

func TestExample(t *testing.T) {
	s, err := Parse("example.yaml", Example())
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, h := range s.Hosts {
		hosts = append(hosts, fmt.Sprintf("%s %s %v %v", s.FQDN(h.Name), h.Role, h.Match.MAC, h.Virtual))
	}
	want := []string{
		"node1.lab.example node [52:54:00:5c:1c:01] false",
		"node2.lab.example node [52:54:00:5c:1c:02] false",
		"sci.lab.example service [] true",
	}
	if diff := cmp.Diff(want, hosts); diff != "" {
		t.Errorf("hosts of the example (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"node", "service"}, s.Roles()); diff != "" {
		t.Errorf("Roles (-want +got):\n%s", diff)
	}
	if s.Root.PasswordHash != "" || len(s.Root.SSHKeys) > 0 {
		t.Error("the example lets somebody in: everybody's lab would have the same secret")
	}
}

func TestDefaults(t *testing.T) {
	s, err := Parse("min.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	got := []any{s.Release, s.Locale, s.Keyboard, s.Timezone, s.Console, s.Unattended, s.ProfilePath(), s.DebsPath()}
	want := []any{"trixie", "en_US.UTF-8", "us", "Etc/UTC", []string{"tty0"}, false, "", ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

const minimal = `apiVersion: sci-cd/v1
name: lab
domain: lab.example
networks: {lan: {subnet: 10.0.0.0/24}}
hosts: [{name: n1, role: node, match: {serial: 0012345}, addresses: {lan: 10.0.0.1}}]
`

// TestValues checks what is brought into one form while reading.
func TestValues(t *testing.T) {
	const text = `apiVersion: sci-cd/v1
name: lab
domain: lab.example
keyboard: no
networks: {lan: {subnet: 10.0.0.0/24}}
hosts:
  - name: n1
    role: node
    match:
      mac: [52-54-00-5C-1C-01]
      serial: 0012345
    addresses: {lan: 10.0.0.1}
    disk: {minSize: 1.5TB, serial: 1e3}
    profiles: [web, db]
`
	s, err := Parse("values.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	h := s.Hosts[0]
	got := []any{s.Keyboard, h.Match.MAC[0], h.Match.Serial, h.Disk.MinSize, h.Disk.Serial, h.Class()}
	want := []any{"no", MAC("52:54:00:5c:1c:01"), "0012345", Size(1.5e12), "1e3", "node+web+db"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		text string
		want Size
		back string
	}{
		{"20G", 20e9, "20GB"},
		{"20GB", 20e9, "20GB"},
		{"20GiB", 20 << 30, "20GiB"},
		{"1 TB", 1e12, "1TB"},
		{"0.5TiB", 512 << 30, "512GiB"},
		{"1000kB", 1e6, "1MB"},
		{"7B", 7, "7B"},
		{"20", 0, ""},
		{"G", 0, ""},
		{"-1G", 0, ""},
		{"9999999TiB", 0, ""},
		{"NaNG", 0, ""},
		{"0x10G", 0, ""},
	} {
		var z Size
		err := z.UnmarshalText([]byte(c.text))
		if (err == nil) != (c.back != "") || z != c.want {
			t.Errorf("Size of %q = %d, %v; want %d", c.text, z, err, c.want)
		}
		if err == nil && z.String() != c.back {
			t.Errorf("Size(%d) = %q; want %q", z, z, c.back)
		}
	}
}

func TestJSON(t *testing.T) {
	s, err := Parse("example.yaml", []byte(strings.Replace(string(Example()), `minSize: ""`, "minSize: 20GiB", 1)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back, cmpopts.IgnoreUnexported(Site{}), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("site read back from JSON (-want +got):\n%s", diff)
	}
	again, err := back.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(again)); diff != "" {
		t.Errorf("JSON twice (-first +second):\n%s", diff)
	}
	if _, err := FromJSON([]byte(`{"apiVersion":"sci-cd/v9"}`)); err == nil || !strings.Contains(err.Error(), `site.json: apiVersion: "sci-cd/v9" is not known`) {
		t.Errorf("FromJSON of a broken site: %v", err)
	}
}

// TestSecret: no way of printing a site shows the hash.
func TestSecret(t *testing.T) {
	s := &Site{Root: Root{PasswordHash: "$6$hunter2"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(verb, s.Root); strings.Contains(text, "hunter2") || strings.Contains(text, "68756e746572") {
			t.Errorf("%s shows the hash: %s", verb, text)
		}
		if text := fmt.Sprintf(verb, s.Root.PasswordHash); strings.Contains(text, "hunter2") || strings.Contains(text, "68756e746572") {
			t.Errorf("%s shows the hash: %s", verb, text)
		}
	}
}

func TestLoadAbsent(t *testing.T) {
	_, err := Load("testdata/absent.yaml")
	if err == nil || err.Error() != `cannot read site file "testdata/absent.yaml": it does not exist` || hint.Of(err) != "write an example with: sci-cd init" {
		t.Errorf("Load of an absent file = %v, hint %q", err, hint.Of(err))
	}
}

// TestBounds: what would keep the YAML parser busy for minutes is refused.
func TestBounds(t *testing.T) {
	for _, c := range []struct{ summary, text, want string }{
		{"brackets", "a: " + strings.Repeat("[", 100_000), "big.yaml:1:1: values are nested more than 100 deep"},
		{"brackets on lines", strings.Repeat("[\n", 100_000), "big.yaml:101:1: values are nested more than 100 deep"},
		{"dashes", strings.Repeat("- ", 20_000), "big.yaml:1:1: values are nested more than 100 deep"},
		{"keys", strings.Repeat("a: b\n", 50_000), "big.yaml:1:1: the file has more than 40000 keys"},
		{"NUL", "a: b\nc: \x00", "big.yaml:2:4: cannot be read as YAML: NUL byte in the file"},
		{"size", strings.Repeat("#\n", sizeLimit), `cannot read site file "big.yaml": larger than 1 MiB`},
	} {
		_, err := Parse("big.yaml", []byte(c.text))
		if err == nil {
			t.Errorf("%s: no error; want %s", c.summary, c.want)
		} else if got, _, _ := strings.Cut(err.Error(), "\n"); got != c.want {
			t.Errorf("%s: %s; want %s", c.summary, got, c.want)
		}
	}
}

func TestSSHKeys(t *testing.T) {
	for _, c := range []struct{ summary, key, want string }{
		{"ed25519", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGgcjF5B2vcLxHeL9vhf4/JSyX5NClnQWqrq7hWLmP8y a@b", ""},
		{"type and blob differ", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGgcjF5B2vcLxHeL9vhf4/JSyX5NClnQWqrq7hWLmP8y", "is damaged: its second word is no ssh-rsa key"},
	} {
		if got, _ := sshKeyFault(c.key); got != c.want {
			t.Errorf("%s: %q; want %q", c.summary, got, c.want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"locale", "localDebs", "name", "networks", "packages", "profileDir", "profiles"}
	for word, want := range map[string]string{
		"local": "locale", "profile": "profiles", "Name": "name", "netowrks": "networks", "pakages": "packages",
		"xyzzy": "", "": "", strings.Repeat("x", 100): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q; want %q", word, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Example())
	f.Add([]byte(minimal))
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("fuzz.yaml", data)
		var problems Problems
		if err != nil && !errors.As(err, &problems) && len(data) <= sizeLimit {
			t.Fatalf("Parse = %v; want Problems", err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Message == "" {
				t.Errorf("problem without a place or a message: %#v", p)
			}
		}
		if err != nil {
			return
		}
		text, err := s.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromJSON(text); err != nil {
			t.Errorf("cannot read back %s: %v", text, err)
		}
	})
}
