package ganeti

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
)

const secretName = "/etc/sci/puppet/authority.key"

func TestCopyFile(t *testing.T) {
	f := &fake{}
	c := newCluster(t, f, nil)
	if err := c.CopyFile(t.Context(), secretName, "node2.lab.example", "node3.lab.example"); err != nil {
		t.Fatal(err)
	}
	want := []string{"gnt-cluster copyfile --node=node2.lab.example --node=node3.lab.example " + secretName}
	if d := cmp.Diff(want, f.calls); d != "" {
		t.Errorf("commands (-want +got):\n%s", d)
	}
}

func TestDigestOf(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for _, c := range []struct {
		summary, out string
		err          error
		want, fails  string
	}{
		{"there", sum + "  -\n", nil, sum, ""},
		{"missing", "none\n", nil, "", ""},
		{"half an answer", "abab", nil, "", "cannot tell the digest of " + secretName + " on node2"},
		{"no answer", "", errors.New("exit status 255"), "", "cannot reach node2 by ssh"},
	} {
		f := &fake{answer: func(string) (string, error) { return c.out, c.err }}
		got, err := newCluster(t, f, nil).DigestOf(t.Context(), "node2", secretName)
		if got != c.want || (err == nil) != (c.fails == "") || err != nil && err.Error() != c.fails {
			t.Errorf("%s: DigestOf = %q, %v; want %q, %s", c.summary, got, err, c.want, c.fails)
		}
	}
}

// What SecretOf reads comes into no log, and into no error of a connection that
// broke half-way.
func TestSecretOf(t *testing.T) {
	var log strings.Builder
	for _, c := range []struct {
		summary, out string
		err          error
		want         string
		fails        bool
	}{
		{"there", "there\nsecret\n", nil, "secret\n", false},
		{"missing", "none\n", nil, "", false},
		{"broken off", "there\nsecr", errors.New("exit status 255"), "", true},
		{"something else", "motd\nthere\nsecret\n", nil, "", true},
	} {
		f := &fake{answer: func(string) (string, error) { return c.out, c.err }}
		cl := newCluster(t, f, nil)
		cl.Log = &log
		got, err := cl.SecretOf(t.Context(), "node2", secretName)
		if string(got) != c.want || (err != nil) != c.fails {
			t.Errorf("%s: SecretOf = %q, %v; want %q", c.summary, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secr") {
			t.Errorf("%s: the error holds the secret: %v", c.summary, err)
		}
		if e := new(run.Error); errors.As(err, &e) {
			t.Errorf("%s: the error holds what the command said", c.summary)
		}
	}
	if log.Len() > 0 {
		t.Errorf("the log holds %q", log.String())
	}
}
