/* io for scripts: files below the call's scratch folder and the folders of the setting
 * script.folders.
 *
 * Names are walked component by component without following links, only plain files with one name
 * are opened, and what a call writes is bounded.  Everything that may block runs on the thread
 * pool.  Files close and the scratch folder goes when the call ends. */
#include "core/config.h"
#include "core/work.h"
#include "script/host_int.h"
#include "store/setting.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_NAME "mail.file"
enum { CHUNK = 65536, PATH_MAX_BYTES = 700 };

struct file {
    struct file *next, *prev; /* of the call's open ones */
    struct call *call;        /* NULL: closed */
    int fd;
    bool busy, writes, appends, ended;
    size_t at, n; /* unread bytes of buf */
    char buf[CHUNK];
};

static void unlink_file(struct file *f)
{
    if (f->call == NULL)
        return;
    if (f->prev != NULL)
        f->prev->next = f->next;
    else
        f->call->files = f->next;
    if (f->next != NULL)
        f->next->prev = f->prev;
    f->call->file_count--;
    f->call = NULL;
    close(f->fd);
    f->fd = -1;
}

/* --- the scratch folder
 * ------------------------------------------------------------------------------- */
static void remove_tree(int at, const char *name, int depth)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (d == NULL && fd >= 0)
        close(fd);
    for (struct dirent *x; d != NULL && depth < 8 && (x = readdir(d)) != NULL;) {
        if (strcmp(x->d_name, ".") == 0 || strcmp(x->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), x->d_name, 0) != 0)
            remove_tree(dirfd(d), x->d_name, depth + 1);
    }
    if (d != NULL)
        closedir(d);
    unlinkat(at, name, AT_REMOVEDIR);
}

static void remove_folder(void *arg)
{
    remove_tree(AT_FDCWD, arg, 0);
}

/* Folders of processes that were killed. */
void io_sweep(void)
{
    char path[PATH_MAX_BYTES], full[PATH_MAX_BYTES + 300];
    DIR *d = config_path("run", path, sizeof path) ? opendir(path) : NULL;

    for (struct dirent *x; d != NULL && (x = readdir(d)) != NULL;) {
        int pid;
        if (sscanf(x->d_name, "io.%d.", &pid) != 1 || kill(pid, 0) == 0 || errno != ESRCH)
            continue;
        snprintf(full, sizeof full, "%s/%s", path, x->d_name);
        remove_folder(full);
    }
    if (d != NULL)
        closedir(d);
}

void io_end(struct call *c)
{
    while (c->files != NULL)
        unlink_file(c->files);
    if (c->folder[0] != '\0')
        work_run(remove_folder, c->folder);
    c->folder[0] = '\0';
}

/* --- opening
 * --------------------------------------------------------------------------------------------- */
struct opening {
    char root[PATH_MAX_BYTES];
    char rest[PATH_MAX_BYTES];
    bool make_root, remove;
    int flags;
    int fd, error;
};

