package enrol

import "errors"

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
	HostKeys []string `json:"hostKeys"` // the master's SSH host keys; 1 to 8
}

// Phase is how far a host is.
type Phase string

// The phases as a joining node sees them.
const (
	PhaseOpen    Phase = "open"    // it has not asked to join
	PhaseClaimed Phase = "claimed" // it was accepted
	PhaseJoining Phase = "joining" // the master is taking it into the cluster
	PhaseJoined  Phase = "joined"  // it is in the cluster
	PhaseRefused Phase = "refused"
)

// Status is the master's answer to "how far am I?".
type Status struct {
	State   Phase  `json:"state"`
	Message string `json:"message,omitempty"`
}

// Machine is the SHA-256, in hex, over a machine's SSH public host keys; their
// order and comments do not matter. It is what a claim is bound to.
func Machine(hostKeys []string) (string, error) { return "", errors.New("not written yet") }
