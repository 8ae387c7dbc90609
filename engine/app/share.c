#include "app/share.h"

#include "core/config.h"
#include "core/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const folders[] = {"lua", "stdlib", "sql", "rules"};

/* Asked as that user, by a child that becomes it. */
static bool readable(const char *share, uid_t uid, gid_t gid)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        char path[1024];
        snprintf(path, sizeof path, "%s/sql/seed.sql", share);
        if (setgid(gid) != 0 || setuid(uid) != 0)
            _exit(1);
        _exit(access(path, R_OK) == 0 ? 0 : 1);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static int copy_file(const char *from, const char *to, uid_t uid, gid_t gid, struct err *e)
{
    char block[65536];
    ssize_t n = -1;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = in >= 0 && out >= 0 && fchown(out, uid, gid) == 0;

    while (ok && (n = read(in, block, sizeof block)) > 0)
        ok = write(out, block, (size_t)n) == n;
    ok = ok && n == 0;
    int saved = errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return ok ? 0 : err_set(e, ERR_DENIED, "cannot copy %s to %s: %s", from, to, strerror(saved));
}

static int copy_tree(const char *from, const char *to, uid_t uid, gid_t gid, struct err *e)
{
    struct dirent *d;
    int rc = 0;

    if ((mkdir(to, 0700) != 0 && errno != EEXIST) || lchown(to, uid, gid) != 0)
        return err_set(e, ERR_DENIED, "cannot make %s: %s", to, strerror(errno));
    DIR *dir = opendir(from);
    if (dir == NULL)
        return errno == ENOENT ? 0 : err_set(e, ERR_DENIED, "%s: %s", from, strerror(errno));
    while (rc == 0 && (d = readdir(dir)) != NULL) {
        char a[1024], b[1024];
        struct stat st;
        if (d->d_name[0] == '.')
            continue;
        if (snprintf(a, sizeof a, "%s/%s", from, d->d_name) >= (int)sizeof a ||
            snprintf(b, sizeof b, "%s/%s", to, d->d_name) >= (int)sizeof b || lstat(a, &st) != 0)
            rc = err_set(e, ERR_DENIED, "cannot copy %s/%s", from, d->d_name);
        else if (S_ISDIR(st.st_mode))
            rc = copy_tree(a, b, uid, gid, e);
        else if (S_ISREG(st.st_mode))
            rc = copy_file(a, b, uid, gid, e);
    }
    closedir(dir);
    return rc;
}

int share_provide(uid_t uid, gid_t gid, struct err *e)
{
    char copy[700];

    if (readable(config_share(), uid, gid))
        return 0;
    if (!config_path("share", copy, sizeof copy))
        return err_set(e, ERR_SYNTAX, "data folder's path is too long");
    log_info("app", "%s cannot be read by the service user: copied to %s", config_share(), copy);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char from[1024], to[1024];
        snprintf(from, sizeof from, "%s/%s", config_share(), folders[i]);
        snprintf(to, sizeof to, "%s/%s", copy, folders[i]);
        if ((i == 0 && mkdir(copy, 0700) != 0 && errno != EEXIST) || lchown(copy, uid, gid) != 0)
            return err_set(e, ERR_DENIED, "cannot make %s: %s", copy, strerror(errno));
        if (copy_tree(from, to, uid, gid, e) != 0)
            return -1;
    }
    config_set_share(copy);
    return 0;
}
