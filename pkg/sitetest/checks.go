package sitetest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
)

// checks asks each host, then the cluster, which has then to run an instance; then
// the service machine, which does not depend on that one.
func (t *test) checks(ctx context.Context) error {
	master, err := t.questions(ctx)
	if err != nil || master == nil {
		return err
	}
	err = t.instances(ctx, master)
	if err != nil && !errors.Is(err, installtest.ErrFailed) {
		return err
	}
	return errors.Join(err, t.service(ctx, master))
}

// questions asks each host and the cluster; its master is nil where there is
// none.
func (t *test) questions(ctx context.Context) (master *node, err error) {
	t.parallel(len(t.nodes), func(n *node) error {
		for _, q := range hostQuestions() {
			n.session.Ask(ctx, q)
		}
		return nil
	})
	if !t.o.Cluster || t.first() == nil {
		t.report.Skip("cluster", "the Ganeti cluster", "the site has none")
		return nil, nil
	}
	if master, err = t.master(ctx); err != nil {
		return nil, err
	}
	for _, q := range t.clusterQuestions() {
		master.session.Ask(ctx, q)
	}
	t.serials(ctx, master)
	return master, nil
}

// hostQuestions are asked of every host.
func hostQuestions() []installtest.Question {
	return []installtest.Question{
		{Stage: "system", Name: "no failed units", Want: "none", Script: "systemctl list-units --failed --plain --no-legend", Judge: installtest.Empty},
		{Stage: "system", Name: "the agent's state", Want: `"state": "ready"`, Script: "sci-agent status --json", Judge: installtest.AgentReady, FailOK: true},
	}
}

// master finds the host that the cluster's master runs on.
func (t *test) master(ctx context.Context) (*node, error) {
	var found *node
	_, ok := t.asked().session.Ask(ctx, installtest.Question{Stage: "cluster", Name: "there is a cluster with a master", Want: "one of the nodes", Script: "gnt-cluster getmaster",
		Judge: func(out string) string {
			name := strings.TrimSpace(out)
			i := slices.IndexFunc(t.nodes, func(n *node) bool { return name == n.host.Name || strings.HasPrefix(name, n.host.Name+".") })
			if i < 0 {
				return fmt.Sprintf("the master is %q, which is no host of the site", name)
			}
			found = t.nodes[i]
			return ""
		}})
	if !ok {
		return nil, installtest.ErrFailed
	}
	return found, nil
}

// asked is the first node that can be asked.
func (t *test) asked() *node {
	for _, n := range t.members() {
		if n.session.Shell() != nil {
			return n
		}
	}
	return t.first()
}

// clusterQuestions are asked of the master.
func (t *test) clusterQuestions() []installtest.Question {
	var names []string
	for _, n := range t.members() {
		names = append(names, n.host.Name)
	}
	return []installtest.Question{
		{Stage: "cluster", Name: "gnt-cluster verify", Want: "status 0, no ERROR, no WARNING", Script: verifyScript, Judge: verified},
		{Stage: "cluster", Name: "all nodes are online", Want: strings.Join(names, ", ") + ", each answering", Script: onlineScript, Judge: online(names)},
		{Stage: "cluster", Name: "ssh gives up a node that is gone", Want: "it asks for a sign of life", Script: "ssh -G localhost", Judge: alive},
	}
}

// alive judges ssh's settings. Ganeti waits for ssh as long as it takes, which
// without a sign of life is for ever where the other node's power was cut.
func alive(out string) string {
	for _, line := range strings.Split(out, "\n") {
		if n, ok := strings.CutPrefix(line, "serveraliveinterval "); ok && n != "0" {
			return ""
		}
	}
	return "ServerAliveInterval is not set"
}

// nodeList: dtotal comes from the node itself, so it is there only if the node
// answers (gnt-node(8)).
const nodeList = "gnt-node list --no-headers --separator=' ' --units=m -o name,role,dtotal"

// verifyScript tries three times where a job does not start, or a call to a node
// does not get through: a job has a minute to start and a call five seconds, which
// a busy emulated node may not keep. No other result is tried again; what was is in
// the report, behind triedAgain.
const verifyScript = `for pause in 5 10 0; do
	out=$(gnt-cluster verify 2>&1) && status=0 || status=$?
	case $out in *"failed to start"* | *"Communication failure"*) ;; *) break ;; esac
	test $pause -gt 0 || break
	echo "$out" | sed 's/^/` + triedAgain + `/'
	sleep $pause
done
echo "$out"
exit "$status"`

