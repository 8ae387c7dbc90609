/* A preloaded library that remembers what a power cut would leave.
 *
 * Below POWERCUT_ROOT each fsync or fdatasync of a file copies its contents to
 * POWERCUT_SHADOW/files/INODE and notes its name; each fsync of a folder notes the names that stand
 * in it. Whatever was not synced is not there.  tests/faults/test_powercut.py builds the folder
 * again from that. POWERCUT_LIE=1 remembers nothing, as a disk that lies, or fsync=off, would.
 * POWERCUT_DELAY_MS delays each sync (the "slow flush" of the benchmarks). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int (*real_fsync)(int), (*real_fdatasync)(int);
static const char *root, *shadow;
static int lie, delay_ms;

__attribute__((constructor)) static void init(void)
{
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    /* Copies: PostgreSQL writes its process title over the environment. */
    root = getenv("POWERCUT_ROOT") ? strdup(getenv("POWERCUT_ROOT")) : NULL;
    shadow = getenv("POWERCUT_SHADOW") ? strdup(getenv("POWERCUT_SHADOW")) : NULL;
    lie = getenv("POWERCUT_LIE") != NULL;
    delay_ms = getenv("POWERCUT_DELAY_MS") ? atoi(getenv("POWERCUT_DELAY_MS")) : 0;
}

/* The name relative to the root, with '/' as '%'; 0 when it is not below the root. */
static int relative(const char *path, char *out, size_t size)
{
    size_t n = strlen(root);

    if (strncmp(path, root, n) != 0 || (path[n] != '/' && path[n] != '\0'))
        return 0;
    snprintf(out, size, "%s", path[n] ? path + n + 1 : "");
    for (char *p = out; *p; p++)
        if (*p == '/')
            *p = '%';
    return 1;
}

static void note_name(const char *rel, ino_t ino, int folder)
{
    char path[PATH_MAX], tmp[PATH_MAX];

    snprintf(path, sizeof path, "%s/names/%s", shadow, rel);
    snprintf(tmp, sizeof tmp, "%s/tmp.%d", shadow, (int)getpid());
    FILE *f = fopen(tmp, "w");
    if (f == NULL)
        return;
    fprintf(f, "%s %llu\n", folder ? "folder" : "file", (unsigned long long)ino);
    fclose(f);
    rename(tmp, path);
}

static void keep_contents(int fd, ino_t ino)
{
    char path[PATH_MAX], tmp[PATH_MAX];
    static char block[1 << 16];
    off_t at = 0;
    ssize_t n;

    snprintf(path, sizeof path, "%s/files/%llu", shadow, (unsigned long long)ino);
    snprintf(tmp, sizeof tmp, "%s/tmp.%d", shadow, (int)getpid());
    int out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int in = open(self, O_RDONLY); /* the caller's may be write-only */
    while (out >= 0 && in >= 0 && (n = pread(in, block, sizeof block, at)) > 0) {
        if (write(out, block, (size_t)n) != n)
            abort();
        at += n;
    }
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    rename(tmp, path);
}

/* The names of a folder become what they are now. */
static void keep_names(const char *folder, const char *rel)
{
    char path[PATH_MAX], full[PATH_MAX];
    struct dirent *d;
    size_t n = strlen(rel);

    snprintf(path, sizeof path, "%s/names", shadow);
    DIR *names = opendir(path);
    while (names != NULL && (d = readdir(names)) != NULL) {
        const char *rest = d->d_name + n + (n > 0);
        if (d->d_name[0] == '.' ||
            (n > 0 && (strncmp(d->d_name, rel, n) != 0 || d->d_name[n] != '%')) ||
            strchr(rest, '%') != NULL)
            continue;
        struct stat st;
        snprintf(full, sizeof full, "%s/%s", folder, rest);
        if (lstat(full, &st) != 0) {
            snprintf(full, sizeof full, "%s/names/%s", shadow, d->d_name);
            unlink(full);
        }
    }
    if (names)
        closedir(names);
    DIR *real = opendir(folder);
    while (real != NULL && (d = readdir(real)) != NULL) {
        struct stat st;
        char name[PATH_MAX];
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        snprintf(full, sizeof full, "%s/%s", folder, d->d_name);
        snprintf(name, sizeof name, "%s%s%s", rel, n > 0 ? "%" : "", d->d_name);
        if (lstat(full, &st) == 0)
            note_name(name, st.st_ino, S_ISDIR(st.st_mode));
    }
    if (real)
        closedir(real);
}

static void remember(int fd)
{
    char self[64], path[PATH_MAX], rel[PATH_MAX];
    struct stat st;

    if (delay_ms > 0) {
        struct timespec ts = {delay_ms / 1000, delay_ms % 1000 * 1000000L};
        nanosleep(&ts, NULL);
    }
    if (root == NULL || shadow == NULL || lie || fstat(fd, &st) != 0)
        return;
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(self, path, sizeof path - 1);
    if (n <= 0)
        return;
    path[n] = '\0';
    if (!relative(path, rel, sizeof rel))
        return;
    if (S_ISDIR(st.st_mode)) {
        keep_names(path, rel);
    } else if (S_ISREG(st.st_mode)) {
        keep_contents(fd, st.st_ino);
        note_name(rel, st.st_ino, 0);
    }
}

int fsync(int fd)
{
    int rc = real_fsync(fd);
    if (rc == 0)
        remember(fd);
    return rc;
}

int fdatasync(int fd)
{
    int rc = real_fdatasync(fd);
    if (rc == 0)
        remember(fd);
    return rc;
}
