package operate

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/jobs"
)

// How a command waits for a job, whatever the server answers meanwhile.
func TestServerJob(t *testing.T) {
	head := func(id, state, why string) *jobs.Head {
		return &jobs.Head{ID: id, State: state, Error: why}
	}
	type answer struct {
		job *jobs.Head
		err error
	}
	away := errors.New("connection refused")
	for name, c := range map[string]struct {
		flags   jobFlags
		answers []answer
		wrong   error
		want    string // in the error, "" for none
		printed int
	}{
		"it finishes":              {answers: []answer{{job: head("a", jobs.Running, "")}, {job: head("a", jobs.Finished, "")}}, printed: 1},
		"a replica dies meanwhile": {answers: []answer{{err: away}, {err: client.ProblemError{Status: 503}}, {job: head("a", jobs.Finished, "")}}, printed: 1},
		"it is refused":            {answers: []answer{{err: client.ProblemError{Status: 403, Detail: "only admins may"}}}, want: "only admins may"},
		"it fails":                 {answers: []answer{{job: head("a", jobs.Failed, "the disk is full")}}, want: "the check was not finished: the disk is full", printed: 1},
		"another one":              {answers: []answer{{job: head("b", jobs.Finished, "")}}, want: "somebody has started another one"},
		"bytes are lost":           {answers: []answer{{job: head("a", jobs.Finished, "")}}, wrong: errors.New("bytes are lost"), want: "bytes are lost", printed: 1},
		"status, running":          {flags: jobFlags{status: true}, answers: []answer{{job: head("b", jobs.Running, "")}}},
		"status, lost":             {flags: jobFlags{status: true}, answers: []answer{{job: head("b", jobs.Lost, "it has died")}}, want: "it has died", printed: 1},
		"status, away":             {flags: jobFlags{status: true}, answers: []answer{{err: away}}, want: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, printed := &cobra.Command{}, 0
			cmd.SetContext(t.Context())
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			answers := c.answers
			err := serverJob[*jobs.Head]{
				noun: "check", command: "berth check",
				start: func(context.Context) (string, error) { return "a", nil },
				get: func(context.Context) (*jobs.Head, error) {
					if len(answers) == 0 {
						t.Fatal("the server is asked once more")
					}
					next := answers[0]
					answers = answers[1:]
					return next.job, next.err
				},
				head:  func(job *jobs.Head) jobs.Head { return *job },
				at:    func(*jobs.Head) jobs.Progress { return jobs.Progress{} },
				line:  func(*jobs.Head) string { return "so far" },
				print: func(*jobs.Head) error { printed++; return nil },
				wrong: func(*jobs.Head) error { return c.wrong },
			}.run(cmd, c.flags, &cli.Choice{Value: "text"})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ends with %v, want %q", err, c.want)
			}
			if printed != c.printed || len(answers) > 0 {
				t.Errorf("printed %d times, want %d; %d answers are left\n%s", printed, c.printed, len(answers), out.String())
			}
		})
	}
}
