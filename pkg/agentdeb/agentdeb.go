// Package agentdeb describes the Debian package of the agent: the binary, its
// units, its manual page and the scripts that enable the agent. What the agent
// shows (banner, metrics) are units of their own: a timer that starts along with
// the agent, and a service that the agent enables where the site file says so.
//
// Sources: Debian policy 6.5 (maintainer scripts), 10.7 (configuration files),
// 12 (documentation); deb-systemd-helper(1p) and dh_installsystemd(1), whose
// snippets the scripts follow.
package agentdeb

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/tree"
)

// Name is the name of the package.
const Name = "sci-agent"

const maintainer = "SCI-CD <sci-cd@localhost>"

//go:embed files
var files embed.FS

// Build describes the package around binary, a static executable for
// linux/amd64. version is a Debian version; t stamps everything, so that the
// same arguments give the same bytes.
func Build(binary []byte, version string, t time.Time) (deb.Spec, error) {
	spec, err := build(binary, version, t)
	if err != nil {
		return deb.Spec{}, fmt.Errorf("cannot build package %s: %w", Name, err)
	}
	return spec, nil
}

func build(binary []byte, version string, t time.Time) (deb.Spec, error) {
	if err := checkBinary(binary); err != nil {
		return deb.Spec{}, err
	}
	if err := deb.Valid(version); err != nil {
		return deb.Spec{}, err
	}
	t = t.UTC().Truncate(time.Second)
	content, err := content(binary, version, t)
	if err != nil {
		return deb.Spec{}, err
	}
	scripts := make(map[string][]byte)
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		if scripts[name], err = files.ReadFile("files/" + name); err != nil {
			return deb.Spec{}, err
		}
	}
	return deb.Spec{Control: control(version), Files: content, Scripts: scripts, Time: t}, nil
}

func control(version string) deb.Control {
	return deb.Control{
		{Name: "Package", Value: Name},
		{Name: "Version", Value: version},
		{Name: "Architecture", Value: "amd64"},
		{Name: "Maintainer", Value: maintainer},
		// The steps call systemctl, networkctl and mount; hostname is Essential.
		{Name: "Depends", Value: "systemd, mount"},
		{Name: "Section", Value: "admin"},
		{Name: "Priority", Value: "optional"},
		{Name: "Homepage", Value: "https://github.com/skycover/sci-cd"},
		{Name: "Description", Value: "makes a machine the host that its site file describes\n" +
			" sci-agent goes through a plan of steps at each boot: the machine's\n" +
			" identity, name, networks, time and package sources. Steps that are done\n" +
			" are not done again, steps that fail are tried again until they succeed.\n" +
			" The same program does the work of SCI-CD inside Debian's installer."},
	}
}

func content(binary []byte, version string, t time.Time) (*tree.Tree, error) {
	changelog := fmt.Sprintf("%s (%s) unstable; urgency=medium\n\n  * Built by sci-cd.\n\n -- %s  %s\n",
		Name, version, maintainer, t.Format(time.RFC1123Z))
	zipped, err := compress([]byte(changelog))
	if err != nil {
		return nil, err
	}
	page, err := files.ReadFile("files/sci-agent.8")
	if err != nil {
		return nil, err
	}
	manual, err := compress(page)
	if err != nil {
		return nil, err
	}
	// A native package has changelog.gz, one with a revision changelog.Debian.gz.
	log := "usr/share/doc/sci-agent/changelog.gz"
	if native := !bytes.ContainsRune([]byte(version), '-'); !native {
		log = "usr/share/doc/sci-agent/changelog.Debian.gz"
	}
	out := new(tree.Tree)
	err = errors.Join(
		out.AddDir("etc/sci", 0o755),
		out.AddBytes("usr/sbin/sci-agent", 0o755, binary),
		out.AddBytes(log, 0o644, zipped),
		out.AddBytes("usr/share/man/man8/sci-agent.8.gz", 0o644, manual),
		addEmbedded(out, "usr/lib/systemd/system/sci-agent.service", "sci-agent.service"),
		addEmbedded(out, "usr/lib/systemd/system/sci-agent-banner.service", "sci-agent-banner.service"),
		addEmbedded(out, "usr/lib/systemd/system/sci-agent-banner.timer", "sci-agent-banner.timer"),
		addEmbedded(out, "usr/lib/systemd/system/sci-agent-metrics.service", "sci-agent-metrics.service"),
		addEmbedded(out, "usr/share/doc/sci-agent/copyright", "copyright"),
		addEmbedded(out, "usr/share/lintian/overrides/sci-agent", "overrides"),
	)
	return out, err
}

func addEmbedded(t *tree.Tree, name, embedded string) error {
	data, err := files.ReadFile("files/" + embedded)
	if err != nil {
		return err
	}
	return t.AddBytes(name, 0o644, data)
}

// compress is gzip -9n: no name, no time.
func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// checkBinary makes sure that the binary runs where it is going to: in d-i
// there is no libc that it could count on.
func checkBinary(binary []byte) error {
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("the agent's binary is no executable: %w", err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("the agent's binary is for %v, want %v", f.Machine, elf.EM_X86_64)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("the agent's binary is linked dynamically; build it with CGO_ENABLED=0")
		}
	}
	return nil
}
