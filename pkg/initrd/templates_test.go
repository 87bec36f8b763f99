package initrd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/tree"
)

// templates is cut from those of Debian 13's localechooser and netcfg.
const templates = `Template: debian-installer/localechooser/title
Type: text
Description: Choose language
Description-de.UTF-8: Sprache wählen/Choose language
Description-nb.UTF-8: Velg språk/Choose language
Description-pt.UTF-8: Escolher idioma/Choose language
Description-pt_BR.UTF-8: Escolher o idioma/Choose language
Description-ru.UTF-8: Выбор языка / Choose language
Description-sr@latin.UTF-8: Izaberite jezik / Choose language
Description-sv.UTF-8: Välj språk/Choose language
Description-zh_CN.UTF-8: 选择语言/Choose language

Template: localechooser/continentlist
Type: select
Default-ast.UTF-8: 3
Choices-C: Africa, Asia
Choices: Africa, Asia
Choices-de.UTF-8: Afrika, Asien
Choices-ru.UTF-8: Африка, Азия
Indices-ru.UTF-8: 2, 1
Description: Continent or region:
 The selected location will be used.
 .
 A second paragraph.
Description-de.UTF-8: Kontinent oder Region:
 Der ausgewählte Standort wird verwendet.
 .
 Description-ru.UTF-8: is text here, not a field.
Description-ru.UTF-8: Континент или регион:
 Выбранное местоположение.
Help: localechooser/help
`

const languagesText = `# CODE;LEVEL;COUNTRY;LOCALE;FALLBACKS;CONSOLE
C;0;;C;en;
de;1;DE;de_DE.UTF-8;;console-setup
nb_NO;1;NO;nb_NO.UTF-8;nb_NO:nb:no_NO:no:nn_NO:nn:da:sv:en;console-setup
pt;1;PT;pt_PT.UTF-8;pt:pt_BR:en;console-setup
pt_BR;1;BR;pt_BR.UTF-8;pt_BR:pt:en;console-setup
ru;2;RU;ru_RU.UTF-8;;console-setup
zh_CN;3;CN;zh_CN.UTF-8;zh_CN:zh;
`

func TestCutTemplates(t *testing.T) {
	s := &Stock{languageList: []byte(languagesText)}
	tests := []struct {
		locale string
		want   string // the translated fields that are left
	}{
		{"en_US.UTF-8", ""},
		{"C.UTF-8", ""},
		{"ru_RU.UTF-8", "Description-ru.UTF-8 Choices-ru.UTF-8 Indices-ru.UTF-8 Description-ru.UTF-8"},
		{"pt_BR.UTF-8", "Description-pt.UTF-8 Description-pt_BR.UTF-8"},
		{"zh_CN.UTF-8", "Description-zh_CN.UTF-8"},
		{"nb_NO.UTF-8", "Description-nb.UTF-8 Description-sv.UTF-8"},
		{"sr_RS@latin", "Description-sr@latin.UTF-8"},
		{"xx_XX.UTF-8", ""}, // in no list
	}
	for _, test := range tests {
		got := cutTemplates([]byte(templates), s.languages(test.locale))
		var left []string
		for line := range strings.Lines(string(got)) {
			if name, _, _ := strings.Cut(line, ":"); translated.MatchString(name) {
				left = append(left, name)
			}
		}
		if diff := cmp.Diff(test.want, strings.Join(left, " ")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.locale, diff)
		}
	}
	if got := string(cutTemplates([]byte(templates), s.languages(""))); got != templates {
		t.Error("without a locale something was cut")
	}
}

// What is not a translation stays byte for byte.
func TestCutTemplatesEnglish(t *testing.T) {
	const want = `Template: debian-installer/localechooser/title
Type: text
Description: Choose language

Template: localechooser/continentlist
Type: select
Choices-C: Africa, Asia
Choices: Africa, Asia
Description: Continent or region:
 The selected location will be used.
 .
 A second paragraph.
Help: localechooser/help
`
	got := cutTemplates([]byte(templates), map[string]bool{"en": true})
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := cutTemplates(got, map[string]bool{"en": true}); !bytes.Equal(got, again) {
		t.Error("a second cut takes more")
	}
	for _, odd := range []string{"", "\n", "no field", " text before any field\n", "Description-de.UTF-8: cut short"} {
		got := string(cutTemplates([]byte(odd), map[string]bool{"en": true}))
		if want := strings.TrimPrefix(odd, "Description-de.UTF-8: cut short"); got != want {
			t.Errorf("cutTemplates(%q) = %q", odd, got)
		}
	}
}

func TestBaseTemplates(t *testing.T) {
	const other = "Template: anna/x\nType: text\nDescription: x\n"
	stock := readStock(t, append(stockFiles(true),
		file{infoDir + "/localechooser.templates", templates, ""},
		file{infoDir + "/anna.templates", other, ""},
		file{infoDir + "/plain.templates", other, ""},
		file{languageList, languagesText, ""}))
	o := options(t, stock)
	o.Locale = "ru_RU.UTF-8"
	o.Udebs = append(o.Udebs, pack(t, "tzsetup-udeb", nil, map[string][]byte{"templates": []byte(templates)}, "Section", "debian-installer"))
	tr, err := Base(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	cut := string(cutTemplates([]byte(templates), map[string]bool{"en": true, "ru": true}))
	for name, want := range map[string]string{"localechooser": cut, "tzsetup-udeb": cut, "anna": ""} {
		if got := content(t, tr, infoDir+"/"+name+".templates"); got != want {
			t.Errorf("%s.templates = %q; want %q", name, got, want)
		}
	}
	if _, ok := tr.Lookup(infoDir + "/plain.templates"); ok {
		t.Error("templates without a translation are there a second time")
	}
}

func content(t *testing.T, tr *tree.Tree, name string) string {
	t.Helper()
	e, ok := tr.Lookup(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	data, err := e.ReadAll(maxFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestStockTemplatesTooLarge(t *testing.T) {
	files := append(stockFiles(true), file{infoDir + "/big.templates", strings.Repeat("x", maxTemplates+1), ""})
	_, err := ReadStock(bytes.NewReader(packed(t, archive(t, files))))
	want := fmt.Sprintf(`cannot read stock initrd: "%s/big.templates": %d bytes are more than expected`, infoDir, maxTemplates+1)
	if err == nil || err.Error() != want {
		t.Errorf("ReadStock = %v; want %s", err, want)
	}
}
