/* Verbs: script. */
#include "app/out.h"
#include "app/scratch.h"
#include "app/verb.h"
#include "core/buf.h"
#include "core/config.h"
#include "mail/date.h"
#include "script/script.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_scripts(struct err *e)
{
    script_on_try(scratch_try);
    return script_open(config_share(), false, e);
}

/* A whole file, or standard input for "-". */
static int read_all(struct args *a, const char *path, struct str *text_r, struct err *e)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    struct buf b;
    char *p;
    size_t n;

    if (f == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    buf_init(&b, 16u * 1024 * 1024);
    while ((p = buf_room(&b, 65536)) != NULL && (n = fread(p, 1, 65536, f)) > 0)
        buf_added(&b, n);
    bool whole = p != NULL && !ferror(f);
    if (f != stdin)
        fclose(f);
    *text_r = arena_dup(a->arena, buf_str(&b));
    buf_free(&b);
    return whole ? 0 : err_set(e, ERR_LIMIT, "%s: too large or unreadable", path);
}

int verb_script_list(struct args *a)
{
    static const char *const columns[] = {"name", "site", "shipped", "size", "hash", NULL};
    struct err e = ERR_INIT;
    struct script_info *v;
    uint32_t n;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (open_scripts(&e) != 0 || script_list(a->arena, &v, &n, &e) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < n; i++) {
        out_str(v[i].name);
        out_bool(v[i].site);
        out_bool(v[i].shipped);
        out_int((int64_t)v[i].size);
        out_str(str_head(v[i].hash, 12));
        out_row();
    }
    out_end();
    return EXIT_OK;
}

int verb_script_get(struct args *a)
{
    struct err e = ERR_INIT;
    struct str text;
    bool shipped;

    if (a->argc != 1)
        return EXIT_USAGE;
    if (open_scripts(&e) != 0 || script_get(str_of(a->argv[0]), a->arena, &text, &shipped, &e) != 0)
        return verb_fail(&e);
    fwrite(text.p, 1, text.n, stdout);
    return EXIT_OK;
}

int verb_script_put(struct args *a)
{
    struct err e = ERR_INIT;
    struct str text;
    uint64_t release;
    const char *note = args_option(a, "--note"), *user = getenv("USER");

    if (a->argc != 2)
        return EXIT_USAGE;
    if (read_all(a, a->argv[1], &text, &e) != 0 || open_scripts(&e) != 0 ||
        script_put(str_of(a->argv[0]), text, str_of(user ? user : "command line"),
                   str_of(note ? note : ""), &release, &e) != 0)
        return verb_fail(&e);
    out_say("%s is active with release %llu", a->argv[0], (unsigned long long)release);
    return EXIT_OK;
}

int verb_script_check(struct args *a)
{
    struct err e = ERR_INIT;
    struct str text;

    if (a->argc != 2)
        return EXIT_USAGE;
    if (read_all(a, a->argv[1], &text, &e) != 0 || open_scripts(&e) != 0 ||
        script_check(str_of(a->argv[0]), text, &e) != 0)
        return verb_fail(&e);
    out_say("%s is in order", a->argv[0]);
    return EXIT_OK;
}

static void print(void *ctx, struct str out)
{
    (void)ctx;
    fwrite(out.p, 1, out.n, stdout);
    fflush(stdout);
}

int verb_script_run(struct args *a)
{
    struct err e = ERR_INIT;
    struct str text = STR_NONE;

    if (a->argc != 1)
        return EXIT_USAGE;
    if (access(a->argv[0], R_OK) == 0 && read_all(a, a->argv[0], &text, &e) != 0)
        return verb_fail(&e);
    struct scratch_job job = {
        .kind = SCRATCH_RUN, .name = str_of(a->argv[0]), .text = text, .print = print};
    if (scratch_run(&job, &e) != 0)
        return verb_fail(&e);
    return EXIT_OK;
}

int verb_script_test(struct args *a)
{
    struct err e = ERR_INIT;
    if (a->argc != 1)
        return EXIT_USAGE;
    struct scratch_job job = {.kind = SCRATCH_TEST, .name = str_of(a->argv[0]), .print = print};
    if (scratch_run(&job, &e) != 0)
        return verb_fail(&e);
    out_say("%u passed, %u failed", job.result.passed, job.result.failed);
    return job.result.failed ? EXIT_NO : EXIT_OK;
}

int verb_script_history(struct args *a)
{
    static const char *const columns[] = {"release", "at", "who", "files", "active", "note", NULL};
    struct err e = ERR_INIT;
    struct script_release *v;
    uint32_t n;
    char when[DATE_TEXT];

    if (a->argc != 0)
        return EXIT_USAGE;
    if (open_scripts(&e) != 0 || script_history(a->arena, &v, &n, &e) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < n; i++) {
        out_int((int64_t)v[i].id);
        out_str(date_emit(when, v[i].at, 0));
        out_str(v[i].who);
        out_int(v[i].files);
        out_bool(v[i].active);
        out_str(v[i].note);
        out_row();
    }
    out_end();
    return EXIT_OK;
}

int verb_script_rollback(struct args *a)
{
    struct err e = ERR_INIT;
    uint64_t id, release;
    const char *user = getenv("USER");

    if (a->argc != 1 || !str_u64(str_of(a->argv[0]), &id))
        return EXIT_USAGE;
    if (open_scripts(&e) != 0 ||
        script_rollback(id, str_of(user ? user : "command line"), &release, &e) != 0)
        return verb_fail(&e);
    out_say("release %llu has the files of release %llu", (unsigned long long)release,
            (unsigned long long)id);
    return EXIT_OK;
}
