package pgp

// NeedTool is for the tests against the real mirror, which live outside the
// package because pkg/archive, that knows the mirror, imports it.
var NeedTool = needTool