/* Walks `rest` below `root`; only the last component may be made. */
static void open_below(void *arg)
{
    struct opening *o = arg;
    char *p = o->rest;

    o->fd = -1;
    if (o->make_root && mkdir(o->root, 0700) != 0 && errno != EEXIST) {
        o->error = errno;
        return;
    }
    int at = open(o->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    o->error = errno;
    while (at >= 0) {
        char *slash = strchr(p, '/');
        if (slash != NULL)
            *slash = '\0';
        if (p[0] == '\0' || strcmp(p, ".") == 0 || strcmp(p, "..") == 0) {
            o->error = EACCES;
            close(at);
            return;
        }
        if (slash == NULL)
            break;
        int next = openat(at, p, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        o->error = errno;
        close(at);
        at = next;
        p = slash + 1;
    }
    if (at < 0)
        return;
    /* O_NONBLOCK: a pipe that somebody put there holds nobody up. */
    int fd = openat(at, p, o->flags | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    o->error = errno;
    struct stat st;
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)) {
        close(fd);
        fd = -1;
        o->error = EACCES;
    }
    if (fd >= 0 && o->remove && unlinkat(at, p, 0) != 0) {
        o->error = errno;
        close(fd);
        fd = -1;
    }
    close(at);
    o->fd = fd;
}

/* An absolute name must lie in one of script.folders; any other is one in the scratch folder. */
static bool place(struct call *c, struct str path, struct opening *o)
{
    if (path.n == 0 || path.n >= sizeof o->rest || str_chr(path, '\0') >= 0)
        return false;
    if (path.p[0] != '/') {
        static unsigned number;
        char name[64];
        if (c->folder[0] == '\0') {
            snprintf(name, sizeof name, "run/io.%d.%u", (int)getpid(), ++number);
            if (!config_path(name, c->folder, sizeof c->folder))
                return false;
            o->make_root = true;
        }
        snprintf(o->root, sizeof o->root, "%s", c->folder);
        snprintf(o->rest, sizeof o->rest, "%.*s", STR_ARG(path));
        return true;
    }
    struct str list = host_has_settings() ? setting_str("script.folders") : STR("");
    while (list.n > 0) {
        struct str one = str_trim(str_cut(&list, ';'));
        while (one.n > 1 && one.p[one.n - 1] == '/')
            one.n--;
        if (one.n < 2 || one.p[0] != '/' || one.n >= sizeof o->root || path.n <= one.n + 1 ||
            !str_starts(path, one) || path.p[one.n] != '/')
            continue;
        snprintf(o->root, sizeof o->root, "%.*s", STR_ARG(one));
        struct str rest = str_from(path, one.n + 1);
        snprintf(o->rest, sizeof o->rest, "%.*s", STR_ARG(rest));
        return true;
    }
    return false;
}

static int push_errno(lua_State *L, const char *path, int error)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", path, strerror(error));
    lua_pushinteger(L, error);
    return 3;
}

static int open_file(lua_State *L, struct opening *o, bool writes, bool appends)
{
    size_t n;
    const char *path = luaL_checklstring(L, 1, &n);
    struct call *c = budget_await(L, "io.open");
    bool may = place(c, str_make(path, n), o);

    if (may)
        work_run(open_below, o);
    if (may && o->fd >= 0 && c->file_count >= SCRIPT_FILES) {
        close(o->fd);
        o->fd = -1;
        o->error = EMFILE;
    }
    /* The descriptor has its owner before anything can raise. */
    if (may && o->fd >= 0) {
        c->pending_fd = o->fd;
    }
    budget_awaited(L, c);
    if (!may || o->fd < 0)
        return push_errno(L, path, may ? o->error : EACCES);
    struct file *f = lua_newuserdatauv(L, sizeof *f, 0);
    f->call = NULL;
    f->fd = -1;
    f->busy = f->ended = false;
    f->at = f->n = 0;
    f->writes = writes;
    f->appends = appends;
    luaL_setmetatable(L, FILE_NAME);
    f->fd = c->pending_fd;
    c->pending_fd = -1;
    f->call = c;
    f->prev = NULL;
    f->next = c->files;
    if (c->files != NULL)
        c->files->prev = f;
    c->files = f;
    c->file_count++;
    return 1;
}

/* io.open(path [, mode]) -> file; nil, text, number.  A plain path is in the call's own scratch
 * folder, which is gone after the call; an absolute one must lie in a folder of the setting
 * script.folders.  Links are not followed.  mode: r, w, a, r+, w+, a+, with or without b.  Waits.
 * @since 1.0 */
