package main

import "github.com/spf13/cobra"

func newInit(ui *ui) *cobra.Command    { return &cobra.Command{Use: "init"} }
func newCheck(ui *ui) *cobra.Command   { return &cobra.Command{Use: "check"} }
func newLock(ui *ui) *cobra.Command    { return &cobra.Command{Use: "lock"} }
func newInspect(ui *ui) *cobra.Command { return &cobra.Command{Use: "inspect"} }
func newVerify(ui *ui) *cobra.Command  { return &cobra.Command{Use: "verify"} }
func newWrite(ui *ui) *cobra.Command   { return &cobra.Command{Use: "write"} }
func newTest(ui *ui) *cobra.Command    { return &cobra.Command{Use: "test"} }
func newVersion(ui *ui) *cobra.Command { return &cobra.Command{Use: "version"} }
