package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxPassword is the longest line read as a password, in bytes: a long
// token of another identity provider fits.
const maxPassword = 16 << 10

// interruptible is what a read gives that knows no context, such as one of a
// terminal. When the command is interrupted the read is left behind: the program ends.
func interruptible[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := read()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// stdin is what a command reads; the context's end ends a read.
type stdin struct {
	ctx context.Context // the command's; io.Reader has no parameter for it
	in  io.Reader
}

// Input is the command's stdin; the end of its context ends a read.
func Input(cmd *cobra.Command) io.Reader { return stdin{cmd.Context(), cmd.InOrStdin()} }

// Read implements io.Reader.
func (s stdin) Read(p []byte) (int, error) {
	return interruptible(s.ctx, func() (int, error) { return s.in.Read(p) })
}

// ReadLine reads one line of stdin, such as a password, without its end.
func ReadLine(cmd *cobra.Command) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(Input(cmd), maxPassword)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading stdin: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", Usagef("the line is empty")
	}
	return line, nil
}

// Terminal is the terminal on stdin, if there is one.
func Terminal(cmd *cobra.Command) (int, bool) {
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// byteReader reads no more than is asked for at the moment: what is typed ahead is for
// the question after this one.
type byteReader struct{ r io.Reader }

func (b byteReader) Read(p []byte) (int, error) { return b.r.Read(p[:min(len(p), 1)]) }

// AskPassword asks on the terminal, without echo. It reports false
// without a terminal.
func AskPassword(cmd *cobra.Command, prompt string) (string, bool, error) {
	fd, ok := Terminal(cmd)
	if !ok {
		return "", false, nil
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", true, fmt.Errorf("reading the password: %w", err)
	}
	screen := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{byteReader{cmd.InOrStdin()}, cmd.ErrOrStderr()}, "")
	password, err := interruptible(cmd.Context(), func() (string, error) { return screen.ReadPassword(prompt) })
	if errors.Is(err, io.EOF) { // Ctrl-C, which is no signal in this mode, or Ctrl-D
		err = context.Canceled
	}
	if err = errors.Join(err, term.Restore(fd, before)); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr())
		return "", true, fmt.Errorf("reading the password: %w", err)
	}
	return password, true, nil
}
