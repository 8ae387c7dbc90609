/* What the files of the Lua host share.
 *
 * One lua_State (`host_L`) per process; every environment, every task and every script-made
 * coroutine is a thread of it.  Each running hook is a `struct call`; the one whose Lua code is on
 * the processor now is host_call.  Whoever lets the task wait brackets the wait with budget_await()
 * and budget_awaited(), so host_call is never the call of another task. */
#pragma once

#include "core/hook.h"
#include "core/limits.h"

#include <lauxlib.h>
#include <lua.h>

struct task;

/* --- memory ------------------------------------------------------------------------------------
 * Every block carries the number of the purse that paid for it, so that what another task's garbage
 * collection frees is credited to whom it belongs to. */
struct purse {
    size_t used, cap; /* cap: of the call that runs; 0: no limit */
    size_t largest;   /* longest string so far: single instructions work through such strings */
    bool over;        /* more than the cap since budget_tick() looked */
    uint32_t slot, gen;
};
void purse_open(struct purse *p, size_t cap);
void purse_close(struct purse *p);
lua_State *memory_new_state(void);
size_t memory_total(void);
/* Lua instructions between two looks at the clock, given the strings an environment has. */
int memory_tick(const struct purse *p);
/* The collector is driven from here, in steps of bounded work; Lua's own pace is switched off,
 * since a large allocation would make it do a whole cycle at once. */
bool memory_step_due(void);
void memory_step(lua_State *L);
uint64_t memory_cycles(void); /* completed since the start */
/* Whose blocks are made now; NULL: the host's own.  Returns the one before. */
struct purse *memory_switch(struct purse *p);

/* --- chunks: compiled scripts -------------------------------------------------------------------
 */
struct chunk {
    char name[112];  /* "smtpsvr", "anna/user_redirect"; shipped ones the same */
    char where[128]; /* as error messages name it: "smtpsvr.lua", "lua/smtpsvr.lua" */
    char hash[9];    /* first characters of the text's SHA-256, for the ledger */
    bool shipped;
    char *source;
    size_t source_len;
    char *code; /* bytecode, NULL until chunk_compile() */
    size_t code_len;
};
struct chunk *chunk_new(struct str name, struct str source, bool shipped);
void chunk_free(struct chunk **c);
/* SYNTAX with `where:line: text`. */
int chunk_compile(struct chunk *c, struct err *e);
/* Pushes the main function with the table at `env` as its _ENV.  Raises on failure. */
void chunk_push(lua_State *L, struct chunk *c, int env);
/* Lower case, without ".lua"; false when it is no valid script name. */
bool chunk_name(struct str given, char *to, size_t room);

/* --- releases, as kept in memory ----------------------------------------------------------------
 */
struct release;
struct release *release_new(uint64_t id);
uint64_t release_id(const struct release *r);
/* A copy of the files, under the id 0. */
struct release *release_copy(const struct release *r);
struct chunk *release_remove(struct release *r, struct str name); /* the caller's; NULL: none */
/* All files, one by one from *it = 0; NULL at the end. */
struct chunk *release_next(const struct release *r, size_t *it);
/* How many releases came into use since it did. */
unsigned release_behind(const struct release *r);
void release_add(struct release *r, struct chunk *c); /* takes over */
struct chunk *release_find(const struct release *r, struct str name);
struct release *release_ref(struct release *r);
void release_unref(struct release **r);
/* The one that new environments take; takes over the reference.  NULL: none (safe mode). */
void release_use(struct release *r);
struct release *release_current(void);
/* Called by env_new before it looks at the current release; set by the database side. */
extern void (*release_poll)(void);
struct chunk *shipped_find(struct str name); /* lua/NAME.lua */
struct chunk *stdlib_find(struct str name);  /* stdlib/NAME.lua */
int shipped_load(const char *share_dir, struct err *e);
void shipped_free(void);
uint32_t shipped_count(void);
/* All shipped files, one by one from *it = 0; NULL at the end. */
struct chunk *shipped_next(size_t *it);
struct chunk *stdlib_next(size_t *it);
/* Names that only the engine's own files may have. */
bool shipped_only(struct str name);

/* --- environments -------------------------------------------------------------------------------
 */
