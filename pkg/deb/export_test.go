package deb

// For the tests against the real mirror, which live outside the package
// because pkg/archive, that knows the mirror, imports it.
var (
	CompareReaders   = compareReaders
	CompareRelations = compareRelations
	NeedTool         = needTool
)
