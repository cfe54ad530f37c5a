/* Preloaded before the C library: ends the process at the n-th call that changes a file below a folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long at, seen;
static int part; /* so many of its 64 parts a write still does */

void crash_arm(const char *below, long call, int parts) {
    seen = 0, at = call, part = parts;
    snprintf(folder, sizeof folder, "%s", below);
}

long crash_seen(void) { return seen; }

static int path_due(const char *path) {
    if (!*folder || strncmp(path, folder, strlen(folder))) return 0;
    return ++seen == at;
}

static int due(int fd) {
    char link[64], path[PATH_MAX];
    if (!*folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path_due(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    if (due(fd)) {
        if (part) REAL(write)(fd, data, size * part / 64);
        _exit(9);
    }
    return REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    if (due(fd)) {
        if (part) REAL(pwrite)(fd, data, size * part / 64, place);
        _exit(9);
    }
    return REAL(pwrite)(fd, data, size, place);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    if (due(fd)) {
        if (part) REAL(pwrite64)(fd, data, size * part / 64, place);
        _exit(9);
    }
    return REAL(pwrite64)(fd, data, size, place);
}

#define STOP(name, is_due) \
    if (is_due) _exit(9);  \
    return REAL(name)

int fsync(int fd) { STOP(fsync, due(fd))(fd); }
int fdatasync(int fd) { STOP(fdatasync, due(fd))(fd); }
int ftruncate(int fd, off_t size) { STOP(ftruncate, due(fd))(fd, size); }
int ftruncate64(int fd, off64_t size) { STOP(ftruncate64, due(fd))(fd, size); }
int unlink(const char *path) { STOP(unlink, path_due(path))(path); }
int rename(const char *old, const char *new) { STOP(rename, path_due(old))(old, new); }