enum { ENV_LAYERS = 2 };
struct layer {
    struct chunk *chunk;
    int ref; /* its _ENV in the registry, LUA_NOREF until loaded */
    bool loaded, loading;
    bool failed; /* its main chunk raised an error: like a missing file from then on, except
                    that hooks which fail closed fail */
};
struct hook_env {
    char script[64], user[64];
    struct purse purse;
    struct release *release;
    int shared_ref, meta_ref; /* declared globals; metatable of the layers' _ENV */
    struct layer layers[ENV_LAYERS];
    unsigned layer_count;
    bool chunk_shape;
    lua_State *thread; /* kept for the next call */
    int thread_ref;
    bool thread_busy;
    uint64_t made_ms;
    unsigned refs; /* environments of life permanent are shared by all sessions */
    bool permanent;
    uint64_t random[4];
};
struct hook_env *env_make(const char *script, struct str user, struct release *release);
void env_drop(struct hook_env **env);
/* In a call: pushes the _ENV of a layer, running its main chunk when that has not happened. */
void env_push_layer(lua_State *L, struct hook_env *env, unsigned layer);
/* In a call: pushes hook function `name` of the first layer from `from` on that has it and returns
 * the layer; -1: none, nothing pushed. */
int env_push_function(lua_State *L, struct hook_env *env, unsigned from, const char *name);
/* An environment with the one layer `c` of that release, such as one of the site's tests. */
struct hook_env *env_make_chunk(struct release *release, struct chunk *c, size_t memory);
/* For tests and management runs: an environment with one layer of its own text. */
struct hook_env *env_make_text(struct str name, struct str text, size_t memory, struct err *e);
void env_globals_set(struct hook_env *env, const char *name, const struct hval *v);
bool env_globals_get(struct hook_env *env, const char *name, struct arena *a, struct hval *v_r);

/* --- calls and budgets --------------------------------------------------------------------------
 */
enum kill {
    KILL_NO,
    KILL_CPU,
    KILL_WALL,
    KILL_MEMORY,
    KILL_CANCELLED,
    KILL_QUERIES,
    KILL_WAITS,
    KILL_OUTPUT
};
struct lease {
    bool alive;
};
struct call {
    struct call *outer; /* the call that this one interrupts, in the same task */
    struct hook_env *env;
    const char *hook;     /* "SMTPSVR_DoMAILFROM", "run" */
    const char *function; /* "" for chunks, NULL for runs */
    unsigned layer;       /* the layer that is answering */
    lua_State *thread, *running;
    bool may_await, manage, ignore_cancel;
    enum kill kill;
    char why[200];
    uint64_t cpu_ns, cpu_max_ns, wall_end_ns, slice_ns, slice_cpu, slice_max_ns;
    size_t memory_cap; /* of the environment's purse while this call runs */
    size_t debt;       /* bytes worked on by C code since the clock was read */
    uint32_t queries, queries_max, waits, waits_max; /* _max 0: no limit */
    size_t output, output_max;
    void (*print)(void *ctx, struct str text); /* NULL: the log */
    void *print_ctx;
    struct str message;
    size_t message_pos;
    const struct hval *mime;
    uint64_t message_id, message_hash;
    uint32_t sent;      /* messages */
    struct file *files; /* open ones (libio.c) */
    unsigned file_count;
    int pending_fd;      /* opened, not yet in a userdata; -1: none */
    uint64_t written;    /* bytes, to files */
    char folder[200];    /* the call's scratch folder; "": not made */
    struct lease *lease; /* of zero-copy values; anchored on the thread's stack */
};
extern lua_State *host_L;
/* Pushes the table of everything that environments have in common. */
void host_push_common(lua_State *L);
extern struct call *host_call;
/* What a call may use: the settings script.*, or the defaults of limits.h while there are none. */
struct budget_limits {
    uint64_t slice_ms, cpu_ms, wall_ms;
    size_t memory, output;
    uint32_t waits, queries;
};
extern struct budget_limits budget_limits;
/* From now on the settings count (they must be loaded), or no longer. */
void budget_follow_settings(bool yes);

/* Runs fn(L) with `ud` as its light userdata argument on the host's own thread; must not wait.  -1:
 * it raised an error (memory), which is logged. */
int host_protected(lua_CFunction fn, void *ud);
/* Runs fn on the call's thread under its budget.  0, or -1 with the error's text and class. */
int budget_run(struct call *c, lua_CFunction fn, void *ud, struct err *e);
void budget_init(struct call *c, struct hook_env *env, const char *hook, bool manage);
void budget_tick(lua_State *L, lua_Debug *ar);
/* From C code called by Lua: `n` bytes or steps were worked on; looks at the clock now and then. */
void budget_charge(lua_State *L, size_t n);
/* Counts a database question, or bytes of output; kills the call that has too many. */
void budget_query(lua_State *L, struct call *c);
void budget_output(lua_State *L, size_t n);
/* Before a large allocation from C: ends the call that cannot have it, so that Lua's own way out, a
 * collection of everything at once, is not taken. */
