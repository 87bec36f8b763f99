// Package preseed renders the answers to Debian's installer for one class of
// machines: our template over the site file, then each profile's own answers in
// the order of the profiles. The format is debconf-set-selections(1)'s.
package preseed

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"text/template"

	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
)

// TemplateName is the file with our answers, in the directory preseed/.
const TemplateName = "answers.cfg"

// values are what the template sees.
type values struct {
	Site *site.Site
	Hash string
}

// ignored are the prefixes of questions that nothing asks in this installer.
var ignored = []string{"partman", "pkgsel/", "tasksel", "apt-setup/", "grub-installer/", "base-installer/", "mirror/", "netcfg/"}

// Render returns the answers for a class. Its notes name answers of profiles
// that have no effect, so that the builder can say so.
func Render(templates fs.FS, s *site.Site, sel *profile.Selection) (text []byte, notes []string, err error) {
	source, err := fs.ReadFile(templates, TemplateName)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot render answers: %w", err)
	}
	tmpl, err := template.New(TemplateName).Option("missingkey=error").Parse(string(source))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot render answers: %w", err)
	}
	v := values{Site: s, Hash: string(s.Root.PasswordHash)}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Rendered by sci-cd (pkg/preseed) from preseed/%s for %s of site %s.\n", TemplateName, sel.Role, s.Name)
	if err := tmpl.Execute(&b, v); err != nil {
		return nil, nil, fmt.Errorf("cannot render answers: %w", err)
	}
	for i, own := range sel.Preseed {
		fmt.Fprintf(&b, "\n# From a profile of %s (%d)\n%s\n", sel.Role, i+1, strings.TrimRight(own, "\n"))
		notes = append(notes, idle(own)...)
	}
	return b.Bytes(), notes, nil
}

// idle lists the answers in a preseed text that have no effect here.
func idle(text string) []string {
	var notes []string
	for _, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "d-i" {
			continue
		}
		for _, prefix := range ignored {
			if strings.HasPrefix(words[1], prefix) {
				notes = append(notes, fmt.Sprintf("preseed answer %s has no effect: the agent does this step", words[1]))
			}
		}
	}
	return notes
}
