package installtest

import (
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// JUnit renders the report in the form that CI systems read (the schema of
// Ant's junitreport as Jenkins and GitLab take it): one test suite a stage.
func (r *Report) JUnit() ([]byte, error) {
	all := junitSuites{Name: r.Title, Time: seconds(r.Duration)}
	for _, c := range r.byHost() {
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != c.stage() {
			all.Suites = append(all.Suites, &junitSuite{Name: c.stage(), Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05")})
		}
		s := all.Suites[len(all.Suites)-1]
		s.add(c)
		all.Tests++
		if c.Failed() {
			all.Failures++
		}
	}
	out, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, err
	}
	return append([]byte(xml.Header), append(out, '\n')...), nil
}

type junitSuites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Name     string   `xml:"name,attr"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Time     string   `xml:"time,attr"`
	Suites   []*junitSuite
}

type junitSuite struct {
	XMLName   xml.Name `xml:"testsuite"`
	Name      string   `xml:"name,attr"`
	Timestamp string   `xml:"timestamp,attr"`
	Tests     int      `xml:"tests,attr"`
	Failures  int      `xml:"failures,attr"`
	Time      string   `xml:"time,attr"`
	Cases     []junitCase

	total time.Duration
}

type junitCase struct {
	XMLName   xml.Name      `xml:"testcase"`
	Class     string        `xml:"classname,attr"`
	Name      string        `xml:"name,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitFailure `xml:"failure"`
	Skipped   *junitSkipped `xml:"skipped"`
	SystemOut string        `xml:"system-out,omitempty"`
}

type junitSkipped struct {
	Message string `xml:"message,attr"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func (s *junitSuite) add(c *Check) {
	s.Tests++
	s.total += c.Duration
	s.Time = seconds(s.total)
	t := junitCase{Class: "installtest." + strings.NewReplacer(": ", ".", " ", "_").Replace(c.stage()), Name: c.caseName(), Time: seconds(c.Duration)}
	switch {
	case c.Skipped != "":
		t.Skipped = &junitSkipped{c.Skipped}
	case c.Failed():
		s.Failures++
		t.Failure = &junitFailure{c.problem(), "want: " + c.Want + "\ngot:  " + c.problem() + "\n\n" + clip(c.Output)}
	default:
		t.SystemOut = clip(c.Output)
	}
	s.Cases = append(s.Cases, t)
}

// caseName is its name within its suite.
func (c *Check) caseName() string {
	if c.Section != "" {
		return c.inSection()
	}
	return c.Name
}

// problem is what is wrong with a check that failed.
func (c *Check) problem() string {
	if !c.Done {
		return "the test ended before this was decided"
	}
	return c.Problem
}

// clip keeps the ends of a long output.
func clip(s string) string {
	const half = 4 << 10
	if len(s) <= 2*half {
		return s
	}
	return strings.ToValidUTF8(s[:half], "") + fmt.Sprintf("\n[… %d bytes left out …]\n", len(s)-2*half) + strings.ToValidUTF8(s[len(s)-half:], "")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
