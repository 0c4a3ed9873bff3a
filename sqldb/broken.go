package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"

	"berth/oci"
)

// brokenError says that SQLite's log could not be made durable. After a failed fsync the system may have
// forgotten what it could not write, and a later one that succeeds says nothing about it: what was committed since the
// last good one may be gone after a power failure. docs/decisions/0007 has the reasons for what follows.
type brokenError struct{ err error }

func (e *brokenError) Error() string {
	return fmt.Sprintf("the database's log could not be made durable: %v", e.err)
}
func (e *brokenError) Unwrap() error { return e.err }

// breakDown ends the use of the database. It is called before anybody is told of what failed.
func (db *DB) breakDown(err error) {
	if db.broken.CompareAndSwap(nil, &brokenError{err}) {
		db.log.Error("the disk of the database has failed: nothing that was not durable before is acknowledged or shown, and this process ends. "+
			"The next start makes the log durable before it serves; look at the disk and its kernel messages", "error", err)
		close(db.dead)
	}
}

// Dead gives the reason why only a new process can use this database, or nil.
func (db *DB) Dead() error {
	if broken := db.broken.Load(); broken != nil {
		return oci.Errorf(oci.CodeUnavailable, "its disk has failed").WithCause(broken)
	}
	return nil
}

// Died is closed when [DB.Dead] has a reason.
func (db *DB) Died() <-chan struct{} { return db.dead }

// makeLogDurable writes to the disk what SQLite's log holds when the database is opened: after a
// crash, or after a failed fsync, the system may show bytes that are not on the disk, and believe
// that they are. So they are written once more, and synced, while nobody else may write. A clean
// end leaves no log; one that is in use by others has a few MiB.
func makeLogDurable(ctx context.Context, conn *sql.Conn, path string, sync func(*os.File) error) (err error) {
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
		return nil // none, or SQLite will make it
	}
	if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	defer func() {
		_, rollback := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
		err = errors.Join(err, rollback)
	}()
	log, err := os.OpenFile(path+"-wal", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	piece := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := log.ReadAt(piece, at)
		if n > 0 {
			if _, err := log.WriteAt(piece[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return sync(log)
		}
		if err != nil {
			return err
		}
	}
}
