package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limit is what the machine gives without any server.
type limit struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // one per round
}

// limits measures the processor and the disk in the same run as the servers:
// SHA-256 on one core, a large file written and synced, and small files made
// durable one after the other. Earlier values are kept beside new ones.
func (b *bench) limits(have []limit) ([]limit, error) {
	for range b.rounds {
		data := newContent("limits", b.large).parts[0]
		begun := time.Now()
		sha256.Sum256(data)
		have = add(have, "SHA-256 on one core", unitMBs, float64(len(data))/1e6/time.Since(begun).Seconds())

		unix.Sync()
		path := filepath.Join(b.lab.dir, "limit")
		begun = time.Now()
		if err := writeSynced(path, data, false); err != nil {
			return nil, err
		}
		have = add(have, fmt.Sprintf("write and fsync %d MiB", b.large/mib), unitMBs, float64(len(data))/1e6/time.Since(begun).Seconds())
		if err := os.Remove(path); err != nil {
			return nil, err
		}

		const files = 200
		begun = time.Now()
		for i := range files {
			if err := writeSynced(fmt.Sprint(path, i), data[:16*kib], true); err != nil {
				return nil, err
			}
		}
		have = add(have, "durable 16 KiB files, one at a time (write, fsync, fsync of the directory)", unitRate, files/time.Since(begun).Seconds())
		for i := range files {
			if err := os.Remove(fmt.Sprint(path, i)); err != nil {
				return nil, err
			}
		}
	}
	return have, nil
}

func add(list []limit, name, unit string, value float64) []limit {
	i := slices.IndexFunc(list, func(l limit) bool { return l.Name == name })
	if i < 0 {
		list, i = append(list, limit{Name: name, Unit: unit}), len(list)
	}
	list[i].Values = append(list[i].Values, value)
	return list
}

func writeSynced(path string, data []byte, dir bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || !dir {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// describeMachine says in one line what everything was measured on.
func describeMachine() string {
	model, memory, system := runtime.GOARCH, "", runtime.GOOS
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = fmt.Sprintf(", %d GiB of memory", (uint64(info.Totalram)*uint64(info.Unit)+512*mib)/(1024*mib))
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		system = "Linux " + unix.ByteSliceToString(uts.Release[:])
	}
	var fs unix.Statfs_t
	disk := ""
	if unix.Statfs(os.TempDir(), &fs) == nil {
		disk = map[int64]string{0xef53: ", ext4", 0x58465342: ", xfs", 0x01021994: ", tmpfs", 0x9123683e: ", btrfs", 0x794c7630: ", overlayfs"}[int64(fs.Type)]
	}
	return fmt.Sprintf("%d cores of %s%s%s, %s, %s; clients, servers, Postgres and MinIO on the same cores over loopback",
		runtime.NumCPU(), model, memory, disk, system, runtime.Version())
}
