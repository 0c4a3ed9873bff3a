// Package serve is 'berth serve': it makes a server of its parts (wire.go), runs it and its jobs,
// and stops it.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/server"
)

// NewCommand makes 'berth serve'.
func NewCommand(version string) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the registry",
		Long: `Run the registry. Without any setting it keeps everything in ./berth-data and
listens on port 5000. The first start makes the user admin and prints the password.

Settings come from a YAML file, the environment and flags, later ones winning.`,
		Example: `  berth serve
  berth serve --listen 127.0.0.1:5000 --public-read
  BERTH_DATABASE_URL=postgres://berth@db/berth BERTH_STORAGE_URL='s3://blobs?region=eu-central-1' berth serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings.Load(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, version, cmd.OutOrStdout(), open.Logger(c, cmd.ErrOrStderr()))
		},
	}
	settings.AddFlags(c.Flags())
	return c
}

// lastWords is how long a server answers whose database is dead.
const lastWords = 3 * time.Second

// certificateInterval is how often the certificate's files are looked at.
const certificateInterval = 5 * time.Second

// serve runs until the context ends; then it is not ready for the drain time, and lets requests in
// flight finish.
func serve(ctx context.Context, c *settings.Config, version string, stdout io.Writer, log *slog.Logger) error {
	for _, w := range c.Warnings {
		log.Warn(w)
	}
	a, err := newApp(ctx, c, version, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := a.close(); err != nil {
			log.Error("closing the database", "error", err)
		}
	}()

	// Background work ends before the database is closed.
	background, stopBackground := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer stopBackground()

	listener, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close() // the server does it too, where one came to be
	main := &http.Server{}
	a.server.Configure(main)
	scheme := "http"
	if c.TLSCert != "" {
		cert, err := newCertificate(c.TLSCert, c.TLSKey, log)
		if err != nil {
			return err
		}
		group.Go(func() { cert.watch(background, certificateInterval) })
		main.TLSConfig = cert.config()
		scheme = "https"
	}
	servers := []*http.Server{main}
	failed := make(chan error, 2)
	if c.MetricsListen != "" {
		l, err := listen("metrics_listen", c.MetricsListen)
		if err != nil {
			return err
		}
		defer l.Close()
		metrics := &http.Server{Handler: a.metricsHandler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute}
		group.Go(func() { failed <- metrics.Serve(l) })
		servers = append(servers, metrics)
	}
	// Whatever can stop the start has been done: the password that this makes is printed.
	password, err := firstStart(ctx, a.db, a.hasher, c, log)
	if err != nil {
		closeAll(servers)
		return err
	}
	group.Go(func() {
		if main.TLSConfig != nil {
			failed <- main.ServeTLS(listener, "", "")
		} else {
			failed <- main.Serve(server.Listen(listener))
		}
	})
	for _, run := range a.work() {
		group.Go(func() { run(background) })
	}

	address := clientAddress(c, listener.Addr())
	log.Info("serving", "address", listener.Addr().String(), "tls", c.TLSCert != "", "version", version, "database", a.db.Engine())
	greet(stdout, scheme, address, password)
	group.Go(func() { a.askStore(background) })
	// A request makes little garbage and the heap is small: collecting half as often
	// costs 5 MB and saves a tenth of the processor time of a pull. GOGC still wins.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	group.Go(func() { giveBack(background, a.rest, log) })

	var dead error
	finish := c.ShutdownTimeout
	select {
	case <-ctx.Done():
	case err := <-failed:
		closeAll(servers)
		return fmt.Errorf("serving: %w", err)
	case <-a.db.Died():
		dead = fmt.Errorf("the database has failed, and only a new process can go on with it: start berth again: %w", open.Cause(a.db.Dead()))
		finish = min(finish, lastWords)
		select { // those who wait, and those who ask /readyz and /livez, are still told
		case <-ctx.Done():
		case <-time.After(lastWords):
		}
	}
	a.server.Drain()
	if c.DrainTime > 0 && dead == nil {
		log.Info("stopping: not ready any more, and still taking requests", "for", c.DrainTime)
		select {
		case <-time.After(c.DrainTime):
		case err := <-failed:
			closeAll(servers)
			return fmt.Errorf("serving: %w", err)
		}
	}
	log.Info("stopping: finishing what is in flight", "at_most", finish)
	if err := shutdown(servers, finish); err != nil {
		// What still waits for its client ends with what has come, and a word to the client.
		a.server.Cut()
		if err := shutdown(servers, cutTimeout); err != nil {
			closeAll(servers)
		}
		log.Warn("requests were still in flight and have been cut off", "error", err)
	}
	log.Info("stopped")
	return dead
}

// cutTimeout is how long requests that were cut off have to record what came, and to say so.
const cutTimeout = 5 * time.Second

// shutdown takes no more connections, and waits for the requests in flight; the error is that they
// were still there.
func shutdown(servers []*http.Server, atMost time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	for _, s := range servers {
		err = errors.Join(err, s.Shutdown(ctx))
	}
	return err
}

func closeAll(servers []*http.Server) {
	for _, s := range servers {
		_ = s.Close() // connections are being thrown away, there is nobody to tell
	}
}

// listen opens a listener at the address of a setting.
func listen(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("the address %s is in use: stop what listens there, or give another one with --%s", address, strings.ReplaceAll(setting, "_", "-"))
	case err != nil:
		return nil, fmt.Errorf("the setting %s: %w", setting, err)
	}
	return l, nil
}

// clientAddress is what clients on this machine type: localhost and the port,
// unless the listener or the settings are more definite.
func clientAddress(c *settings.Config, listening net.Addr) string {
	if c.URL != "" {
		if u, err := url.Parse(c.URL); err == nil {
			return u.Host
		}
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return listening.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// greet tells a person what to do next.
func greet(w io.Writer, scheme, address, password string) {
	fmt.Fprintf(w, "\nBerth is running at %s://%s/\n\n", scheme, address)
	if password != "" {
		fmt.Fprintf(w, "  This was the first start. Sign in as %s, and note the password, it is shown only now:\n\n", adminName)
		fmt.Fprintf(w, "    user      %s\n    password  %s\n\n", adminName, password)
	}
	fmt.Fprintf(w, "    docker login %s -u %s\n", address, adminName)
	fmt.Fprintf(w, "    docker tag IMAGE %s/TEAM/NAME:TAG\n", address)
	fmt.Fprintf(w, "    docker push %s/TEAM/NAME:TAG\n\n", address)
}