static int io_open(lua_State *L)
{
    const char *mode = luaL_optstring(L, 2, "r");
    struct opening o = {.fd = -1};
    bool plus = strchr(mode, '+') != NULL;

    luaL_argcheck(L,
                  strchr("rwa", mode[0]) != NULL && mode[0] != '\0' && strlen(mode) <= 3 &&
                      strspn(mode + 1, "+b") == strlen(mode + 1),
                  2, "invalid mode");
    bool writes = plus || mode[0] != 'r';
    o.flags = !writes ? O_RDONLY : plus ? O_RDWR : O_WRONLY;
    if (mode[0] == 'w')
        o.flags |= O_CREAT | O_TRUNC;
    else if (mode[0] == 'a')
        o.flags |= O_CREAT | O_APPEND;
    return open_file(L, &o, writes, mode[0] == 'a');
}

static struct file *check_file(lua_State *L, int arg)
{
    struct file *f = luaL_checkudata(L, arg, FILE_NAME);

    if (f->call == NULL)
        luaL_error(L, "attempt to use a closed file");
    if (f->busy)
        luaL_error(L, "the file is in use");
    return f;
}

/* --- reading
 * ------------------------------------------------------------------------------------------------
 */
struct transfer_job {
    int fd;
    char *p;
    size_t n;
    ssize_t got;
    int error;
};

static void read_some(void *arg)
{
    struct transfer_job *j = arg;

    j->got = read(j->fd, j->p, j->n);
    j->error = errno;
}

static void write_some(void *arg)
{
    struct transfer_job *j = arg;

    j->got = write(j->fd, j->p, j->n);
    j->error = errno;
}

/* One transfer on the pool; the file lives on the caller's Lua stack meanwhile. */
static void transfer(lua_State *L, struct file *f, struct transfer_job *j, void (*fn)(void *))
{
    struct call *c = budget_await(L, "file access");

    j->fd = f->fd;
    f->busy = true;
    work_run(fn, j);
    f->busy = false;
    if (c->waits > 0)
        c->waits--; /* a file is one wait, however long it is */
    budget_awaited(L, c);
}

/* More bytes into the buffer; false at the end. */
static bool fill(lua_State *L, struct file *f)
{
    struct transfer_job j = {.p = f->buf, .n = CHUNK};

    if (f->at < f->n)
        return true;
    transfer(L, f, &j, read_some);
    if (j.got < 0)
        luaL_error(L, "file cannot be read: %s", strerror(j.error));
    f->at = 0;
    f->n = (size_t)j.got;
    return j.got > 0;
}

static bool read_line(lua_State *L, struct file *f, bool keep)
{
    struct out o;
    bool any = false;

    out_open(L, &o);
    while (fill(L, f)) {
        const char *from = f->buf + f->at, *lf = memchr(from, '\n', f->n - f->at);
        size_t n = lf != NULL ? (size_t)(lf - from) + 1 : f->n - f->at;
        any = true;
        out_add(&o, from, lf != NULL && !keep ? n - 1 : n);
        f->at += n;
        if (lf != NULL)
            break;
    }
    if (any)
        out_push(&o);
    else
        lua_pushnil(L);
    lua_replace(L, o.slot);
    return any;
}

static bool read_bytes(lua_State *L, struct file *f, size_t want, bool all)
{
    struct out o;
    bool any = fill(L, f) || all;

    out_open(L, &o);
    while (want > 0 && fill(L, f)) {
        size_t n = f->n - f->at < want ? f->n - f->at : want;
        out_add(&o, f->buf + f->at, n);
        f->at += n;
        want -= n;
        budget_charge(L, n);
    }
    if (any)
        out_push(&o);
    else
        lua_pushnil(L);
    lua_replace(L, o.slot);
    return any;
}

static bool read_number(lua_State *L, struct file *f)
{
    char text[201];
    size_t n = 0;

    while (fill(L, f) && strchr(" \t\r\n\f\v", f->buf[f->at]) != NULL && f->buf[f->at] != '\0') {
        f->at++;
        budget_charge(L, 8);
    }
    while (n < sizeof text - 1 && fill(L, f) && f->buf[f->at] != '\0' &&
           strchr("0123456789abcdefABCDEFxXpP+-.", f->buf[f->at]) != NULL)
        text[n++] = f->buf[f->at++];
    text[n] = '\0';
    if (lua_stringtonumber(L, text) != 0)
        return true;
    lua_pushnil(L);
    return false;
}