const triedAgain = "tried again: "

// onlineScript asks three times: a node has a few seconds to answer Ganeti, and a
// busy emulated one may need more.
const onlineScript = `for pause in 5 10 0; do
	out=$(` + nodeList + `) || exit
	case $out in *" ?"*) sleep $pause ;; *) break ;; esac
done
echo "$out"`

// verified reads `gnt-cluster verify`.
func verified(out string) string {
	out = regexp.MustCompile(`(?m)^`+triedAgain+`.*$`).ReplaceAllString(out, "")
	if m := regexp.MustCompile(`(?m)^.*\b(ERROR|WARNING)\b.*$`).FindString(out); m != "" {
		return strings.TrimSpace(m)
	}
	if !strings.Contains(out, "Verifying") {
		return "there is no result of a verification"
	}
	return ""
}

// nodeLine is a line of nodeList.
type nodeLine struct{ name, role string }

func nodeLines(out string) []nodeLine {
	var list []nodeLine
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if f := strings.Fields(line); len(f) >= 2 {
			list = append(list, nodeLine{f[0], f[1]})
		}
	}
	return list
}

// online judges that the nodes of these names, and no others, are in the
// cluster and answer.
func online(names []string) func(string) string {
	return func(out string) string {
		seen := make(map[string]bool)
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			f := strings.Fields(line)
			if len(f) != 3 {
				return fmt.Sprintf("cannot read %q", line)
			}
			short, _, _ := strings.Cut(f[0], ".")
			if !slices.Contains(names, short) {
				return fmt.Sprintf("%s is no node of the site", f[0])
			}
			// Roles: master, candidate, regular; drained, offline.
			if !slices.Contains([]string{"M", "C", "R"}, f[1]) {
				return fmt.Sprintf("%s has the role %s", f[0], f[1])
			}
			if total, err := strconv.ParseFloat(f[2], 64); err != nil || total <= 0 {
				return fmt.Sprintf("%s does not answer: its disk space is %q", f[0], f[2])
			}
			seen[short] = true
		}
		for _, n := range names {
			if !seen[n] {
				return fmt.Sprintf("%s is not in the cluster", n)
			}
		}
		return ""
	}
}

// readSerial prints the serial number of the configuration that a node has.
const readSerial = `python3 -c 'import json; print(json.load(open("/var/lib/ganeti/config.data"))["serial_no"])'`

// serials checks that the master's configuration is on each candidate: after
// the master's loss any of them may have to take over, with what it has.
// Distribution may be under way, so it is asked for a minute.
func (t *test) serials(ctx context.Context, master *node) {
	c := t.report.Begin("", "cluster", "each master candidate has the same configuration", "one serial_no in config.data")
	c.Script = readSerial
	var problem string
	for end := time.Now().Add(time.Minute); ; {
		c.Output, problem = t.compareSerials(ctx, master)
		if problem == "" || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}
	t.report.Close(c, problem)
	if problem != "" {
		t.say("failed: " + c.Name + ": " + problem)
	}
}

func (t *test) compareSerials(ctx context.Context, master *node) (said, problem string) {
	out, err := master.session.Run(ctx, nodeList)
	if err != nil {
		return out, "cannot list nodes: " + err.Error()
	}
	serials := make(map[string]string)
	for _, line := range nodeLines(out) {
		short, _, _ := strings.Cut(line.name, ".")
		i := slices.IndexFunc(t.nodes, func(n *node) bool { return n.host.Name == short })
		if i < 0 || line.role != "M" && line.role != "C" {
			continue
		}
		out, err := t.nodes[i].session.Run(ctx, readSerial)
		if err != nil {
			return said, fmt.Sprintf("cannot read the configuration on %s: %v: %s", short, err, strings.TrimSpace(out))
		}
		serials[strings.TrimSpace(out)] = short
		said += fmt.Sprintf("%s (%s): %s", short, line.role, out)
	}
	switch len(serials) {
	case 0:
		return said, "no node is a master candidate"
	case 1:
		return said, ""
	}
	return said, "they differ: " + strings.Join(strings.Fields(strings.ReplaceAll(said, "\n", ", ")), " ")
}
