package initrd

import (
	"bytes"
	"path"
	"regexp"
	"strings"

	"github.com/skycover/sci-cd/pkg/tree"
)

// Where the installer keeps its questions and its list of languages.
const (
	templatesSuffix = ".templates"
	languageList    = "usr/share/localechooser/languagelist"
	maxTemplates    = 8 << 20 // bytes of one file; the largest today has 0.9 MB
)

// translated matches the name of a translated field of a template
// (debconf-devel(7)): "Description-pt_BR.UTF-8", "Choices-sr@latin.UTF-8". The
// first group is the bare language. "Choices-C" is none: it holds the values.
var translated = regexp.MustCompile(`^[A-Z][A-Za-z_]*-([a-z]{2,3})(?:_[A-Z]{2})?(?:@[a-z]+)?(?:\.[A-Za-z0-9-]+)?$`)

// languages are the bare languages ("pt") in which the installer may speak at a
// site of this locale ("pt_BR.UTF-8"): its own, those that its language falls
// back to (localechooser's languagelist, CODE;LEVEL;COUNTRY;LOCALE;FALLBACKS;…),
// and English. Without a locale it is nil, which stands for all languages.
func (s *Stock) languages(locale string) map[string]bool {
	if locale == "" {
		return nil
	}
	own := bareLanguage(locale)
	keep := map[string]bool{"en": true, own: true}
	for _, line := range strings.Split(string(s.languageList), "\n") {
		field := strings.Split(line, ";")
		if len(field) < 5 || bareLanguage(field[0]) != own {
			continue
		}
		for _, code := range strings.Split(field[4], ":") {
			keep[bareLanguage(code)] = true
		}
	}
	return keep
}

// bareLanguage cuts country, variant and charset off a locale.
func bareLanguage(locale string) string {
	if i := strings.IndexAny(locale, "_@."); i >= 0 {
		return locale[:i]
	}
	return locale
}

// cutTemplates takes the translations out of a templates file whose language is
// not in keep. The rest stays as it is, byte for byte.
func cutTemplates(text []byte, keep map[string]bool) []byte {
	if keep == nil {
		return text
	}
	out := make([]byte, 0, len(text)/8)
	drop := false
	for line := range bytes.Lines(text) {
		if c := line[0]; c != ' ' && c != '\t' { // else it belongs to the field above
			name, _, ok := bytes.Cut(line, []byte(":"))
			m := translated.FindSubmatch(name)
			drop = ok && m != nil && !keep[string(m[1])]
		}
		if !drop {
			out = append(out, line...)
		}
	}
	return out
}

// addTemplates puts the stock initrd's questions, cut to the languages of keep,
// over the originals: cdebconf reads all of them with every program that it
// starts. Of the packages in remove none are left. What udebs brought into t is
// cut by addUdeb.
func addTemplates(t *tree.Tree, stock *Stock, keep map[string]bool, remove []string) error {
	if keep == nil {
		return nil
	}
	gone := make(map[string]bool)
	for _, name := range remove {
		gone[name+templatesSuffix] = true
	}
	for _, name := range sortedKeys(stock.templates) {
		var text []byte
		if !gone[path.Base(name)] {
			text = cutTemplates(stock.templates[name], keep)
		}
		if _, ok := t.Lookup(name); ok || len(text) == len(stock.templates[name]) {
			continue
		}
		if err := t.AddBytes(name, 0o644, text); err != nil {
			return err
		}
	}
	return nil
}
