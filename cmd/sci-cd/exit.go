package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/resolve"
	"github.com/skycover/sci-cd/pkg/site"
)

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// checkError is something that was examined and found wrong: an ISO whose
// digests or signatures do not hold, an installation whose assertions failed.
type checkError struct{ err error }

func (e checkError) Error() string { return e.err.Error() }
func (e checkError) Unwrap() error { return e.err }

// exitCode is a row of the table that every help shows.
type exitCode struct {
	code    int
	meaning string
	is      func(error) bool
}

// exitCodes are tried from the top. 0 is success, 1 whatever has no row.
var exitCodes = []exitCode{
	{130, "interrupted", func(err error) bool { return errors.Is(err, context.Canceled) }},
	{2, "the command line is wrong", as[usageError]},
	{3, "the site file or a profile is wrong", as[site.Problems]},
	{4, "the packages asked for cannot be had together", as[*resolve.Error]},
	{5, "the archive cannot be fetched or is not to be trusted", as[*build.ArchiveError]},
	{6, "the lock is stale: renew it with sci-cd lock", as[*lock.StaleError]},
	{7, "what was checked is not as it should be (verify, test, write)", as[checkError]},
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func codeOf(err error) int {
	if err == nil {
		return 0
	}
	for _, c := range exitCodes {
		if c.is(err) {
			return c.code
		}
	}
	return 1
}

// exitHelp is the table as text.
func exitHelp() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n  0    done\n  1    any other failure\n")
	rows := slices.Clone(exitCodes)
	slices.SortFunc(rows, func(a, b exitCode) int { return a.code - b.code })
	for _, row := range rows {
		fmt.Fprintf(&b, "  %-3d  %s\n", row.code, row.meaning)
	}
	return b.String()
}
