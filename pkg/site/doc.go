// Package site reads the site file: who the machines of a site are, where they
// are, and what they are for.
//
// A file is decoded strictly and checked as a whole. Everything that is wrong
// comes back at once, as Problems with file, line and column and, apart from
// the fact, a hint: the key or value that was probably meant. A value that may
// be a secret is never part of a message.
//
// The Go types are the only definition of the format: the JSON Schema
// (docs/site.schema.json) and the reference (docs/site.md) are rendered from
// their tags, and a test compares. The same names serve as JSON, which is how
// the agent gets the site on a node.
//
// The YAML is 1.2 (yaml.org/spec/1.2.2), so "no" and "on" are texts. Left out
// on purpose are anchors, aliases, merge keys, tags and several documents: a
// site file is read by people who did not write it. IPv4 only, so far.
//
// Sources: RFC 1123 2.1 (host names), sethostname(2) and HOST_NAME_MAX (64
// bytes), crypt(5) (password hashes), RFC 4253 6.6 (SSH keys), resolv.conf(5)
// (three name servers), Debian Policy 5.6.1 (package names), the kernel's
// admin-guide/serial-console (console=). The lists of locales, keyboards and
// time zones are Debian's, see data/.
package site
