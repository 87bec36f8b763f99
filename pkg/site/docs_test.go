package site

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const (
	schemaFile = "../../docs/site.schema.json"
	docFile    = "../../docs/site.md"
)

// TestSchemaFile keeps docs/site.schema.json equal to the types.
func TestSchemaFile(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, schemaFile, data)
}

// TestReference keeps the generated parts of docs/site.md equal to the types.
func TestReference(t *testing.T) {
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for name, part := range map[string]string{"example": "```yaml\n" + string(Example()) + "```\n", "reference": reference()} {
		begin, end := "<!-- generated: "+name+" -->\n", "<!-- end: "+name+" -->"
		i, j := strings.Index(want, begin), strings.Index(want, end)
		if i < 0 || j < i {
			t.Fatalf("%s has no place for the generated %s", docFile, name)
		}
		want = want[:i+len(begin)] + part + want[j:]
	}
	golden(t, docFile, []byte(want))
}

// reference is a table for each type, in the order in which a reader meets them.
func reference() string {
	var b strings.Builder
	type part struct {
		title string
		t     reflect.Type
	}
	parts := []part{{"Top level", reflect.TypeFor[Site]()}}
	for len(parts) > 0 {
		p := parts[0]
		parts = parts[1:]
		fmt.Fprintf(&b, "### %s\n\n| key | value | meaning |\n|---|---|---|\n", p.title)
		for _, f := range fieldsOf(p.t) {
			ft := p.t.Field(f.index).Type
			fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", f.name, map[bool]string{true: " (required)"}[f.need], describe(ft, f), strings.ReplaceAll(f.doc, "|", "\\|"))
			for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice || ft.Kind() == reflect.Map && !isText(ft) {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct && !isText(ft) {
				parts = append(parts, part{"`" + f.name + "`", ft})
			}
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func describe(t reflect.Type, f field) string {
	kind := ""
	switch {
	case isText(t):
		kind = "text"
	case t.Kind() == reflect.Bool:
		kind = "true or false"
	case t.Kind() == reflect.Int:
		kind = "number"
	case t.Kind() == reflect.Slice:
		kind = "list"
	default:
		kind = "mapping"
	}
	if h := formOf(f.pattern).hint; h != "" {
		kind += ": " + h
	}
	if f.def != "" {
		kind += "; default `" + f.def + "`"
	}
	return kind
}

// TestFieldsDocumented: every field has a sentence and known tags, and the
// names of YAML and JSON are the same.
func TestFieldsDocumented(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Site](), reflect.TypeFor[Mirrors](), reflect.TypeFor[Root](), reflect.TypeFor[Admin](), reflect.TypeFor[Mail](), reflect.TypeFor[Network](),
		reflect.TypeFor[Cluster](), reflect.TypeFor[Host](), reflect.TypeFor[Machine](), reflect.TypeFor[Match](), reflect.TypeFor[Disk]()} {
		for _, f := range fieldsOf(typ) {
			if !strings.HasSuffix(f.doc, ".") {
				t.Errorf("%s.%s: doc %q is no sentence", typ.Name(), f.name, f.doc)
			}
			if name := typ.Field(f.index).Tag.Get("yaml"); name != f.name {
				t.Errorf("%s.%s: YAML name is %q", typ.Name(), f.name, name)
			}
			if f.pattern != "" && formOf(f.pattern).regexp == "" {
				t.Errorf("%s.%s: unknown pattern %q", typ.Name(), f.name, f.pattern)
			}
		}
	}
}

// TestSchemaAccepts runs the schema, by a reader of the few words it uses, over
// the example and over broken files that it must refuse.
func TestSchemaAccepts(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	if faults := check(s, decode(t, Example()), ""); len(faults) > 0 {
		t.Errorf("the schema refuses the example: %q", faults)
	}
	for _, c := range []struct{ name, want string }{
		{"unknown-keys", "/domian: unknown"},
		{"missing", "/name: missing"},
		{"bad-mac", "/hosts/0/match/mac/0: pattern"},
		{"password-in-clear", "/root/passwordHash: pattern"},
		{"wrong-types", "/hosts/1/disk: type"},
		{"machine", "/hosts/4/machine/cpus: minimum"},
		{"machine", "/hosts/4/machine/memory: type"},
	} {
		text, err := os.ReadFile(filepath.Join("testdata/broken", c.name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		faults := check(s, decode(t, text), "")
		if !slices.Contains(faults, c.want) {
			t.Errorf("%s: schema says %q; want %q among them", c.name, faults, c.want)
		}
	}
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	data, err := yaml.YAMLToJSON(text)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func check(s map[string]any, v any, path string) []string {
	var faults []string
	types, _ := s["type"].([]any)
	if one, ok := s["type"].(string); ok {
		types = []any{one}
	}
	is := map[bool]string{}
	switch x := v.(type) {
	case nil:
		is[true] = "null"
	case bool:
		is[true] = "boolean"
	case float64:
		is[true] = "integer"
		if low, ok := s["minimum"].(float64); ok && x < low {
			faults = append(faults, path+": minimum")
		}
	case string:
		is[true] = "string"
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(x) {
			faults = append(faults, path+": pattern")
		}
	case []any:
		is[true] = "array"
		items, _ := s["items"].(map[string]any)
		for i, e := range x {
			faults = append(faults, check(items, e, fmt.Sprintf("%s/%d", path, i))...)
		}
	case map[string]any:
		is[true] = "object"
		faults = append(faults, checkObject(s, x, path)...)
	}
	if len(types) > 0 && !slices.Contains(types, any(is[true])) {
		return append(faults, path+": type")
	}
	return faults
}

func checkObject(s, x map[string]any, path string) []string {
	var faults []string
	props, _ := s["properties"].(map[string]any)
	extra, _ := s["additionalProperties"].(map[string]any)
	for k, e := range x {
		if p, ok := props[k].(map[string]any); ok {
			faults = append(faults, check(p, e, path+"/"+k)...)
		} else if extra != nil {
			faults = append(faults, check(extra, e, path+"/"+k)...)
		} else if s["additionalProperties"] == false {
			faults = append(faults, path+"/"+k+": unknown")
		}
	}
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, ok := x[k.(string)]; !ok {
			faults = append(faults, path+"/"+k.(string)+": missing")
		}
	}
	return faults
}
