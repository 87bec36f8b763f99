package build

import (
	"io"
	"testing"
)

// The kernel looks for a further archive at offsets that are multiples of four.
func TestConcat(t *testing.T) {
	e := concat([][]byte{[]byte("12345"), []byte("1234"), {}, []byte("1")})
	const want = "12345\x00\x00\x0012341\x00\x00\x00"
	for range 2 { // the tree's readers may open it repeatedly
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || string(data) != want {
			t.Errorf("concat = %q, %v; want %q", data, err, want)
		}
	}
	if e.Size != int64(len(want)) || e.SHA256 != digest([]byte(want)) {
		t.Errorf("concat says %d bytes, SHA-256 %s", e.Size, e.SHA256)
	}
}
