package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/jobs"
)

// jobFlags are those of commands that a server can do in the background.
type jobFlags struct{ status, cancel bool }

func (f *jobFlags) add(c *cobra.Command, noun string) {
	c.Flags().BoolVar(&f.status, "status", false, "of a server: only show the "+noun+" that runs, or the last one")
	c.Flags().BoolVar(&f.cancel, "cancel", false, "of a server: end the "+noun+" that runs")
	c.MarkFlagsMutuallyExclusive("status", "cancel")
}

// local refuses the flags where no server is asked.
func (f *jobFlags) local() error {
	if f.status || f.cancel {
		return cli.Usagef("--status and --cancel are for what a server does in the background: give --server")
	}
	return nil
}

// serverJob is a job that a server does in the background, as a command starts, shows,
// awaits and cancels it.
type serverJob[T any] struct {
	noun    string // "backup"
	command string // that shows and cancels it, "berth backup"
	start   func(context.Context) (id string, err error)
	get     func(context.Context) (T, error)
	cancel  func(context.Context) error
	head    func(T) jobs.Head
	at      func(T) jobs.Progress // how far it is
	line    func(T) string        // the same in a line
	print   func(T) error         // what it has done, as the command prints what it does by itself
	wrong   func(T) error         // what is wrong with the result of a job that has finished
}

// jobPoll is how often a server is asked how far its job is.
const jobPoll = time.Second

// jobPatience is for how long a server may not answer: behind a balancer another replica
// answers when one has died.
const jobPatience = time.Minute

// passing reports whether an error of asking may be another one, or none, in a moment.
func passing(err error) bool {
	var refused client.ProblemError
	return !errors.As(err, &refused) || refused.Status >= 500
}

// run does what the flags say. Without any it starts the job and waits for the end; when it
// is interrupted the job goes on.
func (j serverJob[T]) run(cmd *cobra.Command, flags jobFlags, output *cli.Choice) error {
	ctx := cmd.Context()
	switch {
	case flags.cancel:
		if err := j.cancel(ctx); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "The %s ends within seconds; %s --status shows what it has done.\n", j.noun, j.command)
		return err
	case flags.status:
		return j.status(cmd, output)
	}
	id, err := j.start(ctx)
	if err != nil {
		return err
	}
	p := cli.NewProgress(cmd, j.noun)
	defer p.End()
	for heard := time.Now(); ; {
		job, err := j.get(ctx)
		switch {
		case ctx.Err() != nil:
			return j.interrupted()
		case err != nil && passing(err) && time.Since(heard) < jobPatience:
			p.End()
			fmt.Fprintln(cmd.ErrOrStderr(), "asking again:", err)
		case err != nil:
			return fmt.Errorf("the %s was started, but how far it is cannot be asked, see %s --status: %w", j.noun, j.command, err)
		case j.head(job).ID != id:
			return fmt.Errorf("the %s has ended, and somebody has started another one since, see %s --status", j.noun, j.command)
		case j.head(job).State != jobs.Running:
			p.End()
			if err := j.print(job); err != nil {
				return err
			}
			return j.outcome(job)
		default:
			heard = time.Now()
			p.Show(j.at(job), j.line(job))
		}
		select {
		case <-time.After(jobPoll):
		case <-ctx.Done():
			return j.interrupted()
		}
	}
}

func (j serverJob[T]) interrupted() error {
	return fmt.Errorf("interrupted; the %s goes on, see %s --status, or end it with --cancel", j.noun, j.command)
}

// status shows the job that runs, or how the last one ended.
func (j serverJob[T]) status(cmd *cobra.Command, output *cli.Choice) error {
	job, err := j.get(cmd.Context())
	if err != nil {
		return err
	}
	h := j.head(job)
	running := h.State == jobs.Running
	if output.Value == "json" {
		err = cli.PrintJSON(cmd.OutOrStdout(), job)
	} else {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, started by %s, last heard of at %s\n", h.State, h.StartedBy, cli.ShowTime(h.UpdatedAt))
		if err == nil && running {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), j.line(job))
		} else if err == nil {
			err = j.print(job)
		}
	}
	if err != nil || running {
		return err
	}
	return j.outcome(job)
}

// outcome makes an error of what is not right in the end.
func (j serverJob[T]) outcome(job T) error {
	if h := j.head(job); h.State != jobs.Finished {
		return errors.New("the " + j.noun + " was not finished: " + h.Error)
	}
	return j.wrong(job)
}

// progressOf is how far a job is, zero when a server does not tell.
func progressOf(p *api.Progress) jobs.Progress {
	if p == nil {
		return jobs.Progress{}
	}
	return jobs.Progress{Unit: p.Unit, Done: p.Done, Total: p.Total}
}
