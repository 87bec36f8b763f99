package preseed

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
)

func example(t *testing.T) *site.Site {
	t.Helper()
	s, err := site.Parse("site.yaml", site.Example())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func render(t *testing.T, s *site.Site, sel *profile.Selection) (string, []string) {
	t.Helper()
	text, notes, err := Render(scicd.Preseed(), s, sel)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), notes
}

// answer finds the last answer to a question: the one that wins.
func answer(text, question string) string {
	all := regexp.MustCompile(`(?m)^d-i `+regexp.QuoteMeta(question)+` \S+ ?(.*)$`).FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return "no answer"
	}
	return all[len(all)-1][1]
}

func TestRender(t *testing.T) {
	s := example(t)
	s.Locale, s.Keyboard, s.Timezone = "de_DE.UTF-8", "de", "Europe/Berlin"
	text, notes := render(t, s, &profile.Selection{Role: "node"})
	for question, want := range map[string]string{
		"debian-installer/locale":                "de_DE.UTF-8",
		"keyboard-configuration/xkb-keymap":      "de",
		"time/zone":                              "Europe/Berlin",
		"passwd/root-password-crypted":           "*",
		"passwd/make-user":                       "false",
		"debian-installer/language":              "no answer", // localechooser asks if locale and language are both answered
		"debian-installer/country":               "no answer",
		"debian-installer/allow_unauthenticated": "no answer",
	} {
		if got := answer(text, question); got != want {
			t.Errorf("%s = %q; want %q", question, got, want)
		}
	}
	if want := "# Rendered by sci-cd (pkg/preseed) from preseed/answers.cfg for node of site lab.\n"; !strings.HasPrefix(text, want) {
		t.Errorf("the answers begin with %q; want %q", strings.SplitAfter(text, "\n")[0], want)
	}
	if len(notes) != 0 {
		t.Errorf("notes: %q", notes)
	}
	for _, line := range strings.Split(text, "\n") {
		if line != "" && line[0] != '#' && !regexp.MustCompile(`^d-i [a-z0-9-]+/\S+ (string|boolean|select|password|note)( |$)`).MatchString(line) {
			t.Errorf("debconf-set-selections does not understand %q", line)
		}
	}
}

func TestRootPassword(t *testing.T) {
	s := example(t)
	s.Root.PasswordHash = "$6$salt$hash"
	text, _ := render(t, s, &profile.Selection{Role: "node"})
	if got := answer(text, "passwd/root-password-crypted"); got != "$6$salt$hash" {
		t.Errorf("root's password is %q; want the hash itself, not what hides it in logs", got)
	}
}

// The answers of profiles come behind ours, in the order of the profiles, and
// answers that nothing asks for are noted.
func TestProfiles(t *testing.T) {
	sel := &profile.Selection{Role: "node", Preseed: []string{
		"d-i time/zone string Asia/Tokyo\nd-i partman-auto/method string lvm\n",
		"# a comment\nd-i time/zone string Europe/Moscow\npopularity-contest popularity-contest/participate boolean false\nd-i mirror/http/proxy string\n",
	}}
	text, notes := render(t, example(t), sel)
	if got := answer(text, "time/zone"); got != "Europe/Moscow" {
		t.Errorf("time/zone = %q; want the last profile's", got)
	}
	want := []string{
		"preseed answer partman-auto/method has no effect: the agent does this step",
		"preseed answer mirror/http/proxy has no effect: the agent does this step",
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestTemplateErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                 "", // empty is a template too
		"{{.Site.Nobody}}": "cannot render answers: template: answers.cfg:1:7: ",
		"{{":               "cannot render answers: template: answers.cfg:1: ",
	} {
		_, _, err := Render(fstest.MapFS{TemplateName: {Data: []byte(text)}}, example(t), &profile.Selection{Role: "node"})
		if got := errorText(err); !strings.HasPrefix(got, want) || (want == "") != (err == nil) {
			t.Errorf("Render of %q = %v; want %s", text, err, want)
		}
	}
	if _, _, err := Render(os.DirFS(t.TempDir()), example(t), &profile.Selection{}); err == nil {
		t.Error("a missing template was rendered")
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
