package enrol

import "testing"

func TestChallenge(t *testing.T) {
	k, err := NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseChallengeKey([]byte(k.String() + "\n"))
	if err != nil || again != k {
		t.Fatalf("ParseChallengeKey = %v, %v", again, err)
	}
	other, err := NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	const name = "node1.lab.example"
	c := k.Challenge(name)
	for _, tt := range []struct {
		summary         string
		key             ChallengeKey
		name, challenge string
		want            bool
	}{
		{"own", k, name, c, true},
		{"of another machine", k, "node2.lab.example", c, false},
		{"of another key", other, name, c, false},
		{"cut off", k, name, c[:32], false},
		{"none", k, name, "", false},
	} {
		if got := tt.key.Met(tt.name, tt.challenge); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.summary, got, tt.want)
		}
	}
	for _, bad := range []string{"", "zz", "00", k.String() + "00"} {
		if _, err := ParseChallengeKey([]byte(bad)); err == nil {
			t.Errorf("ParseChallengeKey(%q) succeeded", bad)
		}
	}
}
