package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
)

// parseExposition reads Prometheus's text format 0.0.4 as strictly as its page
// words it: a family's HELP and TYPE once, before its samples, which stand
// together; no sample twice. The key of a sample is its name and, in braces, its
// labels with their values as they were meant.
func parseExposition(text string) (map[string]float64, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, errors.New("the last line does not end")
	}
	samples, families := make(map[string]float64), make(map[string]bool)
	name := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	var family string
	var typed bool
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if help, ok := strings.CutPrefix(l, "# HELP "); ok {
			family, help, _ = strings.Cut(help, " ")
			if families[family] || !name.MatchString(family) || help == "" {
				return nil, fmt.Errorf("a second or bad family: %q", l)
			}
			families[family], typed = true, false
			continue
		}
		if l == "# TYPE "+family+" gauge" && !typed {
			typed = true
			continue
		}
		key, value, err := parseSample(l)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", l, err)
		}
		if n, _, _ := strings.Cut(key, "{"); n != family || !typed {
			return nil, fmt.Errorf("%q stands in the family %q", l, family)
		}
		if _, ok := samples[key]; ok {
			return nil, fmt.Errorf("twice: %q", l)
		}
		samples[key] = value
	}
	return samples, nil
}

func parseSample(l string) (key string, value float64, err error) {
	i := strings.IndexAny(l, "{ ")
	if i < 0 {
		return "", 0, errors.New("no value")
	}
	key, rest := l[:i], l[i:]
	if rest[0] == '{' {
		var labels []string
		label := regexp.MustCompile(`^[{,]([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"`)
		for rest[0] != '}' {
			m := label.FindStringSubmatch(rest)
			if m == nil {
				return "", 0, errors.New("bad label")
			}
			v := regexp.MustCompile(`\\.`).ReplaceAllStringFunc(m[2], func(s string) string {
				return map[string]string{`\\`: `\`, `\"`: `"`, `\n`: "\n"}[s]
			})
			labels = append(labels, m[1]+"="+v)
			if rest = rest[len(m[0]):]; rest == "" {
				return "", 0, errors.New("the labels do not end")
			}
		}
		key, rest = key+"{"+strings.Join(labels, ",")+"}", rest[1:]
	}
	value, err = strconv.ParseFloat(strings.TrimPrefix(rest, " "), 64)
	return key, value, err
}

func TestExposition(t *testing.T) {
	up, down := true, false
	r := &Report{
		State: State{State: IsReady, Steps: []Record{{Name: "identity", State: StepOK}, {Name: "verify", State: StepWaiting}}},
		Cluster: &ClusterView{Name: "cluster.lab.example", Master: "node1.lab.example", Role: RoleMaster, Instances: 3, Nodes: []NodeView{
			{Name: "node1.lab.example", Role: RoleMaster, Up: &up},
			{Name: "no\\de\"2\n\xff", Role: RoleOffline, Up: &down},
			{Name: "node3.lab.example", Role: RoleRegular},
		}},
		NotRead: []NotRead{{"configuration", needsRoot}, {"drbd", "it is broken"}},
	}
	var err error
	if r.DRBD, err = parseDRBD(drbdHead + drbdConnected + drbdSource + drbdNone); err != nil {
		t.Fatal(err)
	}
	text := r.exposition("1.0")
	got, err := parseExposition(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want := map[string]float64{
		"sci_build_info{version=1.0}": 1, "sci_agent_ready": 1, "sci_agent_stopped": 0,
		"sci_agent_step_ok{step=identity}": 1, "sci_agent_step_ok{step=verify}": 0,
		"sci_cluster_info{cluster=cluster.lab.example,master=node1.lab.example}": 1,
		"sci_cluster_master": 1, "sci_cluster_instances": 3,
		"sci_cluster_node_offline{node=node1.lab.example}": 0, "sci_cluster_node_offline{node=no\\de\"2\n\uFFFD}": 1,
		"sci_cluster_node_offline{node=node3.lab.example}": 0,
		"sci_cluster_node_up{node=node1.lab.example}":      1, "sci_cluster_node_up{node=no\\de\"2\n\uFFFD}": 0,
		"sci_drbd_connected{minor=0}": 1, "sci_drbd_connected{minor=1}": 1,
		"sci_drbd_uptodate{minor=0}": 1, "sci_drbd_uptodate{minor=1}": 1,
		"sci_drbd_peer_uptodate{minor=0}": 1, "sci_drbd_peer_uptodate{minor=1}": 0,
		"sci_drbd_primary{minor=0}": 1, "sci_drbd_primary{minor=1}": 1,
		"sci_drbd_out_of_sync_bytes{minor=0}": 0, "sci_drbd_out_of_sync_bytes{minor=1}": 724092 << 10,
		"sci_drbd_sync_ratio{minor=1}":     0.119,
		"sci_report_unreadable{what=drbd}": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text)
	}
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for key := range got {
		if name, _, _ := strings.Cut(key, "{"); !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"{") {
			t.Errorf("docs/install.md does not name %s", name)
		}
	}
	// A machine of which nothing is known has an answer all the same.
	if got, err := parseExposition(new(Report).exposition("")); err != nil || len(got) != 3 {
		t.Errorf("an empty report: %v, %v", got, err)
	}
}

// The judge must be one: what it takes for wrong.
func TestParseExposition(t *testing.T) {
	const head = "# HELP a A.\n# TYPE a gauge\n"
	for _, text := range []string{"", "a 1\n", head + "a 1", head + "b 1\n", head + "a 1\na 2\n", head + "a{x=\"1\"} 1\na{x=\"1\"} 2\n",
		head + head, head + "a{x=\"\\t\"} 1\n", head + "a{x=\"\"\"} 1\n", head + "a{x=\"1\" 1\n", head + "a{1=\"\"} 1\n", head + "a one\n", head + "a\n",
		"# HELP a A.\na 1\n# TYPE a gauge\n"} {
		if got, err := parseExposition(text); err == nil {
			t.Errorf("parseExposition(%q) = %v", text, got)
		}
	}
}

func TestServeMetrics(t *testing.T) {
	root := reportRoot(t, reportFiles("node1"))
	l, err := ListenMetrics(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	dials := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- ServeMetrics(ctx, l, ReportOptions{Root: root, Ask: true, Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
			dials <- to.String()
			return nil, errors.New("nobody there")
		}}, "1.0")
	}()
	fetch := func(method, path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(data)
	}
	for range 3 {
		resp, text := fetch("GET", "/metrics")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("%s, %v", resp.Status, resp.Header)
		}
		got, err := parseExposition(text)
		if err != nil || got["sci_agent_ready"] != 1 || got["sci_cluster_node_up{node=node2.lab.example}"] != 0 {
			t.Errorf("%v, %v", got, err)
		}
	}
	if len(dials) != 2 {
		t.Errorf("three scrapes had other nodes asked %d times; want once each", len(dials))
	}
	for path, want := range map[string]int{"GET /": 404, "POST /metrics": 405, "GET /metrics/../etc/passwd": 404} {
		method, path, _ := strings.Cut(path, " ")
		if resp, _ := fetch(method, path); resp.StatusCode != want {
			t.Errorf("%s %s: %s; want %d", method, path, resp.Status, want)
		}
	}
	gone := errors.New("told to go")
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Errorf("ServeMetrics = %v", err)
	}
}

// A state file that a power cut left half written is named, and the rest shown.
func TestMetricsWithoutState(t *testing.T) {
	files := reportFiles("node1")
	files[StateFile] = "{"
	m := &metrics{o: ReportOptions{Root: reportRoot(t, files)}, version: "1.0"}
	got, err := parseExposition(m.collect())
	if err != nil || got["sci_report_unreadable{what=state}"] != 1 || got["sci_agent_ready"] != 0 || got["sci_cluster_instances"] != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// Connections beyond the limit wait and do not fail.
func TestMetricsFewConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &fewConns{Listener: inner, slots: make(chan struct{}, 2)}
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	first := <-accepted
	second := <-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted")
	case <-time.After(50 * time.Millisecond):
	}
	_ = first.Close()
	_ = first.Close() // gives one place back, not two
	third := <-accepted
	if len(l.slots) != 2 {
		t.Errorf("%d slots are taken; want 2", len(l.slots))
	}
	_, _ = second.Close(), third.Close()
	_ = inner.Close()
	if _, more := <-accepted; more {
		t.Error("a closed listener accepted")
	}
}

// metricsMachine is a machine with systemd and the service of the metrics.
type metricsMachine struct {
	*machine
	unit  unit
	at    string // where the service listens
	lines []string
}

func newMetricsMachine(t *testing.T) *metricsMachine {
	m := &metricsMachine{machine: newMachine(t, "node1")}
	m.node.Runner = m
	m.node.Dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		if m.at != to.String() {
			return nil, errors.New("connection refused")
		}
		c, _ := net.Pipe()
		return c, nil
	}
	m.site(true)
	return m
}

func (m *metricsMachine) site(metrics bool) {
	m.t.Helper()
	m.write("etc/sci/site.json", strings.Replace(labSite, `"address": "192.168.50.10"`, fmt.Sprintf(`"address": "192.168.50.10", "metrics": %v`, metrics), 1))
	s, h, err := m.node.claimed()
	if err != nil {
		m.t.Fatal(err)
	}
	m.node.Site, m.node.Host = s, h
}

func (m *metricsMachine) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	if strings.HasPrefix(line, "systemctl show ") {
		return fmt.Appendf(nil, "ActiveState=%s\nUnitFileState=%s\n",
			map[bool]string{true: "active", false: "inactive"}[m.unit.active], map[bool]string{true: "enabled", false: "disabled"}[m.unit.enabled]), nil
	}
	m.lines = append(m.lines, line)
	switch line {
	case "systemctl enable sci-agent-metrics.service":
		m.unit.enabled = true
	case "systemctl restart sci-agent-metrics.service":
		_, m.at, _ = strings.Cut(strings.TrimSpace(m.read(metricsFile)), "LISTEN=")
		m.unit.active = true
	case "systemctl disable --now sci-agent-metrics.service":
		m.unit, m.at = unit{}, ""
	default:
		m.t.Errorf("unexpected command %q", line)
	}
	return nil, nil
}

// step brings the step to its end and returns the commands that it took.
func (m *metricsMachine) step() []string {
	m.t.Helper()
	m.lines = nil
	ctx := m.t.Context()
	done, err := m.node.metricsDone(ctx)
	if err == nil && !done {
		if err = m.node.metricsDo(ctx); err == nil {
			done, err = m.node.metricsDone(ctx)
		}
	}
	if err != nil || !done {
		m.t.Errorf("the step is done: %v, %v", done, err)
	}
	return m.lines
}

func (m *metricsMachine) planned() bool {
	return slices.ContainsFunc(m.node.Steps(), func(s Step) bool { return s.Name == "metrics" })
}

func TestMetricsStep(t *testing.T) {
	m := newMetricsMachine(t)
	names := func() (list []string) {
		for _, s := range m.node.Steps() {
			list = append(list, s.Name)
		}
		return list
	}()
	if i := slices.Index(names, "metrics"); i < 1 || names[i-1] != "apt" {
		t.Errorf("the plan is %q; want metrics behind apt", names)
	}
	const enable, restart = "systemctl enable sci-agent-metrics.service", "systemctl restart sci-agent-metrics.service"
	for _, c := range []struct {
		summary string
		before  func()
		want    []string
	}{
		{"first", func() {}, []string{enable, restart}},
		{"again", func() {}, nil},
		{"the file is old, and the service has been asked by nobody yet", func() { m.write(metricsFile, "LISTEN=192.168.50.99:9198\n"); m.at = "192.168.50.99:9198" }, []string{enable, restart}},
		{"cut off between the file and the restart", func() { m.at = "192.168.50.99:9198" }, []string{enable, restart}},
		{"switched off by hand", func() { m.unit.enabled = false }, []string{enable, restart}},
		{"no longer wanted", func() { m.site(false) }, []string{"systemctl disable --now sci-agent-metrics.service"}},
	} {
		c.before()
		if !m.planned() {
			t.Errorf("%s: the step is not in the plan", c.summary)
		}
		if diff := cmp.Diff(c.want, m.step()); diff != "" {
			t.Errorf("%s: commands (-want +got):\n%s", c.summary, diff)
		}
		if c.summary == "first" {
			m.wantFile(metricsFile, rendered("metrics")+"LISTEN=10.101.200.11:9198\n")
		}
	}
	if m.planned() || m.node.exists(metricsFile) {
		t.Error("nobody wants metrics, and they are still in the plan")
	}
	delete(m.node.Host.Addresses, backbone)
	if a := m.node.metricsAddress().String(); a != "192.168.50.11:9198" {
		t.Errorf("without a backbone metrics are at %s", a)
	}
}

// A service that starts and does not answer is not done.
func TestMetricsStepWaits(t *testing.T) {
	m := newMetricsMachine(t)
	m.node.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("connection refused") }
	synctest.Test(t, func(t *testing.T) {
		err := m.node.metricsDo(t.Context())
		if waits := new(Waiting); !errors.As(err, &waits) || err.Error() != "waiting for the metrics at 10.101.200.11:9198" {
			t.Errorf("metricsDo = %v", err)
		}
	})
}
