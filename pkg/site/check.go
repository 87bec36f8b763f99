package site

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// checker finds what is wrong in a site that was decoded.
type checker struct {
	s        *Site
	given    bool            // a person gave the file, not the builder
	bad      map[string]bool // paths that have a problem already
	problems Problems
}

func (c *checker) bug(path, advice, format string, args ...any) {
	if c.bad[path] {
		return
	}
	c.bad[path] = true
	c.problems = append(c.problems, c.s.Problem(path, fmt.Sprintf(format, args...), advice))
}

// where says in which line path was given, for messages about pairs.
func (c *checker) where(path string) string {
	if p, ok := c.s.pos[path]; ok && p.line > 0 {
		return fmt.Sprintf(" (line %d)", p.line)
	}
	return ""
}

// matches checks that value has the form of pattern; an empty value has.
func (c *checker) matches(path, value, pattern string) bool {
	if value == "" || c.bad[path] {
		return !c.bad[path]
	}
	f := formOf(pattern)
	if regexp.MustCompile(f.regexp).MatchString(value) {
		return true
	}
	c.bug(path, f.hint, "%s: %q is not allowed", path, value)
	return false
}

func (c *checker) site() {
	s := c.s
	if s.APIVersion != "" && s.APIVersion != APIVersion {
		c.bug("apiVersion", "write apiVersion: "+APIVersion, "apiVersion: %q is not known to this program", s.APIVersion)
	}
	c.matches("name", s.Name, "name")
	c.matches("domain", s.Domain, "domain")
	c.release()
	c.matches("install", s.Install, "install")
	for _, m := range []struct{ path, url string }{{"main", s.Mirrors.Main}, {"security", s.Mirrors.Security}, {"updates", s.Mirrors.Updates}} {
		c.mirror("mirrors."+m.path, m.url)
	}
	c.listed("locale", s.Locale, locales(), "of Debian's package locales, UTF-8 ones only")
	c.listed("keyboard", s.Keyboard, keyboards(), "of Debian's package keyboard-configuration")
	c.timezone()
	c.console()
	c.root()
	c.admins()
	if m := c.s.Mail; m != nil {
		c.matches("mail.root", m.Root, "mailbox")
		c.matches("mail.smarthost", m.Smarthost, "timeserver")
	}
	c.networks()
	c.hosts()
	c.cluster()
	c.service()
	c.dhcp()
	c.unique("packages", s.Packages, "package")
	c.unique("profiles", s.Profiles, "profile")
	c.dir("profileDir", s.ProfileDir)
	c.dir("localDebs", s.LocalDebs)
}

func (c *checker) release() {
	r := c.s.Release
	switch {
	case slices.Contains([]string{"stable", "testing", "unstable", "oldstable", "oldoldstable"}, r):
		c.bug("release", "name the release by its codename, such as trixie", "release: %q is a moving name: the same site would give another system next year", r)
	case strings.TrimLeft(r, "0123456789.") == "":
		c.bug("release", "name the release by its codename: 13 is trixie, 12 is bookworm", "release: %q is a number", r)
	default:
		c.matches("release", r, "codename")
	}
}

func (c *checker) mirror(path, url string) {
	if strings.Contains(url, "@") {
		c.bug(path, "a mirror that wants a password is reached through http_proxy or a local copy (file:///…)", "%s: a URL with a user name or password is refused: it would end up on the medium", path)
		return
	}
	c.matches(path, url, "url")
}

// listed checks that value is one of list, which source names in words.
func (c *checker) listed(path, value string, list []string, source string) {
	if slices.Contains(list, value) {
		return
	}
	advice := "the names are those " + source
	if near := meant(value, list); near != "" {
		advice = fmt.Sprintf("did you mean %q?", near)
	}
	c.bug(path, advice, "%s: %q is not known", path, value)
}

// meant is the name of list that value probably stands for.
func meant(value string, list []string) string {
	common := map[string]string{
		// what languages are called is not what keyboards are called
		"uk": "gb", "en": "us", "cs": "cz", "da": "dk", "el": "gr", "ja": "jp", "sv": "se", "fr": "fr(latin9)",
		"en_UK.UTF-8": "en_GB.UTF-8", "en_UK": "en_GB.UTF-8", "C": "C.UTF-8", "POSIX": "C.UTF-8",
	}
	language, _, _ := strings.Cut(value, ".")
	for _, name := range []string{common[value], language + ".UTF-8"} {
		if slices.Contains(list, name) {
			return name
		}
	}
	return Nearest(value, list)
}