void budget_room(lua_State *L, size_t n);
/* Raises the kill again when the call is over its budget. */
void budget_check(lua_State *L);
/* Raises an error when less than `need` bytes of C stack are left. */
void budget_stack(lua_State *L, size_t need);
/* Before and after a wait.  The first raises where the hook may not wait; the second once the time
 * is up or the client has left. */
struct call *budget_await(lua_State *L, const char *what);
void budget_awaited(lua_State *L, struct call *c);
void budget_kill(struct call *c, enum kill kill, lua_State *L);
uint64_t budget_wall_left_ms(const struct call *c);

/* --- values -------------------------------------------------------------------------------------
 */
void value_push(lua_State *L, const struct hval *v);
/* Copies into the arena; raises when it is too deep, too large, or a function. */
void value_read(lua_State *L, int index, struct arena *a, struct hval *v_r);
/* As `type` of hooks.def; false when it does not fit. */
bool value_read_as(lua_State *L, int index, struct str type, bool optional, struct arena *a,
                   struct hval *v_r);

/* --- zero-copy strings ---------------------------------------------------------------------------
 */
void bytes_open(lua_State *L);
void bytes_push(lua_State *L, struct str s, struct lease *lease, int lease_index);
/* A string, a number as string, or bytes; raises like luaL_checklstring otherwise. */
const char *bytes_check(lua_State *L, int index, size_t *n_r);
const char *bytes_opt(lua_State *L, int index, const char *fallback, size_t *n_r);
bool bytes_is(lua_State *L, int index, struct str *s_r);

/* --- memory of bindings
 * ----------------------------------------------------------------------------- */
void scratch_open(lua_State *L);
/* Pushes a userdata that owns the arena; it is freed by the collector at the latest. */
struct arena *scratch_push(lua_State *L, size_t hint);
void scratch_free(lua_State *L, int index);
struct arena *scratch_take(lua_State *L, int index); /* the caller owns it from here on */
/* A growing byte buffer in a slot of the Lua stack. */
struct out {
    lua_State *L;
    int slot;
    char *p;
    size_t n, room;
};
void out_open(lua_State *L, struct out *o);
char *out_room(struct out *o, size_t n);
void out_add(struct out *o, const void *p, size_t n);
void out_push(struct out *o);
/* nil, text, class: how the outside world's failures reach scripts. */
int push_failure(lua_State *L, const struct err *e);
/* --- the libraries that environments see
 * ---------------------------------------------------------- */
/* Pushes a read-only proxy of the table at `index`; nested tables are proxied too. */
void freeze_push(lua_State *L, int index);
/* Pushes the table behind a proxy; false (nothing pushed) when it is none. */
bool frozen_real(lua_State *L, int index);
void sandbox_open(lua_State *L); /* base functions, coroutine, os: into the table on top */
void sandbox_layer(lua_State *L, int env); /* load, require, default, _G of one layer */
void libstring_open(lua_State *L);         /* pushes the table of string functions */
void libtable_open(lua_State *L);
void libmath_open(lua_State *L);
void libutf8_open(lua_State *L);
void libio_open(lua_State *L);
/* Closes the call's files and removes its folder.  May wait. */
void io_end(struct call *c);
/* Removes what killed processes left behind. */
void io_sweep(void);
/* Are there settings, or only the defaults of limits.h? */
bool host_has_settings(void);
void pattern_add(lua_State *L); /* find, match, gmatch, gsub into the table on top */
void shim_open(lua_State *L);   /* bit32, unpack ... into the table on top */
/* Each adds functions to the table on top (the future `mail`). */
typedef void api_open_fn(lua_State *L);
void api_crypto_open(lua_State *L);
void api_json_open(lua_State *L);
void api_mail_open(lua_State *L);
void api_message_open(lua_State *L);
void api_cache_open(lua_State *L);
void api_regex_open(lua_State *L);
void api_store_open(lua_State *L);
void api_send_open(lua_State *L);
void cache_free(void);
void regex_free(void);
void provider_close(void);
int sandbox_default(lua_State *L);

/* Starts the host; `apis`: NULL-terminated. */
int host_open(const char *share_dir, api_open_fn *const *apis, struct err *e);
void host_close(void);
extern const struct hook_provider host_provider;
/* A management run of a chunk on an environment of its own. */
int host_run(struct hook_env *env, const char *what, void (*print)(void *, struct str), void *ctx,
             struct err *e);
/* The same with the caller's own main function. */
int host_run_with(struct hook_env *env, const char *what, lua_CFunction fn, void *ud,
                  void (*print)(void *, struct str), void *ctx, struct err *e);
