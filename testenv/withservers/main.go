// Command withservers starts one Postgres and one MinIO, runs the given
// command with BERTH_TEST_POSTGRES_URL, BERTH_TEST_S3_ENDPOINT and MinIO's
// credentials in its environment, prints what the tests have reported (testenv.Report), which were the slowest, what all
// of it took of the processor and what failed, stops both and exits as the command did:
//
//	go run ./testenv/withservers go test -json ./...
//
// What go test prints with -json is shown as without; -v before the command shows what passes too.
//
// A server that cannot be started is an error with CI set; otherwise the
// command runs without it and its tests skip.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"berth/testenv"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	verbose := len(args) > 0 && args[0] == "-v"
	if verbose {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: withservers [-v] command [argument...]")
		return 2
	}
	defer testenv.Stop()
	env := os.Environ()
	required := func(err error) bool {
		fmt.Fprintln(os.Stderr, "withservers:", err)
		return os.Getenv("CI") != ""
	}
	if url, err := testenv.PostgresServer(); err == nil {
		env = append(env, "BERTH_TEST_POSTGRES_URL="+url)
	} else if required(err) {
		return 1
	}
	if s, err := testenv.MinIOServer(); err == nil {
		env = append(append(env, "BERTH_TEST_S3_ENDPOINT="+s.Endpoint), s.Env()...)
	} else if required(err) {
		return 1
	}
	report, reported, err := testenv.CollectReports()
	if err != nil {
		fmt.Fprintln(os.Stderr, "withservers:", err)
		return 1
	}
	failed := &failures{to: os.Stdout}
	shown := newResults(failed, verbose)
	var spent time.Duration
	defer func() {
		if err := shown.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "withservers:", err)
		}
		text, err := reported()
		if err != nil {
			fmt.Fprintln(os.Stderr, "withservers:", err)
		}
		fmt.Print(text, shown.slowest())
		fmt.Printf("== %s of processor time, without the servers that all tests share\n%s", spent.Round(time.Second), failed)
	}()
	env = append(env, report)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, shown, os.Stderr
	cmd.WaitDelay = 10 * time.Second // for what the command has left running, with its output still open
	// A signal ends the command first, so that Stop is never skipped.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "withservers:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	spent = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "withservers:", err)
	return 1
}
