package registry

import "testing"

// Notes hold the first problems and do not change under the hands of who writes them.
func TestNotedReports(t *testing.T) {
	many := make([]Problem, 3*maxNoted)
	check := CheckReport{Problems: many, Found: map[string]int64{ProblemMissing: 1}}
	transfer := TransferReport{Problems: many, Rows: map[string]int64{"tags": 1}}
	c, r := check.Noted(), transfer.Noted()
	check.Found[ProblemMissing], transfer.Rows["tags"], many[0].Kind = 2, 2, ProblemMissing
	if len(c.Problems) != maxNoted || c.Found[ProblemMissing] != 1 || c.Problems[0].Kind != "" {
		t.Errorf("the check is noted with %d problems and %v", len(c.Problems), c.Found)
	}
	if len(r.Problems) != maxNoted || r.Rows["tags"] != 1 || r.Problems[0].Kind != "" {
		t.Errorf("the transfer is noted with %d problems and %v", len(r.Problems), r.Rows)
	}
	if c, r := (CheckReport{}).Noted(), (TransferReport{}).Noted(); c.Problems == nil || c.Found == nil || r.Problems == nil || r.Rows == nil {
		t.Error("an empty report is noted with null in place of lists")
	}
}
