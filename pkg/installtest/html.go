package installtest

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
)

//go:embed report.html.tmpl
var page string

// HTML renders the report as one page that needs nothing beside itself.
func (r *Report) HTML() ([]byte, error) {
	t, err := template.New("report").Funcs(template.FuncMap{
		"dataURI": func(png []byte) template.URL {
			return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png))
		},
		"clip":     clip,
		"duration": duration,
		"name":     (*Check).caseName,
		"lines":    func(s string) int { return strings.Count(strings.TrimRight(s, "\n"), "\n") + 1 },
	}).Parse(page)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct {
		*Report
		Parts []part
	}{r, r.parts()})
	return b.Bytes(), err
}

// part is what stands together on the page: all of a report on one test, or a
// section of one on several. Its times are its own.
type part struct {
	*Section // nil: the whole
	Failed   bool
	Length   time.Duration
	Bars     []bar
	Ticks    []tick
	Stages   []stage

	report *Report
	from   time.Duration
}

func (r *Report) parts() []part {
	if len(r.Sections) == 0 {
		p := part{report: r, Length: r.Duration}
		return []part{p.filled()}
	}
	var list []part
	for _, s := range r.Sections {
		p := part{report: r, Section: s, from: s.From, Length: s.Until - s.From, Failed: len(r.FailedIn(s.Name)) > 0}
		list = append(list, p.filled())
	}
	return list
}

func (p part) filled() part {
	p.Bars, p.Ticks, p.Stages = p.bars(), p.ticks(), p.stages()
	return p
}

// has says whether a phase or a check belongs to the part.
func (p part) has(section string) bool { return p.Section == nil || p.Name == section }

// bar is a phase as drawn: offset and width in percent of the whole time.
type bar struct {
	Host     string // with the first bar of each host
	Name     string
	Left     template.CSS
	Width    template.CSS
	Duration string
	From     string
	Failed   bool
}

func (p part) bars() []bar {
	var bars []bar
	r := p.report
	failed := len(r.Failed()) > 0 && !r.examined() && p.Section == nil
	for _, host := range hosts(r.Phases, func(p Phase) string { return p.Host }) {
		head := host
		for _, ph := range r.Phases {
			if ph.Host != host || !p.has(ph.Section) {
				continue
			}
			from := ph.From - p.from
			bars = append(bars, bar{head, ph.Name, p.percent(from), p.percent(ph.Until - ph.From), duration(ph.Until - ph.From), duration(from), false})
			head = ""
		}
		if n := len(bars) - 1; n >= 0 && failed && r.blames(host) {
			bars[n].Failed = true
		}
	}
	return bars
}

// hosts are those of a list, each once, in the order of their first element.
func hosts[T any](list []T, host func(T) string) []string {
	var names []string
	for _, e := range list {
		if h := host(e); !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	return names
}

// blames says whether a check of the host failed.
func (r *Report) blames(host string) bool {
	return slices.ContainsFunc(r.Failed(), func(c *Check) bool { return c.Host == host })
}

// byHost are the checks, those of a host together; of several tests each has
// its own in the order of time.
func (r *Report) byHost() []*Check {
	if len(r.Sections) > 0 {
		return r.Checks
	}
	var list []*Check
	for _, host := range hosts(r.Checks, func(c *Check) string { return c.Host }) {
		for _, c := range r.Checks {
			if c.Host == host {
				list = append(list, c)
			}
		}
	}
	return list
}

// examined says whether the run came to the assertions in the running system:
// then no phase is to blame for what failed.
func (r *Report) examined() bool {
	for _, c := range r.Checks {
		if c.Stage == "system" {
			return true
		}
	}
	return false
}

func (p part) percent(d time.Duration) template.CSS {
	if p.Length <= 0 {
		return "0%"
	}
	return template.CSS(fmt.Sprintf("%.2f%%", 100*d.Seconds()/p.Length.Seconds()))
}

type tick struct {
	Left template.CSS
	Text string
}

// ticks are the marks of the time axis: at most ten, at round times.
func (p part) ticks() []tick {
	step := time.Second
	for _, s := range []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour} {
		if p.Length/step <= 8 {
			break
		}
		step = s
	}
	var ticks []tick
	for at := time.Duration(0); at <= p.Length*95/100 && len(ticks) < 100; at += step {
		ticks = append(ticks, tick{p.percent(at), duration(at)})
	}
	return ticks
}

// stage names the part of the test that a check belongs to; of several tests
// each is one.
func (c *Check) stage() string {
	switch {
	case c.Section != "":
		return c.Section
	case c.Host == "":
		return c.Stage
	}
	return c.Host + ": " + c.Stage
}

type stage struct {
	Name   string
	Checks []*Check
}

func (p part) stages() []stage {
	var stages []stage
	for _, c := range p.report.byHost() {
		if !p.has(c.Section) {
			continue
		}
		if n := len(stages); n == 0 || stages[n-1].Name != c.stage() {
			stages = append(stages, stage{Name: c.stage()})
		}
		s := &stages[len(stages)-1]
		s.Checks = append(s.Checks, c)
	}
	return stages
}

// duration prints seconds as people say them: 4.2 s, 75 s, 12 min 5 s.
func duration(d time.Duration) string {
	s := d.Seconds()
	switch {
	case d == 0:
		return "0"
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	}
	m := int(s+0.5) / 60
	if rest := int(s+0.5) % 60; rest != 0 {
		return fmt.Sprintf("%d min %d s", m, rest)
	}
	return fmt.Sprintf("%d min", m)
}
