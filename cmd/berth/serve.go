package main

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
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func newServeCommand() *cobra.Command {
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
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, cmd.OutOrStdout(), newLogger(c, cmd.ErrOrStderr()))
		},
	}
	addFlags(c.Flags())
	return c
}

// certificateInterval is how often the certificate's files are looked at.
const certificateInterval = 5 * time.Second

// serve runs until the context ends, then lets requests in flight finish.
func serve(ctx context.Context, c *config, stdout io.Writer, log *slog.Logger) error {
	for _, w := range c.Warnings {
		log.Warn(w)
	}
	a, err := newApp(ctx, c, log)
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

	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", c.Listen, err)
	}
	main := &http.Server{}
	a.server.Configure(main)
	scheme := "http"
	if c.TLSCert != "" {
		cert, err := newCertificate(c.TLSCert, c.TLSKey, log)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		group.Go(func() { cert.watch(background, certificateInterval) })
		main.TLSConfig = cert.config()
		scheme = "https"
	}
	failed := make(chan error, 2)
	group.Go(func() {
		if main.TLSConfig != nil {
			failed <- main.ServeTLS(listener, "", "")
		} else {
			failed <- main.Serve(listener)
		}
	})
	servers := []*http.Server{main}
	if c.MetricsListen != "" {
		l, err := net.Listen("tcp", c.MetricsListen)
		if err != nil {
			return errors.Join(fmt.Errorf("listening on %s for metrics: %w", c.MetricsListen, err), main.Close())
		}
		metrics := &http.Server{Handler: a.metricsHandler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute}
		group.Go(func() { failed <- metrics.Serve(l) })
		servers = append(servers, metrics)
	}
	group.Go(func() { a.keyFiles.watch(background, keyFileInterval) })
	group.Go(func() { a.audit.Run(background) })
	group.Go(func() { runJobs(background, a.db, a.holder, log, a.jobs) })
	group.Go(func() { runOwnJobs(background, log, a.ownJobs) })

	address := clientAddress(c, listener.Addr())
	log.Info("serving", "address", listener.Addr().String(), "tls", c.TLSCert != "", "version", version, "database", a.db.Engine())
	greet(stdout, scheme, address, a.password)
	// A request makes little garbage and the heap is small: collecting half as often
	// costs 5 MB and saves a tenth of the processor time of a pull. GOGC still wins.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	group.Go(func() { giveBack(background, a.rest, log) })

	select {
	case <-ctx.Done():
	case err := <-failed:
		closeAll(servers)
		return fmt.Errorf("serving: %w", err)
	}
	log.Info("stopping: finishing what is in flight", "at_most", c.ShutdownTimeout)
	a.server.Drain()
	stop, cancel := context.WithTimeout(context.Background(), c.ShutdownTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(stop); err != nil {
			log.Warn("requests were still in flight and have been cut off", "error", err)
			closeAll(servers)
		}
	}
	log.Info("stopped")
	return nil
}

func closeAll(servers []*http.Server) {
	for _, s := range servers {
		_ = s.Close() // connections are being thrown away, there is nobody to tell
	}
}

// clientAddress is what clients on this machine type: localhost and the port,
// unless the listener or the settings are more definite.
func clientAddress(c *config, listening net.Addr) string {
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
