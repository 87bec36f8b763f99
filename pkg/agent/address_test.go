package agent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestARPFrames(t *testing.T) {
	mac, _ := net.ParseMAC("52:54:00:5c:1c:01")
	a := netip.MustParseAddr("192.168.50.11")
	f := arpProbe(mac, a)
	if who, from := arpSender(f); who != "52:54:00:5c:1c:01" || from != netip.MustParseAddr("0.0.0.0") {
		t.Errorf("a probe says %s is at %s; it must teach nobody an address", from, who)
	}
	for _, f := range [][]byte{nil, f[:41], make([]byte, 60)} {
		if who, _ := arpSender(f); who != "" {
			t.Errorf("arpSender(%x) = %s", f, who)
		}
	}
}

// Two machines on one cable, as two network namespaces.
func TestProbeARP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespaces here: ", err)
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("link", "add", "lan", "type", "veth", "peer", "name", "far")
	ip("link", "set", "lan", "up")
	far := exec.Command("unshare", "--net", "sh", "-c", "echo $$; read go; ip link set far up && ip address add 192.168.50.11/24 dev far && echo up; read end")
	in, err := far.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := far.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := far.Start(); err != nil {
		t.Skip("no unshare: ", err)
	}
	defer func() { _ = in.Close(); _ = far.Wait() }()
	line := func() string {
		t.Helper()
		buf := make([]byte, 100)
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(buf[:n]))
	}
	ip("link", "set", "far", "netns", line())
	ask := func() string {
		t.Helper()
		who, err := probeARP(context.Background(), "lan", netip.MustParseAddr("192.168.50.11"))
		if err != nil {
			t.Fatal(err)
		}
		return who
	}
	_, _ = in.Write([]byte("go\n"))
	if got := line(); got != "up" {
		t.Fatalf("the other machine says %q", got)
	}
	if who := ask(); who == "" {
		t.Error("nobody answers for an address that another machine has")
	}
	ip("address", "add", "192.168.50.12/24", "dev", "lan")
	if who, err := probeARP(context.Background(), "lan", netip.MustParseAddr("192.168.50.12")); who != "" || err != nil {
		t.Errorf("this machine's own address is said to be %q's (%v)", who, err)
	}
}
