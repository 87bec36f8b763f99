package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

const (
	puppetProgram = "usr/bin/puppet"
	puppetConf    = "etc/puppet/puppet.conf"
	csrAttributes = "etc/puppet/csr_attributes.yaml"
	puppetSummary = "var/cache/puppet/public/last_run_summary.yaml"
	puppetTimer   = "sci-puppet.timer" // from overlay/default
)

// puppetDone reports whether this machine is enrolled at the site's Puppet
// server, its last run failed in nothing, and more follow by themselves.
func (n *Node) puppetDone(ctx context.Context) (bool, error) {
	if !n.exists(puppetProgram) {
		n.note("step puppet: puppet-agent is not installed; nothing to do")
		return true, nil
	}
	if ok, err := n.allSame([]file{{puppetConf, n.puppetConf(), 0o644}}, []string{csrAttributes}); !ok || err != nil {
		return false, err
	}
	if n.enrolled() != nil || n.lastRun() != nil {
		return false, nil
	}
	u, err := n.unit(ctx, puppetTimer)
	return u.enabled && u.active, err
}

func (n *Node) puppetDo(ctx context.Context) error {
	if _, err := n.put([]file{{puppetConf, n.puppetConf(), 0o644}}, nil); err != nil {
		return err
	}
	if n.enrolled() != nil {
		if err := n.showChallenge(); err != nil {
			return err
		}
	}
	server := n.Site.Service()
	if !n.answers(ctx, server.Addresses[lan], puppetPort) {
		return hint.New(&Waiting{For: fmt.Sprintf("the Puppet server at %s (%s)", n.puppetName(), server.Addresses[lan])},
			"its start takes minutes; on "+server.Name+": sci-agent status")
	}
	// A run in which nothing failed is enough: the timer's may have been the last.
	if n.enrolled() != nil || n.lastRun() != nil {
		if err := n.runPuppet(ctx); err != nil {
			return err
		}
	}
	if err := n.enrolled(); err != nil {
		return err
	}
	if _, err := n.put(nil, []string{csrAttributes}); err != nil {
		return err
	}
	if u, err := n.unit(ctx, puppetTimer); err != nil || u.enabled && u.active {
		return err
	}
	return n.command(ctx, "systemctl", "enable", "--now", puppetTimer)
}

func (n *Node) puppetName() string { return n.Site.FQDN(puppetAliasName) }

// puppetConf is Puppet's configuration, of the agent and, on the service machine,
// of the server.
func (n *Node) puppetConf() string {
	var b strings.Builder
	b.WriteString(rendered("puppet") + "[main]\n")
	fmt.Fprintf(&b, "certname = %s\nserver = %s\n", n.fqdn(), n.puppetName())
	b.WriteString("# What a run did stands in the journal of the machine; the server keeps no reports.\n" +
		"report = false\n" +
		"# Without the server a run fails, and says so, instead of repeating an old catalogue.\n" +
		"usecacheonfailure = false\n")
	if !n.serves() {
		return b.String()
	}
	fmt.Fprintf(&b, "\n[server]\ndns_alt_names = %s,%s\n", puppetAliasName, n.puppetName())
	fmt.Fprintf(&b, "# Who gets a certificate: whoever shows the challenge of that name, see /%s.\nautosign = /%s\n", puppetPolicy, puppetPolicy)
	b.WriteString("# A machine that was installed anew shows it again, and gets another certificate.\n" +
		"allow_duplicate_certs = true\n" +
		"# Longer than the machines live: nothing stops one day because of a date.\n" +
		"ca_ttl = 15y\n" +
		"reports = none\n")
	return b.String()
}

func (n *Node) puppetCert() string { return puppetSSL + "/certs/" + n.fqdn() + ".pem" }

// enrolled says why this machine has no certificate of the site, nil if it has.
func (n *Node) enrolled() error {
	data, there, err := n.read(n.puppetCert())
	if err == nil && !there {
		err = errors.New("this machine has no certificate of the Puppet server")
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fmt.Errorf("/%s is no certificate", n.puppetCert())
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("/%s: %w", n.puppetCert(), err)
	}
	if c.Subject.CommonName != n.fqdn() {
		return fmt.Errorf("/%s is the certificate of %q", n.puppetCert(), c.Subject.CommonName)
	}
	return nil
}

// showChallenge has Puppet's agent put this machine's challenge into its request
// for a certificate. The file goes when the certificate is there.
func (n *Node) showChallenge() error {
	c, err := n.challenge()
	if err != nil {
		return err
	}
	_, err = n.put([]file{
		{enrol.ChallengeFile, c + "\n", 0o600},
		{csrAttributes, rendered("puppet") + "custom_attributes:\n  1.2.840.113549.1.9.7: \"" + c + "\"\n", 0o600},
	}, nil)
	return err
}

