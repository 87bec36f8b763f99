package scicd

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is a text for people: its code, in line and in blocks, and its links.
type page struct {
	file  string
	code  []string
	links []string
}

var (
	fence  = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) < 5 {
		t.Fatalf("docs/ holds %d pages, %v", len(files), err)
	}
	var all []page
	for _, file := range append(files, "README.md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		p := page{file: file}
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			p.code = append(p.code, strings.Split(m[1], "\n")...)
		}
		text = fence.ReplaceAllString(text, "")
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			p.code = append(p.code, m[1])
		}
		for _, m := range link.FindAllStringSubmatch(inline.ReplaceAllString(text, ""), -1) {
			p.links = append(p.links, m[1])
		}
		all = append(all, p)
	}
	return all
}

// TestDocsLinks wants every link inside the repository to lead somewhere, and
// none to a line number: lines move.
func TestDocsLinks(t *testing.T) {
	for _, p := range pages(t) {
		for _, target := range p.links {
			if strings.Contains(target, "://") || strings.HasPrefix(target, "#") {
				continue
			}
			name, anchor, _ := strings.Cut(target, "#")
			if _, err := os.Stat(filepath.Join(filepath.Dir(p.file), name)); err != nil {
				t.Errorf("%s links to %s: %v", p.file, target, err)
			}
			if regexp.MustCompile(`^L?\d+`).MatchString(anchor) {
				t.Errorf("%s links to a line number: %s", p.file, target)
			}
		}
	}
}

// repositoryPath matches what can only be a path of this repository.
var repositoryPath = regexp.MustCompile(`^(?:(?:\.ci|cmd|docs|overlay|pkg|preseed|profiles|scripts|testdata)/[A-Za-z0-9_./*-]*|[a-z_]+\.(?:go|mod|sum)|Makefile|LICENSE|README\.md)$`)

// TestDocsPaths wants every path that a page names to exist.
func TestDocsPaths(t *testing.T) {
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, word := range strings.Fields(code) {
				word = strings.TrimRight(word, ".,:;)")
				if !repositoryPath.MatchString(word) {
					continue
				}
				if found, err := filepath.Glob(strings.TrimSuffix(word, "/")); err != nil || len(found) == 0 {
					t.Errorf("%s names the path %s, which does not exist", p.file, word)
				}
			}
		}
	}
}

// TestDocsTargets wants every target that a page names to be in the Makefile.
func TestDocsTargets(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
	}
	named := regexp.MustCompile(`(?:^|[$;&] )make ([a-z][a-z-]*)`)
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, m := range named.FindAllStringSubmatch(code, -1) {
				if !slices.Contains(targets, m[1]) {
					t.Errorf("%s names make %s; the Makefile has %v", p.file, m[1], targets)
				}
			}
		}
	}
}

// TestDocsPrograms holds README.md and docs/ against the programs themselves.
func TestDocsPrograms(t *testing.T) {
	bin := programs(t)
	t.Run("session", func(t *testing.T) { readmeSession(t, bin) })
	t.Run("commands", func(t *testing.T) { docsCommands(t, bin) })
}

// readmeSession types what README.md shows, as far as it needs no network,
// and wants to see what README.md shows.
func readmeSession(t *testing.T, bin string) {
	dir := t.TempDir()
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```\n\\$ (.*?)^```$").FindStringSubmatch(string(data))
	if m == nil {
		t.Fatal("README.md shows no session")
	}
	typed := 0
	for _, part := range strings.Split("\n"+"$ "+m[1], "\n$ ")[1:] {
		line, want, _ := strings.Cut(part, "\n")
		if !strings.HasPrefix(line, "sed ") && !strings.HasPrefix(line, "sci-cd init ") && !strings.HasPrefix(line, "sci-cd check ") {
			continue
		}
		cmd := exec.Command("sh", "-c", line+" 2>&1")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		got, _ := cmd.Output() // check fails on purpose
		if strings.TrimSpace(string(got)) != strings.TrimSpace(want) {
			t.Errorf("README.md: %s\nshows:\n%s\nprints:\n%s", line, want, got)
		}
		typed++
	}
	if typed < 4 {
		t.Errorf("only %d commands of the session in README.md were tried", typed)
	}
}

