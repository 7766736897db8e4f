/* Writes down, in one order, what a process asks of the disk for files whose path begins with RECORD_PREFIX:
 *
 *   'w' file offset length data    a write            't' file length    a truncation
 *   's' file                       a finished sync    'u' file           a file that was removed
 *   'f' file                       a sync that failed
 *
 * as native-endian structs in the file RECORD_LOG. Loaded with LD_PRELOAD; it changes nothing of what it sees. The lock
 * is held around each call, so that the order in the log is the order on the disk.
 *
 * `disk_full_after(n)`, called from the process itself, lets n more writes pass and fails all others with ENOSPC;
 * -1 makes space again. `writes_refused()` says how many were.
 *
 * `disk_errors(kinds, n, times)` lets n more reads, writes, syncs of the log or of other files pass (1, 2, 4, 8, added up) and fails the next
 * `times` of them with EIO; 0 mends it. `errors_met()` says how many did. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define NAME 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char names[FILES][NAME]; /* by descriptor; "" means: not ours */
static const char *prefix;
static int writes_left = -1; /* before the disk is full; -1: it has space */
static int refused = 0;
static int error_kinds = 0, error_after = 0, error_times = 0, errors = 0;
static int log_fd = -1;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);

struct head {
    char kind;
    char file[NAME];
    int64_t offset;
    int64_t length;
};

__attribute__((constructor)) static void start(void) {
    real_open = dlsym(RTLD_NEXT, "open64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    prefix = getenv("RECORD_PREFIX");
    const char *log = getenv("RECORD_LOG");
    if (prefix && log) log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

static const char *ours(const char *path) {
    if (log_fd < 0 || !path || strncmp(path, prefix, strlen(prefix))) return NULL;
    return path + strlen(prefix);
}

static int known(int fd) { return log_fd >= 0 && fd >= 0 && fd < FILES && names[fd][0]; }

static void note(char kind, const char *file, int64_t offset, int64_t length, const void *data) {
    struct head head = {.kind = kind, .offset = offset, .length = length};
    strncpy(head.file, file, NAME - 1);
    struct iovec parts[] = {{&head, sizeof head}, {(void *)data, data ? length : 0}}; /* at once: others write there too */
    if (writev(log_fd, parts, 2) != (ssize_t)(sizeof head + parts[1].iov_len)) abort();
}

static int opened(int fd, const char *path) {
    const char *name = ours(path);
    if (fd >= 0 && fd < FILES && name) {
        pthread_mutex_lock(&lock);
        names[fd][0] = '=';
        strncpy(names[fd] + 1, name, NAME - 2);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return opened(real_open(path, flags, mode), path);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return opened(real_open(path, flags, mode), path);
}

int close(int fd) {
    if (known(fd)) names[fd][0] = 0;
    return real_close(fd);
}

void disk_full_after(int writes) {
    pthread_mutex_lock(&lock);
    writes_left = writes;
    pthread_mutex_unlock(&lock);
}

int writes_refused(void) { return refused; }

static int full(void) {
    if (writes_left < 0) return 0;
    if (writes_left > 0) {
        writes_left--;
        return 0;
    }
    refused++;
    errno = ENOSPC;
    return 1;
}

enum { READ = 1, WRITE = 2, LOG_SYNC = 4, SYNC = 8 };

void disk_errors(int kinds, int after, int times) {
    pthread_mutex_lock(&lock);
    error_kinds = kinds, error_after = after, error_times = times;
    pthread_mutex_unlock(&lock);
}

int errors_met(void) { return errors; }

static int broken(int kind) {
    if (!(error_kinds & kind) || !error_times) return 0;
    if (error_after > 0) {
        error_after--;
        return 0;
    }
    error_times--;
    errors++;
    errno = EIO;
    return 1;
}

ssize_t pread64(int fd, void *data, size_t size, off_t offset) {
    if (!known(fd)) return real_pread(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t got = broken(READ) ? -1 : real_pread(fd, data, size, offset);
    pthread_mutex_unlock(&lock);
    return got;
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) { return pread64(fd, data, size, offset); }

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    if (!known(fd)) return real_pwrite(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t written = full() || broken(WRITE) ? -1 : real_pwrite(fd, data, size, offset);
    if (written > 0) note('w', names[fd] + 1, offset, written, data);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) {
    if (!known(fd)) return real_write(fd, data, size);
    pthread_mutex_lock(&lock);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t written = real_write(fd, data, size);
    if (written > 0) note('w', names[fd] + 1, offset, written, data);
    pthread_mutex_unlock(&lock);
    return written;
}

int ftruncate64(int fd, off_t length) {
    if (!known(fd)) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, length);
    if (!result) note('t', names[fd] + 1, 0, length, NULL);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(int fd, int (*sync)(int)) {
    if (!known(fd)) return sync(fd);
    pthread_mutex_lock(&lock);
    int result = broken(strstr(names[fd], "-wal") ? LOG_SYNC : SYNC) ? -1 : sync(fd);
    note(result ? 'f' : 's', names[fd] + 1, 0, 0, NULL);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int unlink(const char *path) {
    int result = real_unlink(path);
    if (!result && ours(path)) {
        pthread_mutex_lock(&lock);
        note('u', ours(path), 0, 0, NULL);
        pthread_mutex_unlock(&lock);
    }
    return result;
}
