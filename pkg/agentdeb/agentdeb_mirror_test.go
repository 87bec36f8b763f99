//go:build realmirror

package agentdeb

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/archive"
)

// debian is a small Debian root directory: the one that SCI_TEST_CHROOT names,
// which is left as it was, else a new one.
func debian(t *testing.T) string {
	t.Helper()
	if root := os.Getenv("SCI_TEST_CHROOT"); root != "" {
		return root
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root for debootstrap and chroot")
		}
		t.Skip("needs root for debootstrap and chroot")
	}
	root := t.TempDir()
	mirror := archive.AptMirrors(os.DirFS("/")).Main
	if out, err := tool(t, "debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv", "trixie", root, mirror); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	return root
}

// TestInstall installs, verifies, upgrades, removes and purges with the real
// dpkg and deb-systemd-helper of the release.
func TestInstall(t *testing.T) {
	root := debian(t)
	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("chroot", root, "/bin/sh", "-ec", script)
		var stderr bytes.Buffer // systemctl complains there about /proc in a chroot
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", script, err, out, stderr.Bytes())
		}
		return string(out)
	}
	// systemctl itself leaves marks in /run, which is gone at the next boot.
	list := `find / -xdev \( -path /run -o -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache \) -prune -o -printf '%p %y %m %l\n' | sort`
	data, err := os.ReadFile(writeDeb(t, binary(t)))
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(root, "tmp/sci-agent.deb")
	if err := os.WriteFile(inside, data, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inside) })

	before := sh(list)
	sh("dpkg --install /tmp/sci-agent.deb")
	if out := sh("dpkg --verify sci-agent"); out != "" {
		t.Errorf("dpkg --verify sci-agent:\n%s", out)
	}
	if out := sh("systemctl is-enabled sci-agent.service"); out != "enabled\n" {
		t.Errorf("systemctl is-enabled = %q", out)
	}
	if out := sh("systemctl is-enabled sci-agent-metrics.service || true"); out != "disabled\n" {
		t.Errorf("systemctl is-enabled of the metrics = %q; only the site file switches them on", out)
	}
	if out := sh("systemd-analyze verify --man=no /usr/lib/systemd/system/sci-agent*.service /usr/lib/systemd/system/sci-agent-banner.timer 2>&1"); strings.Contains(out, "sci-agent") {
		t.Errorf("systemd-analyze: %s", out)
	}
	if out := sh("sci-agent version"); out != "sci-agent 0.1\n" {
		t.Errorf("sci-agent version = %q", out)
	}
	// An admin who switched it off keeps that over an upgrade.
	sh("systemctl disable sci-agent.service && dpkg --install /tmp/sci-agent.deb")
	if out := sh("systemctl is-enabled sci-agent.service || true"); out != "disabled\n" {
		t.Errorf("after an upgrade systemctl is-enabled = %q; want the admin's choice kept", out)
	}
	sh("systemctl enable sci-agent.service")
	// What the agent's step metrics does.
	sh("systemctl enable sci-agent-metrics.service; echo LISTEN=127.0.0.1:9198 >/etc/default/sci-agent-metrics")
	sh("echo node1 >/etc/sci/host; echo {} >/etc/sci/site.json; mkdir -p /var/lib/sci /etc/issue.d; echo x >/var/lib/sci/state.json; echo x >/etc/issue.d/sci.issue")
	sh("dpkg --remove sci-agent && test -e /etc/sci/host && test -e /var/lib/sci/state.json && test ! -e /etc/issue.d")
	sh("dpkg --purge sci-agent")
	if d := cmp.Diff(before, sh(list)); d != "" {
		t.Errorf("purge left something (-before +after):\n%s", d)
	}
}
