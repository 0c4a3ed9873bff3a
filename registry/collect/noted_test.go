package collect

import "testing"

// A note holds the first problems and does not change under the hands of who writes it.
func TestNotedCheck(t *testing.T) {
	many := make([]Problem, 3*maxNoted)
	report := CheckReport{Problems: many, Found: map[string]int64{ProblemMissing: 1}}
	noted := report.Noted()
	report.Found[ProblemMissing], many[0].Kind = 2, ProblemMissing
	if len(noted.Problems) != maxNoted || noted.Found[ProblemMissing] != 1 || noted.Problems[0].Kind != "" {
		t.Errorf("the check is noted with %d problems and %v", len(noted.Problems), noted.Found)
	}
	if empty := (CheckReport{}).Noted(); empty.Problems == nil || empty.Found == nil {
		t.Error("an empty report is noted with null in place of lists")
	}
}
