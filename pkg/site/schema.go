package site

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
)

// schema is the part of JSON Schema 2020-12 that a site file needs. Its fields
// are in the order in which they are written.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"` // a string or a list of them
	Const       string             `json:"const,omitempty"`
	Default     any                `json:"default,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     int                `json:"minimum,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"` // encoding/json sorts the keys
	Names       *schema            `json:"propertyNames,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false or a schema
	Required    []string           `json:"required,omitempty"`
}

// Schema is the JSON Schema of the site file, for editors; it stands in
// docs/site.schema.json. It sees one value at a time: what a site's parts must
// have in common (addresses, names, networks) only Parse checks.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Site](), "")
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "SCI-CD site file"
	s.Properties["apiVersion"].Const = APIVersion
	s.Properties["networks"].Names = &schema{Pattern: formOf("network").regexp}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot render the schema of the site file: %w", err)
	}
	return append(data, '\n'), nil
}

func schemaOf(t reflect.Type, pattern string) *schema {
	if isText(t) {
		return &schema{Type: "string", Pattern: formOf(pattern).regexp}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), pattern)
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int:
		return &schema{Type: "integer", Minimum: 1}
	case reflect.Slice:
		return &schema{Type: "array", Items: schemaOf(t.Elem(), pattern)}
	case reflect.Map:
		return &schema{Type: "object", Additional: schemaOf(t.Elem(), pattern)}
	}
	s := &schema{Type: "object", Properties: make(map[string]*schema), Additional: false}
	for _, f := range fieldsOf(t) {
		p := schemaOf(t.Field(f.index).Type, f.pattern)
		p.Description = f.doc
		p.Default = defaultOf(f, p)
		if f.need {
			s.Required = append(s.Required, f.name)
		} else {
			optional(p)
		}
		s.Properties[f.name] = p
	}
	return s
}

// isText reports whether a type is written as text.
func isText(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[Size](), reflect.TypeFor[Duration]():
		return true
	}
	return t.Kind() == reflect.String
}

// optional lets a value be empty: key: , and for a text key: "".
func optional(p *schema) {
	if p.Type == "string" && p.Pattern != "" {
		p.Pattern = "^$|" + p.Pattern
	}
	p.Type = []string{p.Type.(string), "null"}
}

func defaultOf(f field, p *schema) any {
	switch {
	case f.def == "":
		return nil
	case p.Type == "boolean":
		return f.def == "true"
	case p.Type == "array":
		return strings.Split(f.def, " ")
	case p.Type == "integer":
		return json.Number(f.def)
	}
	return f.def
}
