/* Command line verbs: one table (main.c), one file a subject (verb_*.c). */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>

enum { EXIT_OK = 0, EXIT_NO = 1, EXIT_USAGE = 2, EXIT_COULD_NOT = 3 };

struct args {
    int argc; /* words behind the verb's name, options of all verbs taken out */
    char **argv;
    struct arena *arena;
};

/* An option that takes a value ("--password"), or a flag; taken out of argv.  NULL when absent. */
const char *args_option(struct args *a, const char *name);
bool args_flag(struct args *a, const char *name);

/* Says an error on standard error and returns the exit status for its class. */
int verb_fail(const struct err *e);

typedef int verb_fn(struct args *a);

verb_fn verb_check, verb_status, verb_stop;
verb_fn verb_domain_add, verb_domain_list;
verb_fn verb_user_add, verb_user_list, verb_user_set, verb_user_remove;
verb_fn verb_mapping_add, verb_mapping_list, verb_mapping_remove;
verb_fn verb_access_add, verb_access_list, verb_access_remove;
verb_fn verb_setting_get, verb_setting_set, verb_setting_list;
verb_fn verb_script_list, verb_script_get, verb_script_put, verb_script_check, verb_script_run,
    verb_script_test, verb_script_history, verb_script_rollback;
verb_fn verb_message_import, verb_message_source, verb_message_trace;
verb_fn verb_queue_list;
verb_fn verb_backup, verb_restore;
