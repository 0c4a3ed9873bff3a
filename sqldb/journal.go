package sqldb

import "os"

// journal makes what SQLite has committed survive a power failure. It waits
// for the disk on a goroutine of its own, so that one fsync serves all
// transactions that were committed while the previous fsync ran, and so that
// the writer, and those who do not want durability, wait for none of them.
//
// It rests on what SQLite says of its write-ahead log: a transaction is
// committed when its frames are in the log, frames are only appended, and a
// log that starts anew has been copied into the database and synced before. So
// a log that is synced after a commit, or that was restarted since, holds that
// commit and all before it.
type journal struct {
	path  string
	sync  func(*os.File) error
	fail  func(error) // is told of the first failure, before those who wait
	queue chan []*task
	done  chan struct{}
}

// journalQueue is how many batches may wait for the disk; then the writer waits too.
const journalQueue = 64

func startJournal(database string, sync func(*os.File) error, fail func(error)) *journal {
	j := &journal{path: database + "-wal", sync: sync, fail: fail, queue: make(chan []*task, journalQueue), done: make(chan struct{})}
	go j.loop()
	return j
}

func (j *journal) loop() {
	defer close(j.done)
	var log *os.File
	var failed error
	for batch := range j.queue {
		waiting := [][]*task{batch}
	gather:
		for {
			select {
			case more, ok := <-j.queue:
				if !ok {
					break gather // the outer loop ends too
				}
				waiting = append(waiting, more)
			default:
				break gather
			}
		}
		// A failure is for ever, see brokenError.
		if failed == nil {
			if log == nil {
				log, failed = os.OpenFile(j.path, os.O_RDWR, 0)
			}
			if failed == nil {
				failed = j.sync(log)
			}
			if failed != nil {
				j.fail(failed)
			}
		}
		for _, batch := range waiting {
			for _, t := range batch {
				if failed != nil {
					t.err = &brokenError{failed}
				}
				close(t.ready)
			}
		}
	}
	if log != nil {
		_ = log.Close() // it was synced
	}
}

// stop waits until everything that was queued is answered.
func (j *journal) stop() {
	close(j.queue)
	<-j.done
}
