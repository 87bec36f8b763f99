package sitetest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
)

// serviceScenarios are for sites with a service machine. They take hours in
// emulation, so they run if they are asked for.
func serviceScenarios() []Scenario {
	list := []Scenario{
		{Name: "service", Formed: true, Run: serviceAgain,
			Shows: "A cluster that was shut down is switched on: its service machine comes back by itself and serves as before."},
		{Name: "service-cut", Run: serviceCut,
			Shows: "The power of the master fails while it makes the service machine: switched on again, it makes it whole."},
		{Name: "service-takeover", Formed: true, Run: serviceTakeover,
			Shows: "The node that runs the service machine is lost, and is the master: by the takeover the machine serves from the other node, and is mirrored again when the lost one is back."},
	}
	for i := range list {
		list[i].Nodes, list[i].Instances, list[i].Service, list[i].Asked, list[i].Budget = 2, true, true, true, 12*time.Hour
	}
	return list
}

// serviceSteps are all steps of a node of a site with a service machine.
func serviceSteps() []string { return append(steps(), "authority", "service", "puppet") }

func serviceAgain(ctx context.Context, s *Site) error {
	if err := s.allOn(); err != nil {
		return err
	}
	master, err := s.whole(ctx)
	if err != nil {
		return err
	}
	i, err := s.inspection(master, s.name)
	if err != nil {
		return err
	}
	return i.run(ctx)
}

// serviceTime is how long two emulated machines take to make a service machine, up
// to its agent's first step.
const serviceTime = 20 * time.Minute

func serviceCut(ctx context.Context, s *Site) error {
	first, _ := s.two()
	if err := s.allOn(); err != nil {
		return err
	}
	err := s.check(ctx, first.host.Name+" comes to the step service", `a line "sci-agent: step authority ok"`, s.o.Limits.Ready, func(ctx context.Context) (string, error) {
		said, err := first.session.Await(ctx, time.Time{}, regexp.MustCompile("^step authority ok"))
		return said.Text, err
	})
	if err != nil {
		return err
	}
	if err := s.cutAt(ctx, first, "service", serviceTime); err != nil {
		return err
	}
	master, err := s.whole(ctx)
	if err != nil {
		return err
	}
	i, err := s.inspection(master, s.name)
	if err != nil {
		return err
	}
	return i.serves(ctx)
}

// serves is a short look at the service machine: it is as it should be, and the
// master gets names, packages and its catalogue.
func (i *inspection) serves(ctx context.Context) error {
	defer i.leave(ctx)
	if err := i.bring(ctx); err != nil {
		return err
	}
	if err := i.up(ctx); err != nil {
		return err
	}
	return i.useful(ctx, i.master)
}

// useful asks the service machine for all that a node needs of it.
func (i *inspection) useful(ctx context.Context, n *node) error {
	for _, do := range []func(context.Context) error{
		i.listens, i.offline, i.names,
		func(ctx context.Context) error { return i.catalogue(ctx, i.service) },
		func(ctx context.Context) error { return i.catalogue(ctx, i.at(n)) },
	} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func serviceTakeover(ctx context.Context, s *Site) error {
	if err := s.allOn(); err != nil {
		return err
	}
	master, err := s.whole(ctx)
	if err != nil {
		return err
	}
	i, err := s.inspection(master, s.name)
	if err != nil {
		return err
	}
	defer i.leave(ctx)
	lost, survivor := i.master, i.other
	name := i.fqdn(s.o.Service.Host.Name)
	// Only its name counts.
	tr := &trial{t: s.test, master: survivor, other: lost, name: name}
	for _, step := range []func() error{
		func() error { return i.bring(ctx) },
		func() error { return i.up(ctx) },
		func() error {
			return s.ask(ctx, lost, installtest.Question{Name: "the service machine runs on the master", Want: "status 0", Script: hereScript(name, i.fqdn(lost.host.Name)), Judge: any0})
		},
		func() error { return s.inSync(ctx, lost) },
		func() error {
			return s.pause(ctx, 5*time.Second, time.Minute, "the power of "+lost.host.Name+" fails for good")
		},
		func() error { lost.session.PowerCut(); i.alone(survivor); return s.noticed(ctx, survivor) },
		func() error {
			return s.refused(ctx, survivor, lost, tr, "sci-agent takeover is refused as long as nobody says that "+lost.host.Name+" is off", "", "--powered-off")
		},
		func() error { return s.takenOver(ctx, survivor, lost, tr) },
		func() error { return i.runsOn(ctx, survivor) },
		func() error { return i.healthy(ctx, i.service) },
		func() error { return i.useful(ctx, survivor) },
		func() error { return s.comesBack(ctx, survivor, lost) },
		func() error { _, err := s.verified(ctx); return err },
		func() error { return i.up(ctx) },
	} {
		if err := step(); err != nil {
			return s.withLogs(ctx, tr, err)
		}
	}
	return nil
}

// hereScript has an instance run on a node, where it may be already.
func hereScript(instance, node string) string {
	return fmt.Sprintf(`test "$(gnt-instance list --no-headers -o pnode '%[1]s')" = '%[2]s' || gnt-instance migrate -f '%[1]s' 2>&1`, instance, node)
}

// alone goes on with one node.
func (i *inspection) alone(n *node) {
	i.master, i.other, i.service.on = n, n, n
}

// runsOn waits until the service machine runs on a node.
func (i *inspection) runsOn(ctx context.Context, n *node) error {
	want := i.fqdn(n.host.Name) + " running"
	return i.until(ctx, i.at(n), installtest.Question{Name: "the service machine is started there", Want: want, Script: whereScript(i.fqdn(i.s.Host.Name)), Judge: installtest.Equal(want)})
}

// comesBack switches the lost node on, and lets it in again when it has said that
// it stays out.
func (s *Site) comesBack(ctx context.Context, survivor, lost *node) error {
	if err := s.on(lost, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, lost, time.Time{}, lost.host.Name+" comes back and says that it stays out", staysOut); err != nil {
		return err
	}
	return errors.Join(s.shells(ctx, lost), s.letInAgain(ctx, survivor, lost), s.inSync(ctx, survivor))
}