/* The formats at `first` and after; pushes a value each, nil for the first that fails. */
static int read_formats(lua_State *L, struct file *f, int first)
{
    int top = lua_gettop(L), n = 0;

    luaL_checkstack(L, top + 8, "too many arguments");
    if (first > top)
        return (void)read_line(L, f, false), 1;
    for (int i = first; i <= top; i++) {
        bool got;
        n++;
        if (lua_type(L, i) == LUA_TNUMBER) {
            lua_Integer want = luaL_checkinteger(L, i);
            luaL_argcheck(L, want >= 0, i, "number of bytes expected");
            got = read_bytes(L, f, (size_t)want, false);
        } else {
            const char *s = luaL_checkstring(L, i);
            s += *s == '*';
            if (*s == 'l' || *s == 'L')
                got = read_line(L, f, *s == 'L');
            else if (*s == 'a')
                got = read_bytes(L, f, SIZE_MAX, true);
            else if (*s == 'n')
                got = read_number(L, f);
            else
                return luaL_argerror(L, i, "invalid format");
        }
        if (!got)
            break;
    }
    return n;
}

/* file:read(...) as in the manual.  Waits.
 * @since 1.0 */
static int f_read(lua_State *L)
{
    return read_formats(L, check_file(L, 1), 2);
}

static int lines_next(lua_State *L)
{
    struct file *f = luaL_checkudata(L, lua_upvalueindex(1), FILE_NAME);
    int n = (int)lua_tointeger(L, lua_upvalueindex(3));

    if (f->call == NULL)
        return luaL_error(L, "file is already closed");
    lua_settop(L, 0);
    luaL_checkstack(L, n + 8, NULL);
    lua_pushvalue(L, lua_upvalueindex(1));
    check_file(L, 1);
    for (int i = 1; i <= n; i++)
        lua_pushvalue(L, lua_upvalueindex(3 + i));
    int got = read_formats(L, f, 2);
    if (lua_isnil(L, -got) && lua_toboolean(L, lua_upvalueindex(2)))
        unlink_file(f);
    return got;
}

static int push_lines(lua_State *L, int file, int first, bool close_it)
{
    int n = lua_gettop(L) - first + 1;

    n = n < 0 ? 0 : n;
    luaL_argcheck(L, n <= 200, first, "too many arguments");
    luaL_checkstack(L, n + 4, NULL);
    lua_pushvalue(L, file);
    lua_pushboolean(L, close_it);
    lua_pushinteger(L, n);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    lua_pushcclosure(L, lines_next, 3 + n);
    return 1;
}

/* file:lines(...) as in the manual.
 * @since 1.0 */
static int f_lines(lua_State *L)
{
    check_file(L, 1);
    return push_lines(L, 1, 2, false);
}

/* io.lines(path, ...) as in the manual; the file closes at its end.  Waits.
 * @since 1.0 */
static int io_lines(lua_State *L)
{
    struct opening o = {.fd = -1, .flags = O_RDONLY};
    int top = lua_gettop(L);

    luaL_checkstring(L, 1);
    if (open_file(L, &o, false, false) != 1)
        return luaL_error(L, "%s", lua_tostring(L, -2));
    lua_replace(L, 1);
    lua_settop(L, top > 1 ? top : 1);
    return push_lines(L, 1, 2, true);
}

/* --- writing
 * -------------------------------------------------------------------------------------------------
 */
/* file:write(...) -> file; nil, text, number.  All files of a call together hold at most the
 * setting script.scratch_mb.  Waits.
 * @since 1.0 */
