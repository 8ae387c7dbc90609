#include "core/proc.h"

#include "core/limits.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int proc_lookup_user(const char *name, uid_t *uid_r, gid_t *gid_r, struct err *e)
{
    struct passwd *pw = getpwnam(name);

    if (pw == NULL)
        return err_set(e, ERR_NOTFOUND,
                       "there is no user '%s' to run as: useradd --system --user-group %s, or give "
                       "another one with --user",
                       name, name);
    if (pw->pw_uid == 0)
        return err_set(e, ERR_DENIED, "the service user '%s' must not be root", name);
    *uid_r = pw->pw_uid;
    *gid_r = pw->pw_gid;
    return 0;
}

static int set_caps(unsigned mask)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {{.effective = mask, .permitted = mask}};
    return (int)syscall(SYS_capset, &h, d);
}

int proc_drop(const char *name, uid_t uid, gid_t gid, bool keep_bind, struct err *e)
{
    if (keep_bind && prctl(PR_SET_KEEPCAPS, 1L, 0L, 0L, 0L) != 0)
        return err_set(e, ERR_INTERNAL, "keepcaps: %s", strerror(errno));
    if (initgroups(name, gid) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(uid, uid, uid) != 0)
        return err_set(e, ERR_DENIED, "cannot become '%s': %s", name, strerror(errno));
    if (keep_bind && set_caps(1u << CAP_NET_BIND_SERVICE) != 0)
        return err_set(e, ERR_INTERNAL, "capset: %s", strerror(errno));
    return 0;
}

void proc_harden(void)
{
    struct rlimit none = {0, 0};

    set_caps(0);
    prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L);
    setrlimit(RLIMIT_CORE, &none);
}

unsigned long proc_raise_files(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return 1024;
    r.rlim_cur = r.rlim_max;
    if (r.rlim_cur > 1048576) /* more slows down everything that walks the table */
        r.rlim_cur = 1048576;
    setrlimit(RLIMIT_NOFILE, &r);
    getrlimit(RLIMIT_NOFILE, &r);
    return r.rlim_cur;
}

bool proc_files_full(void)
{
    static time_t looked;
    static bool full;
    time_t now = time(NULL);

    if (now == looked)
        return full;
    looked = now;
    struct rlimit r;
    DIR *d = opendir("/proc/self/fd");
    unsigned long n = 0;
    if (d == NULL) /* not even this could be opened */
        return full = errno == EMFILE || errno == ENFILE;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    full = getrlimit(RLIMIT_NOFILE, &r) == 0 && n * 100 >= r.rlim_cur * FD_FULL_PERCENT;
    return full;
}

int proc_make_folder(const char *path, uid_t uid, gid_t gid, struct err *e)
{
    char p[600];

    if (strlen(path) >= sizeof p)
        return err_set(e, ERR_SYNTAX, "path too long: %s", path);
    memcpy(p, path, strlen(path) + 1);
    for (char *q = p + 1;; q++) {
        if (*q != '/' && *q != '\0')
            continue;
        char c = *q;
        *q = '\0';
        bool last = c == '\0';
        if (mkdir(p, last ? 0700 : 0755) == 0) {
            if (uid != (uid_t)-1 && chown(p, uid, gid) != 0)
                return err_set(e, ERR_DENIED, "chown %s: %s", p, strerror(errno));
        } else if (errno != EEXIST) {
            return err_set(e, ERR_DENIED, "cannot make %s: %s", p, strerror(errno));
        }
        *q = c;
        if (last)
            return 0;
    }
}
