/* Hooks: the places where a script decides.
 *
 * The engine below the script layer calls hook_call(HOOK_...) and knows nothing of Lua.  `script`
 * registers as the provider; without one every call answers HOOK_DEFAULT and the caller goes on
 * with its built-in behaviour.  The list of hooks is hooks.def. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

enum hook_id {
#define HOOK(id, ...) HOOK_##id,
#include "core/hooks.def"
#undef HOOK
    HOOK_COUNT
};

/* Values that cross the border, made in the caller's arena. */
enum hval_type { HV_NIL, HV_BOOL, HV_INT, HV_NUM, HV_STR, HV_LIST, HV_MAP, HV_BYTES };

struct hval {
    enum hval_type type;
    union {
        bool b;
        int64_t i;
        double n;
        struct str s; /* HV_STR: copied into Lua; HV_BYTES: handed over as a zero-copy object that
                         dies with the call */
        struct {
            struct hval *items; /* list: values; map: key, value, key, value ... */
            uint32_t count;     /* values, or pairs */
            uint32_t room;
        } v;
    };
};

#define HV_NONE ((struct hval){.type = HV_NIL})
static inline struct hval hv_bool(bool b)
{
    return (struct hval){.type = HV_BOOL, .b = b};
}
static inline struct hval hv_int(int64_t i)
{
    return (struct hval){.type = HV_INT, .i = i};
}
static inline struct hval hv_str(struct str s)
{
    return (struct hval){.type = HV_STR, .s = s};
}
static inline struct hval hv_bytes(struct str s)
{
    return (struct hval){.type = HV_BYTES, .s = s};
}
struct hval hv_list(void);
struct hval hv_map(void);
void hv_push(struct arena *a, struct hval *list, struct hval v);
void hv_put(struct arena *a, struct hval *map, const char *key, struct hval v);
/* NULL when absent. */
const struct hval *hv_get(const struct hval *map, const char *key);
/* Lenient readers: the value if it has (or reads as) the type, else the fallback. */
struct str hv_get_str(const struct hval *map, const char *key, struct str fallback);
int64_t hv_get_int(const struct hval *map, const char *key, int64_t fallback);
bool hv_get_bool(const struct hval *map, const char *key, bool fallback);
struct str hv_as_str(const struct hval *v, struct str fallback);
int64_t hv_as_int(const struct hval *v, int64_t fallback);
bool hv_as_bool(const struct hval *v, bool fallback);

/* An environment: the globals of one script for one connection, recipient or call, as the hook's
 * row in hooks.def says.  Opaque; NULL when no provider is registered. */
struct hook_env;

/* Steps of the decision ledger that the calls of one session or message leave behind. */
struct hook_steps;

enum hook_outcome {
    HOOK_DEFAULT, /* nobody answered: use the built-in behaviour */
    HOOK_DONE,    /* results are filled */
    HOOK_FAILED   /* the script failed or ran over its budget: the hook's fail mode applies (err) */
};

struct hook_call {
    enum hook_id id;
    struct hook_env *env;
    struct arena *arena; /* of arguments and results */
    const struct hval *args;
    unsigned nargs;
    struct hval results[10]; /* spec 5.3 has up to ten */
    unsigned nresults;
    struct hook_steps *steps; /* NULL: do not record */
    struct str message;       /* the raw message for VPOP3.GetMessageLines and -Part; stays valid
                                 for the call; p == NULL: none */
    uint64_t deadline;        /* loop_ns() at which the call has to end; 0: as the settings say */
    uint64_t message_id, message_hash; /* for the watchdog: whose message, hash of its start */
};

struct hook_provider {
    /* `script`: base name such as "smtpsvr"; `user`: account name for per-user scripts, or empty.
     */
    struct hook_env *(*env_new)(const char *script, struct str user);
    void (*env_free)(struct hook_env *env);
    /* The global as scripts see it.  get: copies into the arena. */
    void (*env_set)(struct hook_env *env, const char *name, const struct hval *v);
    bool (*env_get)(struct hook_env *env, const char *name, struct arena *a, struct hval *v_r);
    enum hook_outcome (*call)(struct hook_call *c, struct err *e);
    /* Would a call find a function?  Lets callers skip building arguments. */
    bool (*present)(struct hook_env *env, enum hook_id id);
    /* Has the environment stood on a release that is not the active one for too long? */
    bool (*stale)(struct hook_env *env);
};

void hook_register(const struct hook_provider *p);
/* All of these do nothing, or answer HOOK_DEFAULT, without a provider.  hook_call() must run in a
 * task; it may wait. */
struct hook_env *hook_env_new(const char *script, struct str user);
void hook_env_free(struct hook_env **env);
void hook_env_set(struct hook_env *env, const char *name, struct hval v);
bool hook_env_get(struct hook_env *env, const char *name, struct arena *a, struct hval *v_r);
bool hook_present(struct hook_env *env, enum hook_id id);
bool hook_env_stale(struct hook_env *env);
enum hook_outcome hook_call(struct hook_call *c, struct err *e);

/* Facts of a row of hooks.def. */
enum hook_fail { FAIL_DEFAULT, FAIL_TEMP, FAIL_REFUSE };
struct hook_info {
    const char *name;   /* SMTPSVR.DoMAILFROM */
    const char *script; /* smtpsvr */
    const char *function;
    const char *life; /* connection, run, recipient, call, permanent */
    const char *args, *results;
    bool may_await;
    enum hook_fail fail;
    const char *since, *doc;
};
const struct hook_info *hook_info(enum hook_id id);

/* Globals that a script's hooks share with the engine (globals.def). */
enum hook_direction { HOOK_IN, HOOK_INOUT };
struct hook_global {
    const char *script, *name, *type;
    enum hook_direction direction;
    const char *since, *doc;
};
const struct hook_global *hook_globals(unsigned *n_r);

/* Reads the next `name:type` of a row's args or results and moves *rest; false at the end.  The
 * slices point into the row; `optional`: the type ended in `?`. */
bool hook_field(const char **rest, struct str *name_r, struct str *type_r, bool *optional_r);

/* Steps of the decision ledger: a compact JSON array of [hook, "script hash:line", outcome, reason,
 * microseconds], at most HOOK_STEPS_MAX bytes, then marked as cut.  Lives in the arena. */
struct hook_steps *hook_steps_new(struct arena *a);
void hook_steps_add(struct hook_steps *s, const char *hook, struct str script, const char *outcome,
                    struct str reason, uint64_t us);
/* "[]" when nothing was recorded. */
struct str hook_steps_text(const struct hook_steps *s);
