package enrol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what one side sends to the other.
const (
	maxBody  = 64 << 10 // bytes
	maxKeys  = 8        // SSH keys
	maxFlags = 1024     // CPU flags
	maxLine  = 512      // bytes of a message for people
)

// Request is what a joining node says of itself.
type Request struct {
	Host     string   `json:"host"`     // name without the domain
	HostKeys []string `json:"hostKeys"` // its SSH host keys: "ssh-ed25519 AAAA…"; 1 to 8
	CPUFlags []string `json:"cpuFlags"` // as in /proc/cpuinfo
	Agent    string   `json:"agent"`    // version of the agent
}

// Reply is what the master answers to a node that it takes in.
type Reply struct {
	Cluster  string   `json:"cluster"`  // full name
	Master   string   `json:"master"`   // full name
	RootKeys []string `json:"rootKeys"` // for the node's /root/.ssh/authorized_keys; 1 to 8
}

// refusal is a RefusedError on its way.
type refusal struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

// decode reads one JSON value and nothing else; members that v does not have
// are errors.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the end")
	}
	return nil
}

func parseRequest(data []byte) (Request, error) {
	var r Request
	if err := decode(data, &r); err != nil {
		return Request{}, err
	}
	return r, r.check()
}

func (r Request) check() error {
	if !isLabel(r.Host) {
		return fmt.Errorf("%.80q is no name of a host", r.Host)
	}
	if len(r.CPUFlags) > maxFlags {
		return fmt.Errorf("%d CPU flags, at most %d", len(r.CPUFlags), maxFlags)
	}
	for _, f := range r.CPUFlags {
		if !isWord(f, 64) {
			return fmt.Errorf("%.80q is no CPU flag", f)
		}
	}
	if len(r.Agent) > 64 || !isPrintable(r.Agent) {
		return fmt.Errorf("%.80q is no version", r.Agent)
	}
	return checkKeys(r.HostKeys)
}

func parseReply(data []byte) (Reply, error) {
	var r Reply
	if err := decode(data, &r); err != nil {
		return Reply{}, err
	}
	return r, r.check()
}

func (r Reply) check() error {
	if !isDomain(r.Cluster) || !isDomain(r.Master) {
		return fmt.Errorf("%.80q, %.80q are no full names", r.Cluster, r.Master)
	}
	if err := checkKeys(r.RootKeys); err != nil {
		return fmt.Errorf("keys of root: %w", err)
	}
	return nil
}

func parseRefusal(data []byte) (*RefusedError, error) {
	var r refusal
	if err := decode(data, &r); err != nil {
		return nil, err
	}
	if !isWord(string(r.Reason), 40) || r.Message == "" {
		return nil, errors.New("it is no refusal")
	}
	return &RefusedError{r.Reason, oneLine(r.Message)}, nil
}

// isLabel: letters, digits and hyphens, as a host's name without the domain
// (RFC 1123, 2.1), in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// isDomain: labels with dots between them; room is left for one more.
func isDomain(s string) bool {
	if len(s) > 200 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isWord(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// isPrintable: ASCII without control characters, which a console would obey.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// oneLine is a text from the other side, fit for a console.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxLine)]
}