// challenge is this machine's: computed where the key is, else the one that it
// was made with.
func (n *Node) challenge() (string, error) {
	key, there, err := n.read(enrol.ChallengeKeyFile)
	if err != nil {
		return "", err
	}
	if there {
		k, err := enrol.ParseChallengeKey(key)
		if err != nil {
			return "", fmt.Errorf("/%s: %w", enrol.ChallengeKeyFile, err)
		}
		return k.Challenge(n.fqdn()), nil
	}
	if n.Site.InCluster(n.Host) {
		return "", hint.New(&Waiting{For: "the key of challenges from the cluster's master"}, "on the master: sci-agent status, step authority")
	}
	data, there, err := n.read(enrol.ChallengeFile)
	c := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return "", err
	case !there:
		return "", hint.New(&Waiting{For: "its challenge in /" + enrol.ChallengeFile},
			"on a node of the cluster: sci-agent challenge "+n.fqdn()+"; write what it prints into that file here, mode 0600")
	case len(c) != 64 || strings.Trim(c, "0123456789abcdef") != "":
		return "", fmt.Errorf("/%s holds no challenge", enrol.ChallengeFile)
	}
	return c, nil
}

// runPuppet runs Puppet's agent once. Where another run is under way it waits.
func (n *Node) runPuppet(ctx context.Context) error {
	_, err := n.Runner.Run(ctx, run.Cmd{Log: n.Journal, Argv: []string{"puppet", "agent", "--onetime", "--no-daemonize", "--verbose",
		"--detailed-exitcodes", "--waitforcert=0", "--waitforlock=10", "--maxwaitforlock=30m", "--color=false"}})
	var exit interface{ ExitCode() int }
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && errors.As(err, &exit) && exit.ExitCode() == 2: // it changed something
		return nil
	}
	return hint.New(err, n.puppetAdvice(err.Error()))
}

// puppetAdvice says what to do about a run that failed.
func (n *Node) puppetAdvice(said string) string {
	const again = "; then: systemctl restart sci-agent"
	server := n.Site.Service().Name
	switch {
	case strings.Contains(said, "waitforcert is disabled"): // and not our own argument
		return "the server did not believe this machine its name; on " + server + ", grep autosign /var/log/puppetserver/puppetserver.log says why"
	case strings.Contains(said, "certificate revoked"), strings.Contains(said, "does not match its private key"):
		return "the server does not take this machine's certificate any more; if it is to have a new one, on it: puppet ssl clean" + again
	case strings.Contains(said, "certificate verify failed"):
		return "the server is not the one at which this machine enrolled; if " + server + " was made anew, on this machine: puppet ssl clean --localca" + again
	}
	return "see: journalctl -u sci-agent; to run it by hand: puppet agent -t"
}

// maxSummary bounds what is read of the last run, in bytes.
const maxSummary = 1 << 20

// summary is what Puppet's agent leaves of its last run, as far as it is needed.
type summary struct {
	Version struct {
		Config any `yaml:"config"` // of the catalogue; missing without one
	} `yaml:"version"`
	Resources map[string]int `yaml:"resources"`
	Events    map[string]int `yaml:"events"`
}

// lastRun says what failed in Puppet's last run, nil if nothing did.
func (n *Node) lastRun() error {
	data, err := readBounded(n.path(puppetSummary), maxSummary)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("puppet has not run yet")
	}
	if err != nil {
		return err
	}
	return parseSummary(data)
}

func parseSummary(data []byte) error {
	var s summary
	if err := yaml.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("cannot read /%s: %w", puppetSummary, err)
	}
	total, ok := s.Resources["total"]
	switch {
	case s.Version.Config == nil || !ok || total == 0:
		return errors.New("puppet's last run got no catalogue")
	case s.Resources["failed"] > 0 || s.Resources["failed_to_restart"] > 0 || s.Events["failure"] > 0:
		return fmt.Errorf("puppet's last run failed in %s", count(max(s.Resources["failed"]+s.Resources["failed_to_restart"], s.Events["failure"]), "resource"))
	}
	return nil
}

// Steps of the site's Puppet, with the time that they may take in a machine that
// is emulated inside another one.

func (n *Node) authorityStep() Step {
	return Step{Name: "authority", Done: n.authorityDone, Do: n.authorityDo}
}

func (n *Node) puppetserverStep() Step {
	return Step{Name: "puppetserver", Done: n.puppetserverDone, Do: n.puppetserverDo, Timeout: time.Hour}
}

func (n *Node) puppetStep() Step {
	return Step{Name: "puppet", Done: n.puppetDone, Do: n.puppetDo, Timeout: 90 * time.Minute}
}

// Challenge is the challenge of the machine of that full name, computed where
// the key is.
func Challenge(root, certname string) (string, error) {
	data, err := readBounded(filepath.Join(root, enrol.ChallengeKeyFile), 256)
	if err != nil {
		return "", fmt.Errorf("cannot read the key of challenges: %w", err)
	}
	k, err := enrol.ParseChallengeKey(data)
	if err != nil {
		return "", fmt.Errorf("/%s: %w", enrol.ChallengeKeyFile, err)
	}
	if !strings.Contains(certname, ".") {
		return "", fmt.Errorf("%q is no full name", certname)
	}
	return k.Challenge(certname), nil
}
