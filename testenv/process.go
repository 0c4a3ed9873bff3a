package testenv

import (
	"os/exec"
	"runtime"
	"syscall"
)

// A Process is a running program that dies with the test process, whatever
// ends that: the kernel sends it the death signal.
type Process struct {
	Cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs the command. death is what the kernel sends it when this
// process is gone.
func Start(cmd *exec.Cmd, death syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = death
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel counts the thread that started a child as its parent, so
		// that thread has to live as long as the child (golang/go#27505).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Signal sends a signal; a process that is gone already gets nothing.
func (p *Process) Signal(s syscall.Signal) { _ = p.Cmd.Process.Signal(s) }

// Wait waits for the end and gives what exec.Cmd.Wait gave.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop sends the signal and waits for the end.
func (p *Process) Stop(s syscall.Signal) error {
	p.Signal(s)
	return p.Wait()
}
