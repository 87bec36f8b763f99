package benchinstall

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes the figures, compared with the first installation.
func Table(w io.Writer, figures []Figures) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "installation\tCPU s\twall s\tCPU ratio\twall ratio\tgoal\t")
	for _, f := range figures {
		goal := ""
		if f.Goal > 0 {
			goal = fmt.Sprintf("≤ %g", f.Goal)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%s\t%s\t%s\t\n", f.Name, f.CPU.Seconds(), f.Wall.Seconds(),
			ratio(f.CPU, figures[0].CPU), ratio(f.Wall, figures[0].Wall), goal)
	}
	return t.Flush()
}

func ratio(d, first time.Duration) string {
	if first == 0 {
		return "?"
	}
	return fmt.Sprintf("%.2f", d.Seconds()/first.Seconds())
}

// Circumstances says in one line on what the figures are taken.
func Circumstances(ctx context.Context, o Options, now time.Time) string {
	o = o.withDefaults()
	return fmt.Sprintf("taken %s on %d × %s, Linux %s, %s, %s, load %s; each machine with %d CPUs, %d MiB, %d GiB of disk, no network",
		now.UTC().Format(time.DateOnly), runtime.NumCPU(), field("/proc/cpuinfo", "model name"), word("/proc/sys/kernel/osrelease"),
		qemuVersion(ctx, o.QEMU), o.Accel, word("/proc/loadavg"), o.CPUs, o.Memory, o.DiskSize>>30)
}

// field returns the value of the first line "name : value" of a file in /proc.
func field(file, name string) string {
	data, _ := os.ReadFile(file) // not there: unknown
	for _, line := range strings.Split(string(data), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

// word returns the first word of a file.
func word(file string) string {
	data, _ := os.ReadFile(file) // not there: unknown
	if words := strings.Fields(string(data)); len(words) > 0 {
		return words[0]
	}
	return "?"
}

func qemuVersion(ctx context.Context, program string) string {
	if program == "" {
		program = "qemu-system-x86_64"
	}
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "QEMU ?"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(strings.Replace(line, "emulator version ", "", 1), " (")
	return line
}
