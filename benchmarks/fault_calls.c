// Lets the N-th call that writes a file fail, or kills the process just before it: preloaded in front of the C library.
// FAULT_PATH: a part of the paths that count; FAULT_AT: N, from 1; FAULT_ERRNO: the error, or 0 for SIGKILL. Each call
// that counts is named on the file FAULT_LOG.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int calls;

// Whether this call is to fail; if the process is to die, it does.
static int strikes(const char *name, const char *path)
{
    const char *wanted = getenv("FAULT_PATH"), *at = getenv("FAULT_AT"), *error = getenv("FAULT_ERRNO");
    const char *log = getenv("FAULT_LOG");
    if (!wanted || !at || !error || !strstr(path, wanted)) return 0;
    calls++;
    if (log) {
        FILE *file = fopen(log, "a");
        if (file) fprintf(file, "%s\n", name), fclose(file);
    }
    if (calls != atoi(at)) return 0;
    if (atoi(error) == 0) kill(getpid(), SIGKILL);
    errno = atoi(error);
    return 1;
}

static int strikes_file(const char *name, int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strikes(name, path);
}

ssize_t write(int file, const void *data, size_t size)
{
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    return strikes_file("write", file) ? -1 : next(file, data, size);
}

int fsync(int file)
{
    static int (*next)(int);
    if (!next) next = dlsym(RTLD_NEXT, "fsync");
    return strikes_file("fsync", file) ? -1 : next(file);
}

int rename(const char *from, const char *to)
{
    static int (*next)(const char *, const char *);
    if (!next) next = dlsym(RTLD_NEXT, "rename");
    return strikes("rename", to) ? -1 : next(from, to);
}

int chmod(const char *path, mode_t mode)
{
    static int (*next)(const char *, mode_t);
    if (!next) next = dlsym(RTLD_NEXT, "chmod");
    return strikes("chmod", path) ? -1 : next(path, mode);
}
