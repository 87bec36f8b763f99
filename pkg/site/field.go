package site

import (
	"reflect"
	"strings"
)

// field is what the tags of a struct's field say.
type field struct {
	index   int
	name    string // key in YAML and JSON
	doc     string
	pattern string // name of an entry of patternOf
	def     string // default, for the documentation
	advice  string // hint where the field is missing, if the pattern has none
	need    bool
}

func (f field) hint() string {
	if f.advice != "" {
		return f.advice
	}
	return patternHint(f.pattern)
}

// fieldsOf are the fields that a file may hold, in the order of the type.
func fieldsOf(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		list = append(list, field{
			index: i, name: name, doc: f.Tag.Get("doc"), pattern: f.Tag.Get("pattern"),
			def: f.Tag.Get("default"), advice: f.Tag.Get("hint"), need: f.Tag.Get("need") == "yes",
		})
	}
	return list
}

// form is how a text must look.
type form struct {
	regexp string // for the JSON Schema and for our own check
	hint   string
}

// formOf returns the form that a field's pattern tag names. Sources: RFC 1123
// 2.1 for host names, Debian Policy 5.6.1 for package names, crypt(5) for
// hashes, kernel documentation admin-guide/kernel-parameters for console=.
func formOf(pattern string) form {
	const label = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	switch pattern {
	case "name":
		return form{`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`, "lower-case letters, digits and hyphens, at most 32 characters"}
	case "install":
		return form{`^(packages|image)$`, "packages or image"}
	case "label":
		return form{`^` + label + `$`, "a host name without the domain: lower-case letters, digits and hyphens"}
	case "domain":
		return form{`^` + label + `(\.` + label + `)*$`, "a DNS domain in lower case, such as lab.example"}
	case "codename":
		return form{`^[a-z]{2,30}$`, "a codename such as trixie"}
	case "url":
		return form{`^(https?://[^/?#@\s]+|file://)(/[^?#\s]*)?$`, "a URL such as http://ftp.debian.org/debian"}
	case "hash":
		return form{`^(\$6\$(rounds=[0-9]+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{86}|\$5\$(rounds=[0-9]+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{43}|\$y\$[./0-9A-Za-z]+\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43})$`,
			"make one with: mkpasswd (package whois), or: openssl passwd -6"}
	case "user":
		return form{`^[a-z][a-z0-9_-]{0,30}$`, "an account: a lower-case letter, then lower-case letters, digits, - and _, at most 31 characters"}
	case "mailbox":
		return form{`^[A-Za-z0-9.!#$&*+/=?^_{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`, "an address such as admin@example.org"}
	case "prefix":
		return form{`^[0-9.]+/[0-9]+$`, "a network such as 192.168.50.0/24"}
	case "address":
		return form{`^[0-9.]+$`, "an address such as 192.168.50.11"}
	case "mac":
		return form{`^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$`, "six pairs of hexadecimal digits, such as 52:54:00:5c:1c:01"}
	case "size":
		return form{`^[0-9]+(\.[0-9]+)? ?([KMGT]iB|[kKMGT]B|[MGT]|B)$`, "a number with a unit: 480GB (powers of 1000) or 447GiB (powers of 1024)"}
	case "duration":
		return form{`^[0-9]+h$`, "a number of hours, such as 24h"}
	case "cpu":
		return form{`^[A-Za-z0-9][A-Za-z0-9_.+,-]*$`, "a name of: kvm -cpu help"}
	case "splitbrain":
		return form{`^(lossless|disconnect)$`, "lossless or disconnect"}
	case "profile":
		return form{`^[A-Za-z0-9][A-Za-z0-9_-]*$`, "letters, digits, hyphens and underscores"}
	case "package":
		return form{`^[a-z0-9][a-z0-9+.-]+$`, "a Debian package name: lower-case letters, digits, +, - and ."}
	case "network":
		return form{`^[a-z][a-z0-9-]{0,14}$`, "a bridge gets this name: a letter, then letters, digits and hyphens, at most 15 characters"}
	case "console":
		return form{`^(tty[0-9]+|hvc[0-9]+|tty(S|USB|AMA)[0-9]+(,[0-9]+[noe]?[5-8]?r?)?)$`, "as in the kernel's console= parameter: tty0, or ttyS0,115200n8"}
	case "timeserver":
		return form{`^(([0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:]*|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)$`, "a name or an address, such as ntp.lab.example"}
	}
	return form{}
}

func patternHint(pattern string) string { return formOf(pattern).hint }