func (c *checker) timezone() {
	zone := c.s.Timezone
	if today, ok := legacyTimezones()[zone]; ok {
		c.bug("timezone", fmt.Sprintf("write timezone: %s", today), "timezone: %q is an old name", zone)
		return
	}
	c.listed("timezone", zone, timezones(), "of Debian's package tzdata")
}

func (c *checker) console() {
	for i, con := range c.s.Console {
		path := fmt.Sprintf("console[%d]", i)
		if strings.HasPrefix(con, "/dev/") {
			c.bug(path, "write "+strings.TrimPrefix(con, "/dev/"), "%s: %q: the kernel wants the name without /dev/", path, con)
			continue
		}
		name, _, _ := strings.Cut(con, ",")
		if c.matches(path, con, "console") {
			for j, other := range c.s.Console[:i] {
				if other, _, _ = strings.Cut(other, ","); other == name {
					c.bug(path, "", "%s: %s is named already%s", path, name, c.where(fmt.Sprintf("console[%d]", j)))
				}
			}
		}
	}
}

// root never shows a value: it may be a password or a private key.
func (c *checker) root() {
	hash := string(c.s.Root.PasswordHash)
	const path = "root.passwordHash"
	switch {
	case hash == "" || regexp.MustCompile(formOf("hash").regexp).MatchString(hash):
	case strings.HasPrefix(hash, "$6$") || strings.HasPrefix(hash, "$5$") || strings.HasPrefix(hash, "$y$"):
		c.bug(path, "copy the whole hash; in a shell put it into single quotes", "root.passwordHash is damaged: it begins as a crypt(5) hash and has the wrong length or a wrong character")
	case strings.HasPrefix(hash, "$"):
		c.bug(path, patternHint("hash"), "root.passwordHash is of a kind that is not accepted: only $y$, $6$ and $5$ are")
	default:
		c.bug(path, patternHint("hash")+"; if this was the password itself, choose another one", "root.passwordHash is no crypt(5) hash")
	}
	c.sshKeys("root.sshKeys", c.s.Root.SSHKeys)
}

func (c *checker) sshKeys(path string, keys []string) {
	for i, key := range keys {
		p := fmt.Sprintf("%s[%d]", path, i)
		if fault, advice := sshKeyFault(key); fault != "" {
			c.bug(p, advice, "%s %s", p, fault)
		}
	}
}

// systemAccounts are those that Debian (base-passwd) and the packages of our
// profiles make: an admin's account must not become one of theirs.
var systemAccounts = []string{
	"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup", "list",
	"irc", "gnats", "nobody", "messagebus", "sshd", "puppet", "bind", "approx", "dma", "ntpsec", "polkitd", "tss", "libvirt-qemu",
	"admin", "adm", "sudo", "staff", "users", "sci-admins",
}

func (c *checker) admins() {
	for i, a := range c.s.Admins {
		path := fmt.Sprintf("admins[%d]", i)
		c.sshKeys(path+".sshKeys", a.SSHKeys)
		if !c.matches(path+".name", a.Name, "user") || a.Name == "" {
			continue
		}
		if slices.Contains(systemAccounts, a.Name) || strings.HasPrefix(a.Name, "systemd-") || strings.HasPrefix(a.Name, "gnt-") {
			c.bug(path+".name", "choose another name; root's own keys are root.sshKeys", "%s.name: %q is an account or a group of the system", path, a.Name)
		}
		if j := slices.IndexFunc(c.s.Admins, func(o Admin) bool { return o.Name == a.Name }); j < i {
			c.bug(path+".name", "", "%s.name: %q is named already%s", path, a.Name, c.where(fmt.Sprintf("admins[%d].name", j)))
		}
	}
}

