package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	const us = "d-i debian-installer/locale string en_US.UTF-8\nd-i keyboard-configuration/xkb-keymap select us\nd-i console-setup/ask_detect boolean false\n"
	tests := []struct {
		summary, text string
		want          settings
	}{
		{"what the installer starts with", "# d-i debian-installer/locale string ru\n\n" + us, settings{}},
		{"no language", "d-i debian-installer/locale string C.UTF-8\n", settings{}},
		{"a language", "d-i debian-installer/locale string pt_BR.UTF-8\n", settings{language: true}},
		{"another country", "d-i debian-installer/locale\tstring\ten_GB.UTF-8", settings{}},
		{"a profile's language", us + "d-i debian-installer/language string ru\n", settings{language: true}},
		{"a keyboard", "d-i keyboard-configuration/xkb-keymap select de\n", settings{keyboard: true}},
		{"a keyboard by its codes", us + "d-i keyboard-configuration/layoutcode string de\n", settings{keyboard: true}},
		{"of the new system", "keyboard-configuration keyboard-configuration/layoutcode string de\n", settings{}},
		{"cut short", "d-i\nd-i debian-installer/locale\n", settings{language: true}},
	}
	for _, test := range tests {
		var got settings
		if got.see([]byte(test.text)); got != test.want {
			t.Errorf("%s: see = %+v; want %+v", test.summary, got, test.want)
		}
	}
}

func TestUnlessTold(t *testing.T) {
	tests := []struct {
		line string
		want int
	}{
		{"DEBIAN_FRONTEND=text priority=critical console=tty0 --- quiet", 1},
		{"rescue/enable=true DEBIAN_FRONTEND=text --- quiet", 3},
		{"priority=critical debian-installer/locale=de_DE.UTF-8 --- quiet", 3},
	}
	cmdline := filepath.Join(t.TempDir(), "cmdline")
	for _, test := range tests {
		if err := os.WriteFile(cmdline, []byte(test.line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(unlessTold("exit 1", "exit 3", "language=", "locale="), "/proc/cmdline", cmdline))
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.want {
			t.Errorf("booted with %q: exit %d; want %d", test.line, got, test.want)
		}
	}
}

// TestNeedless: a step of Debian's left an /etc/network/interfaces on machines
// without ifupdown.
func TestNeedless(t *testing.T) {
	for _, h := range hooks(settings{}) {
		if h.path == "lib/debian-installer-startup.d/S31sci" && !strings.Contains(h.text, "rm -f "+strings.Join(needless, " ")) {
			t.Errorf("%s does not remove what is needless:\n%s", h.path, h.text)
		}
	}
	if !slices.Contains(needless, "50config-target-network") {
		t.Error("50config-target-network is left in")
	}
}

// Every script that goes into the installer is one that a shell can read.
func TestHooksParse(t *testing.T) {
	check := func(name, script string) {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s%s", name, err, out, script)
		}
	}
	for _, ask := range []settings{{}, {true, true}} {
		for _, h := range hooks(ask) {
			check(h.path, h.text)
		}
	}
	for _, item := range menu(func(string) bool { return false }) {
		check(item.Name, item.Postinst)
	}
}