// programs builds our programs and returns their directory.
func programs(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"sci-cd", "sci-agent"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(bin, name), "./cmd/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	return bin
}

// foreign are flags of other programs that a page names alone.
var foreign = []string{"--no-check-gpg"}

// docsCommands wants every command and flag of ours that a page names to be
// in the help of the program.
func docsCommands(t *testing.T, bin string) {
	help := make(map[string]string)
	usage := func(program, verb string) string {
		key := program + " " + verb
		if _, ok := help[key]; !ok {
			args := append(strings.Fields(verb), "--help")
			out, _ := exec.Command(filepath.Join(bin, program), args...).CombinedOutput()
			help[key] = string(out)
		}
		return help[key]
	}
	var everywhere strings.Builder
	top := usage("sci-cd", "")
	verbs := regexp.MustCompile(`(?m)^  ([a-z]+) `).FindAllStringSubmatch(top, -1)
	for _, m := range verbs {
		everywhere.WriteString(usage("sci-cd", m[1]))
	}
	if len(verbs) < 8 {
		t.Fatalf("sci-cd help names %d commands:\n%s", len(verbs), top)
	}
	named := regexp.MustCompile(`(?:^|[ /])(sci-cd|sci-agent) ([a-z]+)( [^#;&|]*)?`)
	flag := regexp.MustCompile(`(?:^| )(--[a-z][a-z-]*)`)
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, m := range named.FindAllStringSubmatch(code, -1) {
				text := usage(m[1], m[2])
				if !strings.Contains(text, m[1]+" "+m[2]) && m[2] != "help" {
					t.Errorf("%s names %s %s, which is no command:\n%s", p.file, m[1], m[2], text)
					continue
				}
				for _, f := range flag.FindAllStringSubmatch(m[3], -1) {
					if !hasFlag(text, f[1]) {
						t.Errorf("%s names %s %s %s, which is no flag of it", p.file, m[1], m[2], f[1])
					}
				}
			}
			if f := flag.FindString(code); f == code && !slices.Contains(foreign, f) && !hasFlag(everywhere.String(), f) {
				t.Errorf("%s names the flag %s, which no command has", p.file, f)
			}
		}
	}
}

func hasFlag(help, flag string) bool {
	return regexp.MustCompile(regexp.QuoteMeta(flag) + `\b[^-]`).MatchString(help)
}

// TestDocsVariables wants every variable of ours that a page names to be read
// somewhere, and every one that is read to be on a page.
func TestDocsVariables(t *testing.T) {
	variable := regexp.MustCompile(`\bSCI_CD_[A-Z_]+`)
	read, documented := make(map[string]bool), make(map[string]bool)
	for _, dir := range []string{"cmd", "pkg", "scripts"} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata") || strings.HasSuffix(d.Name(), ".gz") {
				return err
			}
			data, err := os.ReadFile(name)
			for _, v := range variable.FindAllString(string(data), -1) {
				read[v] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, v := range variable.FindAllString(code, -1) {
				documented[v] = true
				if !read[v] {
					t.Errorf("%s names the variable %s, which nothing reads", p.file, v)
				}
			}
		}
	}
	for v := range read {
		if !documented[v] {
			t.Errorf("the variable %s is on no page of docs/", v)
		}
	}
}

// TestDocsModules wants a sentence for each module that the source names.
func TestDocsModules(t *testing.T) {
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?(\S+\.\S+/\S+|pault\.ag\S+) (v\S+)$`).FindAllStringSubmatch(string(gomod), -1) {
		if !strings.Contains(string(data), "| "+m[1]+" | "+m[2]+",") {
			t.Errorf("docs/dependencies.md has no line for %s %s", m[1], m[2])
		}
	}
}

// TestMap wants doc.go to name every package, and nothing else.
func TestMap(t *testing.T) {
	data, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^//\t((?:cmd|pkg)/\S+|[a-z]+/) `).FindAllStringSubmatch(string(data), -1) {
		named[m[1]] = true
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("doc.go names %s: %v", m[1], err)
		}
	}
	for _, p := range list(t) {
		name := local(p.ImportPath)
		if name != "" && strings.Count(name, "/") == 1 && !named[name] {
			t.Errorf("doc.go does not name %s", name)
		}
	}
}
