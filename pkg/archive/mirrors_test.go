package archive_test

import (
	"testing"
	"testing/fstest"

	"github.com/skycover/sci-cd/pkg/archive"
)

func TestAptMirrors(t *testing.T) {
	def := archive.DefaultMirrors()
	const debian = "etc/apt/sources.list.d/debian.sources"
	tests := []struct {
		summary string
		files   map[string]string
		want    archive.Mirrors
	}{
		{"no apt at all", nil, def},
		{"deb822 with a comment inside", map[string]string{debian: `# hello
Types: deb
# http://snapshot.example/archive
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`}, archive.Mirrors{Main: "http://mirror.example/debian", Security: "http://mirror.example/debian-security"}},
		{"one-line", map[string]string{"etc/apt/sources.list": `
deb-src http://src.example/debian trixie main
# deb http://comment.example/debian trixie main
deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] https://mirror.example/debian/ trixie main non-free-firmware # ours
deb http://other.example/debian trixie-updates main
deb http://other.example/debian-security trixie-security main
`}, archive.Mirrors{Main: "https://mirror.example/debian", Updates: "http://other.example/debian", Security: "http://other.example/debian-security"}},
		{"archives of others are passed over", map[string]string{
			"etc/apt/sources.list.d/a.list":    "deb http://vendor.example/debian bookworm main\ndeb http://vendor.example/docker bookworm stable\n",
			"etc/apt/sources.list.d/b.list":    "deb http://mirror.example/debian bookworm main\ndeb http://mirror.example/debian bookworm-updates main\n",
			"etc/apt/sources.list.d/c.sources": "Types: deb\nURIs: https://deb.example/node_20.x\nSuites: nodistro\nComponents: main\n",
		}, archive.Mirrors{Main: "http://mirror.example/debian", Security: def.Security}},
		{"only archives of others", map[string]string{
			"etc/apt/sources.list": "deb http://archive.example/ubuntu noble main\ndeb http://archive.example/ubuntu noble-security main\n",
		}, def},
		{"disabled, source only, other files", map[string]string{
			debian:                           "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n\nTypes: deb-src\nURIs: http://src.example/debian\nSuites: trixie\nComponents: main\n",
			"etc/apt/sources.list.d/x.list~": "deb http://backup.example/debian trixie main\n",
		}, def},
		{"cloud image: a list of mirrors", map[string]string{
			debian: `Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: trixie trixie-updates trixie-backports
Components: main

Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: trixie-security
Components: main
`,
			"etc/apt/mirrors/debian.list":          "# first\nhttps://cdn.example/debian\thidden\nhttps://second.example/debian\n",
			"etc/apt/mirrors/debian-security.list": "https://cdn.example/debian-security\n",
		}, archive.Mirrors{Main: "https://cdn.example/debian", Security: "https://cdn.example/debian-security"}},
		{"disc and tor are no mirrors for us", map[string]string{
			"etc/apt/sources.list": "deb cdrom:[Debian 13]/ trixie main\ndeb tor+http://x.example/debian trixie main\ndeb ftp://ftp.example/debian trixie main\n",
		}, def},
		{"broken files", map[string]string{
			"etc/apt/sources.list": "deb\ndeb [\ndeb [ x\ndebian http://x.example/debian trixie main\ndeb http://short.example/debian trixie\n",
			debian:                 " continuation\n",
		}, def},
		{"backports and proposed updates are not for us", map[string]string{
			"etc/apt/sources.list": "deb http://a.example/debian trixie-backports main\ndeb http://b.example/debian trixie-proposed-updates main\n",
		}, def},
		{"old names of security", map[string]string{
			"etc/apt/sources.list": "deb http://a.example/debian buster main\ndeb http://a.example/debian-security buster/updates main\n",
		}, archive.Mirrors{Main: "http://a.example/debian", Security: "http://a.example/debian-security"}},
		{"a local mirror as files", map[string]string{
			"etc/apt/sources.list": "deb file:///srv/debian trixie main\n",
		}, archive.Mirrors{Main: "file:///srv/debian", Security: def.Security}},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			fsys := make(fstest.MapFS)
			for name, text := range tt.files {
				fsys[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := archive.AptMirrors(fsys); got != tt.want {
				t.Errorf("AptMirrors = %+v\nwant         %+v", got, tt.want)
			}
		})
	}
}
