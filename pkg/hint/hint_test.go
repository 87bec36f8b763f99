package hint

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestHint(t *testing.T) {
	inner := New(fs.ErrNotExist, "make the file")
	tests := []struct {
		summary      string
		err          error
		text, advice string
	}{
		{"the fact stays as it was", inner, "file does not exist", "make the file"},
		{"wrapped", fmt.Errorf("cannot read it: %w", inner), "cannot read it: file does not exist", "make the file"},
		{"the advice nearest to the surface wins", New(fmt.Errorf("cannot start: %w", inner), "call us"), "cannot start: file does not exist", "call us"},
		{"joined", errors.Join(errors.New("one"), inner), "one\nfile does not exist", "make the file"},
		{"none", errors.New("one"), "one", ""},
	}
	for _, test := range tests {
		if got := test.err.Error(); got != test.text {
			t.Errorf("%s: Error() = %q; want %q", test.summary, got, test.text)
		}
		if got := Of(test.err); got != test.advice {
			t.Errorf("%s: Of() = %q; want %q", test.summary, got, test.advice)
		}
	}
	if !errors.Is(inner, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if err := New(nil, "nothing happened"); err != nil {
		t.Errorf("New(nil) = %v; want nil", err)
	}
	if got := Of(nil); got != "" {
		t.Errorf("Of(nil) = %q", got)
	}
}
