// Package enrol lets the machines of a site find each other without a password:
// a node that was installed from the medium proves to the cluster's master which
// host it is, the master proves that it is the master, and both learn the SSH
// keys by which everything further is done.
package enrol
