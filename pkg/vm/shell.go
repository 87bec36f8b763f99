package vm

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The shell needs nothing on the machine's disk: systemd (256 or later) takes
// a unit from a system credential, and the firmware hands credentials over as
// SMBIOS type 11 strings. No password, key or test file is on the medium or on
// the installed system.
const (
	shellUnit = `[Unit]
Description=Root shell of the installation test on ttyS1
DefaultDependencies=no
IgnoreOnIsolate=yes
[Service]
ExecStart=/bin/sh -c 'stty raw -echo; echo; echo ` + shellReady + `; exec /bin/sh'
Environment=LC_ALL=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WorkingDirectory=/
StandardInput=tty
StandardOutput=tty
StandardError=journal
TTYPath=/dev/ttyS1
Restart=always
RestartSec=1
KillSignal=SIGKILL
`
	shellWant = "[Unit]\nWants=sci-test.service\n"

	shellReady = "sci-test-shell"
)

// shellCredentials start the shell early, before a boot can get stuck.
func shellCredentials() map[string]string {
	return map[string]string{
		"systemd.extra-unit.sci-test.service":         shellUnit,
		"systemd.unit-dropin.sysinit.target~sci-test": shellWant,
	}
}

// Shell is a root shell in the running system.
type Shell struct {
	aux *Serial
}

// Shell waits for the root shell; Options.Shell must be set and the system
// must have systemd 256 or later.
func (m *Machine) Shell(ctx context.Context) (*Shell, error) {
	if _, err := m.Aux.Expect(ctx, shellReady); err != nil {
		return nil, fmt.Errorf("cannot open shell: %w", err)
	}
	return &Shell{m.Aux}, nil
}

// ExitError is a command that ended with a status other than 0.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return "exit status " + strconv.Itoa(e.Status) }

// maxShellOutput bounds the output of one command, in bytes.
const maxShellOutput = 1 << 20

// Run runs a script with /bin/sh and returns its standard output and error,
// interleaved, at most 1 MiB. The error is an *ExitError when the script ran
// and failed. When ctx ends the script is left to itself and the shell is of
// no further use.
//
// Script and output cross the serial line in base64 between two marks that are
// new each time, so that neither the terminal nor a late line of a kernel can
// change them.
func (s *Shell) Run(ctx context.Context, script string) (string, error) {
	var nonce [6]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", err
	}
	mark := hex.EncodeToString(nonce[:])
	if err := s.aux.Send(frame(mark, script)); err != nil {
		return "", err
	}
	if _, err := s.aux.Expect(ctx, "^begin-"+mark+"$"); err != nil {
		return "", fmt.Errorf("shell does not answer: %w", err)
	}
	var body strings.Builder
	for {
		m, err := s.aux.Expect(ctx, `^(end-`+mark+` (\d+)|[A-Za-z0-9+/=]+)$`)
		if err != nil {
			return "", fmt.Errorf("command does not end: %w", err)
		}
		if m.Groups[2] == "" {
			body.WriteString(m.Text)
			continue
		}
		out, err := base64.StdEncoding.DecodeString(body.String())
		if err != nil {
			return "", fmt.Errorf("cannot read output of command: %w", err)
		}
		if status, _ := strconv.Atoi(m.Groups[2]); status != 0 {
			return string(out), &ExitError{status}
		}
		return string(out), nil
	}
}

// frame is the line that the shell reads. The status of the script is what
// the inner shell returns: it is written behind the output by descriptor 3.
func frame(mark, script string) string {
	code := base64.StdEncoding.EncodeToString([]byte(script))
	return fmt.Sprintf("exec 4>&1; echo begin-%[1]s; s=$( { { sh -c \"$(echo %[2]s | base64 -d)\" </dev/null 2>&1 3>&- 4>&-; echo $? >&3; } | head -c %[3]d | base64 >&4; } 3>&1 ); echo; echo end-%[1]s $s\n",
		mark, code, maxShellOutput)
}

// Poll runs a script again and again until it succeeds, with a pause between
// two tries, and returns its output.
func (s *Shell) Poll(ctx context.Context, pause time.Duration, script string) (string, error) {
	for {
		out, err := s.Run(ctx, script)
		if exit := (*ExitError)(nil); err == nil || !errors.As(err, &exit) {
			return out, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return out, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
