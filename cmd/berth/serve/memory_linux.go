package serve

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgram takes the program's own pages, code and constants, out of this
// process. They stay in the kernel's page cache, which may now give their memory to
// others, and are mapped again when they are needed, 16 at a time and mostly without
// reading the disk. Few of them are: the start is over, and the kernel had mapped the neighbours
// of each page as well.
//
// It reports nothing, for nothing depends on it.
func dropProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer smaps.Close()
	for _, m := range cleanMappings(smaps, exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings gives the mappings of a file, from the text of a smaps file, whose
// pages are all the file's. A mapping that was written to, by a dynamic linker for example, even
// if it is read-only by now, is not among them: its pages could not be read again.
func cleanMappings(smaps io.Reader, file string) []mapping {
	var found []mapping
	var last mapping
	candidate := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		if value, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			if candidate && strings.TrimSpace(value) == "0 kB" {
				found = append(found, last)
			}
			candidate = false
			continue
		}
		if len(fields) < 6 || !strings.HasPrefix(fields[1], "r") {
			continue
		}
		// start-end perms offset device inode path
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		candidate = err1 == nil && err2 == nil && !strings.Contains(fields[1], "w") && strings.HasSuffix(line, " "+file)
		last = mapping{uintptr(start), uintptr(end)}
	}
	return found
}