static int f_write(lua_State *L)
{
    struct file *f = check_file(L, 1);
    int top = lua_gettop(L);

    if (!f->writes)
        return push_errno(L, "file", EBADF);
    if (f->at < f->n && !f->appends) {
        /* What was read ahead was not read. */
        lseek(f->fd, -(off_t)(f->n - f->at), SEEK_CUR);
    }
    f->at = f->n = 0;
    for (int i = 2; i <= top; i++) {
        size_t n;
        const char *p = bytes_check(L, i, &n);
        uint64_t most =
            host_has_settings() ? (uint64_t)setting_int("script.scratch_mb") << 20 : 64u << 20;
        if (f->call->written + n > most)
            return push_errno(L, "file", EDQUOT);
        f->call->written += n;
        while (n > 0) {
            struct transfer_job j = {.p = f->buf, .n = n < CHUNK ? n : CHUNK};
            memcpy(f->buf, p, j.n);
            transfer(L, f, &j, write_some);
            if (j.got < 0)
                return push_errno(L, "file", j.error);
            p += j.got;
            n -= (size_t)j.got;
        }
    }
    lua_settop(L, 1);
    return 1;
}

/* io.write(...) prints without a line end.
 * @since 1.0 */
static int io_write(lua_State *L)
{
    struct call *c = host_call;

    for (int i = 1; i <= lua_gettop(L); i++) {
        struct str s;
        s.p = bytes_check(L, i, &s.n);
        budget_output(L, s.n);
        if (c != NULL && c->print != NULL)
            c->print(c->print_ctx, s);
    }
    return 0;
}

/* file:seek([whence [, offset]]) -> position; nil, text, number.
 * @since 1.0 */
static int f_seek(lua_State *L)
{
    static const char *const names[] = {"set", "cur", "end", NULL};
    static const int whences[] = {SEEK_SET, SEEK_CUR, SEEK_END};
    struct file *f = check_file(L, 1);
    int whence = luaL_checkoption(L, 2, "cur", names);
    lua_Integer offset = luaL_optinteger(L, 3, 0);

    if (whences[whence] == SEEK_CUR)
        offset = (lua_Integer)((lua_Unsigned)offset - (lua_Unsigned)(f->n - f->at));
    off_t at = lseek(f->fd, offset, whences[whence]);
    if (at < 0)
        return push_errno(L, "file", errno);
    f->at = f->n = 0;
    lua_pushinteger(L, at);
    return 1;
}

/* file:flush() and file:setvbuf() do nothing: every write goes to the file.
 * @since 1.0 */
static int f_nothing(lua_State *L)
{
    check_file(L, 1);
    lua_pushboolean(L, 1);
    return 1;
}

/* file:close()
 * @since 1.0 */
static int f_close(lua_State *L)
{
    unlink_file(check_file(L, 1));
    lua_pushboolean(L, 1);
    return 1;
}

static int f_gc(lua_State *L)
{
    unlink_file(luaL_checkudata(L, 1, FILE_NAME));
    return 0;
}

static int f_tostring(lua_State *L)
{
    struct file *f = luaL_checkudata(L, 1, FILE_NAME);

    lua_pushstring(L, f->call != NULL ? "file" : "file (closed)");
    return 1;
}

/* io.type(value) -> "file", "closed file" or nil.
 * @since 1.0 */
static int io_type(lua_State *L)
{
    luaL_checkany(L, 1);
    struct file *f = luaL_testudata(L, 1, FILE_NAME);
    if (f == NULL)
        lua_pushnil(L);
    else
        lua_pushstring(L, f->call != NULL ? "file" : "closed file");
    return 1;
}

void libio_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"read", f_read},   {"write", f_write},   {"lines", f_lines},     {"seek", f_seek},
        {"close", f_close}, {"flush", f_nothing}, {"setvbuf", f_nothing}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"open", io_open},   {"lines", io_lines},
                                         {"write", io_write}, {"close", f_close},
                                         {"type", io_type},   {NULL, NULL}};

    luaL_newmetatable(L, FILE_NAME);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, f_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, f_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
}
