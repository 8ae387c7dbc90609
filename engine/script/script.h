/* The script layer as the program's entry points see it.
 *
 * All functions run in a task.  Texts that are handed back live in the caller's arena. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

/* Starts the host of this process, loads the shipped scripts below `share_dir` (lua, stdlib) and,
 * unless `safe`, the active release, and registers as provider of hooks.  A database that is away
 * is no error: the release follows when it answers. */
int script_open(const char *share_dir, bool safe, struct err *e);
/* Ends the host; no hook may be under way. */
void script_close(void);

/* Would `text` be accepted as the script or rule file `name`?  SYNTAX with `where:line: text`;
 * DENIED for names of shipped-only files. */
int script_check(struct str name, struct str text, struct err *e);
/* Makes and activates a release with this script in it; NOTFOUND, SYNTAX, DENIED, TEMP.  On an
 * error the old release stays. */
int script_put(struct str name, struct str text, struct str who, struct str note,
               uint64_t *release_r, struct err *e);
int script_remove(struct str name, struct str who, struct str note, uint64_t *release_r,
                  struct err *e);
/* The site's text, or else the shipped one (then *shipped_r). */
int script_get(struct str name, struct arena *a, struct str *text_r, bool *shipped_r,
               struct err *e);

struct script_info {
    struct str name, hash;
    bool shipped; /* there is a shipped file of this name */
    bool site;    /* there is one of the site's */
    uint64_t size;
};
int script_list(struct arena *a, struct script_info **v_r, uint32_t *n_r, struct err *e);

struct script_release {
    uint64_t id;
    int64_t at; /* ms since 1970 */
    struct str who, note;
    bool active;
    uint32_t files;
};
int script_history(struct arena *a, struct script_release **v_r, uint32_t *n_r, struct err *e);
/* Makes and activates a release with the files of an older one. */
int script_rollback(uint64_t release, struct str who, uint64_t *release_r, struct err *e);

/* A management run: `name` of a stored script, or a text of one's own when `text.p` is not NULL.
 * `print` gets the output as it comes. */
int script_run(struct str name, struct str text, void (*print)(void *ctx, struct str out),
               void *ctx, struct err *e);

/* Runs a *_spec.lua file, or all of a folder: describe/it with assert; `print` gets one line a
 * test. */
struct script_test_result {
    unsigned passed, failed;
};
/* The same in two steps: reading, and running what was read.  NULL: NOTFOUND. */
struct script_tests;
struct script_tests *script_tests_read(const char *path, struct err *e);
int script_tests_run(struct script_tests *t, void (*print)(void *ctx, struct str out), void *ctx,
                     struct script_test_result *r, struct err *e);
void script_tests_free(struct script_tests **t);
/* Runs the site's tests (scripts named tests/...) that depend on the script `name`, as if it had
 * the text `text` (p == NULL: were removed).  script_put() and script_remove() do this and refuse
 * on red. */
int script_try(struct str name, struct str text, void (*print)(void *ctx, struct str out),
               void *ctx, struct script_test_result *r, struct err *e);
/* Where script_put() has them run, with the signature of script_try(); NULL: in this process. */
void script_on_try(int (*fn)(struct str name, struct str text,
                             void (*print)(void *ctx, struct str out), void *ctx,
                             struct script_test_result *r, struct err *e));
int script_test(const char *path, void (*print)(void *ctx, struct str out), void *ctx,
                struct script_test_result *r, struct err *e);