// sshKeyFault says what is wrong with a public key as in authorized_keys, by
// RFC 4253 6.6: the blob begins with the type's name again.
func sshKeyFault(key string) (fault, advice string) {
	const want = "the key is the line in a file such as ~/.ssh/id_ed25519.pub"
	if strings.Contains(key, "PRIVATE KEY") {
		return "is a private key", "make a new pair: a private key that was copied about is lost; " + want
	}
	words := strings.Fields(key)
	if strings.ContainsAny(key, "\n\r") || len(words) < 2 {
		return "is no public key", want
	}
	kinds := []string{"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
		"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"}
	if words[0] == "ssh-dss" {
		return "is a DSA key, which OpenSSH no longer reads", "make a new one: ssh-keygen -t ed25519"
	}
	if !slices.Contains(kinds, words[0]) {
		return "does not begin with a type that OpenSSH knows", want
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	head := string([]byte{0, 0, 0, byte(len(words[0]))}) + words[0]
	if err != nil || len(blob) < len(head)+32 || string(blob[:len(head)]) != head {
		return "is damaged: its second word is no " + words[0] + " key", want
	}
	return "", ""
}

func (c *checker) unique(path string, list []string, pattern string) {
	for i, v := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		if !c.matches(p, v, pattern) || v == "" {
			continue
		}
		if j := slices.Index(list, v); j < i {
			c.bug(p, "", "%s: %q is named already%s", p, v, c.where(fmt.Sprintf("%s[%d]", path, j)))
		}
	}
}

// dir keeps what a site needs inside the site's folder.
func (c *checker) dir(path, dir string) {
	if dir != "" && !filepath.IsLocal(dir) {
		c.bug(path, "a site's folder holds all that its medium is built from, so that a copy of it builds the same medium", "%s: %q lies outside the folder of the site file", path, dir)
	}
}

func (c *checker) cluster() {
	cl := c.s.Cluster
	if cl == nil {
		return
	}
	if c.matches("cluster.name", cl.Name, "label") && cl.Name != "" {
		for i, h := range c.s.Hosts {
			if h.Name == cl.Name {
				c.bug("cluster.name", "", "cluster.name: %q is the name of a host%s", cl.Name, c.where(fmt.Sprintf("hosts[%d].name", i)))
			}
		}
		c.fqdn("cluster.name", cl.Name)
	}
	if cl.Address.IsValid() {
		c.inside("cluster.address", "lan", cl.Address)
	}
	if d := time.Duration(cl.JoinWithin); d != 0 && (d < time.Hour || d > 720*time.Hour) {
		c.bug("cluster.joinWithin", "between 1h and 720h", "cluster.joinWithin: %s is too short or too long", cl.JoinWithin)
	}
	if cl.CPU != "" {
		c.matches("cluster.cpu", cl.CPU, "cpu")
	}
	if r := cl.DRBD.ResyncRate; r != 0 && (r < 1<<20 || r > 4<<30) {
		c.bug("cluster.drbd.resyncRate", "between 1MiB and 4GiB a second", "cluster.drbd.resyncRate: %s is too little or too much", r)
	}
	if cl.DRBD.SplitBrain != "" {
		c.matches("cluster.drbd.splitBrain", cl.DRBD.SplitBrain, "splitbrain")
	}
}

// fqdn bounds the full name: sethostname(2) takes 64 bytes.
func (c *checker) fqdn(path, name string) {
	if full := c.s.FQDN(name); len(full) > 64 {
		c.bug(path, "shorten the name or the domain", "%s: %s is longer than the 64 characters that Linux allows", path, full)
	}
}

// inside checks that an address may be a machine's in that network.
func (c *checker) inside(path, network string, a netip.Addr) {
	n := c.s.Networks[network].Subnet
	if !n.IsValid() || c.bad[path] {
		return
	}
	switch {
	case !n.Contains(a):
		c.bug(path, fmt.Sprintf("%s is %s to %s", network, n.Masked().Addr(), last(n)), "%s: %s is outside the network %s, %s", path, a, network, n)
	case n.Bits() < 31 && a == n.Masked().Addr():
		c.bug(path, "", "%s: %s is the address of the network %s itself", path, a, network)
	case n.Bits() < 31 && a == last(n):
		c.bug(path, "", "%s: %s is the broadcast address of the network %s", path, a, network)
	}
}

// last is the highest address of an IPv4 network.
func last(n netip.Prefix) netip.Addr {
	b := n.Masked().Addr().As4()
	for i := n.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
